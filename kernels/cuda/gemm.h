/* gemm.h - matrix products by cuBLASLt; what it cannot do is left to plain_gemm. */
#ifndef KERNELS_CUDA_GEMM_H
#define KERNELS_CUDA_GEMM_H

#include "kernels/table.h"

#ifdef __cplusplus
extern "C" {
#endif

status gemm_cublaslt(struct device *dev, struct tensor out, struct tensor a, struct tensor w,
                     struct tensor bias, enum act act);
status gemm_add_cublaslt(struct device *dev, struct tensor sum, struct tensor a, struct tensor w,
                         struct tensor bias);

#ifdef __cplusplus
}
#endif
#endif
