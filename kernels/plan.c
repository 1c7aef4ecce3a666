#include "kernels/table.h"

/* ops.c has checked the shapes and counted the FLOPs; there is nothing left to do. */

static status plan_gemm(struct device *dev, struct tensor out, struct tensor a, struct tensor w,
                        struct tensor bias, enum act act)
{
    return ST_OK;
}

static status plan_gemm_add(struct device *dev, struct tensor sum, struct tensor a, struct tensor w,
                            struct tensor bias)
{
    return ST_OK;
}

static status plan_norm_modulate(struct device *dev, struct tensor out, struct tensor x,
                                 struct tensor scale, struct tensor shift, float eps)
{
    return ST_OK;
}

static status plan_layer_norm(struct device *dev, struct tensor out, struct tensor x,
                              struct tensor w, struct tensor b, float eps)
{
    return ST_OK;
}

static status plan_add_norm_modulate(struct device *dev, struct tensor out, struct tensor sum,
                                     struct tensor x, struct tensor y, struct tensor gate,
                                     struct tensor scale, struct tensor shift, float eps)
{
    return ST_OK;
}

static status plan_add_layer_norm(struct device *dev, struct tensor out, struct tensor sum,
                                  struct tensor x, struct tensor y, struct tensor gate,
                                  struct tensor w, struct tensor b, float eps)
{
    return ST_OK;
}

static status plan_rms_norm(struct device *dev, struct tensor out, struct tensor x, struct tensor w,
                            float eps)
{
    return ST_OK;
}

static status plan_norm_rope(struct device *dev, struct tensor out, struct tensor x,
                             struct tensor w, float eps, struct tensor table,
                             struct token_grid grid)
{
    return ST_OK;
}

static status plan_attention(struct device *dev, struct tensor out, struct tensor lse,
                             struct tensor q, struct tensor k, struct tensor v, float scale)
{
    return ST_OK;
}

static status plan_attention_parts(struct device *dev, const struct attention_part *part, int parts,
                                   const struct arrival *keys, int messages, struct tensor q,
                                   struct tensor k, struct tensor v, float scale)
{
    return ST_OK;
}

static status plan_attention_merge(struct device *dev, struct tensor acc, struct tensor lse,
                                   struct tensor part, struct tensor part_lse)
{
    return ST_OK;
}

static status plan_relative_attention(struct device *dev, struct tensor out, struct tensor q,
                                      struct tensor k, struct tensor v, struct tensor table)
{
    return ST_OK;
}

static status plan_gate_add(struct device *dev, struct tensor out, struct tensor x, struct tensor y,
                            struct tensor gate)
{
    return ST_OK;
}

static status plan_add_rows(struct device *dev, struct tensor out, struct tensor a, struct tensor b)
{
    return ST_OK;
}

static status plan_silu(struct device *dev, struct tensor out, struct tensor x)
{
    return ST_OK;
}

static status plan_gated_gelu(struct device *dev, struct tensor out, struct tensor gate,
                              struct tensor up)
{
    return ST_OK;
}

static status plan_lincomb(struct device *dev, struct tensor out, int count, const float *coef,
                           const struct tensor *x)
{
    return ST_OK;
}

static status plan_copy(struct device *dev, struct tensor out, struct tensor x)
{
    return ST_OK;
}

static status plan_conv3d(struct device *dev, struct tensor out, struct tensor x,
                          struct tensor past, struct tensor w, struct tensor bias,
                          struct tensor residual, struct conv conv)
{
    return ST_OK;
}

static status plan_channel_norm(struct device *dev, struct tensor out, struct tensor x,
                                struct tensor gamma, enum act act)
{
    return ST_OK;
}

static status plan_channel_affine(struct device *dev, struct tensor out, struct tensor x,
                                  struct tensor scale, struct tensor shift)
{
    return ST_OK;
}

static status plan_to_u8(struct device *dev, struct tensor out, struct tensor x)
{
    return ST_OK;
}

const struct table table_plan = {
    .name = "plan",
    .gemm = plan_gemm,
    .gemm_add = plan_gemm_add,
    .norm_modulate = plan_norm_modulate,
    .layer_norm = plan_layer_norm,
    .add_norm_modulate = plan_add_norm_modulate,
    .add_layer_norm = plan_add_layer_norm,
    .rms_norm = plan_rms_norm,
    .norm_rope = plan_norm_rope,
    .attention = plan_attention,
    .attention_parts = plan_attention_parts,
    .attention_waits = 128, // as table_cuda
    .attention_merge = plan_attention_merge,
    .relative_attention = plan_relative_attention,
    .gate_add = plan_gate_add,
    .add_rows = plan_add_rows,
    .silu = plan_silu,
    .gated_gelu = plan_gated_gelu,
    .lincomb = plan_lincomb,
    .copy = plan_copy,
    .conv3d = plan_conv3d,
    .channel_norm = plan_channel_norm,
    .channel_affine = plan_channel_affine,
    .to_u8 = plan_to_u8,
};
