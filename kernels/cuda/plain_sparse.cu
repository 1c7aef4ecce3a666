/* Attention over lists of tiles of keys, the simplest kernel, and the making of lists. */
#include "kernels/cuda/attention_lists.cuh"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/plain.h"

#define LAUNCHED(op) return cuda_status(cudaGetLastError(), "%s", op)

/* ---- attention: each block has one query of one head ---- */

#define TILE 128 // keys of a tile at most, and threads of a block

/* The tile that has the row. */
__device__ int tile_of(const int *first, int tiles, int row)
{
    int low = 0, high = tiles;

    while (high - low > 1) {
        const int middle = (low + high) / 2;

        if (row < first[middle])
            high = middle;
        else
            low = middle;
    }
    return low;
}

/* Dynamic shared memory: the query and the output, [D] each. */
__global__ void sparse_attention_kernel(struct tensor out, struct tensor lse, struct tensor q,
                                        struct tensor k, struct tensor v, float scale,
                                        struct list_view lists)
{
    extern __shared__ float shared[];
    __shared__ float p[TILE], part[32];
    const int64_t s = blockIdx.x, head = blockIdx.y, d = q.dim[2];
    const int64_t list = head * lists.lists + tile_of(lists.q_first, lists.lists, (int)blockIdx.x);
    const int *const index = lists.index + list * lists.most;
    float *query = shared, *o = shared + d, max = -INFINITY, sum = 0;

    for (int64_t i = threadIdx.x; i < d; i += TILE) {
        query[i] = load(q, s * q.stride[0] + head * q.stride[1] + i);
        o[i] = 0;
    }
    __syncthreads();
    for (int n = 0; n < lists.count[list]; n++) {
        const int first = lists.k_first[index[n]], keys = lists.k_first[index[n] + 1] - first;
        const int64_t key = (first + (int)threadIdx.x) * k.stride[0] + head * k.stride[1];
        float logit = threadIdx.x < keys ? 0 : -INFINITY;

        for (int64_t i = 0; i < d && threadIdx.x < keys; i++)
            logit = fmaf(query[i], load(k, key + i), logit);

        const float l = scale * logit;
        const float top = fmaxf(max, block_max(l, part)), old = expf(max - top);

        p[threadIdx.x] = expf(l - top);
        sum = sum * old + block_sum(p[threadIdx.x], part);
        max = top;
        __syncthreads();
        for (int64_t i = threadIdx.x; i < d; i += TILE) {
            float add = 0;

            for (int64_t j = 0; j < keys; j++)
                add = fmaf(p[j], load(v, (first + j) * v.stride[0] + head * v.stride[1] + i), add);
            o[i] = o[i] * old + add;
        }
        __syncthreads();
    }
    for (int64_t i = threadIdx.x; i < d; i += TILE)
        store(out, s * out.stride[0] + head * out.stride[1] + i, o[i] / sum);
    if (lse.data != NULL && threadIdx.x == 0)
        ((float *)lse.data)[s * q.dim[1] + head] = max + logf(sum);
}

status plain_sparse_attention(struct device *dev, struct tensor out, struct tensor lse,
                              struct tensor q, struct tensor k, struct tensor v, float scale,
                              const struct tile_lists *lists)
{
    const dim3 grid((unsigned)q.dim[0], (unsigned)q.dim[1]);
    const size_t bytes = 2 * (size_t)q.dim[2] * sizeof(float);

    sparse_attention_kernel<<<grid, TILE, bytes, cuda_stream(dev)>>>(out, lse, q, k, v, scale,
                                                                     view_of(lists));
    LAUNCHED("sparse attention");
}

/* ---- lists ---- */

/* A block has one tile of one head; a thread, a channel. */
__global__ void tile_means_kernel(struct tensor out, struct tensor x, const int *first)
{
    const int64_t t = blockIdx.x, head = blockIdx.y;
    const int from = first[t], end = first[t + 1];

    for (int64_t i = threadIdx.x; i < x.dim[2]; i += blockDim.x) {
        float sum = 0;

#pragma unroll 8
        for (int s = from; s < end; s++)
            sum += load(x, s * x.stride[0] + head * x.stride[1] + i);
        store(out, t * out.stride[0] + head * out.stride[1] + i, sum / (float)(end - from));
    }
}

status plain_tile_means(struct device *dev, struct tensor out, struct tensor x, struct tensor first)
{
    const dim3 grid((unsigned)out.dim[0], (unsigned)out.dim[1]);

    tile_means_kernel<<<grid, 128, 0, cuda_stream(dev)>>>(out, x, (const int *)first.data);
    LAUNCHED("tile means");
}

/* As many as the warps of a block: each warp selects the tiles of one query. */
#define QUERIES 8
#define LIST_THREADS (32 * QUERIES)

/* The same order as the floats. */
__device__ uint32_t ordered(float v)
{
    const uint32_t bits = __float_as_uint(v + 0); // -0 equals 0

    return bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
}

/* The largest number that at least `most` of the warp's keys reach. */
__device__ uint32_t least_of(const uint32_t *key, int n, int most)
{
    uint32_t least = 0;

    for (uint32_t bit = 0x80000000u; bit != 0; bit >>= 1) {
        unsigned reach = 0;

        for (int j = threadIdx.x % 32; j < n; j += 32)
            reach += key[j] >= (least | bit);
        if (__reduce_add_sync(~0u, reach) >= (unsigned)most)
            least |= bit;
    }
    return least;
}

/* Writes, in order, the `most` largest. */
__device__ void select(int *to, const uint32_t *key, int n, int most)
{
    const uint32_t least = least_of(key, n, most);
    const int lane = threadIdx.x % 32;
    unsigned larger = 0;

    for (int j = lane; j < n; j += 32)
        larger += key[j] > least;

    int equal = most - (int)__reduce_add_sync(~0u, larger); // that are still to be taken

    for (int first = 0; first < n; first += 32) {
        const int j = first + lane;
        const bool same = j < n && key[j] == least;
        const uint32_t before = (1u << lane) - 1, all = __ballot_sync(~0u, same);
        const bool taken = (j < n && key[j] > least) || (same && __popc(all & before) < equal);
        const uint32_t takes = __ballot_sync(~0u, taken);

        if (taken)
            to[__popc(takes & before)] = j;
        to += __popc(takes);
        equal = max(equal - __popc(all), 0);
    }
}

/* Dynamic shared memory: `rows` queries [D, QUERIES], then their scores [rows, Tk], as `ordered`
 * integers. A block has `rows` queries of one head. */
__global__ void __launch_bounds__(LIST_THREADS)
    tile_lists_kernel(struct tensor count, struct tensor index, struct tensor q, struct tensor k,
                      int rows)
{
    extern __shared__ float4 shared4[];
    float *const query = (float *)shared4;
    const int d = (int)q.dim[2], n = (int)k.dim[0], most = (int)index.dim[2];
    uint32_t *const key = (uint32_t *)(query + d * QUERIES);
    const int64_t heads = q.dim[1], head = blockIdx.y;
    const int first = (int)blockIdx.x * rows, warp = threadIdx.x / 32;
    const int last = min(rows, (int)q.dim[0] - first); // of this block

    for (int i = threadIdx.x; i < d * QUERIES; i += LIST_THREADS)
        query[i] = i % QUERIES < last
                       ? load(q, ((first + i % QUERIES) * heads + head) * d + i / QUERIES)
                       : 0;
    __syncthreads();
    for (int j = threadIdx.x; j < n; j += LIST_THREADS) {
        float sum[QUERIES] = {};

#pragma unroll 4
        for (int c = 0; c < d; c++) {
            const float x = load(k, (j * heads + head) * d + c);
            const float4 a = shared4[2 * c], b = shared4[2 * c + 1];

            sum[0] = fmaf(a.x, x, sum[0]);
            sum[1] = fmaf(a.y, x, sum[1]);
            sum[2] = fmaf(a.z, x, sum[2]);
            sum[3] = fmaf(a.w, x, sum[3]);
            sum[4] = fmaf(b.x, x, sum[4]);
            sum[5] = fmaf(b.y, x, sum[5]);
            sum[6] = fmaf(b.z, x, sum[6]);
            sum[7] = fmaf(b.w, x, sum[7]);
        }
#pragma unroll
        for (int i = 0; i < QUERIES; i++)
            if (i < last)
                key[i * n + j] = ordered(sum[i]);
    }
    __syncthreads();
    if (warp >= last)
        return;

    const int64_t list = head * q.dim[0] + first + warp;

    select((int *)index.data + list * most, key + warp * n, n, most);
    if (threadIdx.x % 32 == 0)
        ((int *)count.data)[list] = most;
}

status plain_tile_lists(struct device *dev, struct tensor count, struct tensor index,
                        struct tensor q, struct tensor k)
{
    const size_t query = (size_t)q.dim[2] * QUERIES * sizeof(float);
    const size_t row = (size_t)k.dim[0] * sizeof(uint32_t), most = 227 << 10;
    const int rows = query + row > most ? 0 : (int)min((most - query) / row, (size_t)QUERIES);
    const dim3 grid((unsigned)((q.dim[0] + rows - 1) / max(rows, 1)), (unsigned)q.dim[1]);

    if (rows == 0)
        return fail(ST_USAGE,
                    "sparse attention over %lld tiles of keys needs more shared memory "
                    "than a block has",
                    (long long)k.dim[0]);
    TRY(cuda_status(cudaFuncSetAttribute(tile_lists_kernel,
                                         cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         (int)(query + (size_t)rows * row)),
                    "tile lists"));
    tile_lists_kernel<<<grid, LIST_THREADS, query + (size_t)rows * row, cuda_stream(dev)>>>(
        count, index, q, k, rows);
    LAUNCHED("tile lists");
}
