/* table.h - the table of a backend: one function for each op.
 *
 *   table_ref         every op in plain loops, sums in double: the specification
 *   table_cpu         vectorized tiles for each instruction set, and OpenMP
 *   table_cuda        our own kernels and cuBLASLt (when built with CUDA)
 *   table_cuda_plain  every op as the simplest correct GPU kernel
 *   table_plan        computes nothing
 *
 * A table starts as a copy of a slower, complete table and replaces the entries that are worth it,
 * so no entry is NULL. Entries are called by ops.c, which has checked the arguments. The device's
 * workspace is used by one op at a time. */
#ifndef KERNELS_TABLE_H
#define KERNELS_TABLE_H

#include "kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

struct table {
    const char *name;
    size_t workspace; // bytes that dev->workspace must have
    gemm_fn *gemm;
    gemm_add_fn *gemm_add;
    add_product_fn *add_product;
    add_change_fn *add_change;
    add_squares_fn *add_squares;
    expand_fn *expand;
    fp8_quantize_fn *fp8_quantize;
    fp8_norm_fn *fp8_norm;
    fp8_gemm_fn *fp8_gemm;
    norm_modulate_fn *norm_modulate;
    layer_norm_fn *layer_norm;
    add_norm_modulate_fn *add_norm_modulate;
    add_layer_norm_fn *add_layer_norm;
    rms_norm_fn *rms_norm;
    norm_rope_fn *norm_rope;
    attention_fn *attention;
    attention_repeated_fn *attention_repeated;
    attention_parts_fn *attention_parts;
    int64_t attention_waits; // D for which attention_parts waits for arrivals, in bf16; 0: none
    attention8_fn *attention8;
    sparse_attention_fn *sparse_attention;
    tile_means_fn *tile_means;
    tile_lists_fn *tile_lists;
    linear_attention_fn *linear_attention;
    take_rows_fn *take_rows;
    add_gated_rows_fn *add_gated_rows;
    attention_merge_fn *attention_merge;
    relative_attention_fn *relative_attention;
    gate_add_fn *gate_add;
    add_rows_fn *add_rows;
    silu_fn *silu;
    gelu_fn *gelu;
    gated_gelu_fn *gated_gelu;
    lincomb_fn *lincomb;
    row_dots_fn *row_dots;
    subtract_projection_fn *subtract_projection;
    copy_fn *copy;
    conv3d_fn *conv3d;
    channel_norm_fn *channel_norm;
    channel_affine_fn *channel_affine;
    average_down_fn *average_down;
    repeat_up_fn *repeat_up;
    to_u8_fn *to_u8;
    find_nonfinite_fn *find_nonfinite;
    row_sums_fn *row_sums;
};

/* The attention_parts of a table without a function of its own: `attention`, part by part. Likewise
 * `attention` of all keys. */
attention_parts_fn attention_each_part;
attention_repeated_fn attention_all_keys;

extern const struct table table_ref;
extern const struct table table_plan;
void table_cpu(struct table *t);

/* Bytes of table_cpu's workspace that are used by so many threads, for `packed` and `head` of a
 * plan device. The others are never touched, so that they take no memory. */
size_t table_cpu_used(int threads, size_t packed, int64_t head);

void table_cuda(struct table *t);
void table_cuda_plain(struct table *t);

#ifdef __cplusplus
}
#endif
#endif
