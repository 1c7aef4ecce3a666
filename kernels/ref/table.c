#include "kernels/ref/ref.h"
#include "runtime/alive.h"
#include "runtime/half.h"

#include <assert.h>
#include <math.h>

const struct table table_ref = {
    .name = "ref",
    .workspace = REF_WORKSPACE,
    .gemm = ref_gemm,
    .gemm_add = ref_gemm_add,
    .add_product = ref_add_product,
    .add_change = ref_add_change,
    .add_squares = ref_add_squares,
    .expand = ref_expand,
    .fp8_quantize = ref_fp8_quantize,
    .fp8_norm = ref_fp8_norm,
    .fp8_gemm = ref_fp8_gemm,
    .norm_modulate = ref_norm_modulate,
    .layer_norm = ref_layer_norm,
    .add_norm_modulate = ref_add_norm_modulate,
    .add_layer_norm = ref_add_layer_norm,
    .rms_norm = ref_rms_norm,
    .norm_rope = ref_norm_rope,
    .attention = ref_attention,
    .attention_repeated = attention_all_keys,
    .attention_parts = attention_each_part,
    .attention8 = ref_attention8,
    .sparse_attention = ref_sparse_attention,
    .tile_means = ref_tile_means,
    .tile_lists = ref_tile_lists,
    .linear_attention = ref_linear_attention,
    .take_rows = ref_take_rows,
    .add_gated_rows = ref_add_gated_rows,
    .attention_merge = ref_attention_merge,
    .relative_attention = ref_relative_attention,
    .gate_add = ref_gate_add,
    .add_rows = ref_add_rows,
    .silu = ref_silu,
    .gelu = ref_gelu,
    .gated_gelu = ref_gated_gelu,
    .lincomb = ref_lincomb,
    .row_dots = ref_row_dots,
    .subtract_projection = ref_subtract_projection,
    .copy = ref_copy,
    .conv3d = ref_conv3d,
    .channel_norm = ref_channel_norm,
    .channel_affine = ref_channel_affine,
    .average_down = ref_average_down,
    .repeat_up = ref_repeat_up,
    .to_u8 = ref_to_u8,
    .find_nonfinite = ref_find_nonfinite,
    .row_sums = ref_row_sums,
};

status ref_scratch(struct device *dev, double **p, int64_t count)
{
    if ((uint64_t)count > REF_WORKSPACE / sizeof(double))
        return fail(ST_MEMORY, "the reference op needs %lld doubles of workspace and has %zu",
                    (long long)count, REF_WORKSPACE / sizeof(double));
    *p = dev->workspace;
    return ST_OK;
}

double ref_round(enum dtype dt, double v)
{
    return dt == DT_BF16 ? bf16_round((float)v) : (float)v;
}

void ref_load(double *dst, struct tensor t, int64_t at, int64_t n)
{
    if (t.dtype == DT_BF16) {
        const uint16_t *src = (const uint16_t *)t.data + at;
        for (int64_t i = 0; i < n; i++)
            dst[i] = f32_from_bf16(src[i]);
    } else if (t.dtype == DT_F16) {
        const uint16_t *src = (const uint16_t *)t.data + at;
        for (int64_t i = 0; i < n; i++)
            dst[i] = f32_from_f16(src[i]);
    } else {
        const float *src = (const float *)t.data + at;
        assert(t.dtype == DT_F32);
        for (int64_t i = 0; i < n; i++)
            dst[i] = src[i];
    }
}

void ref_store(struct tensor t, int64_t at, const double *src, int64_t n)
{
    alive();
    if (t.dtype == DT_BF16) {
        uint16_t *dst = (uint16_t *)t.data + at;
        for (int64_t i = 0; i < n; i++)
            dst[i] = bf16_from_f32((float)src[i]);
    } else if (t.dtype == DT_F16) {
        uint16_t *dst = (uint16_t *)t.data + at;
        for (int64_t i = 0; i < n; i++)
            dst[i] = f16_from_f32((float)src[i]);
    } else {
        float *dst = (float *)t.data + at;
        assert(t.dtype == DT_F32);
        for (int64_t i = 0; i < n; i++)
            dst[i] = (float)src[i];
    }
}

int64_t ref_rows(struct tensor t)
{
    int64_t n = 1;

    for (int i = 0; i < t.ndim - 1; i++)
        n *= t.dim[i];
    return n;
}

int64_t ref_row(struct tensor t, int64_t row)
{
    int64_t at = 0;

    for (int i = t.ndim - 2; i >= 0; i--) {
        at += row % t.dim[i] * t.stride[i];
        row /= t.dim[i];
    }
    return at;
}

double ref_act(enum act act, double v)
{
    switch (act) {
    case ACT_NONE:
        return v;
    case ACT_GELU:
        return 0.5 * v * (1 + erf(v * M_SQRT1_2));
    case ACT_GELU_TANH:
        return 0.5 * v * (1 + tanh(sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
    case ACT_SILU:
        return v / (1 + exp(-v));
    case ACT_RELU:
        return v < 0 ? 0 : v;
    }
    return NAN;
}
