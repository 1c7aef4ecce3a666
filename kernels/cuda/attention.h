/* attention.h - softmax attention on a GPU, by the library and by kernels of our own. Each takes
 * any shape of ops.h and hands on to the next what it cannot do. */
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

/* bf16 with a head size that is a multiple of 8 up to 256, by cuDNN's fused kernel; the rest by
 * attention_f32. */
status attention_cudnn(struct device *dev, struct tensor out, struct tensor lse, struct tensor q,
                       struct tensor k, struct tensor v, float scale);

/* bf16 with head size 128, by our own kernel for Hopper; the rest by attention_cudnn. */
status attention_sm90(struct device *dev, struct tensor out, struct tensor lse, struct tensor q,
                      struct tensor k, struct tensor v, float scale);

#ifdef __cplusplus
}
#endif
#endif
