/* device.cuh - device functions that all kernels share: access to elements of f32 and bf16,
 * rounding, activations, reductions. struct tensor is passed to kernels by value. */
#ifndef KERNELS_CUDA_DEVICE_CUH
#define KERNELS_CUDA_DEVICE_CUH

#include "kernels/cuda/context.h"

#include "runtime/fp8.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

__device__ inline float load(const struct tensor &t, int64_t at)
{
    return t.dtype == DT_BF16 ? __bfloat162float(((const __nv_bfloat16 *)t.data)[at])
                              : ((const float *)t.data)[at];
}

__device__ inline void store(const struct tensor &t, int64_t at, float v)
{
    if (t.dtype == DT_BF16)
        ((__nv_bfloat16 *)t.data)[at] = __float2bfloat16_rn(v);
    else
        ((float *)t.data)[at] = v;
}

/* The same, also of f16. */
__device__ inline float load_any(const struct tensor &t, int64_t at)
{
    return t.dtype == DT_F16 ? __half2float(((const __half *)t.data)[at]) : load(t, at);
}

__device__ inline void store_any(const struct tensor &t, int64_t at, float v)
{
    if (t.dtype == DT_F16)
        ((__half *)t.data)[at] = __float2half_rn(v);
    else
        store(t, at, v);
}

__device__ inline float rounded(enum dtype dt, float v)
{
    return dt == DT_BF16 ? __bfloat162float(__float2bfloat16_rn(v)) : v;
}

/* v rounded to TF32. */
__device__ inline float rounded_tf32(float v)
{
    uint32_t bits;

    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(v));
    return __uint_as_float(bits);
}

/* A pixel value in [-1, 1] as a byte, in the steps of the official code that writes videos and
 * images; add: see op_to_u8. */
__device__ inline uint8_t as_u8(float v, float add)
{
    const float f = fminf(fmaxf(v, -1), 1);

    return (uint8_t)fminf(__fadd_rn(__fmul_rn(__fmul_rn(__fadd_rn(f, 1), 0.5f), 255), add), 255);
}

__device__ inline float activated(enum act act, float v)
{
    switch (act) {
    case ACT_GELU:
        return 0.5f * v * (1 + erff(v * 0.70710678118654752f));
    case ACT_GELU_TANH:
        return 0.5f * v * (1 + tanhf(0.7978845608028654f * (v + 0.044715f * v * v * v)));
    case ACT_SILU:
        return v / (1 + expf(-v));
    case ACT_RELU:
        return v < 0 ? 0 : v;
    default:
        return v;
    }
}

/* ACT_GELU_TANH with the hardware's exponential and quotient: v (1 + tanh u) / 2, which is
 * v / (1 + e^-2u), with u = sqrt(2 / pi) (v + 0.044715 v^3). */
__device__ inline float quick_gelu_tanh(float v)
{
    const float power = v * fmaf(-0.10294324f, v * v, -2.3022082f); // -2 log2(e) u

    return __fdividef(v, 1 + exp2f(power));
}

/* Four values as e4m3, the first in the lowest byte. Saturates. */
__device__ inline uint32_t pack_fp8(float a, float b, float c, float d)
{
    uint16_t low, high;

    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(low) : "f"(b), "f"(a));
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(high) : "f"(d), "f"(c));
    return low | (uint32_t)high << 16;
}

/* The scale of a row whose largest absolute value is `most`. */
__device__ inline float fp8_scale_of(float most)
{
    return __fdiv_rn(fmaxf(most, FP8_LEAST), FP8_MAX);
}

__device__ inline float warp_sum(float v)
{
    for (int lane = 16; lane > 0; lane /= 2)
        v += __shfl_xor_sync(~0u, v, lane);
    return v;
}

__device__ inline float warp_max(float v)
{
    for (int lane = 16; lane > 0; lane /= 2)
        v = fmaxf(v, __shfl_xor_sync(~0u, v, lane));
    return v;
}

/* The sum (maximum) over all threads of the block, returned to every thread. part: shared, [32]. */
__device__ inline float block_sum(float v, float *part)
{
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

    v = warp_sum(v);
    __syncthreads(); // a previous reduction may still read `part`
    if (lane == 0)
        part[warp] = v;
    __syncthreads();
    return warp_sum(lane < (int)(blockDim.x + 31) / 32 ? part[lane] : 0);
}

__device__ inline float block_max(float v, float *part)
{
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

    v = warp_max(v);
    __syncthreads();
    if (lane == 0)
        part[warp] = v;
    __syncthreads();
    return warp_max(lane < (int)(blockDim.x + 31) / 32 ? part[lane] : -INFINITY);
}

/* A row is a run of the last axis. The element offset of row `row`. */
__device__ inline int64_t row_at(const struct tensor &t, int64_t row)
{
    int64_t at = 0;

    for (int i = t.ndim - 2; i >= 0; i--) {
        at += row % t.dim[i] * t.stride[i];
        row /= t.dim[i];
    }
    return at;
}

/* The number of rows. */
static inline int64_t rows_of(const struct tensor &t)
{
    int64_t n = 1;

    for (int i = 0; i < t.ndim - 1; i++)
        n *= t.dim[i];
    return n;
}

#endif
