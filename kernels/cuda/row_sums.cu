/* Sums of rows, for step caches. */
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/plain.h"

/* A warp for each row: lane i sums the elements i, i + 32, ..., then the lanes are added. */
static __global__ void row_sums_kernel(struct tensor out, const float *a, const float *b,
                                       int64_t rows, int64_t cols)
{
    const int64_t row = blockIdx.x * (int64_t)(blockDim.x / 32) + threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    float sum[ROW_SUMS] = { 0, 0, 0 };

    if (row >= rows)
        return;
    for (int64_t i = lane; i < cols; i += 32) {
        const float v = a[row * cols + i], w = b[row * cols + i];

        sum[0] += fabsf(v - w);
        sum[1] += fabsf(w);
        sum[2] += v * v;
    }
    for (int k = 0; k < ROW_SUMS; k++) {
        for (int step = 16; step > 0; step /= 2)
            sum[k] += __shfl_xor_sync(0xffffffff, sum[k], step);
        if (lane == 0)
            ((float *)out.data)[row * out.stride[0] + k] = sum[k];
    }
}

status plain_row_sums(struct device *dev, struct tensor out, struct tensor a, struct tensor b)
{
    const int64_t rows = a.dim[0];

    row_sums_kernel<<<(unsigned)((rows + 7) / 8), 256, 0, cuda_stream(dev)>>>(
        out, (const float *)a.data, (const float *)b.data, rows, a.dim[1]);
    return cuda_status(cudaGetLastError(), "%s", "row_sums");
}
