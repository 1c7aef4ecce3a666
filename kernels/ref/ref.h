/* ref.h - the reference ops, and their access to elements of f32, bf16 and f16.
 *
 * Everything is evaluated in double and rounded where ops.h says so. The code is written for
 * clarity; the one concession to speed is that a row is converted to double before the inner loop.
 */
#ifndef KERNELS_REF_REF_H
#define KERNELS_REF_REF_H

#include "kernels/table.h"

/* Bytes of workspace: enough for a few rows of the widest operand in double. */
#define REF_WORKSPACE ((size_t)8 << 20)

/* *p = `count` doubles at the start of the workspace. ST_MEMORY when it is smaller. */
status ref_scratch(struct device *dev, double **p, int64_t count);

/* v rounded to dt (f32 or bf16). */
double ref_round(enum dtype dt, double v);

/* Reads n dense elements of t from element offset `at`; rounds and writes them. */
void ref_load(double *dst, struct tensor t, int64_t at, int64_t n);
void ref_store(struct tensor t, int64_t at, const double *src, int64_t n);

/* A row is a run of the last axis. The number of rows of t, and the element offset of one. */
int64_t ref_rows(struct tensor t);
int64_t ref_row(struct tensor t, int64_t row);

/* p = e^(p - *max), with *max the maximum of p. Returns the sum. */
double ref_exponentials(double *p, int64_t n, double *max);

double ref_dot(const double *a, const double *b, int64_t n);

/* The bucket, 0 to 31, of umT5's relative position bias for distance = key - query. */
int64_t ref_bucket(int64_t distance);

double ref_act(enum act act, double v); // act(v)

/* v[C] = row `row` of op_norm_modulate (modulate; mul, add: scale, shift) or op_layer_norm of x. */
void ref_norm_row(double *v, struct tensor x, int64_t row, struct tensor mul, struct tensor add,
                  bool modulate, float eps);

gemm_fn ref_gemm;
gemm_add_fn ref_gemm_add;
fp8_quantize_fn ref_fp8_quantize;
fp8_norm_fn ref_fp8_norm;
fp8_gemm_fn ref_fp8_gemm;
norm_modulate_fn ref_norm_modulate;
layer_norm_fn ref_layer_norm;
add_norm_modulate_fn ref_add_norm_modulate;
add_layer_norm_fn ref_add_layer_norm;
rms_norm_fn ref_rms_norm;
norm_rope_fn ref_norm_rope;
attention_fn ref_attention;
attention8_fn ref_attention8;
sparse_attention_fn ref_sparse_attention;
tile_means_fn ref_tile_means;
tile_lists_fn ref_tile_lists;
linear_attention_fn ref_linear_attention;
take_rows_fn ref_take_rows;
add_gated_rows_fn ref_add_gated_rows;
attention_merge_fn ref_attention_merge;
relative_attention_fn ref_relative_attention;
gate_add_fn ref_gate_add;
add_rows_fn ref_add_rows;
silu_fn ref_silu;
gelu_fn ref_gelu;
gated_gelu_fn ref_gated_gelu;
lincomb_fn ref_lincomb;
row_dots_fn ref_row_dots;
subtract_projection_fn ref_subtract_projection;
add_product_fn ref_add_product; // merge.c
add_change_fn ref_add_change;
add_squares_fn ref_add_squares;
expand_fn ref_expand;
copy_fn ref_copy;
conv3d_fn ref_conv3d;
channel_norm_fn ref_channel_norm;
channel_affine_fn ref_channel_affine;
average_down_fn ref_average_down;
repeat_up_fn ref_repeat_up;
to_u8_fn ref_to_u8;
find_nonfinite_fn ref_find_nonfinite;
row_sums_fn ref_row_sums;

#endif
