/* Weights as the convolutions take them, in the workspace. */
#include "kernels/cuda/conv.h"
#include "kernels/cuda/device.cuh"

#define THREADS 256

/* ---- TF32: rounded ---- */

__global__ void round_weights_kernel(float *out, const float *w, int64_t count)
{
    const int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x;

    if (i < count)
        out[i] = rounded_tf32(w[i]);
}

status conv_round_weights(struct device *dev, float *out, const float *w, int64_t count)
{
    round_weights_kernel<<<(unsigned)((count + THREADS - 1) / THREADS), THREADS, 0,
                           cuda_stream(dev)>>>(out, w, count);
    return cuda_status(cudaGetLastError(), "conv3d");
}

/* ---- bf16 and TF32: folded ---- */

__device__ inline float value(__nv_bfloat16 v)
{
    return __bfloat162float(v);
}

__device__ inline float value(float v)
{
    return v;
}

__device__ inline void set(__nv_bfloat16 *to, float v)
{
    *to = __float2bfloat16_rn(v);
}

__device__ inline void set(float *to, float v)
{
    *to = rounded_tf32(v);
}

/* One output and frame of the window per block: [3, 3, C] to [2, 2, C] four times. Of three taps in
 * a row or column, an even output adds the last two, an odd one the first two. */
template <class T> __global__ void fold_weights_kernel(T *out, const T *w, int channels)
{
    const int64_t block = blockIdx.x, blocks = gridDim.x;

    for (int i = threadIdx.x; i < 16 * channels; i += blockDim.x) {
        const int c = i % channels, tap = i / channels % 4, parity = i / channels / 4;
        const int row = parity / 2, col = parity % 2, r = tap / 2, s = tap % 2;
        const int first_row = r == 0 ? 0 : row + 1, last_row = r == 0 ? row : 2;
        const int first_col = s == 0 ? 0 : col + 1, last_col = s == 0 ? col : 2;
        float sum = 0;

        for (int y = first_row; y <= last_row; y++)
            for (int x = first_col; x <= last_col; x++)
                sum += value(w[(block * 9 + 3 * y + x) * channels + c]);
        set(&out[((parity * blocks + block) * 4 + tap) * channels + c], sum);
    }
}

status conv_fold_weights(struct device *dev, struct tensor folded, struct tensor w)
{
    const unsigned blocks = (unsigned)(w.dim[0] * w.dim[1]);
    const int channels = (int)w.dim[4];

    if (w.dtype == DT_BF16)
        fold_weights_kernel<<<blocks, THREADS, 0, cuda_stream(dev)>>>(
            (__nv_bfloat16 *)folded.data, (const __nv_bfloat16 *)w.data, channels);
    else
        fold_weights_kernel<<<blocks, THREADS, 0, cuda_stream(dev)>>>(
            (float *)folded.data, (const float *)w.data, channels);
    return cuda_status(cudaGetLastError(), "conv3d");
}

/* ---- f16: scaled ---- */

/* One output per block: w [count] f32 to f16, times the power of two that scales the largest to
 * [2^14, 2^15). *scale: what sums of their products with x are to be multiplied by. */
__global__ void scale_weights_kernel(__half *out, float *scale, const float *w, int64_t count,
                                     int exponent)
{
    __shared__ float part[32];
    const float4 *from = (const float4 *)(w + blockIdx.x * count);
    uint2 *to = (uint2 *)(out + blockIdx.x * count);
    float top = 0;

    for (int i = threadIdx.x; i < count / 4; i += THREADS) {
        const float4 f = from[i];

        top = fmaxf(top, fmaxf(fmaxf(fabsf(f.x), fabsf(f.y)), fmaxf(fabsf(f.z), fabsf(f.w))));
    }
    top = block_max(top, part);

    const int shift = top > 0 ? min(max(14 - ilogbf(top), -60), 60) : 0;
    const float power = ldexpf(1, shift);

    for (int i = threadIdx.x; i < count / 4; i += THREADS) {
        const float4 f = from[i];
        const __half2 a = __floats2half2_rn(power * f.x, power * f.y);
        const __half2 b = __floats2half2_rn(power * f.z, power * f.w);

        to[i] = make_uint2(*(const uint32_t *)&a, *(const uint32_t *)&b);
    }
    if (threadIdx.x == 0)
        scale[blockIdx.x] = ldexpf(1, -shift - exponent);
}

status conv_scale_weights(struct device *dev, void *out, float *scale, const float *w,
                          int64_t outputs, int64_t count, int exponent)
{
    scale_weights_kernel<<<(unsigned)outputs, THREADS, 0, cuda_stream(dev)>>>((__half *)out, scale,
                                                                              w, count, exponent);
    return cuda_status(cudaGetLastError(), "conv3d");
}

/* ---- pairs of bf16 ---- */

/* out [rows, groups, 2, 16] from w [rows, channels]: 16 high parts, then 16 low parts; zeros where
 * the last group is not full. */
__global__ void split_weights_kernel(__nv_bfloat16 *out, const float *w, int64_t rows, int channels,
                                     int groups)
{
    const int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; // index of a channel of a row
    const int64_t row = i / (16 * groups);
    const int c = (int)(i % (16 * groups));

    if (row >= rows)
        return;

    const float v = c < channels ? w[row * channels + c] : 0;
    const __nv_bfloat16 high = __float2bfloat16_rn(v);
    __nv_bfloat16 *const to = out + (row * groups + c / 16) * 32 + c % 16;

    to[0] = high;
    to[16] = __float2bfloat16_rn(v - __bfloat162float(high));
}

status conv_split_weights(struct device *dev, void *out, const float *w, int64_t rows, int channels)
{
    const int groups = (channels + 15) / 16;
    const int64_t threads = rows * groups * 16;

    split_weights_kernel<<<(unsigned)((threads + 255) / 256), 256, 0, cuda_stream(dev)>>>(
        (__nv_bfloat16 *)out, w, rows, channels, groups);
    return cuda_status(cudaGetLastError(), "conv3d");
}
