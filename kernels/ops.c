#include "kernels/ops.h"
#include "kernels/shapes.h"
#include "kernels/table.h"

#include <assert.h>
#include <math.h>

/* FLOPs are counted for matrix products, convolutions and attention: a multiply and an add are two.
 * The other ops are limited by memory bandwidth and count nothing. */

static void check_product(struct device *dev, struct tensor out, struct tensor a, struct tensor w,
                          struct tensor bias)
{
    assert(a.ndim == 2 && w.ndim == 2);
    assert(is_rows(a, a.dim[0], w.dim[1]) && is_rows(out, a.dim[0], w.dim[0]));
    assert(is_float(w) && tensor_contiguous(w) && w.dim[1] > 0);
    assert(w.dtype == a.dtype || w.dtype == DT_BF16);
    assert(is_none(bias) || is_vector(bias, w.dtype, w.dim[0]) ||
           is_vector(bias, DT_F32, w.dim[0]));
    assert(no_alias(dev, out, a) && no_alias(dev, out, w) && no_alias(dev, out, bias));
}

status op_gemm(struct device *dev, struct tensor out, struct tensor a, struct tensor w,
               struct tensor bias, enum act act)
{
    check_product(dev, out, a, w, bias);
    dev->flops += 2.0 * (double)a.dim[0] * (double)w.dim[0] * (double)w.dim[1];
    if (tensor_count(out) == 0)
        return ST_OK;
    return dev->table->gemm(dev, out, a, w, bias, act);
}

status op_gemm_add(struct device *dev, struct tensor sum, struct tensor a, struct tensor w,
                   struct tensor bias)
{
    check_product(dev, sum, a, w, bias);
    assert(sum.dtype == DT_F32);
    dev->flops += 2.0 * (double)a.dim[0] * (double)w.dim[0] * (double)w.dim[1];
    if (tensor_count(sum) == 0)
        return ST_OK;
    return dev->table->gemm_add(dev, sum, a, w, bias);
}

static bool is_fp8_rows(struct fp8_rows t, int64_t rows, int64_t cols)
{
    return t.value.dtype == DT_F8_E4M3 && t.value.ndim == 2 && t.value.dim[0] == rows &&
           t.value.dim[1] == cols && dense_last(t.value) && is_vector(t.scale, DT_F32, rows);
}

status op_fp8_quantize(struct device *dev, struct fp8_rows out, struct tensor x, enum act act)
{
    assert(x.ndim == 2 && is_rows(x, x.dim[0], x.dim[1]) && is_fp8_rows(out, x.dim[0], x.dim[1]));
    assert(act == ACT_NONE || act == ACT_GELU_TANH);
    assert(no_alias(dev, out.value, x) && no_alias(dev, out.scale, x) &&
           no_alias(dev, out.scale, out.value));
    if (tensor_count(x) == 0)
        return ST_OK;
    return dev->table->fp8_quantize(dev, out, x, act);
}

status op_fp8_gemm(struct device *dev, struct tensor out, struct fp8_rows a, struct fp8_rows w,
                   struct tensor bias)
{
    const int64_t m = a.value.dim[0], n = w.value.dim[0], k = w.value.dim[1];

    assert(is_fp8_rows(a, m, k) && is_fp8_rows(w, n, k) && tensor_contiguous(w.value) && k > 0);
    assert(is_rows(out, m, n));
    assert(is_none(bias) || (is_float(bias) && is_vector(bias, bias.dtype, n)));
    assert(no_alias(dev, out, a.value) && no_alias(dev, out, w.value) && no_alias(dev, out, bias) &&
           no_alias(dev, out, a.scale) && no_alias(dev, out, w.scale));
    dev->flops += 2.0 * (double)m * (double)n * (double)k;
    if (tensor_count(out) == 0)
        return ST_OK;
    return dev->table->fp8_gemm(dev, out, a, w, bias);
}

status op_expand(struct device *dev, struct tensor out, const struct stored_form *form,
                 const void *stored, int64_t first)
{
    const int64_t n = tensor_count(out);

    assert(is_float(out) && is_vector(out, out.dtype, n));
    assert(first >= 0 && first % STORED_PASS == 0 && first + n <= form->count);
    assert(no_alias(dev, out, tensor_of((void *)stored, DT_U8, (int64_t)stored_bytes(form))));
    if (n == 0)
        return ST_OK;
    return dev->table->expand(dev, out, form, stored, first);
}

status op_norm_modulate(struct device *dev, struct tensor out, struct tensor x, struct tensor scale,
                        struct tensor shift, float eps)
{
    assert(x.ndim == 2 && is_rows(x, x.dim[0], x.dim[1]) && is_rows(out, x.dim[0], x.dim[1]));
    assert(is_vector(scale, DT_F32, x.dim[1]) && is_vector(shift, DT_F32, x.dim[1]));
    assert(same_or_no_alias(dev, out, x) && no_alias(dev, out, scale) && no_alias(dev, out, shift));
    if (tensor_count(out) == 0)
        return ST_OK;
    return dev->table->norm_modulate(dev, out, x, scale, shift, eps);
}

status op_layer_norm(struct device *dev, struct tensor out, struct tensor x, struct tensor w,
                     struct tensor b, float eps)
{
    assert(x.ndim == 2 && is_rows(x, x.dim[0], x.dim[1]) && is_rows(out, x.dim[0], x.dim[1]));
    assert(is_vector(w, DT_F32, x.dim[1]) && is_vector(b, DT_F32, x.dim[1]));
    assert(no_alias(dev, out, x) && no_alias(dev, out, w) && no_alias(dev, out, b));
    if (tensor_count(out) == 0)
        return ST_OK;
    return dev->table->layer_norm(dev, out, x, w, b, eps);
}

/* Arguments of op_add_norm_modulate and op_add_layer_norm; mul and add are the norm's. */
static void check_add_norm(struct device *dev, struct tensor out, struct tensor sum,
                           struct tensor x, struct tensor y, struct tensor gate, struct tensor mul,
                           struct tensor add)
{
    assert(x.ndim == 2 && is_rows(x, x.dim[0], x.dim[1]) && is_rows(y, x.dim[0], x.dim[1]));
    assert(is_rows(out, x.dim[0], x.dim[1]) && is_rows(sum, x.dim[0], x.dim[1]));
    assert(sum.dtype == DT_F32 && (is_none(gate) || is_vector(gate, DT_F32, x.dim[1])));
    assert(is_vector(mul, DT_F32, x.dim[1]) && is_vector(add, DT_F32, x.dim[1]));
    assert(same_or_no_alias(dev, sum, x) && no_alias(dev, sum, y) && no_alias(dev, sum, gate) &&
           no_alias(dev, sum, mul) && no_alias(dev, sum, add) && no_alias(dev, sum, out));
    assert(no_alias(dev, out, x) && no_alias(dev, out, y) && no_alias(dev, out, gate) &&
           no_alias(dev, out, mul) && no_alias(dev, out, add));
}

status op_add_norm_modulate(struct device *dev, struct tensor out, struct tensor sum,
                            struct tensor x, struct tensor y, struct tensor gate,
                            struct tensor scale, struct tensor shift, float eps)
{
    check_add_norm(dev, out, sum, x, y, gate, scale, shift);
    if (tensor_count(out) == 0)
        return ST_OK;
    return dev->table->add_norm_modulate(dev, out, sum, x, y, gate, scale, shift, eps);
}

status op_add_layer_norm(struct device *dev, struct tensor out, struct tensor sum, struct tensor x,
                         struct tensor y, struct tensor gate, struct tensor w, struct tensor b,
                         float eps)
{
    check_add_norm(dev, out, sum, x, y, gate, w, b);
    if (tensor_count(out) == 0)
        return ST_OK;
    return dev->table->add_layer_norm(dev, out, sum, x, y, gate, w, b, eps);
}

status op_fp8_norm(struct device *dev, struct fp8_rows out, struct tensor sum, struct tensor x,
                   struct tensor y, struct tensor gate, struct tensor mul, struct tensor add,
                   bool modulate, float eps)
{
    assert(is_rows(x, x.dim[0], x.dim[1]) && is_fp8_rows(out, x.dim[0], x.dim[1]));
    assert(is_vector(mul, DT_F32, x.dim[1]) && is_vector(add, DT_F32, x.dim[1]));
    assert(no_alias(dev, out.value, x) && no_alias(dev, out.scale, x) &&
           no_alias(dev, out.value, out.scale));
    if (is_none(y)) {
        assert(is_none(sum) && is_none(gate));
    } else {
        assert(sum.dtype == DT_F32 && is_rows(sum, x.dim[0], x.dim[1]));
        assert(is_rows(y, x.dim[0], x.dim[1]));
        assert(is_none(gate) || is_vector(gate, DT_F32, x.dim[1]));
        assert(same_or_no_alias(dev, sum, x) && no_alias(dev, sum, y) && no_alias(dev, sum, mul) &&
               no_alias(dev, sum, add) && no_alias(dev, out.value, sum) &&
               no_alias(dev, out.value, y));
    }
    if (tensor_count(x) == 0)
        return ST_OK;
    return dev->table->fp8_norm(dev, out, sum, x, y, gate, mul, add, modulate, eps);
}

status op_rms_norm(struct device *dev, struct tensor out, struct tensor x, struct tensor w,
                   float eps)
{
    assert(x.ndim == 2 && is_rows(x, x.dim[0], x.dim[1]) && is_rows(out, x.dim[0], x.dim[1]));
    assert(is_float(w) && is_vector(w, w.dtype, x.dim[1]));
    assert(same_or_no_alias(dev, out, x) && no_alias(dev, out, w));
    if (tensor_count(out) == 0)
        return ST_OK;
    return dev->table->rms_norm(dev, out, x, w, eps);
}

status op_norm_rope(struct device *dev, struct tensor out, struct tensor x, struct tensor w,
                    float eps, struct tensor table, struct token_grid grid)
{
    assert(x.ndim == 2 && is_rows(x, x.dim[0], x.dim[1]) && is_vector(w, DT_F32, x.dim[1]));
    assert(table.dtype == DT_F32 && table.ndim == 3 && table.dim[2] == 2 &&
           tensor_contiguous(table) && table.dim[1] > 0 && x.dim[1] % (2 * table.dim[1]) == 0);
    assert(grid.f <= table.dim[0] && grid.h <= table.dim[0] && grid.w <= table.dim[0]);
    assert(grid.first >= 0 && grid.first + x.dim[0] <= grid.f * grid.h * grid.w);
    assert(is_heads(out, x.dim[0], x.dim[1] / (2 * table.dim[1]), 2 * table.dim[1]) &&
           out.dtype == x.dtype);
    assert(no_alias(dev, x, table) && no_alias(dev, out, table));
    assert(out.data == x.data || no_alias(dev, out, x));
    if (tensor_count(x) == 0)
        return ST_OK;
    return dev->table->norm_rope(dev, out, x, w, eps, table, grid);
}

static void check_attention(struct device *dev, struct tensor out, struct tensor q, struct tensor k,
                            struct tensor v)
{
    assert(q.ndim == 3 && k.ndim == 3 && k.dim[0] >= 1);
    assert(is_heads(q, q.dim[0], q.dim[1], q.dim[2]) &&
           is_heads(out, q.dim[0], q.dim[1], q.dim[2]));
    assert(is_heads(k, k.dim[0], q.dim[1], q.dim[2]) && is_heads(v, k.dim[0], q.dim[1], q.dim[2]));
    assert(k.dtype == q.dtype && v.dtype == q.dtype && out.dtype == q.dtype);
    assert(same_or_no_alias(dev, out, q) && no_alias(dev, out, k) && no_alias(dev, out, v));
}

status op_attention(struct device *dev, struct tensor out, struct tensor lse, struct tensor q,
                    struct tensor k, struct tensor v, float scale)
{
    check_attention(dev, out, q, k, v);
    assert(is_none(lse) || (lse.dtype == DT_F32 && lse.ndim == 2 && lse.dim[0] == q.dim[0] &&
                            lse.dim[1] == q.dim[1] && tensor_contiguous(lse)));
    assert(no_alias(dev, lse, q) && no_alias(dev, lse, k) && no_alias(dev, lse, v) &&
           no_alias(dev, lse, out));
    dev->flops += 4.0 * (double)tensor_count(q) * (double)k.dim[0];
    if (tensor_count(out) == 0)
        return ST_OK;
    return dev->table->attention(dev, out, lse, q, k, v, scale);
}

status op_attention_repeated(struct device *dev, struct tensor out, struct tensor q,
                             struct tensor k, struct tensor v, float scale, int64_t equal)
{
    check_attention(dev, out, q, k, v);
    assert(equal >= 1 && equal <= k.dim[0]);
    dev->flops += 4.0 * (double)tensor_count(q) * (double)k.dim[0];
    if (tensor_count(out) == 0)
        return ST_OK;
    return dev->table->attention_repeated(dev, out, q, k, v, scale, equal);
}

status attention_all_keys(struct device *dev, struct tensor out, struct tensor q, struct tensor k,
                          struct tensor v, float scale, int64_t equal)
{
    return dev->table->attention(dev, out, (struct tensor){ 0 }, q, k, v, scale);
}

bool attention_waits(const struct device *dev, enum dtype dt, int64_t depth)
{
    return dt == DT_BF16 && depth == dev->table->attention_waits;
}

status op_attention_parts(struct device *dev, const struct attention_part *part, int parts,
                          const struct arrival *keys, int messages, struct tensor q,
                          struct tensor k, struct tensor v, float scale)
{
    int64_t rows = 0;

    assert(parts >= 1 && parts <= ATTENTION_PARTS && q.ndim == 3 && k.ndim == 3 && k.dim[0] >= 1);
    assert(is_heads(q, q.dim[0], q.dim[1], q.dim[2]) && k.dtype == q.dtype && v.dtype == q.dtype);
    assert(is_heads(k, k.dim[0], q.dim[1], q.dim[2]) && is_heads(v, k.dim[0], q.dim[1], q.dim[2]));
    for (int i = 0; i < parts; i++) {
        assert(part[i].first == rows && part[i].out.dtype == q.dtype);
        assert(is_heads(part[i].out, part[i].count, q.dim[1], q.dim[2]));
        assert(part[i].arrival.flag == NULL || attention_waits(dev, q.dtype, q.dim[2]));
        rows += part[i].count;
    }
    assert(rows == q.dim[0]);
    assert(messages >= 0 && messages <= ATTENTION_PARTS);
    assert(messages == 0 || attention_waits(dev, q.dtype, q.dim[2]));
    dev->flops += 4.0 * (double)tensor_count(q) * (double)k.dim[0];
    if (tensor_count(q) == 0)
        return ST_OK;
    return dev->table->attention_parts(dev, part, parts, keys, messages, q, k, v, scale);
}

status attention_each_part(struct device *dev, const struct attention_part *part, int parts,
                           const struct arrival *keys, int messages, struct tensor q,
                           struct tensor k, struct tensor v, float scale)
{
    const struct tensor none = { 0 };

    (void)keys;
    assert(messages == 0);

    for (int i = 0; i < parts; i++)
        if (part[i].count > 0)
            TRY(dev->table->attention(dev, part[i].out, none,
                                      tensor_slice(q, 0, part[i].first, part[i].count), k, v,
                                      scale));
    return ST_OK;
}

#define ATTENTION8_SCRATCH 800e6 // more is used only where one head needs it

/* As quantized in kernels/cuda/attention8.h, which has the least that is needed. */
static double attention8_head_bytes(double sq, double sk, double depth)
{
    const double keys = sk + ATTENTION8_KEYS;

    return sq * (depth + 8) + keys * (2 * depth + 1) + (keys / 512 + 3) * 16 * depth;
}

size_t attention8_scratch(int64_t sq, int64_t sk, int64_t heads, int64_t depth)
{
    const double one = attention8_head_bytes((double)sq, (double)sk, (double)depth);
    const double times = ceil(one * (double)heads / ATTENTION8_SCRATCH);
    const double at_once = ceil((double)heads / fmax(times, 1));

    return (size_t)(at_once * one) + 4096;
}

status op_attention8(struct device *dev, const struct attention_part *part, int parts,
                     struct tensor lse, struct tensor q, struct tensor k, struct tensor v,
                     float scale, struct tensor scratch)
{
    int64_t rows = 0;

    assert(parts >= 1 && parts <= ATTENTION_PARTS && q.ndim == 3 && k.ndim == 3 && k.dim[0] >= 1);
    assert(is_heads(q, q.dim[0], q.dim[1], q.dim[2]) && k.dtype == q.dtype && v.dtype == q.dtype);
    assert(is_heads(k, k.dim[0], q.dim[1], q.dim[2]) && is_heads(v, k.dim[0], q.dim[1], q.dim[2]));
    for (int i = 0; i < parts; i++) {
        assert(part[i].first == rows && part[i].out.dtype == q.dtype);
        assert(is_heads(part[i].out, part[i].count, q.dim[1], q.dim[2]));
        assert(part[i].arrival.flag == NULL);
        rows += part[i].count;
    }
    assert(rows == q.dim[0]);
    assert(is_none(lse) || (lse.dtype == DT_F32 && lse.ndim == 2 && lse.dim[0] == q.dim[0] &&
                            lse.dim[1] == q.dim[1] && tensor_contiguous(lse)));
    dev->flops += 4.0 * (double)tensor_count(q) * (double)k.dim[0];
    if (tensor_count(q) == 0)
        return ST_OK;
    assert(tensor_contiguous(scratch) &&
           tensor_bytes(scratch) >= attention8_scratch(q.dim[0], k.dim[0], 1, q.dim[2]));
    return dev->table->attention8(dev, part, parts, lse, q, k, v, scale, scratch);
}

status op_attention_merge(struct device *dev, struct tensor acc, struct tensor lse,
                          struct tensor part, struct tensor part_lse)
{
    assert(acc.ndim == 3 && acc.dtype == DT_F32 && tensor_contiguous(acc));
    assert(is_heads(part, acc.dim[0], acc.dim[1], acc.dim[2]));
    assert(lse.dtype == DT_F32 && lse.ndim == 2 && lse.dim[0] == acc.dim[0] &&
           lse.dim[1] == acc.dim[1] && tensor_contiguous(lse));
    assert(part_lse.dtype == DT_F32 && same_dims(lse, part_lse) && tensor_contiguous(part_lse));
    assert(no_alias(dev, acc, part) && no_alias(dev, lse, part_lse) && no_alias(dev, acc, lse));
    if (tensor_count(acc) == 0)
        return ST_OK;
    return dev->table->attention_merge(dev, acc, lse, part, part_lse);
}

status op_relative_attention(struct device *dev, struct tensor out, struct tensor q,
                             struct tensor k, struct tensor v, struct tensor table)
{
    assert(q.ndim == 3 && is_heads(q, q.dim[0], q.dim[1], q.dim[2]));
    assert(is_heads(k, q.dim[0], q.dim[1], q.dim[2]) && is_heads(v, q.dim[0], q.dim[1], q.dim[2]));
    assert(is_heads(out, q.dim[0], q.dim[1], q.dim[2]));
    assert(k.dtype == q.dtype && v.dtype == q.dtype && out.dtype == q.dtype);
    assert(table.ndim == 2 && table.dim[0] == 32 && table.dim[1] == q.dim[1] &&
           tensor_contiguous(table) && (table.dtype == q.dtype || table.dtype == DT_F32));
    assert(no_alias(dev, out, q) && no_alias(dev, out, k) && no_alias(dev, out, v) &&
           no_alias(dev, out, table));
    dev->flops += 4.0 * (double)tensor_count(q) * (double)k.dim[0];
    if (tensor_count(out) == 0)
        return ST_OK;
    return dev->table->relative_attention(dev, out, q, k, v, table);
}

status op_gate_add(struct device *dev, struct tensor out, struct tensor x, struct tensor y,
                   struct tensor gate)
{
    assert(x.ndim == 2 && is_rows(x, x.dim[0], x.dim[1]));
    assert(is_rows(y, x.dim[0], x.dim[1]) && is_rows(out, x.dim[0], x.dim[1]));
    assert(is_none(gate) || is_vector(gate, DT_F32, x.dim[1]));
    assert(same_or_no_alias(dev, out, x) && no_alias(dev, out, y) && no_alias(dev, out, gate));
    if (tensor_count(out) == 0)
        return ST_OK;
    return dev->table->gate_add(dev, out, x, y, gate);
}

status op_add_rows(struct device *dev, struct tensor out, struct tensor a, struct tensor b)
{
    assert(a.ndim == 2 && a.dtype == DT_F32 && is_rows(a, a.dim[0], a.dim[1]));
    assert(out.dtype == DT_F32 && is_rows(out, a.dim[0], a.dim[1]));
    assert(is_vector(b, DT_F32, a.dim[1]));
    assert(no_alias(dev, out, a) && no_alias(dev, out, b));
    if (tensor_count(out) == 0)
        return ST_OK;
    return dev->table->add_rows(dev, out, a, b);
}

status op_silu(struct device *dev, struct tensor out, struct tensor x)
{
    assert(is_float(x) && is_float(out) && same_dims(out, x));
    assert(tensor_contiguous(x) && tensor_contiguous(out) && same_or_no_alias(dev, out, x));
    if (tensor_count(out) == 0)
        return ST_OK;
    return dev->table->silu(dev, out, x);
}

status op_gelu(struct device *dev, struct tensor out, struct tensor x)
{
    assert(is_float(x) && is_float(out) && same_dims(out, x));
    assert(tensor_contiguous(x) && tensor_contiguous(out) && same_or_no_alias(dev, out, x));
    if (tensor_count(out) == 0)
        return ST_OK;
    return dev->table->gelu(dev, out, x);
}

status op_gated_gelu(struct device *dev, struct tensor out, struct tensor gate, struct tensor up)
{
    assert(is_float(out) && gate.dtype == out.dtype && up.dtype == out.dtype);
    assert(same_dims(out, gate) && same_dims(out, up));
    assert(tensor_contiguous(out) && tensor_contiguous(gate) && tensor_contiguous(up));
    assert(same_or_no_alias(dev, out, gate) && same_or_no_alias(dev, out, up));
    if (tensor_count(out) == 0)
        return ST_OK;
    return dev->table->gated_gelu(dev, out, gate, up);
}

status op_lincomb(struct device *dev, struct tensor out, int count, const float *coef,
                  const struct tensor *x)
{
    assert(count >= 1 && count <= LINCOMB_TERMS);
    assert(out.dtype == DT_F32 && tensor_contiguous(out));
    for (int i = 0; i < count; i++)
        if (coef[i] != 0)
            assert(x[i].dtype == DT_F32 && same_dims(out, x[i]) && tensor_contiguous(x[i]) &&
                   same_or_no_alias(dev, out, x[i]));
    if (tensor_count(out) == 0)
        return ST_OK;
    return dev->table->lincomb(dev, out, count, coef, x);
}

status op_row_dots(struct device *dev, struct tensor dots, struct tensor a, struct tensor b)
{
    assert(a.dtype == DT_F32 && b.dtype == DT_F32 && a.ndim == 2 && same_dims(a, b));
    assert(tensor_contiguous(a) && tensor_contiguous(b));
    assert(dots.dtype == DT_F32 && is_rows(dots, a.dim[0], 2) && tensor_contiguous(dots));
    assert(no_alias(dev, dots, a) && no_alias(dev, dots, b));
    if (a.dim[0] == 0)
        return ST_OK;
    return dev->table->row_dots(dev, dots, a, b);
}

status op_subtract_projection(struct device *dev, struct tensor out, struct tensor c,
                              struct tensor u, struct tensor dots)
{
    assert(out.dtype == DT_F32 && c.dtype == DT_F32 && u.dtype == DT_F32);
    assert(same_dims(out, c) && same_dims(out, u));
    assert(tensor_contiguous(out) && tensor_contiguous(c) && tensor_contiguous(u));
    assert(dots.dtype == DT_F32 && is_rows(dots, dots.dim[0], 2) && tensor_contiguous(dots));
    assert(same_or_no_alias(dev, out, c) && same_or_no_alias(dev, out, u) &&
           no_alias(dev, out, dots));
    if (tensor_count(out) == 0)
        return ST_OK;
    return dev->table->subtract_projection(dev, out, c, u, dots);
}

status op_copy(struct device *dev, struct tensor out, struct tensor x)
{
    assert(same_dims(out, x));
    assert(out.dtype == x.dtype || (is_float(out) && is_float(x)));
    assert(no_alias(dev, out, x));
    if (tensor_count(out) == 0)
        return ST_OK;
    return dev->table->copy(dev, out, x);
}

/* Whether a window of k fits `out` times along an axis of n, padded with `before` and `after`. */
static bool windows(int64_t out, int64_t n, int before, int after, int64_t k, int stride)
{
    return before >= 0 && after >= 0 && before < k && after < k && stride > 0 &&
           before + n + after >= k && out == (before + n + after - k) / stride + 1;
}

status op_conv3d(struct device *dev, struct tensor out, struct tensor x, struct tensor past,
                 struct tensor w, struct tensor bias, struct tensor residual, struct conv conv)
{
    const int64_t rows = conv.top + x.dim[1] + conv.bottom;
    const bool waits = conv.first_row.flag != NULL || conv.last_row.flag != NULL;

    assert((is_float(x) || x.dtype == DT_F16) && x.ndim == 4 && dense_last(x) && is_float(out) &&
           out.ndim == 4 && dense_last(out));
    assert(w.ndim == 5 && w.dtype == (x.dtype == DT_F16 ? DT_F32 : x.dtype) &&
           tensor_contiguous(w) && w.dim[4] == x.dim[3]);
    assert(windows(out.dim[0], x.dim[0], conv.front, 0, w.dim[1], conv.stride_t));
    if (conv.upsample2x) {
        assert(w.dim[2] == 3 && w.dim[3] == 3 && conv.stride == 1 && conv.left == 1 &&
               conv.right == 1 && conv.top >= 0 && conv.top < 2 && conv.bottom >= 0 &&
               conv.bottom < 2);
        assert(rows > 2 && out.dim[1] == 2 * (rows - 2) && out.dim[2] == 2 * x.dim[2]);
    } else {
        assert(windows(out.dim[1], x.dim[1], conv.top, conv.bottom, w.dim[2], conv.stride) &&
               windows(out.dim[2], x.dim[2], conv.left, conv.right, w.dim[3], conv.stride));
    }
    assert(is_none(past) || (past.dtype == x.dtype && past.ndim == 4 && dense_last(past) &&
                             past.dim[0] == conv.front && past.dim[1] == x.dim[1] &&
                             past.dim[2] == x.dim[2] && past.dim[3] == x.dim[3]));
    assert(out.dim[3] == w.dim[0]);
    assert(!waits || dev->kind == DEVICE_CUDA);
    assert((conv.first_row.flag == NULL || conv.top == 0) &&
           (conv.last_row.flag == NULL || conv.bottom == 0));
    assert(is_none(bias) || is_vector(bias, DT_F32, w.dim[0]));
    assert(is_none(residual) ||
           (residual.dtype == out.dtype && same_dims(residual, out) && dense_last(residual)));
    assert(no_alias(dev, out, x) && no_alias(dev, out, past) && no_alias(dev, out, w) &&
           no_alias(dev, out, bias) && same_or_no_alias(dev, out, residual));
    dev->flops += 2.0 * (double)tensor_count(out) * (double)(tensor_count(w) / w.dim[0]);
    if (tensor_count(out) == 0)
        return ST_OK;
    return dev->table->conv3d(dev, out, x, past, w, bias, residual, conv);
}

status op_channel_norm(struct device *dev, struct tensor out, struct tensor x, struct tensor gamma,
                       enum act act, int exponent)
{
    assert(is_float(x) && (is_float(out) || out.dtype == DT_F16));
    assert(same_dims(out, x) && dense_last(x) && dense_last(out));
    assert(is_vector(gamma, DT_F32, x.dim[x.ndim - 1]));
    assert(act == ACT_NONE || act == ACT_SILU);
    assert(same_or_no_alias(dev, out, x) && no_alias(dev, out, gamma));
    if (tensor_count(out) == 0)
        return ST_OK;
    return dev->table->channel_norm(dev, out, x, gamma, act, exponent);
}

status op_channel_affine(struct device *dev, struct tensor out, struct tensor x,
                         struct tensor scale, struct tensor shift)
{
    assert(is_float(x) && is_float(out) && same_dims(out, x) && dense_last(x) && dense_last(out));
    assert(is_vector(scale, DT_F32, x.dim[x.ndim - 1]));
    assert(is_vector(shift, DT_F32, x.dim[x.ndim - 1]));
    assert(same_or_no_alias(dev, out, x) && no_alias(dev, out, scale) && no_alias(dev, out, shift));
    if (tensor_count(out) == 0)
        return ST_OK;
    return dev->table->channel_affine(dev, out, x, scale, shift);
}

/* Whether `many` [T, H, W, C] has a cell of `frames` frames for each pixel of `few`. */
static bool are_cells(struct tensor many, struct tensor few, int frames)
{
    if (!is_float(many) || !is_float(few) || many.ndim != 4 || few.ndim != 4 || frames < 1 ||
        !dense_last(many) || !dense_last(few) || few.dim[1] < 1 || few.dim[2] < 1)
        return false;

    const int64_t s = many.dim[1] / few.dim[1], missing = frames * few.dim[0] - many.dim[0];

    return s > 0 && many.dim[1] == s * few.dim[1] && many.dim[2] == s * few.dim[2] &&
           missing >= 0 && missing < frames && s * s * frames <= CELL_PIXELS &&
           many.dim[3] * s * s * frames % few.dim[3] == 0;
}

status op_average_down(struct device *dev, struct tensor out, struct tensor x, int frames)
{
    assert(are_cells(x, out, frames) && no_alias(dev, out, x));
    return dev->table->average_down(dev, out, x, frames);
}

status op_repeat_up(struct device *dev, struct tensor out, struct tensor x, struct tensor y,
                    int frames)
{
    assert(are_cells(out, y, frames) && is_float(x) && same_dims(x, out) && dense_last(x));
    assert(same_or_no_alias(dev, out, x) && no_alias(dev, out, y));
    return dev->table->repeat_up(dev, out, x, y, frames);
}

status op_to_u8(struct device *dev, struct tensor out, struct tensor x, float add)
{
    assert(is_float(x) && out.dtype == DT_U8 && same_dims(out, x) && x.ndim == 4);
    assert(dense_last(x) && dense_last(out) && no_alias(dev, out, x) && add >= 0 && add < 1);
    if (tensor_count(out) == 0)
        return ST_OK;
    return dev->table->to_u8(dev, out, x, add);
}

status op_find_nonfinite(struct device *dev, struct tensor mark, struct tensor x, float value)
{
    assert(is_float(x) && tensor_contiguous(x) && is_vector(mark, DT_F32, 1) && value != 0);
    if (tensor_count(x) == 0)
        return ST_OK;
    return dev->table->find_nonfinite(dev, mark, x, value);
}

status op_row_sums(struct device *dev, struct tensor out, struct tensor a, struct tensor b)
{
    const int64_t rows = a.dim[0], cols = a.dim[1];

    assert(a.dtype == DT_F32 && b.dtype == DT_F32 && out.dtype == DT_F32 && a.ndim == 2);
    assert(tensor_contiguous(a) && tensor_contiguous(b) && is_rows(b, rows, cols));
    assert(is_rows(out, rows, ROW_SUMS) && no_alias(dev, out, a) && no_alias(dev, out, b));
    if (rows == 0)
        return ST_OK;
    return dev->table->row_sums(dev, out, a, b);
}
