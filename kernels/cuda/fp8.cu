/* The ops in fp8 as the simplest correct kernels. The faster ones are in norm.cu and gemm.c. */
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/plain.h"
#include "kernels/cuda/plain_product.cuh"

#include <cuda_fp16.h>

#define ROW_THREADS 256

#define LAUNCHED(op) return cuda_status(cudaGetLastError(), "%s", op)

__device__ inline void store_fp8(const struct tensor &t, int64_t at, float v)
{
    ((uint8_t *)t.data)[at] = (uint8_t)pack_fp8(v, 0, 0, 0);
}

/* ---- rows: each block has one ---- */

static __global__ void quantize_kernel(struct tensor out, float *scales, struct tensor x,
                                       enum act act)
{
    __shared__ float part[32];
    const int64_t c = x.dim[1], at = blockIdx.x * x.stride[0], to = blockIdx.x * out.stride[0];
    float most = 0;

    for (int64_t i = threadIdx.x; i < c; i += blockDim.x)
        most = fmaxf(most, fabsf(rounded(x.dtype, activated(act, load(x, at + i)))));

    const float scale = fp8_scale_of(block_max(most, part)), factor = __frcp_rn(scale);

    if (threadIdx.x == 0)
        scales[blockIdx.x] = scale;
    for (int64_t i = threadIdx.x; i < c; i += blockDim.x)
        store_fp8(out, to + i, rounded(x.dtype, activated(act, load(x, at + i))) * factor);
}

status plain_fp8_quantize(struct device *dev, struct fp8_rows out, struct tensor x, enum act act)
{
    quantize_kernel<<<(unsigned)x.dim[0], ROW_THREADS, 0, cuda_stream(dev)>>>(
        out.value, (float *)out.scale.data, x, act);
    LAUNCHED("fp8_quantize");
}

static __global__ void norm_kernel(struct tensor out, float *scales, struct tensor x,
                                   const float *mul, const float *add, float plus, enum dtype round,
                                   float eps)
{
    __shared__ float part[32];
    const int64_t c = x.dim[1], at = blockIdx.x * x.stride[0], to = blockIdx.x * out.stride[0];
    float sum = 0, square = 0, most = 0;

    for (int64_t i = threadIdx.x; i < c; i += blockDim.x)
        sum += load(x, at + i);

    const float mean = block_sum(sum, part) / (float)c;

    sum = 0;
    for (int64_t i = threadIdx.x; i < c; i += blockDim.x)
        sum += load(x, at + i) - mean;

    const float rest = block_sum(sum, part) / (float)c;

    for (int64_t i = threadIdx.x; i < c; i += blockDim.x) {
        const float v = load(x, at + i) - mean - rest;

        square = fmaf(v, v, square);
    }

    const float rate = 1 / sqrtf(block_sum(square, part) / (float)c + eps);
    const auto value = [&](int64_t i) {
        return fmaf(rounded(round, (load(x, at + i) - mean - rest) * rate), plus + mul[i], add[i]);
    };

    for (int64_t i = threadIdx.x; i < c; i += blockDim.x)
        most = fmaxf(most, fabsf(value(i)));

    const float scale = fp8_scale_of(block_max(most, part)), factor = __frcp_rn(scale);

    if (threadIdx.x == 0)
        scales[blockIdx.x] = scale;
    for (int64_t i = threadIdx.x; i < c; i += blockDim.x)
        store_fp8(out, to + i, value(i) * factor);
}

status plain_fp8_norm(struct device *dev, struct fp8_rows out, struct tensor sum, struct tensor x,
                      struct tensor y, struct tensor gate, struct tensor mul, struct tensor add,
                      bool modulate, float eps)
{
    if (y.data != NULL) {
        TRY(plain_gate_add(dev, sum, x, y, gate));
        x = sum;
    }
    norm_kernel<<<(unsigned)x.dim[0], ROW_THREADS, 0, cuda_stream(dev)>>>(
        out.value, (float *)out.scale.data, x, (const float *)mul.data, (const float *)add.data,
        modulate ? 1.0f : 0.0f, modulate ? x.dtype : DT_F32, eps);
    LAUNCHED("fp8_norm");
}

/* ---- products ---- */

__device__ inline float load_fp8(const struct tensor &t, int64_t at)
{
    const uint32_t b = ((const uint8_t *)t.data)[at];
    uint32_t halves;

    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"((uint16_t)b));
    return __half2float(__ushort_as_half((uint16_t)halves));
}

static __global__ void gemm_kernel(struct tensor out, struct tensor a, const float *scale_a,
                                   struct tensor w, const float *scale_w, struct tensor bias)
{
    const int64_t depth = w.dim[1];
    int64_t m, n;
    const float values = product_sum(
        &m, &n, a.dim[0], w.dim[0], depth,
        [&](int64_t row, int64_t k) { return load_fp8(a, row * a.stride[0] + k); },
        [&](int64_t row, int64_t k) { return load_fp8(w, row * depth + k); });

    if (m >= out.dim[0] || n >= out.dim[1])
        return;

    const float sum = values * scale_a[m] * scale_w[n];

    store(out, m * out.stride[0] + n, bias.data != NULL ? sum + load(bias, n) : sum);
}

status plain_fp8_gemm(struct device *dev, struct tensor out, struct fp8_rows a, struct fp8_rows w,
                      struct tensor bias)
{
    product_grids(a.value.dim[0], w.value.dim[0], [&](dim3 grid, int64_t m, int64_t count) {
        gemm_kernel<<<grid, PRODUCT_THREADS, 0, cuda_stream(dev)>>>(
            tensor_slice(out, 0, m, count), tensor_slice(a.value, 0, m, count),
            (const float *)a.scale.data + m, w.value, (const float *)w.scale.data, bias);
    });
    LAUNCHED("fp8_gemm");
}
