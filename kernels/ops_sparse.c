#include "kernels/ops.h"
#include "kernels/shapes.h"
#include "kernels/table.h"

#include <assert.h>

static bool is_i32(struct tensor t, int ndim)
{
    return t.dtype == DT_I32 && t.ndim == ndim && tensor_contiguous(t);
}

static bool is_tile_rows(int rows)
{
    return rows == 64 || rows == 128;
}

status op_sparse_attention(struct device *dev, struct tensor out, struct tensor lse,
                           struct tensor q, struct tensor k, struct tensor v, float scale,
                           const struct tile_lists *lists)
{
    assert(q.ndim == 3 && k.ndim == 3);
    assert(is_heads(q, q.dim[0], q.dim[1], q.dim[2]) &&
           is_heads(out, q.dim[0], q.dim[1], q.dim[2]));
    assert(is_heads(k, k.dim[0], q.dim[1], q.dim[2]) && is_heads(v, k.dim[0], q.dim[1], q.dim[2]));
    assert(k.dtype == q.dtype && v.dtype == q.dtype && out.dtype == q.dtype);
    assert(is_none(lse) || (lse.dtype == DT_F32 && lse.ndim == 2 && lse.dim[0] == q.dim[0] &&
                            lse.dim[1] == q.dim[1] && tensor_contiguous(lse)));
    assert(same_or_no_alias(dev, out, q) && no_alias(dev, out, k) && no_alias(dev, out, v));
    assert(no_alias(dev, lse, q) && no_alias(dev, lse, k) && no_alias(dev, lse, v) &&
           no_alias(dev, lse, out));
    assert(is_i32(lists->q_first, 1) && is_i32(lists->k_first, 1) && lists->k_first.dim[0] > 1);
    assert(is_i32(lists->count, 2) && lists->count.dim[0] == q.dim[1] &&
           lists->count.dim[1] == lists->q_first.dim[0] - 1);
    assert(is_i32(lists->index, 3) && lists->index.dim[0] == q.dim[1] &&
           lists->index.dim[1] == lists->count.dim[1] && lists->index.dim[2] > 0);
    assert(is_tile_rows(lists->q_rows) && is_tile_rows(lists->k_rows));
    assert(lists->count.dim[1] * lists->q_rows >= q.dim[0]);
    dev->flops += 4.0 * (double)tensor_count(q) * lists->keys;
    if (tensor_count(out) == 0)
        return ST_OK;
    return dev->table->sparse_attention(dev, out, lse, q, k, v, scale, lists);
}

status op_tile_means(struct device *dev, struct tensor out, struct tensor x, struct tensor first)
{
    assert(x.ndim == 3 && is_heads(x, x.dim[0], x.dim[1], x.dim[2]));
    assert(is_i32(first, 1) && is_heads(out, first.dim[0] - 1, x.dim[1], x.dim[2]));
    assert(tensor_contiguous(out) && no_alias(dev, out, x));
    if (tensor_count(out) == 0)
        return ST_OK;
    return dev->table->tile_means(dev, out, x, first);
}

status op_tile_lists(struct device *dev, struct tensor count, struct tensor index, struct tensor q,
                     struct tensor k)
{
    assert(q.ndim == 3 && k.ndim == 3 && q.dtype == k.dtype);
    assert(is_heads(q, q.dim[0], q.dim[1], q.dim[2]) && tensor_contiguous(q));
    assert(is_heads(k, k.dim[0], q.dim[1], q.dim[2]) && tensor_contiguous(k));
    assert(is_i32(count, 2) && count.dim[0] == q.dim[1] && count.dim[1] == q.dim[0]);
    assert(is_i32(index, 3) && index.dim[0] == q.dim[1] && index.dim[1] == q.dim[0]);
    assert(index.dim[2] >= 1 && index.dim[2] <= k.dim[0]);
    if (tensor_count(count) == 0)
        return ST_OK;
    return dev->table->tile_lists(dev, count, index, q, k);
}

size_t linear_attention_scratch(int64_t keys, int64_t heads, int64_t depth)
{
    const int64_t chunks = (keys + LINEAR_ATTENTION_CHUNK - 1) / LINEAR_ATTENTION_CHUNK;

    return (size_t)((1 + chunks) * heads * (depth * depth + depth)) * sizeof(float);
}

status op_linear_attention(struct device *dev, struct tensor sum, struct tensor q, struct tensor k,
                           struct tensor v, struct tensor w, struct tensor b, struct tensor scratch)
{
    assert(q.ndim == 3 && k.ndim == 3 && k.dim[0] >= 1);
    assert(is_heads(q, q.dim[0], q.dim[1], q.dim[2]) &&
           is_heads(sum, q.dim[0], q.dim[1], q.dim[2]));
    assert(is_heads(k, k.dim[0], q.dim[1], q.dim[2]) && is_heads(v, k.dim[0], q.dim[1], q.dim[2]));
    assert(k.dtype == q.dtype && v.dtype == q.dtype && sum.dtype == q.dtype);
    assert(w.dtype == DT_F32 && is_rows(w, q.dim[2], q.dim[2]) && tensor_contiguous(w));
    assert(is_vector(b, DT_F32, q.dim[2]));
    assert(no_alias(dev, sum, q) && no_alias(dev, sum, k) && no_alias(dev, sum, v));
    assert(tensor_contiguous(scratch) &&
           tensor_bytes(scratch) >= linear_attention_scratch(k.dim[0], q.dim[1], q.dim[2]));
    dev->flops += 2.0 * (double)(tensor_count(q) + tensor_count(k)) * (double)q.dim[2];
    if (tensor_count(sum) == 0)
        return ST_OK;
    return dev->table->linear_attention(dev, sum, q, k, v, w, b, scratch);
}

status op_take_rows(struct device *dev, struct tensor out, struct tensor x, struct tensor index)
{
    assert(x.ndim == 3 && out.ndim == 3 && out.dtype == x.dtype);
    assert(is_heads(x, x.dim[0], x.dim[1], x.dim[2]));
    assert(is_heads(out, out.dim[0], x.dim[1], x.dim[2]) && no_alias(dev, out, x));
    assert(is_i32(index, 1) && index.dim[0] == out.dim[0]);
    if (tensor_count(out) == 0)
        return ST_OK;
    return dev->table->take_rows(dev, out, x, index);
}

status op_add_gated_rows(struct device *dev, struct tensor sum, struct tensor rows,
                         struct tensor index, struct tensor gate)
{
    assert(sum.ndim == 2 && is_rows(sum, sum.dim[0], sum.dim[1]));
    assert(is_rows(gate, sum.dim[0], sum.dim[1]) && is_rows(rows, rows.dim[0], sum.dim[1]));
    assert(is_i32(index, 1) && index.dim[0] == sum.dim[0]);
    assert(no_alias(dev, sum, rows) && no_alias(dev, sum, gate));
    if (tensor_count(sum) == 0)
        return ST_OK;
    return dev->table->add_gated_rows(dev, sum, rows, index, gate);
}
