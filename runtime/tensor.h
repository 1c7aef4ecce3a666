/* tensor.h - a plain value that describes an array in memory. It owns nothing: copy it, pass it by
 * value.
 *
 * Strides are in elements. A zeroed tensor (data NULL, ndim 0) stands for "none" where an argument
 * is optional. Up to five axes, outermost first. */
#ifndef RUNTIME_TENSOR_H
#define RUNTIME_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum dtype {
    DT_NONE = 0,
    DT_F32,
    DT_BF16,
    DT_F16,
    DT_F64,
    DT_I64,
    DT_I32,
    DT_I16,
    DT_I8,
    DT_U8,
    DT_BOOL,
    DT_F8_E4M3,
    DT_F8_E5M2,
    DT_F8_E8M0, // a power of two, of scales
    DT_COUNT
};

#define TENSOR_AXES 5

struct tensor {
    void *data;
    enum dtype dtype;
    int ndim;
    int64_t dim[TENSOR_AXES];
    int64_t stride[TENSOR_AXES];
};

size_t dtype_size(enum dtype dt);      // bytes of one element
const char *dtype_name(enum dtype dt); // as safetensors spells it: "F32", "BF16", ...
bool dtype_is_float(enum dtype dt);    // of weights: F32, BF16, F16, F64 and the two F8

/* A contiguous tensor over `data`: tensor_of(p, DT_F32, rows, cols). */
struct tensor tensor_dims(void *data, enum dtype dt, int ndim, const int64_t *dim);
#define tensor_of(data, dt, ...)                                                                   \
    tensor_dims(data, dt, (int)(sizeof((int64_t[]){ __VA_ARGS__ }) / sizeof(int64_t)),             \
                (int64_t[]){ __VA_ARGS__ })

int64_t tensor_count(struct tensor t); // elements; 1 for a scalar of ndim 0
size_t tensor_bytes(struct tensor t);  // of the elements, for any strides
bool tensor_contiguous(struct tensor t);

/* Elements [first, first + count) of one axis; a view of the same memory. */
struct tensor tensor_slice(struct tensor t, int axis, int64_t first, int64_t count);

/* One element of the outermost axis; the result has one axis less. */
struct tensor tensor_at(struct tensor t, int64_t index);

/* The same elements with other dims; the tensor must be contiguous. */
struct tensor tensor_reshape_dims(struct tensor t, int ndim, const int64_t *dim);
#define tensor_reshape(t, ...)                                                                     \
    tensor_reshape_dims(t, (int)(sizeof((int64_t[]){ __VA_ARGS__ }) / sizeof(int64_t)),            \
                        (int64_t[]){ __VA_ARGS__ })

/* Axis `axis` split in two, the inner one with `inner` elements: [S, C] -> [S, N, D]. */
struct tensor tensor_split(struct tensor t, int axis, int64_t inner);

/* The axes permuted: out.dim[i] = t.dim[order[i]]. */
struct tensor tensor_permute(struct tensor t, const int *order);

/* "F32 [3, 5120]", for error lines. Valid until the fourth call after it on this thread. */
const char *tensor_text(struct tensor t);

#ifdef __cplusplus
}
#endif
#endif
