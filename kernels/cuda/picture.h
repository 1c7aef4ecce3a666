/* picture.h - the VAE's ops besides convolution (kernels/cuda/picture.cu). */
#ifndef KERNELS_CUDA_PICTURE_H
#define KERNELS_CUDA_PICTURE_H

#include "kernels/table.h"

#ifdef __cplusplus
extern "C" {
#endif

status picture_channel_norm(struct device *dev, struct tensor out, struct tensor x,
                            struct tensor gamma, enum act act);

status picture_to_u8(struct device *dev, struct tensor out, struct tensor x);

#ifdef __cplusplus
}
#endif
#endif
