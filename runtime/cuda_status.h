/* cuda_status.h - error codes of the CUDA runtime as ours.
 *
 * For files that call the CUDA runtime: in runtime/, kernels/cuda/ and parallel/. */
#ifndef RUNTIME_CUDA_STATUS_H
#define RUNTIME_CUDA_STATUS_H

#include "runtime/status.h"

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ST_OK for cudaSuccess. Else fails with the line "<format>: <CUDA's description>" and returns
 * ST_MEMORY when memory could not be allocated, ST_DEVICE for every other error. */
status cuda_status(cudaError_t e, const char *format, ...) __attribute__((format(printf, 2, 3)));

#ifdef __cplusplus
}
#endif
#endif
