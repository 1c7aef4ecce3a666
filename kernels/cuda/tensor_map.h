/* tensor_map.h - descriptions of tensors in global memory for the Tensor Memory Accelerator (TMA),
 * which copies boxes of them (tma_load and tma_store in kernels/cuda/hopper.cuh). */
#ifndef KERNELS_CUDA_TENSOR_MAP_H
#define KERNELS_CUDA_TENSOR_MAP_H

#include "kernels/cuda/context.h"

#include <cuda.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Axes from the innermost. data and all strides but the first are multiples of 16 bytes. */
struct tensor_map {
    enum dtype dtype; // f32, bf16, f16 or i8
    const void *data;
    int rank;
    int64_t dim[4], stride[4]; // in elements; stride[0] is 1
    int box[4],
        step[4]; // a box spans box[i] elements of axis i and copies every step[i]-th of them
    CUtensorMapL2promotion l2;
};

/* Encodes `m` into *map. Rows of a box are swizzled by their width, 128 or 64 bytes; elements
 * outside of the tensor are read as 0. ST_DEVICE, with a line that names the op. */
status tensor_map_encode(struct cuda_context *c, CUtensorMap *map, const struct tensor_map *m,
                         const char *op);

#ifdef __cplusplus
}
#endif
#endif
