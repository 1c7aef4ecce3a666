/* attention.h - softmax attention on a GPU. Each function takes any shape of ops.h and hands on
 * what it has no kernel for. */
#ifndef KERNELS_CUDA_ATTENTION_H
#define KERNELS_CUDA_ATTENTION_H

#include "kernels/table.h"

#ifdef __cplusplus
extern "C" {
#endif

/* f32 sums and exponentials whatever the dtype, head sizes up to 384; the rest by plain_attention.
 */
status attention_f32(struct device *dev, struct tensor out, struct tensor lse, struct tensor q,
                     struct tensor k, struct tensor v, float scale);

/* bf16 with head size 128 or 384, by our own kernel for Hopper; the rest by attention_f32. */
status attention_sm90(struct device *dev, struct tensor out, struct tensor lse, struct tensor q,
                      struct tensor k, struct tensor v, float scale);

#ifdef __cplusplus
}
#endif
#endif
