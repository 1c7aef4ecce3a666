/* weights.h - the parameters of a stack of equal units (the blocks of a transformer), and where
 * they are while they are not used.
 *
 *   resident  every rank keeps every unit; ranks of a group read a slice each and exchange them
 *   sharded   FSDP: each rank keeps one slice of the bytes of every unit; a unit is gathered into
 *             one of two buffers when it is wanted, the next one while this one computes
 *   streamed  no group; a unit is read from its file when it is wanted, into one of two buffers
 *
 * A unit is one run of bytes: its tensors in the order of their specs, each aligned to 256 bytes
 * unless it is joined to the one before. A rank reads from the source only the elements whose bytes
 * it keeps. */
#ifndef PARALLEL_WEIGHTS_H
#define PARALLEL_WEIGHTS_H

#include "parallel/group.h"
#include "parallel/loader.h"
#include "runtime/arena.h"

enum weights_mode { WEIGHTS_RESIDENT, WEIGHTS_SHARDED, WEIGHTS_STREAMED };

struct weight_spec {
    const char *name; // "blocks.%d.self_attn.q.weight": the unit's number goes in; or without %d
    enum dtype dtype; // on the device
    bool joined;      // directly behind the one before: [q; k; v] is one matrix of 3C rows
    int ndim;
    int64_t dim[TENSOR_AXES];
};

/* Where parameters come from: elements [first, first + count) of the named tensor, in row-major
 * order of the spec's dims, as dtype dt, into host memory. `read` is called by several threads at
 * once where the device has memory of its own. */
struct weight_source {
    status (*read)(void *payload, const char *name, int64_t first, int64_t count, enum dtype dt,
                   void *dst);
    void (*want)(void *payload, const char *name, int64_t first, int64_t count); // a hint, or NULL
    void *payload;
};

struct weights {
    enum weights_mode mode;
    int units, count; // count: tensors of a unit
    struct device *dev;
    struct group *group;       // NULL when this rank reads everything
    struct weight_spec *specs; // own copy, names too
    char *names;
    size_t unit_bytes, kept_bytes; // of one unit; of it on this rank
    struct tensor *tensors;        // [units][count] when resident, [2][count] else
    struct tensor kept;            // [units, kept_bytes] u8 when sharded
    struct tensor buffer[2];       // [unit_bytes] u8 each, unless resident
    size_t *offset;                // [count] within the unit
    size_t *shard;                 // [group size + 1] byte offsets of the slices
    int held[2];                   // which unit lies in each buffer, -1 none
    int last;                      // the buffer of the last acquire
    struct transfer gather[2];
    struct weight_source source; // streamed: read again on every use
    struct loader *loader;       // for a device with memory of its own, else NULL
    void *staging;               // host memory that the source reads into, without a loader
};

/* Takes the memory from `a` (whose device is the weights'), and reads unless the device is a plan.
 * Local, no collective: reading errors are agreed on by the caller. `specs` is copied.
 * `source` outlives streamed weights. Sharded weights need a group, streamed ones must have none.
 * ST_IO, ST_FORMAT, ST_MEMORY. */
status weights_open(struct weights *w, struct arena *a, enum weights_mode mode, struct group *g,
                    int units, const struct weight_spec *specs, int count,
                    struct weight_source source);
/* Resident weights of a group are whole only after this, which brings in what the others read.
 * Collective over the group; nothing to do for others, or for zeroed values. */
status weights_complete(struct weights *w);

/* The arena keeps the memory. Waits for a unit that is on its way; accepts zeroed values. */
void weights_close(struct weights *w);

/* The unit's tensors, in spec order, into out[count]; good for what is queued before the next
 * acquire.
 * Sharded: collective over the group, every rank asks for the same units in the same order; starts
 * the gather of `next` (-1 for none) before it returns. */
status weights_acquire(struct weights *w, int unit, int next, struct tensor *out);

/* Bytes that `weights_open` will take from its arena (whose guards, where it has some, come on
 * top), for plans that only look. */
size_t weights_bytes(enum weights_mode mode, int ranks, int rank, int units,
                     const struct weight_spec *specs, int count);

#endif
