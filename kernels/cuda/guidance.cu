/* The ops of CFG-Zero*: what is left of one branch's velocity without its projection on the
 * other's. They run once per step. */
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/plain.h"

#define LAUNCHED(op) return cuda_status(cudaGetLastError(), "%s", op)

#define THREADS 256
#define BLOCKS_MAX 264 // each sums all dots: two blocks for each multiprocessor of an H100

/* Each warp has one row. */
static __global__ void row_dots_kernel(float *dots, const float *a, const float *b, int64_t rows,
                                       int64_t cols)
{
    const int64_t row = (blockIdx.x * (int64_t)THREADS + threadIdx.x) / 32;
    const int lane = threadIdx.x % 32;
    float ab = 0, bb = 0;

    if (row >= rows)
        return;
    for (int64_t i = row * cols + lane; i < (row + 1) * cols; i += 32) {
        ab = fmaf(a[i], b[i], ab);
        bb = fmaf(b[i], b[i], bb);
    }
    for (int step = 16; step > 0; step /= 2) {
        ab += __shfl_xor_sync(0xffffffff, ab, step);
        bb += __shfl_xor_sync(0xffffffff, bb, step);
    }
    if (lane == 0) {
        dots[2 * row] = ab;
        dots[2 * row + 1] = bb;
    }
}

status plain_row_dots(struct device *dev, struct tensor dots, struct tensor a, struct tensor b)
{
    const int64_t rows = a.dim[0], blocks = (rows * 32 + THREADS - 1) / THREADS;

    row_dots_kernel<<<(unsigned)blocks, THREADS, 0, cuda_stream(dev)>>>(
        (float *)dots.data, (const float *)a.data, (const float *)b.data, rows, a.dim[1]);
    LAUNCHED("row_dots");
}

/* Every block sums all dots, in the same order. */
static __global__ void subtract_projection_kernel(float *out, const float *c, const float *u,
                                                  int64_t count, const float *dots, int64_t rows)
{
    __shared__ double cu[THREADS], uu[THREADS];
    const int t = threadIdx.x;

    cu[t] = uu[t] = 0;
    for (int64_t r = t; r < rows; r += THREADS) {
        cu[t] += dots[2 * r];
        uu[t] += dots[2 * r + 1];
    }
    for (int step = THREADS / 2; step > 0; step /= 2) {
        __syncthreads();
        if (t < step) {
            cu[t] += cu[t + step];
            uu[t] += uu[t + step];
        }
    }
    __syncthreads();

    const float scale = (float)(cu[0] / (uu[0] + 1e-8));

    for (int64_t i = blockIdx.x * (int64_t)THREADS + t; i < count;
         i += (int64_t)gridDim.x * THREADS)
        out[i] = fmaf(-scale, u[i], c[i]);
}

status plain_subtract_projection(struct device *dev, struct tensor out, struct tensor c,
                                 struct tensor u, struct tensor dots)
{
    const int64_t count = tensor_count(out), needed = (count + THREADS - 1) / THREADS;
    const unsigned blocks = (unsigned)(needed < BLOCKS_MAX ? needed : BLOCKS_MAX);

    subtract_projection_kernel<<<blocks, THREADS, 0, cuda_stream(dev)>>>(
        (float *)out.data, (const float *)c.data, (const float *)u.data, count,
        (const float *)dots.data, dots.dim[0]);
    LAUNCHED("subtract_projection");
}
