/* plain_product.cuh - the plain matrix product: each thread has one output, each block a square of
 * them; K in squares through shared memory. */
#ifndef KERNELS_CUDA_PLAIN_PRODUCT_CUH
#define KERNELS_CUDA_PLAIN_PRODUCT_CUH

#include <stdint.h>

#define PRODUCT_TILE 16
#define PRODUCT_THREADS (PRODUCT_TILE * PRODUCT_TILE)
#define SUM_TERMS 128 // in a partial sum; partial sums keep the rounding error of long sums small

/* Returns the sum over k < depth of a(m, k) * w(n, k) for this thread's output, and sets *m and *n,
 * which may be outside of rows x cols. a and w give elements. */
template <class A, class W>
__device__ inline float product_sum(int64_t *m, int64_t *n, int64_t rows, int64_t cols,
                                    int64_t depth, const A &a, const W &w)
{
    __shared__ float ta[PRODUCT_TILE][PRODUCT_TILE + 1], tw[PRODUCT_TILE][PRODUCT_TILE + 1];
    const int x = threadIdx.x % PRODUCT_TILE, y = threadIdx.x / PRODUCT_TILE;
    const int64_t wn = blockIdx.x * (int64_t)PRODUCT_TILE + y;
    float sum = 0, part = 0;

    *m = blockIdx.y * (int64_t)PRODUCT_TILE + y;
    *n = blockIdx.x * (int64_t)PRODUCT_TILE + x;
    for (int64_t k = 0; k < depth; k += PRODUCT_TILE) {
        const bool inside = k + x < depth;

        ta[y][x] = inside && *m < rows ? a(*m, k + x) : 0;
        tw[y][x] = inside && wn < cols ? w(wn, k + x) : 0;
        __syncthreads();
        for (int i = 0; i < PRODUCT_TILE; i++)
            part = fmaf(ta[y][i], tw[x][i], part);
        __syncthreads();
        if ((k + PRODUCT_TILE) % SUM_TERMS == 0) {
            sum += part;
            part = 0;
        }
    }
    return sum + part;
}

/* Calls launch(grid, first, count) for rows [first, first + count) until all `rows` are done: as
 * many at a time as a grid can have. */
template <class Launch> void product_grids(int64_t rows, int64_t cols, const Launch &launch)
{
    const int64_t most = (int64_t)PRODUCT_TILE * 65535;

    for (int64_t m = 0; m < rows; m += most) {
        const int64_t count = rows - m < most ? rows - m : most;

        launch(dim3((unsigned)((cols + PRODUCT_TILE - 1) / PRODUCT_TILE),
                    (unsigned)((count + PRODUCT_TILE - 1) / PRODUCT_TILE)),
               m, count);
    }
}

#endif
