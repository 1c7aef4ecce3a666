/* gemm.h - matrix products by cuBLASLt; plain_gemm where cuBLASLt has no kernel. */
#ifndef KERNELS_CUDA_GEMM_H
#define KERNELS_CUDA_GEMM_H

#include "kernels/table.h"

#ifdef __cplusplus
extern "C" {
#endif

gemm_fn gemm_cublaslt;
gemm_add_fn gemm_add_cublaslt;

#ifdef __cplusplus
}
#endif
#endif
