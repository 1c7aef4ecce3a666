/* Weights into which a LoRA or a relative of it is merged: products of two narrow matrices in f32,
 * with the roundings of merge_product and merge_change. */
#include "kernels/cuda/divide.cuh"
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

/* ---- changes (struct weight_change), as merge_change on the host ---- */

/* What DoRA multiplies a row or a column by. */
static __device__ float dora_factor(const struct weight_change &w, int64_t at)
{
    const float norm = __double2float_rn(__dsqrt_rn(((const double *)w.squares.data)[at]));

    return __fdiv_rn(((const float *)w.magnitude.data)[at], __fadd_rn(norm, CHANGE_EPS));
}

/* x with its change, which is `first` and for Hadamard products `second` without the scale. */
static __device__ float changed(const struct weight_change &w, float x, float first, float second,
                                int64_t row, int64_t col)
{
    float c = w.kind == CHANGE_KRONECKER ? first
              : w.kind == CHANGE_PRODUCT ? __fmul_rn(w.scale, first)
                                         : __fmul_rn(__fmul_rn(w.scale, second), first);

    if (w.magnitude.data != NULL)
        c = __fsub_rn(__fmul_rn(__fadd_rn(x, c), dora_factor(w, w.per_column ? col : row)), x);
    return __fadd_rn(x, __fmul_rn(w.strength, c));
}

static __device__ float product_at(const struct tensor &a, const struct tensor &b, int64_t row,
                                   int64_t col)
{
    const float *up = (const float *)a.data + row * a.dim[1], *down = (const float *)b.data + col;
    float sum = 0;

    for (int64_t k = 0; k < a.dim[1]; k++)
        sum = fmaf(up[k], down[k * b.dim[1]], sum);
    return sum;
}

/* One element per thread. */
static __global__ void change_kernel(struct tensor out, struct tensor x, int64_t first,
                                     int64_t cols, struct weight_change w, int64_t n)
{
    const int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    int64_t col, low, left;
    const int64_t row = divide(first + i, cols, &col);
    float one, two = 0;

    if (i >= n)
        return;
    if (w.kind == CHANGE_KRONECKER) {
        const int64_t high = divide(w.row + row, w.b.dim[0], &low);
        const int64_t block = divide(col, w.b.dim[1], &left);

        one = __fmul_rn(__fmul_rn(w.scale, ((const float *)w.a.data)[high * w.a.dim[1] + block]),
                        ((const float *)w.b.data)[low * w.b.dim[1] + left]);
    } else {
        one = product_at(w.a, w.b, row, col);
        if (w.kind == CHANGE_HADAMARD)
            two = product_at(w.c, w.d, row, col);
    }
    store(out, i, changed(w, load(x, i), one, two, row, col));
}

status plain_add_change(struct device *dev, struct tensor out, struct tensor x, int64_t first,
                        int64_t cols, const struct weight_change *change)
{
    const int64_t n = tensor_count(out);

    change_kernel<<<(unsigned)((n + 255) / 256), 256, 0, cuda_stream(dev)>>>(out, x, first, cols,
                                                                             *change, n);
    LAUNCHED("add_change");
}

/* A warp for each row. */
static __global__ void row_squares_kernel(double *sums, struct tensor x)
{
    const int64_t row =
        blockIdx.x * (int64_t)(blockDim.x / SQUARES_LANES) + threadIdx.x / SQUARES_LANES;
    const int lane = threadIdx.x % SQUARES_LANES;
    double sum = 0;

    if (row >= x.dim[0])
        return;
    for (int64_t c = lane; c < x.dim[1]; c += SQUARES_LANES) {
        const double v = load(x, row * x.dim[1] + c);

        sum = __dadd_rn(sum, v * v); // the square is exact
    }
    for (int half = SQUARES_LANES / 2; half > 0; half /= 2)
        sum = __dadd_rn(sum, __shfl_xor_sync(0xffffffff, sum, half));
    if (lane == 0)
        sums[row] = sum;
}

/* A thread for each column. */
static __global__ void column_squares_kernel(double *sums, struct tensor x, bool add)
{
    const int64_t col = blockIdx.x * (int64_t)blockDim.x + threadIdx.x, cols = x.dim[1];
    const int64_t rows = x.dim[0];
    double sum;

    if (col >= cols)
        return;
    sum = add ? sums[col] : 0;
#pragma unroll 16
    for (int64_t r = 0; r < rows; r++) {
        const double v = load(x, r * cols + col);

        sum = __dadd_rn(sum, v * v);
    }
    sums[col] = sum;
}

status plain_add_squares(struct device *dev, struct tensor sums, struct tensor x, bool per_column,
                         bool add)
{
    const int rows = 8; // of a block
    double *out = (double *)sums.data;

    if (per_column)
        column_squares_kernel<<<(unsigned)((x.dim[1] + 31) / 32), 32, 0, cuda_stream(dev)>>>(out, x,
                                                                                             add);
    else
        row_squares_kernel<<<(unsigned)((x.dim[0] + rows - 1) / rows), rows * SQUARES_LANES, 0,
                             cuda_stream(dev)>>>(out, x);
    LAUNCHED("add_squares");
}

/* ---- in tiles of shared memory ---- */

#define TILE 64     // rows and columns of a block
#define DEPTH 16    // of the rank, at a time
#define THREADS 256 // each has EACH_SIDE x EACH_SIDE elements
#define EACH_SIDE 4
#define PAD 4 // against bank conflicts; rows stay multiples of 16 bytes

/* The tile of a product that this block has, whose first row is that of x's first element. */
struct tile {
    float sum[EACH_SIDE][EACH_SIDE]; // of this thread
    int64_t row, col;                // of the tile
    int top, left;                   // of this thread in it

    __device__ tile()
        : row((int64_t)blockIdx.y * TILE), col((int64_t)blockIdx.x * TILE),
          top(threadIdx.x / (TILE / EACH_SIDE) * EACH_SIDE),
          left(threadIdx.x % (TILE / EACH_SIDE) * EACH_SIDE)
    {
    }

    __device__ __forceinline__ void multiply(int64_t rows, int64_t cols, const float *up,
                                             const float *down, int rank)
    {
        __shared__ __align__(16) float a[DEPTH][TILE + PAD], b[DEPTH][TILE + PAD];

#pragma unroll
        for (int i = 0; i < EACH_SIDE; i++)
#pragma unroll
            for (int j = 0; j < EACH_SIDE; j++)
                sum[i][j] = 0;
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
    }
};

static __global__ void __launch_bounds__(THREADS)
    tile_kernel(struct tensor out, struct tensor x, int64_t first, int64_t count, int64_t rows,
                int64_t cols, const float *up, const float *down, int rank)
{
    tile t;

    t.multiply(rows, cols, up, down, rank);
#pragma unroll
    for (int i = 0; i < EACH_SIDE; i++)
#pragma unroll
        for (int j = 0; j < EACH_SIDE; j++) {
            const int64_t c = t.col + t.left + j, at = (t.row + t.top + i) * cols + c - first;

            if (c < cols && at >= 0 && at < count)
                store(out, at, __fadd_rn(load(x, at), t.sum[i][j]));
        }
}

static __global__ void __launch_bounds__(THREADS)
    tile_change_kernel(struct tensor out, struct tensor x, int64_t first, int64_t count,
                       int64_t rows, int64_t cols, struct weight_change w)
{
    tile t, second;

    t.multiply(rows, cols, (const float *)w.a.data, (const float *)w.b.data, (int)w.a.dim[1]);
    if (w.kind == CHANGE_HADAMARD)
        second.multiply(rows, cols, (const float *)w.c.data, (const float *)w.d.data,
                        (int)w.c.dim[1]);
#pragma unroll
    for (int i = 0; i < EACH_SIDE; i++)
#pragma unroll
        for (int j = 0; j < EACH_SIDE; j++) {
            const int64_t r = t.row + t.top + i, c = t.col + t.left + j, at = r * cols + c - first;

            if (c < cols && at >= 0 && at < count)
                store(out, at, changed(w, load(x, at), t.sum[i][j], second.sum[i][j], r, c));
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

status tiled_add_change(struct device *dev, struct tensor out, struct tensor x, int64_t first,
                        int64_t cols, const struct weight_change *change)
{
    const struct weight_change *w = change;
    const int64_t count = tensor_count(out), rows = (first + count + cols - 1) / cols;
    const dim3 grid((unsigned)((cols + TILE - 1) / TILE), (unsigned)((rows + TILE - 1) / TILE));

    if (w->kind == CHANGE_KRONECKER || grid.y > 65535 || w->a.dim[1] > INT32_MAX ||
        (w->kind == CHANGE_HADAMARD && w->c.dim[1] > INT32_MAX))
        return plain_add_change(dev, out, x, first, cols, change);
    tile_change_kernel<<<grid, THREADS, 0, cuda_stream(dev)>>>(out, x, first, count, rows, cols,
                                                               *w);
    LAUNCHED("add_change");
}
