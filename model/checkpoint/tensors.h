/* tensors.h - the list of an architecture's tensors: for each its name and shape in the official
 * file, and its dtype, shape and slot on the device. Loading, `inspect`, `synth` and the plan read
 * the same list.
 *
 * A list is a sequence of stacks. A stack is a number of equal units (the blocks of a transformer)
 * that are loaded together, as one struct weights. A module has one function that emits its list:
 *
 *     tensors_stack(l, "blocks", "blocks.%d.", c->layers, TENSORS_SHARDED);
 *     tensors_linear(l, "self_attn.q", AT(q), c->dim, c->dim, cdt);
 *     tensors_vector(l, "self_attn.norm_q.weight", AT(norm_q), c->dim, DT_F32);
 *
 * `slot` is the byte offset of a struct tensor, or of a struct linear, in the module's struct of
 * one unit's weights (weights_acquire). The first error is kept in `st`, so that the calls need no
 * checks; tensors_status returns it. All functions are local. */
#ifndef MODEL_CHECKPOINT_TENSORS_H
#define MODEL_CHECKPOINT_TENSORS_H

#include "parallel/weights.h"

/* What each rank keeps of a stack. */
enum tensors_keep {
    TENSORS_RESIDENT, // all units; each rank reads a slice, and an all-gather completes them
    TENSORS_LOCAL,    // all units, and each rank reads all of them: for small tensors
    TENSORS_SHARDED,  // with FSDP one slice of every unit; else as TENSORS_RESIDENT
    TENSORS_ONCE,     // the same, for units that are used once in a run
    TENSORS_READ,     // nothing: the module reads single rows from the source when it needs them
};

#define TENSORS_NO_SLOT SIZE_MAX // slot of a tensor that is listed but not loaded

struct tensor_stack {
    const char *name; // a string literal
    char prefix[48];  // "blocks.%d.": prefix of the tensor names
    int units;
    int first, count; // the tensors of one unit: specs [first, first + count)
    enum tensors_keep keep;
    int number, gap_at, gap; // of the units: see struct weight_spec
};

struct tensor_list {
    struct tensor_stack *stacks;
    int stack_count, stack_capacity;
    struct weight_spec *specs;
    int count, capacity;
    status st;
};

/* Starts a stack; the tensors that are emitted next belong to it. `prefix` has %d if units > 1. */
void tensors_stack(struct tensor_list *l, const char *name, const char *prefix, int units,
                   enum tensors_keep keep);

/* Of the stack just started: unit u has the number number + u, and from unit gap_at on gap more.
 * Without this, unit u has the number u. */
void tensors_numbers(struct tensor_list *l, int number, int gap_at, int gap);

/* Emits one tensor that has the same shape in the file and in memory. `dims` ends with 0. Returns
 * its spec, which the caller may change (joined, another shape in memory) until the next tensor is
 * emitted; after an error it is a dummy. */
struct weight_spec *tensors_add(struct tensor_list *l, const char *name, size_t slot,
                                enum dtype dtype, const int64_t *dims);
#define TENSOR_DIMS(...) ((const int64_t[TENSOR_AXES + 1]){ __VA_ARGS__ })

/* A linear layer y = x w^T + b. */
struct linear {
    struct tensor w, b;  // [out, in], [out]
    struct tensor scale; // f32 [out], of the rows of w, if that is e4m3; else ndim 0
};

/* Emits "NAME.weight" [out, in] and "NAME.bias" [out], both in `dtype`; slot: a struct linear. */
void tensors_linear(struct tensor_list *l, const char *name, size_t slot, int64_t out, int64_t in,
                    enum dtype dtype);

/* tensors_linear, or tensors_fp8_linear. */
typedef void emit_linear(struct tensor_list *l, const char *name, size_t slot, int64_t out,
                         int64_t in, enum dtype dtype);

/* The same with the weight in e4m3, and its scales as "NAME.weight_scale", which are made when the
 * weight is read (quantize.h). */
void tensors_fp8_linear(struct tensor_list *l, const char *name, size_t slot, int64_t out,
                        int64_t in, enum dtype bias);

/* Emits "NAME.weight" [n] and "NAME.bias" [n], both f32; slot: a struct linear. */
void tensors_norm(struct tensor_list *l, const char *name, size_t slot, int64_t n);

/* Emits the tensor "NAME" [n]; slot: a struct tensor. */
void tensors_vector(struct tensor_list *l, const char *name, size_t slot, int64_t n,
                    enum dtype dtype);

/* Emits "NAME.weight" and "NAME.bias" [out] f32 of a convolution; slot: a struct linear. The weight
 * is [out, in, kt, k, k] in the file, or [out, in, k, k] if kt is 0, and [out, kt, k, k, in] in
 * memory (kt at least 1), or [out, in] if the kernel is one pixel. */
void tensors_conv(struct tensor_list *l, const char *name, size_t slot, int64_t out, int64_t in,
                  int64_t kt, int64_t k, enum dtype dtype);

status tensors_status(const struct tensor_list *l); // the first error, or ST_OK
void tensors_done(struct tensor_list *l);           // frees the list; accepts a zeroed one

/* The stack of this name, or NULL; the specs of one of its units, s->count of them. */
const struct tensor_stack *tensors_find(const struct tensor_list *l, const char *stack);
const struct weight_spec *tensors_of(const struct tensor_list *l, const struct tensor_stack *s);

/* Tensor i of the stack's units * count, unit after unit: its spec, and its name in name. */
const struct weight_spec *tensors_nth(const struct tensor_list *l, const struct tensor_stack *s,
                                      int i, char name[WEIGHT_NAME_BYTES]);
int tensors_total(const struct tensor_list *l); // of all units of all stacks

/* Where the units are stored that the device needs one after the other. */
enum tensors_offload {
    OFFLOAD_NONE, // on the device
    OFFLOAD_HOST, // in pinned host memory, each byte once per node
    OFFLOAD_FILE  // in the file, which is read for every use; not with fsdp
};

/* What is stored where of TENSORS_SHARDED and TENSORS_ONCE stacks. */
struct tensors_place {
    bool fsdp; // sharded over the group
    enum tensors_offload offload;
    int resident, of;         // offloaded: of `of` units this many stay on the device; of stacks of
                              // another size, the same share; of TENSORS_ONCE none
    struct host_memory *host; // with OFFLOAD_HOST; borrowed
    bool as_stored;           // their matrices are kept in the form of the file
};

/* Opens the stack's weights, allocated from arena `a`, with weights_open. `g`: the ranks that read
 * one slice each, and over which stacks are sharded. Local, not collective: the caller passes the
 * status to agree(). ST_IO, ST_FORMAT, ST_MEMORY. */
status tensors_open(struct weights *w, const struct tensor_list *l, const struct tensor_stack *s,
                    struct arena *a, struct group *g, struct tensors_place place,
                    struct weight_source source);

/* Calls `each` for the elements that tensors_open reads on rank `rank` of `ranks`, stack after
 * stack: weights_ranges. as_stored: the source, if matrices are kept in the form of its file; else
 * NULL. */
status tensors_ranges(const struct tensor_list *l, int ranks, int rank,
                      const struct weight_source *as_stored, weight_range *each, void *payload);

/* ---- all units of all stacks, one after the other ---- */

struct inventory_entry {
    char name[WEIGHT_NAME_BYTES];
    int ndim;
    int64_t dim[TENSOR_AXES];
};

struct inventory {
    struct inventory_entry *entries;
    int count;
};

/* The tensors of all units, with their names and shapes in the official file. Freed with
 * inventory_done. ST_MEMORY. */
status inventory_expand(struct inventory *v, const struct tensor_list *l);
void inventory_sort(struct inventory *v);                // by name
void inventory_done(struct inventory *v);                // accepts zeroed values
int64_t inventory_parameters(const struct inventory *v); // number of elements of all tensors

/* Writes the fingerprint of names and shapes to hex[FINGERPRINT_BYTES]: 32 hex digits and a '\0'.
 * The order of the entries does not matter. Source: DiffSynth-Studio, hash_state_dict_keys.
 * ST_MEMORY. */
#define FINGERPRINT_BYTES 33
status inventory_fingerprint(const struct inventory *v, char *hex);

#endif
