#include "kernels/rates.h"
#include "kernels/table.h"

#include <math.h>

/* ops.c has checked the shapes and counted the FLOPs. What is left is the time, if the device has
 * rates. */

#define PRODUCT_BYTES 0.6 // share of a product's reads and writes that its operations do not hide

static double bytes_of(struct tensor t)
{
    return t.ndim == 0 ? 0 : (double)tensor_count(t) * (double)dtype_size(t.dtype);
}

static status spend(struct device *dev, double compute_s, double bytes)
{
    if (dev->rates != NULL)
        dev->seconds += dev->rates->op_s + compute_s + bytes / dev->rates->memory;
    return ST_OK;
}

/* Seconds of `flops` operations in `tiles` tiles. At the limit of power, multiprocessors without a
 * tile let the others run faster: half of what the last round loses. */
static double tiled(const struct rates *r, double flops, double rate, double tiles)
{
    const double at_once = r->multiprocessors;
    const double rounded = at_once > 0 ? ceil(tiles / at_once) * at_once / tiles : 1;

    return flops / rate * (1 + rounded) / 2;
}

/* Notes a matrix w [n, ...], which a CPU packs as f32. */
static void note_matrix(struct device *dev, struct tensor w)
{
    const size_t bytes = (size_t)tensor_count(w) * sizeof(float);

    dev->packed = bytes > dev->packed ? bytes : dev->packed;
}

static double product_rate(const struct rates *r, enum dtype w)
{
    return w == DT_F8_E4M3 ? r->gemm_fp8 : w == DT_BF16 ? r->gemm : r->gemm_f32;
}

static status product(struct device *dev, struct tensor a, struct tensor w, double bytes)
{
    const double m = (double)a.dim[0], n = (double)w.dim[0], k = (double)w.dim[1];
    const struct rates *r = dev->rates;

    note_matrix(dev, w);
    if (r == NULL)
        return ST_OK;
    return spend(dev,
                 tiled(r, 2 * m * n * k, product_rate(r, w.dtype), ceil(m / 128) * ceil(n / 256)),
                 PRODUCT_BYTES * (bytes_of(a) + bytes_of(w) + bytes));
}

static status plan_gemm(struct device *dev, struct tensor out, struct tensor a, struct tensor w,
                        struct tensor bias, enum act act)
{
    return product(dev, a, w, bytes_of(out));
}

static status plan_gemm_add(struct device *dev, struct tensor sum, struct tensor a, struct tensor w,
                            struct tensor bias)
{
    return product(dev, a, w, 2 * bytes_of(sum));
}

static status plan_fp8_quantize(struct device *dev, struct fp8_rows out, struct tensor x,
                                enum act act)
{
    return spend(dev, 0, bytes_of(out.value) + bytes_of(x));
}

static status plan_fp8_norm(struct device *dev, struct fp8_rows out, struct tensor sum,
                            struct tensor x, struct tensor y, struct tensor gate, struct tensor mul,
                            struct tensor add, bool modulate, float eps)
{
    return spend(dev, 0, bytes_of(out.value) + bytes_of(sum) + bytes_of(x) + bytes_of(y));
}

static status plan_fp8_gemm(struct device *dev, struct tensor out, struct fp8_rows a,
                            struct fp8_rows w, struct tensor bias)
{
    return product(dev, a.value, w.value, bytes_of(out));
}

static status plan_norm_modulate(struct device *dev, struct tensor out, struct tensor x,
                                 struct tensor scale, struct tensor shift, float eps)
{
    return spend(dev, 0, bytes_of(out) + bytes_of(x));
}

static status plan_layer_norm(struct device *dev, struct tensor out, struct tensor x,
                              struct tensor w, struct tensor b, float eps)
{
    return spend(dev, 0, bytes_of(out) + bytes_of(x));
}

static status plan_add_norm_modulate(struct device *dev, struct tensor out, struct tensor sum,
                                     struct tensor x, struct tensor y, struct tensor gate,
                                     struct tensor scale, struct tensor shift, float eps)
{
    return spend(dev, 0, bytes_of(out) + bytes_of(sum) + bytes_of(x) + bytes_of(y));
}

static status plan_add_layer_norm(struct device *dev, struct tensor out, struct tensor sum,
                                  struct tensor x, struct tensor y, struct tensor gate,
                                  struct tensor w, struct tensor b, float eps)
{
    return spend(dev, 0, bytes_of(out) + bytes_of(sum) + bytes_of(x) + bytes_of(y));
}

static status plan_rms_norm(struct device *dev, struct tensor out, struct tensor x, struct tensor w,
                            float eps)
{
    return spend(dev, 0, bytes_of(out) + bytes_of(x));
}

static status plan_norm_rope(struct device *dev, struct tensor out, struct tensor x,
                             struct tensor w, float eps, struct tensor table,
                             struct token_grid grid)
{
    return spend(dev, 0, 2 * bytes_of(x));
}

/* Attention of q, whose output has its size, to k and v. */
static status attend(struct device *dev, struct tensor q, struct tensor k)
{
    const double heads = (double)q.dim[1], flops = 4 * (double)tensor_count(q) * (double)k.dim[0];
    const struct rates *r = dev->rates;

    dev->head = q.dim[2] > dev->head ? q.dim[2] : dev->head;
    if (r == NULL)
        return ST_OK;
    return spend(dev,
                 tiled(r, flops, q.dtype == DT_BF16 ? r->attention : r->attention_f32,
                       ceil((double)q.dim[0] / 128) * heads),
                 2 * bytes_of(q) + 2 * bytes_of(k));
}

static status plan_attention(struct device *dev, struct tensor out, struct tensor lse,
                             struct tensor q, struct tensor k, struct tensor v, float scale)
{
    return attend(dev, q, k);
}

static status plan_attention_parts(struct device *dev, const struct attention_part *part, int parts,
                                   const struct arrival *keys, int messages, struct tensor q,
                                   struct tensor k, struct tensor v, float scale)
{
    return attend(dev, q, k);
}

/* The first pass reads k and v, the second all three, and writes half of that. */
static status plan_attention8(struct device *dev, const struct attention_part *part, int parts,
                              struct tensor lse, struct tensor q, struct tensor k, struct tensor v,
                              float scale, struct tensor scratch)
{
    const double heads = (double)q.dim[1], flops = 4 * (double)tensor_count(q) * (double)k.dim[0];
    const struct rates *r = dev->rates;

    dev->head = q.dim[2] > dev->head ? q.dim[2] : dev->head;
    if (r == NULL)
        return ST_OK;
    return spend(dev, tiled(r, flops, r->attention8, ceil((double)q.dim[0] / 128) * heads),
                 2.5 * bytes_of(q) + 5 * bytes_of(k));
}

static status plan_sparse_attention(struct device *dev, struct tensor out, struct tensor lse,
                                    struct tensor q, struct tensor k, struct tensor v, float scale,
                                    const struct tile_lists *lists)
{
    const double tiles = (double)tensor_count(lists->count) * lists->q_rows / 128;
    const double flops = 4 * (double)tensor_count(q) * lists->keys;
    const struct rates *r = dev->rates;

    dev->head = q.dim[2] > dev->head ? q.dim[2] : dev->head;
    if (r == NULL)
        return ST_OK;
    return spend(dev,
                 tiled(r, flops, q.dtype == DT_BF16 ? r->attention : r->attention_f32, ceil(tiles)),
                 2 * bytes_of(q) + 2 * bytes_of(k));
}

static status plan_tile_means(struct device *dev, struct tensor out, struct tensor x,
                              struct tensor first)
{
    return spend(dev, 0, bytes_of(x) + bytes_of(out));
}

static status plan_tile_lists(struct device *dev, struct tensor count, struct tensor index,
                              struct tensor q, struct tensor k)
{
    const double scores = (double)tensor_count(count) * (double)k.dim[0];

    return spend(dev, 0, 12 * scores + bytes_of(index));
}

/* The products of both passes, and what these read and write. */
static status plan_linear_attention(struct device *dev, struct tensor sum, struct tensor q,
                                    struct tensor k, struct tensor v, struct tensor w,
                                    struct tensor b, struct tensor scratch)
{
    const double flops = 2 * (double)(tensor_count(q) + tensor_count(k)) * (double)q.dim[2];
    const struct rates *r = dev->rates;

    if (r == NULL)
        return ST_OK;
    return spend(dev, flops / (q.dtype == DT_BF16 ? r->attention : r->attention_f32),
                 2 * bytes_of(sum) + bytes_of(q) + bytes_of(k) + bytes_of(v));
}

static status plan_take_rows(struct device *dev, struct tensor out, struct tensor x,
                             struct tensor index)
{
    return spend(dev, 0, 2 * bytes_of(out));
}

static status plan_add_gated_rows(struct device *dev, struct tensor sum, struct tensor rows,
                                  struct tensor index, struct tensor gate)
{
    return spend(dev, 0, 2 * bytes_of(sum) + bytes_of(gate));
}

static status plan_attention_merge(struct device *dev, struct tensor acc, struct tensor lse,
                                   struct tensor part, struct tensor part_lse)
{
    return spend(dev, 0, 2 * bytes_of(acc) + bytes_of(part));
}

static status plan_relative_attention(struct device *dev, struct tensor out, struct tensor q,
                                      struct tensor k, struct tensor v, struct tensor table)
{
    const double flops = 4 * (double)tensor_count(q) * (double)k.dim[0];

    return dev->rates == NULL ? ST_OK
                              : spend(dev, flops / dev->rates->attention_f32, bytes_of(table));
}

static status plan_gate_add(struct device *dev, struct tensor out, struct tensor x, struct tensor y,
                            struct tensor gate)
{
    return spend(dev, 0, bytes_of(out) + bytes_of(x) + bytes_of(y));
}

static status plan_add_rows(struct device *dev, struct tensor out, struct tensor a, struct tensor b)
{
    return spend(dev, 0, bytes_of(out) + bytes_of(a) + bytes_of(b));
}

static status plan_silu(struct device *dev, struct tensor out, struct tensor x)
{
    return spend(dev, 0, bytes_of(out) + bytes_of(x));
}

static status plan_gelu(struct device *dev, struct tensor out, struct tensor x)
{
    return spend(dev, 0, bytes_of(out) + bytes_of(x));
}

static status plan_gated_gelu(struct device *dev, struct tensor out, struct tensor gate,
                              struct tensor up)
{
    return spend(dev, 0, bytes_of(out) + bytes_of(gate) + bytes_of(up));
}

static status plan_add_product(struct device *dev, struct tensor out, struct tensor x,
                               int64_t first, struct tensor up, struct tensor down)
{
    return spend(dev, 0, bytes_of(out) + bytes_of(x) + bytes_of(up) + bytes_of(down));
}

static status plan_add_change(struct device *dev, struct tensor out, struct tensor x, int64_t first,
                              int64_t cols, const struct weight_change *change)
{
    return spend(dev, 0, bytes_of(out) + bytes_of(x));
}

static status plan_add_squares(struct device *dev, struct tensor sums, struct tensor x,
                               bool per_column, bool add)
{
    return spend(dev, 0, bytes_of(x) + bytes_of(sums));
}

static status plan_expand(struct device *dev, struct tensor out, const struct stored_form *form,
                          const void *stored, int64_t first)
{
    const double share = (double)tensor_count(out) / (double)form->count;

    return spend(dev, 0, bytes_of(out) + share * (double)stored_bytes(form));
}

static status plan_lincomb(struct device *dev, struct tensor out, int count, const float *coef,
                           const struct tensor *x)
{
    return spend(dev, 0, (1 + count) * bytes_of(out));
}

static status plan_row_dots(struct device *dev, struct tensor dots, struct tensor a,
                            struct tensor b)
{
    return spend(dev, 0, bytes_of(dots) + bytes_of(a) + bytes_of(b));
}

static status plan_subtract_projection(struct device *dev, struct tensor out, struct tensor c,
                                       struct tensor u, struct tensor dots)
{
    return spend(dev, 0, bytes_of(out) + bytes_of(c) + bytes_of(u) + bytes_of(dots));
}

static status plan_copy(struct device *dev, struct tensor out, struct tensor x)
{
    return spend(dev, 0, bytes_of(out) + bytes_of(x));
}

static status plan_conv3d(struct device *dev, struct tensor out, struct tensor x,
                          struct tensor past, struct tensor w, struct tensor bias,
                          struct tensor residual, struct conv conv)
{
    const double flops = 2 * (double)tensor_count(out) * (double)(tensor_count(w) / w.dim[0]);
    const struct rates *r = dev->rates;
    double rate;

    note_matrix(dev, w);
    if (r == NULL)
        return ST_OK;
    rate = x.dtype != DT_F32 ? r->conv : conv.tf32 ? r->conv_tf32 : r->conv_f32;
    return spend(dev, flops / rate, bytes_of(residual));
}

static status plan_channel_norm(struct device *dev, struct tensor out, struct tensor x,
                                struct tensor gamma, enum act act, int exponent)
{
    return spend(dev, 0, bytes_of(out) + bytes_of(x));
}

static status plan_channel_affine(struct device *dev, struct tensor out, struct tensor x,
                                  struct tensor scale, struct tensor shift)
{
    return spend(dev, 0, bytes_of(out) + bytes_of(x));
}

static status plan_average_down(struct device *dev, struct tensor out, struct tensor x, int frames)
{
    return spend(dev, 0, bytes_of(out) + bytes_of(x));
}

static status plan_repeat_up(struct device *dev, struct tensor out, struct tensor x,
                             struct tensor y, int frames)
{
    return spend(dev, 0, bytes_of(out) + bytes_of(x) + bytes_of(y));
}

static status plan_to_u8(struct device *dev, struct tensor out, struct tensor x, float add)
{
    return spend(dev, 0, bytes_of(out) + bytes_of(x));
}

static status plan_find_nonfinite(struct device *dev, struct tensor mark, struct tensor x,
                                  float value)
{
    return spend(dev, 0, bytes_of(x));
}

static status plan_row_sums(struct device *dev, struct tensor out, struct tensor a, struct tensor b)
{
    return spend(dev, 0, bytes_of(a) + bytes_of(b));
}

const struct table table_plan = {
    .name = "plan",
    .gemm = plan_gemm,
    .gemm_add = plan_gemm_add,
    .fp8_quantize = plan_fp8_quantize,
    .fp8_norm = plan_fp8_norm,
    .fp8_gemm = plan_fp8_gemm,
    .norm_modulate = plan_norm_modulate,
    .layer_norm = plan_layer_norm,
    .add_norm_modulate = plan_add_norm_modulate,
    .add_layer_norm = plan_add_layer_norm,
    .rms_norm = plan_rms_norm,
    .norm_rope = plan_norm_rope,
    .attention = plan_attention,
    .attention_repeated = attention_all_keys,
    .attention_parts = plan_attention_parts,
    .attention8 = plan_attention8,
    .attention_waits = 128, // as table_cuda
    .sparse_attention = plan_sparse_attention,
    .tile_means = plan_tile_means,
    .tile_lists = plan_tile_lists,
    .linear_attention = plan_linear_attention,
    .take_rows = plan_take_rows,
    .add_gated_rows = plan_add_gated_rows,
    .attention_merge = plan_attention_merge,
    .relative_attention = plan_relative_attention,
    .gate_add = plan_gate_add,
    .add_rows = plan_add_rows,
    .silu = plan_silu,
    .gelu = plan_gelu,
    .gated_gelu = plan_gated_gelu,
    .lincomb = plan_lincomb,
    .row_dots = plan_row_dots,
    .subtract_projection = plan_subtract_projection,
    .add_product = plan_add_product,
    .add_change = plan_add_change,
    .add_squares = plan_add_squares,
    .expand = plan_expand,
    .copy = plan_copy,
    .conv3d = plan_conv3d,
    .channel_norm = plan_channel_norm,
    .channel_affine = plan_channel_affine,
    .average_down = plan_average_down,
    .repeat_up = plan_repeat_up,
    .to_u8 = plan_to_u8,
    .find_nonfinite = plan_find_nonfinite,
    .row_sums = plan_row_sums,
};
