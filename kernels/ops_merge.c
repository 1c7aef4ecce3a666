/* The ops that merge changes into weights. */
#include "kernels/ops.h"
#include "kernels/table.h"

#include <assert.h>

/* [n], f32 or bf16. */
static bool is_values(struct tensor t, int64_t n)
{
    return (t.dtype == DT_F32 || t.dtype == DT_BF16) && t.ndim == 1 && t.dim[0] == n &&
           tensor_contiguous(t);
}

static bool is_matrix(struct tensor t)
{
    return t.dtype == DT_F32 && t.ndim == 2 && tensor_contiguous(t);
}

static bool no_alias(const struct device *dev, struct tensor out, struct tensor x)
{
    const uintptr_t a = (uintptr_t)out.data, b = (uintptr_t)x.data;

    return dev->kind == DEVICE_PLAN || x.data == NULL || a + tensor_bytes(out) <= b ||
           b + tensor_bytes(x) <= a;
}

static bool same_or_no_alias(const struct device *dev, struct tensor out, struct tensor x)
{
    return (out.data == x.data && out.dtype == x.dtype) || no_alias(dev, out, x);
}

/* Factors [rows from 0 or more, r] and [r, cols] for elements until `end`. */
static bool is_product(struct tensor a, struct tensor b, int64_t end, int64_t cols)
{
    return is_matrix(a) && is_matrix(b) && a.dim[1] == b.dim[0] && b.dim[1] == cols &&
           end <= a.dim[0] * cols;
}

status op_add_product(struct device *dev, struct tensor out, struct tensor x, int64_t first,
                      struct tensor up, struct tensor down)
{
    const int64_t n = tensor_count(out);

    assert(is_values(out, n) && is_values(x, n));
    assert(is_product(up, down, first + n, down.dim[1]) && first >= 0 && first < down.dim[1]);
    assert(same_or_no_alias(dev, out, x) && no_alias(dev, out, up) && no_alias(dev, out, down));
    dev->flops += 2.0 * (double)n * (double)up.dim[1];
    if (n == 0)
        return ST_OK;
    return dev->table->add_product(dev, out, x, first, up, down);
}

/* Whether the factors of a change have what elements [first, end) need. */
static bool is_change(const struct weight_change *w, int64_t first, int64_t end, int64_t cols)
{
    const int64_t rows = (end + cols - 1) / cols;

    if (w->kind == CHANGE_KRONECKER) {
        if (!is_matrix(w->a) || !is_matrix(w->b) || w->a.dim[1] * w->b.dim[1] != cols ||
            w->row + rows > w->a.dim[0] * w->b.dim[0])
            return false;
    } else if (!is_product(w->a, w->b, end, cols) ||
               (w->kind == CHANGE_HADAMARD && !is_product(w->c, w->d, end, cols))) {
        return false;
    }
    if (w->magnitude.data == NULL)
        return true;
    return w->magnitude.dtype == DT_F32 && w->squares.dtype == DT_F64 &&
           tensor_count(w->magnitude) >= (w->per_column ? cols : rows) &&
           tensor_count(w->squares) >= (w->per_column ? cols : rows);
}

status op_add_change(struct device *dev, struct tensor out, struct tensor x, int64_t first,
                     int64_t cols, const struct weight_change *change)
{
    const int64_t n = tensor_count(out);

    assert(is_values(out, n) && is_values(x, n));
    assert(first >= 0 && first < cols && is_change(change, first, first + n, cols));
    assert(same_or_no_alias(dev, out, x) && no_alias(dev, out, change->a) &&
           no_alias(dev, out, change->b) && no_alias(dev, out, change->c) &&
           no_alias(dev, out, change->d));
    if (change->kind != CHANGE_KRONECKER)
        dev->flops +=
            2.0 * (double)n * (double)change->a.dim[1] * (change->kind == CHANGE_HADAMARD ? 2 : 1);
    if (n == 0)
        return ST_OK;
    return dev->table->add_change(dev, out, x, first, cols, change);
}

status op_add_squares(struct device *dev, struct tensor sums, struct tensor x, bool per_column,
                      bool add)
{
    assert(x.ndim == 2 && (x.dtype == DT_F32 || x.dtype == DT_BF16) && tensor_contiguous(x));
    assert(sums.dtype == DT_F64 && sums.ndim == 1 && tensor_contiguous(sums) &&
           sums.dim[0] == x.dim[per_column ? 1 : 0] && no_alias(dev, sums, x));
    return x.dim[0] > 0 ? dev->table->add_squares(dev, sums, x, per_column, add) : ST_OK;
}
