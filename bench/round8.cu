#include "bench/round8.h"
#include "kernels/cuda/device.cuh"

#define GROUP 128

/* The value of column `column` of the Hadamard transform of v over the group's threads. */
static __device__ float turned(float v, float *part)
{
    const int at = threadIdx.x;

    for (int i = 1; i < GROUP; i *= 2) {
        __syncthreads();
        part[at] = v;
        __syncthreads();
        v = (at & i) != 0 ? part[at ^ i] - v : v + part[at ^ i];
    }
    return v * 0.08838834764831845f; // 1 / sqrt(GROUP)
}

static __device__ float as_e4m3(float v)
{
    uint32_t halves;

    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"((uint16_t)pack_fp8(v, 0, 0, 0)));
    return __half2float(__ushort_as_half((uint16_t)halves));
}

static __device__ float rounded8(float v, float most, enum round8_kind kind)
{
    const float scale = fmaxf(most, FP8_LEAST) / (kind <= ROUND8_E4M3_TWICE ? FP8_MAX : 127.0f);
    float high;

    v /= scale;
    if (kind > ROUND8_E4M3_TWICE)
        return rintf(v) * scale;
    high = as_e4m3(v);
    if (kind == ROUND8_E4M3_TWICE)
        high += as_e4m3(v - high);
    return high * scale;
}

/* Each block has a row, each thread a column of a group. */
static __global__ void round_kernel(struct tensor out, struct tensor x, enum round8_kind kind)
{
    __shared__ float part[GROUP], most_part[32];
    const int64_t at = blockIdx.x * x.stride[0] + threadIdx.x;
    const int64_t to = blockIdx.x * out.stride[0] + threadIdx.x;
    const bool turns = kind >= ROUND8_TURNED;
    const bool grouped = kind == ROUND8_INT8_128 || kind == ROUND8_TURNED_128;
    float most = 0;

    for (int64_t g = 0; g < x.dim[1] && !grouped; g += GROUP) {
        const float v = load(x, at + g);

        most = fmaxf(most, fabsf(turns ? turned(v, part) : v));
    }
    most = block_max(most, most_part);
    for (int64_t g = 0; g < x.dim[1]; g += GROUP) {
        float v = load(x, at + g);

        v = turns ? turned(v, part) : v;
        v = rounded8(v, grouped ? block_max(fabsf(v), most_part) : most, kind);
        store(out, to + g, turns ? turned(v, part) : v);
    }
}

status round8_cuda(struct device *dev, struct tensor out, struct tensor x, enum round8_kind kind)
{
    round_kernel<<<(unsigned)x.dim[0], GROUP, 0, cuda_stream(dev)>>>(out, x, kind);
    return cuda_status(cudaGetLastError(), "rounding to 8 bits");
}
