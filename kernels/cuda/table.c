#include "kernels/cuda/attention.h"
#include "kernels/cuda/conv.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/plain.h"
#include "kernels/cuda/wide.h"

#define MB ((size_t)1 << 20)

void table_cuda_plain(struct table *t)
{
    *t = (struct table){
        .name = "cuda-plain",
        .gemm = plain_gemm,
        .gemm_add = plain_gemm_add,
        .fp8_quantize = plain_fp8_quantize,
        .fp8_norm = plain_fp8_norm,
        .fp8_gemm = plain_fp8_gemm,
        .norm_modulate = plain_norm_modulate,
        .layer_norm = plain_layer_norm,
        .add_norm_modulate = plain_add_norm_modulate,
        .add_layer_norm = plain_add_layer_norm,
        .rms_norm = plain_rms_norm,
        .norm_rope = plain_norm_rope,
        .attention = plain_attention,
        .attention_repeated = attention_all_keys,
        .attention_parts = attention_each_part,
        .attention8 = attention8_sm90,
        .sparse_attention = plain_sparse_attention,
        .tile_means = plain_tile_means,
        .tile_lists = plain_tile_lists,
        .linear_attention = plain_linear_attention,
        .take_rows = plain_take_rows,
        .add_gated_rows = plain_add_gated_rows,
        .attention_merge = plain_attention_merge,
        .relative_attention = plain_relative_attention,
        .gate_add = plain_gate_add,
        .add_rows = plain_add_rows,
        .silu = plain_silu,
        .gelu = plain_gelu,
        .gated_gelu = plain_gated_gelu,
        .lincomb = plain_lincomb,
        .row_dots = plain_row_dots,
        .subtract_projection = plain_subtract_projection,
        .add_product = plain_add_product,
        .add_change = plain_add_change,
        .add_squares = plain_add_squares,
        .expand = plain_expand,
        .copy = plain_copy,
        .conv3d = plain_conv3d,
        .channel_norm = plain_channel_norm,
        .channel_affine = plain_channel_affine,
        .average_down = plain_average_down,
        .repeat_up = plain_repeat_up,
        .to_u8 = plain_to_u8,
        .find_nonfinite = plain_find_nonfinite,
        .row_sums = plain_row_sums,
    };
}

void table_cuda(struct table *t)
{
    table_cuda_plain(t);
    t->name = "cuda";
    t->workspace = 64 * MB; // for cuBLASLt, attention and hopper_conv3d
    t->gemm = gemm_cublaslt;
    t->gemm_add = gemm_add_cublaslt;
    t->fp8_quantize = wide_fp8_quantize;
    t->fp8_norm = wide_fp8_norm;
    t->fp8_gemm = fp8_gemm_cublaslt;
    t->norm_modulate = wide_norm_modulate;
    t->layer_norm = wide_layer_norm;
    t->add_norm_modulate = wide_add_norm_modulate;
    t->add_layer_norm = wide_add_layer_norm;
    t->rms_norm = wide_rms_norm;
    t->norm_rope = wide_norm_rope;
    t->attention = attention_sm90;
    t->attention_repeated = attention_repeated_sm90;
    t->attention_parts = attention_parts_sm90;
    t->attention_waits = 128;
    t->sparse_attention = sparse_attention_sm90;
    t->attention_merge = wide_attention_merge;
    t->add_product = tiled_add_product;
    t->add_change = tiled_add_change;
    t->gate_add = wide_gate_add;
    t->copy = wide_copy;
    t->conv3d = hopper_conv3d;
    t->channel_norm = wide_channel_norm;
    t->average_down = wide_average_down;
    t->repeat_up = wide_repeat_up;
    t->to_u8 = wide_to_u8;
}
