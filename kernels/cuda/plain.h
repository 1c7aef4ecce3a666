/* plain.h - every op as the simplest kernel that is right: any shape, any stride that ops.h allows.
 * What is faster replaces it in kernels/cuda/table.c, and falls back on it for odd shapes. */
#ifndef KERNELS_CUDA_PLAIN_H
#define KERNELS_CUDA_PLAIN_H

#include "kernels/table.h"

#ifdef __cplusplus
extern "C" {
#endif

status plain_gemm(struct device *dev, struct tensor out, struct tensor a, struct tensor w,
                  struct tensor bias, enum act act);
status plain_gemm_add(struct device *dev, struct tensor sum, struct tensor a, struct tensor w,
                      struct tensor bias);
status plain_norm_modulate(struct device *dev, struct tensor out, struct tensor x,
                           struct tensor scale, struct tensor shift, float eps);
status plain_layer_norm(struct device *dev, struct tensor out, struct tensor x, struct tensor w,
                        struct tensor b, float eps);
status plain_add_norm_modulate(struct device *dev, struct tensor out, struct tensor sum,
                               struct tensor x, struct tensor y, struct tensor gate,
                               struct tensor scale, struct tensor shift, float eps);
status plain_add_layer_norm(struct device *dev, struct tensor out, struct tensor sum,
                            struct tensor x, struct tensor y, struct tensor gate, struct tensor w,
                            struct tensor b, float eps);
status plain_rms_norm(struct device *dev, struct tensor out, struct tensor x, struct tensor w,
                      float eps);
status plain_norm_rope(struct device *dev, struct tensor x, struct tensor w, float eps,
                       struct tensor table, struct token_grid grid);
status plain_attention(struct device *dev, struct tensor out, struct tensor lse, struct tensor q,
                       struct tensor k, struct tensor v, float scale);
status plain_attention_merge(struct device *dev, struct tensor acc, struct tensor lse,
                             struct tensor part, struct tensor part_lse);
status plain_relative_attention(struct device *dev, struct tensor out, struct tensor q,
                                struct tensor k, struct tensor v, struct tensor table);
status plain_gate_add(struct device *dev, struct tensor out, struct tensor x, struct tensor y,
                      struct tensor gate);
status plain_add_rows(struct device *dev, struct tensor out, struct tensor a, struct tensor b);
status plain_silu(struct device *dev, struct tensor out, struct tensor x);
status plain_gated_gelu(struct device *dev, struct tensor out, struct tensor gate,
                        struct tensor up);
status plain_lincomb(struct device *dev, struct tensor out, int count, const float *coef,
                     const struct tensor *x);
status plain_copy(struct device *dev, struct tensor out, struct tensor x);
status plain_conv3d(struct device *dev, struct tensor out, struct tensor x, struct tensor past,
                    struct tensor w, struct tensor bias, struct tensor residual, struct conv conv);
status plain_channel_norm(struct device *dev, struct tensor out, struct tensor x,
                          struct tensor gamma, enum act act);
status plain_channel_affine(struct device *dev, struct tensor out, struct tensor x,
                            struct tensor scale, struct tensor shift);
status plain_to_u8(struct device *dev, struct tensor out, struct tensor x);

#ifdef __cplusplus
}
#endif
#endif
