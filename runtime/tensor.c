#include "runtime/tensor.h"

#include <assert.h>
#include <stdio.h>

static const struct {
    const char *name;
    size_t size;
} kinds[DT_COUNT] = {
    [DT_NONE] = { "NONE", 0 },       [DT_F32] = { "F32", 4 },
    [DT_BF16] = { "BF16", 2 },       [DT_F16] = { "F16", 2 },
    [DT_F64] = { "F64", 8 },         [DT_I64] = { "I64", 8 },
    [DT_I32] = { "I32", 4 },         [DT_I16] = { "I16", 2 },
    [DT_I8] = { "I8", 1 },           [DT_U8] = { "U8", 1 },
    [DT_BOOL] = { "BOOL", 1 },       [DT_F8_E4M3] = { "F8_E4M3", 1 },
    [DT_F8_E5M2] = { "F8_E5M2", 1 }, [DT_F8_E8M0] = { "F8_E8M0", 1 },
};

size_t dtype_size(enum dtype dt)
{
    return kinds[dt].size;
}

const char *dtype_name(enum dtype dt)
{
    return kinds[dt].name;
}

bool dtype_is_float(enum dtype dt)
{
    return dt == DT_F32 || dt == DT_BF16 || dt == DT_F16 || dt == DT_F64 || dt == DT_F8_E4M3 ||
           dt == DT_F8_E5M2;
}

struct tensor tensor_dims(void *data, enum dtype dt, int ndim, const int64_t *dim)
{
    struct tensor t = { .data = data, .dtype = dt, .ndim = ndim };
    int64_t stride = 1;

    assert(ndim >= 0 && ndim <= TENSOR_AXES);
    for (int i = ndim - 1; i >= 0; i--) {
        t.dim[i] = dim[i];
        t.stride[i] = stride;
        stride *= dim[i];
    }
    return t;
}

int64_t tensor_count(struct tensor t)
{
    int64_t n = 1;

    for (int i = 0; i < t.ndim; i++)
        n *= t.dim[i];
    return n;
}

size_t tensor_bytes(struct tensor t)
{
    return (size_t)tensor_count(t) * dtype_size(t.dtype);
}

bool tensor_contiguous(struct tensor t)
{
    int64_t stride = 1;

    for (int i = t.ndim - 1; i >= 0; i--) {
        if (t.dim[i] != 1 && t.stride[i] != stride)
            return false;
        stride *= t.dim[i];
    }
    return true;
}

struct tensor tensor_slice(struct tensor t, int axis, int64_t first, int64_t count)
{
    assert(axis < t.ndim && first >= 0 && count >= 0 && first + count <= t.dim[axis]);
    t.data = (char *)t.data + first * t.stride[axis] * (int64_t)dtype_size(t.dtype);
    t.dim[axis] = count;
    return t;
}

struct tensor tensor_at(struct tensor t, int64_t index)
{
    t = tensor_slice(t, 0, index, 1);
    t.ndim--;
    for (int i = 0; i < t.ndim; i++) {
        t.dim[i] = t.dim[i + 1];
        t.stride[i] = t.stride[i + 1];
    }
    return t;
}

struct tensor tensor_reshape_dims(struct tensor t, int ndim, const int64_t *dim)
{
    struct tensor out = tensor_dims(t.data, t.dtype, ndim, dim);

    assert(tensor_contiguous(t) && tensor_count(t) == tensor_count(out));
    return out;
}

struct tensor tensor_split(struct tensor t, int axis, int64_t inner)
{
    assert(t.ndim < TENSOR_AXES && inner > 0 && t.dim[axis] % inner == 0);
    for (int i = t.ndim; i > axis + 1; i--) {
        t.dim[i] = t.dim[i - 1];
        t.stride[i] = t.stride[i - 1];
    }
    t.dim[axis + 1] = inner;
    t.stride[axis + 1] = t.stride[axis];
    t.dim[axis] /= inner;
    t.stride[axis] *= inner;
    t.ndim++;
    return t;
}

struct tensor tensor_permute(struct tensor t, const int *order)
{
    struct tensor out = t;

    for (int i = 0; i < t.ndim; i++) {
        out.dim[i] = t.dim[order[i]];
        out.stride[i] = t.stride[order[i]];
    }
    return out;
}

const char *tensor_text(struct tensor t)
{
    static _Thread_local char text[4][128];
    static _Thread_local int turn;
    char *s = text[turn++ % 4];
    int n = snprintf(s, sizeof(text[0]), "%s [", dtype_name(t.dtype));

    for (int i = 0; i < t.ndim; i++)
        n += snprintf(s + n, sizeof(text[0]) - (size_t)n, "%s%lld", i ? ", " : "",
                      (long long)t.dim[i]);
    snprintf(s + n, sizeof(text[0]) - (size_t)n, "]");
    return s;
}
