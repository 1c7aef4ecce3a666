/* wide.h - ops that are limited by memory bandwidth, with accesses of 16 bytes: the transformer's
 * ops on rows (norm.cu, elementwise.cu) and the VAE's on frames (frames.cu, cells.cu). A row is
 * read once and held in a block's registers. Each calls its plain kernel (plain.h) where a row is
 * too long or not aligned. */
#ifndef KERNELS_CUDA_WIDE_H
#define KERNELS_CUDA_WIDE_H

#include "kernels/table.h"

#ifdef __cplusplus
extern "C" {
#endif

norm_modulate_fn wide_norm_modulate;
layer_norm_fn wide_layer_norm;
add_norm_modulate_fn wide_add_norm_modulate;
add_layer_norm_fn wide_add_layer_norm;
fp8_norm_fn wide_fp8_norm;
fp8_quantize_fn wide_fp8_quantize;
rms_norm_fn wide_rms_norm;
norm_rope_fn wide_norm_rope;
gate_add_fn wide_gate_add;
add_product_fn tiled_add_product; // merge.cu
add_change_fn tiled_add_change;
attention_merge_fn wide_attention_merge;
copy_fn wide_copy;
channel_norm_fn wide_channel_norm;
to_u8_fn wide_to_u8;
average_down_fn wide_average_down;
repeat_up_fn wide_repeat_up;

#ifdef __cplusplus
}
#endif
#endif
