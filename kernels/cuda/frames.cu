/* The VAE's ops on frames other than convolution, with accesses of 16 bytes. */
#include "kernels/cuda/plain.h"
#include "kernels/cuda/vector.cuh"
#include "kernels/cuda/wide.h"

#define THREADS 256

/* x as [outer, rows, cols, C]: a block finds its row without divisions. */
static struct tensor four_axes(struct tensor x)
{
    struct tensor y = x;
    const int missing = 4 - x.ndim;

    for (int i = 3; i >= 0; i--) {
        y.dim[i] = i >= missing ? x.dim[i - missing] : 1;
        y.stride[i] = i >= missing ? x.stride[i - missing] : 0;
    }
    y.ndim = 4;
    return y;
}

/* ---- channel_norm ---- */

__device__ inline float silu(float v, bool exact)
{
    return exact ? v / (1 + expf(-v)) : __fdividef(v, 1 + __expf(-v));
}

/* A pixel has LANES threads, and each of them VECTORS groups of eight channels. */
template <int LANES, int VECTORS>
__global__ void channel_norm_kernel(struct tensor out, struct tensor x, const float *gamma,
                                    enum act act, float power)
{
    const int lane = threadIdx.x % LANES, c = (int)x.dim[3];
    const bool exact = out.dtype == DT_F32;
    const int64_t from = blockIdx.z * x.stride[0] + blockIdx.y * x.stride[1];
    const int64_t to = blockIdx.z * out.stride[0] + blockIdx.y * out.stride[1];
    const int64_t col = blockIdx.x * (int64_t)(THREADS / LANES) + threadIdx.x / LANES;
    const bool inside = col < x.dim[2];
    float v[VECTORS][8], sum = 0;

#pragma unroll
    for (int i = 0; i < VECTORS; i++)
        if (inside && 8 * (i * LANES + lane) < c)
            load8(v[i], x, from + col * x.stride[2] + 8 * (i * LANES + lane));
        else
            for (int j = 0; j < 8; j++)
                v[i][j] = 0;
#pragma unroll
    for (int i = 0; i < VECTORS; i++)
        for (int j = 0; j < 8; j++)
            sum = fmaf(v[i][j], v[i][j], sum);
#pragma unroll
    for (int i = LANES / 2; i > 0; i /= 2)
        sum += __shfl_xor_sync(~0u, sum, i);

    const float rate = sqrtf((float)c) / fmaxf(sqrtf(sum), 1e-12f);

#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const int at = 8 * (i * LANES + lane);
        float g[8];

        if (!inside || at >= c)
            continue;
        for (int j = 0; j < 2; j++)
            *(float4 *)&g[4 * j] = *(const float4 *)&gamma[at + 4 * j];
        for (int j = 0; j < 8; j++) {
            v[i][j] *= rate * g[j];
            if (act == ACT_SILU)
                v[i][j] = silu(v[i][j], exact);
            v[i][j] *= power;
        }
        store8(out, to + col * out.stride[2] + at, v[i]);
    }
}

template <int LANES, int VECTORS>
static void norm(cudaStream_t stream, struct tensor out, struct tensor x, const float *gamma,
                 enum act act, float power)
{
    const int64_t pixels = THREADS / LANES;
    const dim3 grid((unsigned)((x.dim[2] + pixels - 1) / pixels), (unsigned)x.dim[1],
                    (unsigned)x.dim[0]);

    channel_norm_kernel<LANES, VECTORS><<<grid, THREADS, 0, stream>>>(out, x, gamma, act, power);
}

status wide_channel_norm(struct device *dev, struct tensor out, struct tensor x,
                         struct tensor gamma, enum act act, int exponent)
{
    const int64_t c = x.dim[x.ndim - 1];
    const float *g = (const float *)gamma.data;
    const float power = ldexpf(1, exponent);
    cudaStream_t stream = cuda_stream(dev);

    const struct tensor from = four_axes(x), to = four_axes(out);

    if (x.ndim > 4 || !is_aligned_8(from) || !is_aligned_8(to) || c > 1024 || from.dim[0] > 65535 ||
        from.dim[1] > 65535 || (uintptr_t)g % 16 != 0)
        return plain_channel_norm(dev, out, x, gamma, act, exponent);
    if (c <= 96)
        norm<4, 3>(stream, to, from, g, act, power);
    else if (c <= 192)
        norm<8, 3>(stream, to, from, g, act, power);
    else if (c <= 256)
        norm<16, 2>(stream, to, from, g, act, power);
    else if (c <= 384)
        norm<16, 3>(stream, to, from, g, act, power);
    else if (c <= 512)
        norm<32, 2>(stream, to, from, g, act, power);
    else
        norm<32, 4>(stream, to, from, g, act, power);
    return cuda_status(cudaGetLastError(), "channel_norm");
}

/* ---- to_u8 ---- */

/* Each thread converts four consecutive elements of a frame. */
__global__ void frames_to_u8_kernel(struct tensor out, struct tensor x, float add, int64_t count)
{
    const int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x, frame = blockIdx.y;

    if (i < count) {
        const float4 f = ((const float4 *)((const float *)x.data + frame * x.stride[0]))[i];

        ((uchar4 *)((uint8_t *)out.data + frame * out.stride[0]))[i] =
            make_uchar4(as_u8(f.x, add), as_u8(f.y, add), as_u8(f.z, add), as_u8(f.w, add));
    }
}

status wide_to_u8(struct device *dev, struct tensor out, struct tensor x, float add)
{
    const int64_t count = tensor_count(x) / x.dim[0] / 4; // in a frame

    if (x.dtype != DT_F32 || tensor_count(x) % (4 * x.dim[0]) != 0 || x.dim[0] > 65535 ||
        !tensor_contiguous(tensor_at(x, 0)) || !tensor_contiguous(tensor_at(out, 0)) ||
        x.stride[0] % 4 != 0 || out.stride[0] % 4 != 0 || (uintptr_t)x.data % 16 != 0 ||
        (uintptr_t)out.data % 4 != 0)
        return plain_to_u8(dev, out, x, add);

    const dim3 grid((unsigned)((count + THREADS - 1) / THREADS), (unsigned)x.dim[0]);

    frames_to_u8_kernel<<<grid, THREADS, 0, cuda_stream(dev)>>>(out, x, add, count);
    return cuda_status(cudaGetLastError(), "to_u8");
}
