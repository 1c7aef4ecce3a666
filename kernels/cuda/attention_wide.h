/* attention_wide.h - attention with heads of any size, as two products with a softmax between: for
 * those of more than 256 channels, of which the VAE has one. */
#ifndef KERNELS_CUDA_ATTENTION_WIDE_H
#define KERNELS_CUDA_ATTENTION_WIDE_H

#include "kernels/table.h"

#ifdef __cplusplus
extern "C" {
#endif

/* As op_attention. What does not lie on 16 bytes goes to the plain kernel. */
status attention_wide(struct device *dev, struct tensor out, struct tensor lse, struct tensor q,
                      struct tensor k, struct tensor v, float scale);

/* The kernels between and behind the products, over `rows` queries of one head:
 *   logits  f32 [rows, pitch], become p, f32 or bf16 [rows, pitch], zero behind `keys`
 *   sums    f32 [2, rows]: the largest logit, and the sum of exp(logit - largest)
 *   part    f32 [parts, rows, D]: partial sums of p v, which out [rows, D] is made from */
status attention_wide_softmax(struct device *dev, void *p, enum dtype dt, float *sums,
                              const float *logits, int64_t rows, int64_t keys, int64_t pitch,
                              float scale);
status attention_wide_join(struct device *dev, struct tensor out, float *lse, int64_t lse_stride,
                           const float *sums, const float *part, int64_t parts);

#ifdef __cplusplus
}
#endif
#endif
