/* divide.cuh - quotients of indices. */
#ifndef KERNELS_CUDA_DIVIDE_CUH
#define KERNELS_CUDA_DIVIDE_CUH

#include <stdint.h>

/* The quotient of numbers that are not negative, and the remainder in *rest: 64 bits take many
 * times as long as 32. */
static __device__ __forceinline__ int64_t divide(int64_t a, int64_t b, int64_t *rest)
{
    int64_t q;

    if (((a | b) >> 32) == 0)
        q = (uint32_t)a / (uint32_t)b;
    else
        q = a / b;
    *rest = a - q * b;
    return q;
}

#endif
