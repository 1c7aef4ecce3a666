#include "kernels/cuda/attention_wide.h"

#include "kernels/cuda/device.cuh"

#include <math.h>

#define THREADS 512

/* A block a query. In place where p is f32: a thread writes what it has read itself. */
__global__ void softmax_kernel(void *p, enum dtype dt, float *sums, const float *logits,
                               int64_t keys, int64_t pitch, float scale)
{
    __shared__ float part[32];
    const int64_t at = blockIdx.x * pitch;
    float max = -INFINITY, sum = 0;

    for (int64_t i = threadIdx.x; i < keys; i += THREADS)
        max = fmaxf(max, scale * logits[at + i]);
    max = block_max(max, part);
    for (int64_t i = threadIdx.x; i < pitch; i += THREADS) {
        const float e = i < keys ? expf(scale * logits[at + i] - max) : 0;

        sum += e;
        if (dt == DT_BF16)
            ((__nv_bfloat16 *)p)[at + i] = __float2bfloat16_rn(e);
        else
            ((float *)p)[at + i] = e;
    }
    sum = block_sum(sum, part);
    if (threadIdx.x == 0) {
        sums[blockIdx.x] = max;
        sums[gridDim.x + blockIdx.x] = sum;
    }
}

status attention_wide_softmax(struct device *dev, void *p, enum dtype dt, float *sums,
                              const float *logits, int64_t rows, int64_t keys, int64_t pitch,
                              float scale)
{
    softmax_kernel<<<(unsigned)rows, THREADS, 0, cuda_stream(dev)>>>(p, dt, sums, logits, keys,
                                                                     pitch, scale);
    return cuda_check(cudaGetLastError(), "attention");
}

__global__ void join_kernel(struct tensor out, float *lse, int64_t lse_stride, const float *sums,
                            const float *part, int64_t parts)
{
    const int64_t rows = gridDim.x, row = blockIdx.x, d = out.dim[1];
    const float sum = sums[rows + row];

    for (int64_t i = threadIdx.x; i < d; i += blockDim.x) {
        float v = 0;

        for (int64_t j = 0; j < parts; j++)
            v += part[(j * rows + row) * d + i];
        store(out, row * out.stride[0] + i, v / sum);
    }
    if (lse != NULL && threadIdx.x == 0)
        lse[row * lse_stride] = sums[row] + logf(sum);
}

status attention_wide_join(struct device *dev, struct tensor out, float *lse, int64_t lse_stride,
                           const float *sums, const float *part, int64_t parts)
{
    join_kernel<<<(unsigned)out.dim[0], 128, 0, cuda_stream(dev)>>>(out, lse, lse_stride, sums,
                                                                    part, parts);
    return cuda_check(cudaGetLastError(), "attention");
}
