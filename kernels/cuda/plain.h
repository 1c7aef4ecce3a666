/* plain.h - every op as the simplest correct kernel, for all shapes and strides that ops.h allows.
 * Faster kernels replace these in kernels/cuda/table.c, and call them for the shapes they do not
 * support. */
#ifndef KERNELS_CUDA_PLAIN_H
#define KERNELS_CUDA_PLAIN_H

#include "kernels/table.h"

#ifdef __cplusplus
extern "C" {
#endif

gemm_fn plain_gemm;
gemm_add_fn plain_gemm_add;
fp8_quantize_fn plain_fp8_quantize; // fp8.cu
fp8_norm_fn plain_fp8_norm;
fp8_gemm_fn plain_fp8_gemm;
norm_modulate_fn plain_norm_modulate;
layer_norm_fn plain_layer_norm;
add_norm_modulate_fn plain_add_norm_modulate;
add_layer_norm_fn plain_add_layer_norm;
rms_norm_fn plain_rms_norm;
norm_rope_fn plain_norm_rope;
attention_fn plain_attention;
sparse_attention_fn plain_sparse_attention;
tile_means_fn plain_tile_means;
tile_lists_fn plain_tile_lists;
attention_merge_fn plain_attention_merge;
relative_attention_fn plain_relative_attention;
gate_add_fn plain_gate_add;
add_rows_fn plain_add_rows;
silu_fn plain_silu;
gelu_fn plain_gelu;

/* out = act(out), contiguous. */
status plain_activate(struct device *dev, struct tensor out, enum act act);

gated_gelu_fn plain_gated_gelu;
lincomb_fn plain_lincomb;
row_dots_fn plain_row_dots;                       // guidance.cu
subtract_projection_fn plain_subtract_projection; // guidance.cu
linear_attention_fn plain_linear_attention;       // linear_attention.cu
take_rows_fn plain_take_rows;                     // rows.cu
add_gated_rows_fn plain_add_gated_rows;           // rows.cu
add_product_fn plain_add_product;                 // merge.cu
add_change_fn plain_add_change;
add_squares_fn plain_add_squares;
expand_fn plain_expand; // expand.cu
copy_fn plain_copy;
conv3d_fn plain_conv3d;
channel_norm_fn plain_channel_norm;
channel_affine_fn plain_channel_affine;
average_down_fn plain_average_down;
repeat_up_fn plain_repeat_up;
to_u8_fn plain_to_u8;
find_nonfinite_fn plain_find_nonfinite;
row_sums_fn plain_row_sums;

#ifdef __cplusplus
}
#endif
#endif
