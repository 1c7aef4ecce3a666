/* x + up down, for weights into which a LoRA is merged: a product of two narrow matrices in f32,
 * with the roundings of merge_product, in tiles of shared memory. */
#include "kernels/cuda/plain.h"
#include "kernels/cuda/wide.cuh"
#include "kernels/cuda/wide.h"

#define LAUNCHED(op) return cuda_status(cudaGetLastError(), "%s", op)

/* One element per thread. */
static __global__ void element_kernel(struct tensor out, struct tensor x, int64_t first,
                                      int64_t cols, const float *up, const float *down,
                                      int64_t rank, int64_t n)
{
    const int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    const int64_t row = (first + i) / cols, col = (first + i) % cols;
    float sum = 0;

    if (i >= n)
        return;
    for (int64_t k = 0; k < rank; k++)
        sum = fmaf(up[row * rank + k], down[k * cols + col], sum);
    store(out, i, __fadd_rn(load(x, i), sum));
}

status plain_add_product(struct device *dev, struct tensor out, struct tensor x, int64_t first,
                         struct tensor up, struct tensor down)
{
    const int64_t n = tensor_count(out);

    element_kernel<<<(unsigned)((n + 255) / 256), 256, 0, cuda_stream(dev)>>>(
        out, x, first, down.dim[1], (const float *)up.data, (const float *)down.data, up.dim[1], n);
    LAUNCHED("add_product");
}

#define TILE 64     // rows and columns of a block
#define DEPTH 16    // of the rank, at a time
#define THREADS 256 // each has EACH_SIDE x EACH_SIDE elements
#define EACH_SIDE 4
#define PAD 4 // against bank conflicts; rows stay multiples of 16 bytes

/* Each block has a tile of the product, whose first row is that of x's first element. */
static __global__ void __launch_bounds__(THREADS)
    tile_kernel(struct tensor out, struct tensor x, int64_t first, int64_t count, int64_t rows,
                int64_t cols, const float *up, const float *down, int rank)
{
    __shared__ __align__(16) float a[DEPTH][TILE + PAD], b[DEPTH][TILE + PAD];
    const int64_t row = (int64_t)blockIdx.y * TILE, col = (int64_t)blockIdx.x * TILE;
    const int side = TILE / EACH_SIDE;
    const int left = threadIdx.x % side * EACH_SIDE, top = threadIdx.x / side * EACH_SIDE;
    float sum[EACH_SIDE][EACH_SIDE] = {};

    for (int depth = 0; depth < rank; depth += DEPTH) {
        const int deep = min(DEPTH, rank - depth);

        for (int i = threadIdx.x; i < TILE * DEPTH; i += THREADS) {
            const int r = i / DEPTH, k = i % DEPTH, k2 = i / TILE, c = i % TILE;

            a[k][r] = row + r < rows && k < deep ? up[(row + r) * rank + depth + k] : 0;
            b[k2][c] = col + c < cols && k2 < deep ? down[(depth + k2) * cols + col + c] : 0;
        }
        __syncthreads();
        for (int k = 0; k < deep; k++) {
            const float4 av = *(const float4 *)&a[k][top], bv = *(const float4 *)&b[k][left];
            const float u[EACH_SIDE] = { av.x, av.y, av.z, av.w };
            const float d[EACH_SIDE] = { bv.x, bv.y, bv.z, bv.w };

#pragma unroll
            for (int i = 0; i < EACH_SIDE; i++)
#pragma unroll
                for (int j = 0; j < EACH_SIDE; j++)
                    sum[i][j] = fmaf(u[i], d[j], sum[i][j]);
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < EACH_SIDE; i++)
#pragma unroll
        for (int j = 0; j < EACH_SIDE; j++) {
            const int64_t c = col + left + j, at = (row + top + i) * cols + c - first;

            if (c < cols && at >= 0 && at < count)
                store(out, at, __fadd_rn(load(x, at), sum[i][j]));
        }
}

status tiled_add_product(struct device *dev, struct tensor out, struct tensor x, int64_t first,
                         struct tensor up, struct tensor down)
{
    const int64_t count = tensor_count(out), cols = down.dim[1], rank = up.dim[1];
    const int64_t rows = (first + count + cols - 1) / cols;
    const dim3 grid((unsigned)((cols + TILE - 1) / TILE), (unsigned)((rows + TILE - 1) / TILE));

    if (grid.y > 65535 || rank > INT32_MAX)
        return plain_add_product(dev, out, x, first, up, down);
    tile_kernel<<<grid, THREADS, 0, cuda_stream(dev)>>>(out, x, first, count, rows, cols,
                                                        (const float *)up.data,
                                                        (const float *)down.data, (int)rank);
    LAUNCHED("add_product");
}
