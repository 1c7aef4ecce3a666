#include "kernels/cuda/attention.h"
#include "kernels/cuda/conv.h"
#include "kernels/cuda/picture.h"
#include "kernels/cuda/plain.h"

#define MB ((size_t)1 << 20)

void table_cuda_plain(struct table *t)
{
    *t = (struct table){
        .name = "cuda-plain",
        .gemm = plain_gemm,
        .gemm_add = plain_gemm_add,
        .norm_modulate = plain_norm_modulate,
        .layer_norm = plain_layer_norm,
        .add_norm_modulate = plain_add_norm_modulate,
        .add_layer_norm = plain_add_layer_norm,
        .rms_norm = plain_rms_norm,
        .qk_norm_rope = plain_qk_norm_rope,
        .attention = plain_attention,
        .attention_merge = plain_attention_merge,
        .relative_attention = plain_relative_attention,
        .gate_add = plain_gate_add,
        .add_rows = plain_add_rows,
        .silu = plain_silu,
        .gated_gelu = plain_gated_gelu,
        .lincomb = plain_lincomb,
        .copy = plain_copy,
        .conv3d = plain_conv3d,
        .channel_norm = plain_channel_norm,
        .channel_affine = plain_channel_affine,
        .to_u8 = plain_to_u8,
    };
}

void table_cuda(struct table *t)
{
    table_cuda_plain(t);
    t->name = "cuda";
    t->conv3d = hopper_conv3d;
    t->channel_norm = picture_channel_norm;
    t->workspace = 64 * MB; // cuBLASLt's and cuDNN's scratch
    t->attention = attention_sm90;
}
