/* weights.h - the parameters of a stack of equal units (the blocks of a transformer), and where
 * they are stored between uses.
 *
 *   resident  every rank keeps every unit; each rank of a group reads one slice, and an all-gather
 *             gives every rank the whole, while the next units are read
 *   sharded   FSDP: each rank keeps one slice of the bytes of every unit; a unit is all-gathered
 *             into one of two buffers when it is needed, the next unit while this one computes
 *   streamed  no group; a unit is read from its file when it is needed, into one of two buffers
 *   host      units are kept in pinned host memory, once per node, and copied into one of two
 *             buffers by the copy queue, the next unit while this one computes; sharded, each rank
 *             keeps one slice of them there, which is copied and then all-gathered
 *
 * With streamed and host weights some units may stay on the device; they are spread evenly over the
 * stack, so that the copies of the others are, too.
 *
 * A unit is one contiguous range of bytes: its tensors in the order of their specs, each aligned to
 * 256 bytes unless it is joined to the previous tensor. A rank reads from the source only the
 * elements whose bytes it keeps.
 *
 * In all modes, matrices that need fewer bytes in their file than in memory may be kept in the form
 * of the file (weights_store.as_stored). A unit then has its bytes in this form, so units may
 * differ in size; when it is needed, such matrices are expanded into a slot, which the next unit
 * overwrites: weights_stored.c. */
#ifndef PARALLEL_WEIGHTS_H
#define PARALLEL_WEIGHTS_H

#include "parallel/group.h"
#include "parallel/host_memory.h"
#include "parallel/loader.h"
#include "runtime/arena.h"
#include "runtime/stored.h"

enum weights_mode { WEIGHTS_RESIDENT, WEIGHTS_SHARDED, WEIGHTS_STREAMED, WEIGHTS_HOST };

/* Where units are stored. */
struct weights_store {
    enum weights_mode mode;
    int resident;             // streamed, host: number of units that stay on the device
    struct host_memory *host; // host: to take memory from; borrowed
    bool sharded;             // host: each rank keeps one slice of every unit
    bool as_stored;           // matrices are kept in the form of their file
};

#define WEIGHT_NAME_BYTES 120

#define WEIGHTS_STAGING_BYTES ((size_t)4 << 20) // read and uploaded at a time without a loader

/* One tensor of a unit: in the file, and in the memory of the device. */
struct weight_spec {
    char name[WEIGHT_NAME_BYTES]; // "blocks.%d.norm3.bias": the unit's number goes in; or no %d
    int file_ndim;
    int64_t file_dim[TENSOR_AXES];
    bool channels_last; // the file's [O, I, k...] is stored as [O, k..., I]
    bool row_scales;    // f32 [O]: the scales of the rows of a matrix in e4m3, "NAME_scale" for its
                        // NAME, whose file_dim these are
    enum dtype dtype;   // in memory, like ndim and dim
    int ndim;
    int64_t dim[TENSOR_AXES];
    bool joined; // stored directly after the tensor before: [q; k; v] is one matrix of 3C rows
    size_t slot; // offset of a struct tensor in the caller's struct, which weights_acquire fills;
                 // a joined tensor has the slot of the one before, which then holds both
    int number, gap_at, gap; // unit u has the number number + u; from unit gap_at on, plus gap
};

/* A matrix in the form of its file, and, of a LoRA, a product that is added to its values in f32 as
 * op_add_product does: W + up down, up [rows, rank] and down [rank, columns], f32. Its bytes are
 * those of `stored`, then up, then down, each aligned to 256 bytes. */
struct weight_form {
    struct stored_form stored;
    int64_t rank; // 0: no product
};

size_t weight_form_up(const struct weight_form *f); // where it begins
size_t weight_form_down(const struct weight_form *f);
size_t weight_form_bytes(const struct weight_form *f);

/* Where parameters come from. `read` copies elements [first, first + count) of the spec's tensor,
 * in the row-major order of its dim, as spec->dtype, into host memory at dst; `name` is the spec's
 * with the unit's number. For a GPU several threads call it at once. `prefetch` is a hint that
 * these elements will be read next. in_memory: `read` cannot fail and takes no time; then resident
 * weights without a group are still being copied to a GPU when weights_open returns, and
 * weights_acquire waits for its unit. */
struct weight_source {
    /* Or NULL. For a GPU, unless weights are streamed: loads elements [first, first + count) of a
     * tensor to `dst`, [count] in device memory, if *loads, and may return before that is done;
     * `flush`, which is then set too, completes all that was begun. A source that changes values on
     * the device has this; the values are those of `read`. */
    status (*load)(void *payload, struct loader *l, struct device *dev,
                   const struct weight_spec *spec, const char *name, int64_t first, int64_t count,
                   struct tensor dst, bool *loads);
    status (*flush)(void *payload);
    status (*read)(void *payload, const struct weight_spec *spec, const char *name, int64_t first,
                   int64_t count, void *dst);
    void (*prefetch)(void *payload, const char *name, int64_t first,
                     int64_t count); // or NULL
    /* Or both NULL: no form is known. The form in which the file has a tensor, a matrix; false: it
     * is not kept in that form. And bytes [first, first + count) of it; those between its parts
     * need not be written. */
    bool (*form)(void *payload, const struct weight_spec *spec, const char *name,
                 struct weight_form *form);
    status (*read_form)(void *payload, const struct weight_spec *spec, const char *name,
                        size_t first, size_t count, void *dst);
    void *payload;
    bool in_memory;
};

struct weights_host;   // weights_host.c
struct weights_stored; // weights_stored.c
struct weight_layout;  // weights_internal.h

struct weights {
    enum weights_mode mode;
    bool sharded;     // units are all-gathered when they are needed
    int resident;     // units that stay on the device, of a streamed or host stack
    int units, count; // count: tensors of a unit
    struct device *dev;
    struct group *group;           // borrowed; NULL when this rank reads all bytes
    struct weight_spec *specs;     // owned copy
    size_t unit_bytes, kept_bytes; // of the largest unit; those of a unit that this rank keeps
    struct weight_layout *layouts; // of each unit, or one for all; weights_layout
    size_t *place;                 // [units] where in `kept`, or else in host memory, a unit is
    size_t kept_total, away_total; // bytes of `kept`, and of all other units
    struct tensor *tensors;        // [count] of the unit in use
    struct tensor kept;            // u8: the units that stay on the device
    struct tensor buffer[2];       // [unit_bytes] u8 each, unless resident
    struct weights_stored *stored; // matrices that are expanded; NULL: none
    int buffer_unit[2];            // the unit in each buffer, -1 none
    int last_buffer;               // the buffer of the last acquire
    struct transfer gather[2];
    struct weights_host *in_host; // of a host stack, else NULL
    struct weight_source source;  // streamed: read again on every use
    struct loader *loader;        // for a GPU, else NULL
    int64_t loaded_before;        // ranges that it was given before those of resident units
    int ready;                    // from a source in memory: units that acquire has waited for
    void *staging;                // host memory for `read`, when there is no loader
};

/* Allocates from arena `a`, on its device, and reads unless that is the plan device. Local, not
 * collective: the caller passes the status to agree(). `specs` is copied. Sharded weights need a
 * group, streamed weights must have none. ST_IO, ST_FORMAT, ST_MEMORY.
 *
 * Resident weights with a group are still being read into GPU memory when this returns; then
 * weights_all_gather returns the errors of the source. `w` must stay in place and `source` valid
 * until then; streamed weights until weights_close. */
status weights_open(struct weights *w, struct arena *a, enum weights_mode mode, struct group *g,
                    int units, const struct weight_spec *specs, int count,
                    struct weight_source source);

/* The same with units in host memory, or some units on the device. A host stack may have a group,
 * and must if it is sharded; when this returns, the rank has written what it reads of units in host
 * memory, and agree() makes those of the other ranks of the node visible. */
status weights_open_store(struct weights *w, struct arena *a, struct weights_store store,
                          struct group *g, int units, const struct weight_spec *specs, int count,
                          struct weight_source source);

/* Weights that stay on the device, with a group: all-gathers the slices, each unit when it is read,
 * after which they are complete. Collective over the group; a rank that cannot read its slice
 * returns early, so the job must end. Does nothing in the other modes, without a group, or for
 * zeroed weights. */
status weights_all_gather(struct weights *w);

/* Writes the name of a unit's tensor: "blocks.7.norm3.bias" for a spec's "blocks.%d.norm3.bias" and
 * the unit with number 7. Local. */
void weight_name(char *name, size_t size, const struct weight_spec *spec, int unit);

/* Waits for units that are still being gathered or read. The memory stays with the arena. Accepts
 * zeroed weights. */
void weights_close(struct weights *w);

/* Writes the unit's tensors into the slots of `unit_struct` that their specs name. They are valid
 * for work queued before the next weights_acquire. Starts to gather or read unit `next` (-1 for
 * none) before it returns. Sharded: collective over the group; all ranks pass the same units in the
 * same order. */
status weights_acquire(struct weights *w, int unit, int next, void *unit_struct);

/* Starts to gather or read unit `next`, as weights_acquire does, but later: instead of its `next`.
 */
status weights_start_next(struct weights *w, int next);

/* Calls `each` for what weights_open_store reads on rank `rank` of a group of `ranks`, or alone if
 * that is 1: a range of elements of each tensor of each unit; or of bytes, of one that is kept in
 * the form of its file. as_stored: the source whose forms are kept; NULL: none. Local. ST_MEMORY,
 * or the first error of `each`. */
typedef status weight_range(void *payload, const struct weight_spec *spec, const char *name,
                            int64_t first, int64_t count, const struct weight_form *form);
status weights_ranges(int ranks, int rank, int units, const struct weight_spec *specs, int count,
                      const struct weight_source *as_stored, weight_range *each, void *payload);

/* Bytes that weights_open will allocate from its arena, without the arena's guard bytes. Not for
 * host stacks. */
size_t weights_bytes(enum weights_mode mode, int ranks, int rank, int units,
                     const struct weight_spec *specs, int count);

#endif
