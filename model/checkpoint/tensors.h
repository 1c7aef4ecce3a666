/* tensors.h - the tensors of an architecture, each told once: its name and shape in the official
 * file, and its dtype, shape and place on the device. Loading, `inspect`, `synth`, the plan and the
 * names of other layouts read the same list.
 *
 * A list is a sequence of stacks. A stack is a number of equal units (the blocks of a transformer)
 * which are loaded together: one struct weights. A module has one function that emits its list:
 *
 *     tensors_stack(l, "blocks", "blocks.%d.", c->layers, TENSORS_SHARDED);
 *     tensors_linear(l, "self_attn.q", AT(q), c->dim, c->dim, cdt);
 *     tensors_vector(l, "self_attn.norm_q.weight", AT(norm_q), c->dim, DT_F32);
 *
 * The first fault is kept in `st`, so that emitting needs no checks; tensors_status returns it. */
#ifndef MODEL_CHECKPOINT_TENSORS_H
#define MODEL_CHECKPOINT_TENSORS_H

#include "parallel/weights.h"

/* How the units of a stack are held. */
enum tensors_keep {
    TENSORS_RESIDENT, // every rank has all; each reads a slice and the ranks gather them
    TENSORS_LOCAL,    // every rank has all and reads all: small tensors
    TENSORS_SHARDED,  // with FSDP each rank keeps a slice of every unit; else as TENSORS_RESIDENT
    TENSORS_READ,     // not loaded as a whole: the owner reads rows of it from the source
};

#define TENSORS_NO_SLOT SIZE_MAX // of a tensor that this version lists and does not load

struct tensor_stack {
    const char *name; // borrowed, static
    char prefix[48];  // "blocks.%d.", put before the names
    int units;
    int first, count; // of the list's specs
    enum tensors_keep keep;
};

struct tensor_list {
    struct tensor_stack *stacks;
    int stack_count, stack_room;
    struct weight_spec *specs;
    int count, room;
    status st;
};

/* Starts a stack: what is emitted next belongs to it. `prefix` has %d where units > 1. */
void tensors_stack(struct tensor_list *l, const char *name, const char *prefix, int units,
                   enum tensors_keep keep);

/* Emits one tensor of the same shape in file and memory. `dims`: up to the first 0. The result can
 * be changed (joined, another shape in memory) until the next tensor is emitted; it is a dummy
 * after a fault. */
struct weight_spec *tensors_add(struct tensor_list *l, const char *name, size_t slot,
                                enum dtype dtype, const int64_t *dims);
#define TENSOR_DIMS(...) ((const int64_t[TENSOR_AXES + 1]){ __VA_ARGS__ })

/* y = x w^T + b: tensors "NAME.weight" and "NAME.bias" in a struct linear. */
struct linear {
    struct tensor w, b; // [out, in], [out]
};
void tensors_linear(struct tensor_list *l, const char *name, size_t slot, int64_t out, int64_t in,
                    enum dtype dtype);
void tensors_norm(struct tensor_list *l, const char *name, size_t slot, int64_t n); // [n], [n] f32
void tensors_vector(struct tensor_list *l, const char *name, size_t slot, int64_t n,
                    enum dtype dtype);

/* A convolution in a struct linear: weight [out, in, kt, kh, kw] in the file (kt 0: without that
 * axis), [out, kt, kh, kw, in] in memory, or [out, in] where the kernel is one pixel; bias f32. */
void tensors_conv(struct tensor_list *l, const char *name, size_t slot, int64_t out, int64_t in,
                  int64_t kt, int64_t k, enum dtype dtype);

status tensors_status(const struct tensor_list *l); // the first fault of emitting
void tensors_done(struct tensor_list *l);           // accepts a zeroed list

const struct tensor_stack *tensors_find(const struct tensor_list *l, const char *stack); // or NULL
const struct weight_spec *tensors_of(const struct tensor_list *l, const struct tensor_stack *s);

/* Opens the stack's weights with the memory of `a`, as weights_open. `g`: the ranks that share the
 * reading; with fsdp those over which sharded stacks are spread. Local; agree() afterwards. */
status tensors_open(struct weights *w, const struct tensor_list *l, const struct tensor_stack *s,
                    struct arena *a, struct group *g, bool fsdp, struct weight_source source);

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

/* What a file with these tensors has. The caller frees it with inventory_done. ST_MEMORY. */
status inventory_expand(struct inventory *v, const struct tensor_list *l);
void inventory_sort(struct inventory *v); // by name
void inventory_done(struct inventory *v); // accepts zeroed values
int64_t inventory_parameters(const struct inventory *v);

/* DiffSynth-Studio's fingerprint of names and shapes: 32 hex digits and a '\0'. ST_MEMORY. */
#define FINGERPRINT_BYTES 33
status inventory_fingerprint(const struct inventory *v, char *hex);

#endif
