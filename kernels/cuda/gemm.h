/* gemm.h - matrix products by cuBLASLt; plain_gemm where cuBLASLt has no kernel. */
#ifndef KERNELS_CUDA_GEMM_H
#define KERNELS_CUDA_GEMM_H

#include "kernels/table.h"

#ifdef __cplusplus
extern "C" {
#endif

gemm_fn gemm_cublaslt;
gemm_add_fn gemm_add_cublaslt;
fp8_gemm_fn fp8_gemm_cublaslt;

/* out = a w^T, or a w if w_by_depth: a [M, K], w [N, K] or [K, N], out [M, N], all rows may be
 * strided by multiples of 16 bytes. Without workspace. *missing: nothing was done, as the library
 * has no kernel for it. */
status gemm_strided(struct device *dev, struct tensor out, struct tensor a, struct tensor w,
                    bool w_by_depth, bool *missing);

#ifdef __cplusplus
}
#endif
#endif
