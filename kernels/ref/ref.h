/* ref.h - the reference ops, and how they read and write elements whatever their dtype.
 *
 * Everything is evaluated in double and rounded where ops.h says so. Speed is not the point, except
 * that inner loops run over converted rows. */
#ifndef KERNELS_REF_REF_H
#define KERNELS_REF_REF_H

#include "kernels/table.h"

/* Bytes of scratch that the reference ops live on: a row of the widest operand in double. */
#define REF_WORKSPACE ((size_t)8 << 20)

/* `count` doubles at the start of the workspace. ST_MEMORY when it has less. */
status ref_scratch(struct device *dev, double **p, int64_t count);

/* v as it is after rounding to dt (f32 or bf16). */
double ref_round(enum dtype dt, double v);

/* `n` dense elements of t from element offset `at`, read as double or rounded and written. */
void ref_load(double *dst, struct tensor t, int64_t at, int64_t n);
void ref_store(struct tensor t, int64_t at, const double *src, int64_t n);

/* Rows run over all axes but the last; their number, and the element offset of one. */
int64_t ref_rows(struct tensor t);
int64_t ref_row(struct tensor t, int64_t row);

/* Which of umT5's 32 relative positions `distance` = key - query falls in. */
int64_t ref_bucket(int64_t distance);

double ref_act(enum act act, double v);

status ref_gemm(struct device *dev, struct tensor out, struct tensor a, struct tensor w,
                struct tensor bias, enum act act);
status ref_gemm_add(struct device *dev, struct tensor sum, struct tensor a, struct tensor w,
                    struct tensor bias);
status ref_norm_modulate(struct device *dev, struct tensor out, struct tensor x,
                         struct tensor scale, struct tensor shift, float eps);
status ref_layer_norm(struct device *dev, struct tensor out, struct tensor x, struct tensor w,
                      struct tensor b, float eps);
status ref_add_norm_modulate(struct device *dev, struct tensor out, struct tensor sum,
                             struct tensor x, struct tensor y, struct tensor gate,
                             struct tensor scale, struct tensor shift, float eps);
status ref_add_layer_norm(struct device *dev, struct tensor out, struct tensor sum, struct tensor x,
                          struct tensor y, struct tensor gate, struct tensor w, struct tensor b,
                          float eps);
status ref_rms_norm(struct device *dev, struct tensor out, struct tensor x, struct tensor w,
                    float eps);
status ref_norm_rope(struct device *dev, struct tensor x, struct tensor w, float eps,
                     struct tensor table, struct token_grid grid);
status ref_attention(struct device *dev, struct tensor out, struct tensor lse, struct tensor q,
                     struct tensor k, struct tensor v, float scale);
status ref_attention_merge(struct device *dev, struct tensor acc, struct tensor lse,
                           struct tensor part, struct tensor part_lse);
status ref_relative_attention(struct device *dev, struct tensor out, struct tensor q,
                              struct tensor k, struct tensor v, struct tensor table);
status ref_gate_add(struct device *dev, struct tensor out, struct tensor x, struct tensor y,
                    struct tensor gate);
status ref_add_rows(struct device *dev, struct tensor out, struct tensor a, struct tensor b);
status ref_silu(struct device *dev, struct tensor out, struct tensor x);
status ref_gated_gelu(struct device *dev, struct tensor out, struct tensor gate, struct tensor up);
status ref_lincomb(struct device *dev, struct tensor out, int count, const float *coef,
                   const struct tensor *x);
status ref_copy(struct device *dev, struct tensor out, struct tensor x);
status ref_conv3d(struct device *dev, struct tensor out, struct tensor x, struct tensor past,
                  struct tensor w, struct tensor bias, struct tensor residual, struct conv conv);
status ref_channel_norm(struct device *dev, struct tensor out, struct tensor x, struct tensor gamma,
                        enum act act);
status ref_channel_affine(struct device *dev, struct tensor out, struct tensor x,
                          struct tensor scale, struct tensor shift);
status ref_to_u8(struct device *dev, struct tensor out, struct tensor x);

#endif
