/* shapes.h - checks of an op's arguments: shapes, strides, and which tensors share memory. */
#ifndef KERNELS_SHAPES_H
#define KERNELS_SHAPES_H

#include "runtime/device.h"

static inline bool is_float(struct tensor t)
{
    return t.dtype == DT_F32 || t.dtype == DT_BF16;
}

static inline bool is_none(struct tensor t)
{
    return t.data == NULL && t.ndim == 0;
}

static inline bool dense_last(struct tensor t)
{
    return t.ndim > 0 && (t.stride[t.ndim - 1] == 1 || t.dim[t.ndim - 1] <= 1);
}

static inline bool same_dims(struct tensor a, struct tensor b)
{
    if (a.ndim != b.ndim)
        return false;
    for (int i = 0; i < a.ndim; i++)
        if (a.dim[i] != b.dim[i])
            return false;
    return true;
}

/* f32 or bf16 [rows, cols], rows may be strided. */
static inline bool is_rows(struct tensor t, int64_t rows, int64_t cols)
{
    return is_float(t) && t.ndim == 2 && t.dim[0] == rows && t.dim[1] == cols && dense_last(t);
}

static inline bool is_vector(struct tensor t, enum dtype dt, int64_t n)
{
    return t.dtype == dt && t.ndim == 1 && t.dim[0] == n && tensor_contiguous(t);
}

/* f32 or bf16 [S, N, D], the outer two axes may be strided. */
static inline bool is_heads(struct tensor t, int64_t s, int64_t n, int64_t d)
{
    return is_float(t) && t.ndim == 3 && t.dim[0] == s && t.dim[1] == n && t.dim[2] == d &&
           dense_last(t);
}

/* Bytes from the first element to the end of the last. */
static inline size_t span(struct tensor t)
{
    int64_t last = 0;

    for (int i = 0; i < t.ndim; i++)
        last += (t.dim[i] - 1) * t.stride[i];
    return ((size_t)last + 1) * dtype_size(t.dtype);
}

/* Whether two tensors share an element. Not exact: views of different outermost strides may
 * interleave, so they never count as overlapping. Addresses of a plan device are not real. */
static inline bool overlap(struct device *dev, struct tensor a, struct tensor b)
{
    const uintptr_t pa = (uintptr_t)a.data, pb = (uintptr_t)b.data;

    if (dev->kind == DEVICE_PLAN || is_none(a) || is_none(b) || tensor_count(a) == 0 ||
        tensor_count(b) == 0)
        return false;
    if (pa + span(a) <= pb || pb + span(b) <= pa)
        return false;
    if (tensor_contiguous(a) && tensor_contiguous(b))
        return true;
    if (a.ndim < 2 || b.ndim < 2)
        return false;

    const size_t step = (size_t)a.stride[0] * dtype_size(a.dtype);
    const size_t inner_a = span(tensor_at(a, 0)), inner_b = span(tensor_at(b, 0));

    if (step != (size_t)b.stride[0] * dtype_size(b.dtype) || inner_a > step || inner_b > step)
        return false;

    const size_t shift = pb >= pa ? (pb - pa) % step : (step - (pa - pb) % step) % step;
    return shift < inner_a || shift + inner_b > step;
}

/* The same elements in the same layout. */
static inline bool same(struct tensor a, struct tensor b)
{
    if (a.data != b.data || a.dtype != b.dtype || !same_dims(a, b))
        return false;
    for (int i = 0; i < a.ndim; i++)
        if (a.dim[i] > 1 && a.stride[i] != b.stride[i])
            return false;
    return true;
}

/* out and in share no element. */
static inline bool no_alias(struct device *dev, struct tensor out, struct tensor in)
{
    return !overlap(dev, out, in);
}

/* The same, or out is in: the op works in place. */
static inline bool same_or_no_alias(struct device *dev, struct tensor out, struct tensor in)
{
    return same(out, in) || !overlap(dev, out, in);
}

#endif
