/* Linear attention in three passes: sums over chunks of keys; their total, times w; and the
 * queries. Chunks have a fixed size, so a head's sums depend on its keys alone. Of heads of 128 in
 * bf16, the first and the last pass are products of tensor cores, with phi and the totals rounded
 * to bf16. */
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/plain.h"

#include <mma.h>

using namespace nvcuda;

#define THREADS 256
#define WARPS (THREADS / 32)

/* Floats of a head's sums: kv [D, D], then those of phi(k) [D]. */
__host__ __device__ static int64_t sums_floats(int64_t d)
{
    return d * d + d;
}

static int64_t chunks_of(int64_t keys)
{
    return (keys + LINEAR_ATTENTION_CHUNK - 1) / LINEAR_ATTENTION_CHUNK;
}

/* ---- any head size and dtype ---- */

/* p[D] = the softmax of x's row, by all threads of the block. */
__device__ static void softmax_row(float *p, const struct tensor &x, int64_t at, int64_t d,
                                   float *part)
{
    float max = -INFINITY, sum = 0;

    for (int64_t i = threadIdx.x; i < d; i += THREADS)
        max = fmaxf(max, load(x, at + i));
    max = block_max(max, part);
    for (int64_t i = threadIdx.x; i < d; i += THREADS)
        sum += p[i] = expf(load(x, at + i) - max);
    sum = block_sum(sum, part);
    for (int64_t i = threadIdx.x; i < d; i += THREADS)
        p[i] /= sum;
    __syncthreads();
}

/* A block has a chunk of keys of one head. Dynamic shared memory: kv, total, p, row of v. */
__global__ void linear_sums_kernel(float *partial, struct tensor k, struct tensor v)
{
    extern __shared__ float shared[];
    __shared__ float part[32];
    const int64_t d = k.dim[2], head = blockIdx.y,
                  first = blockIdx.x * (int64_t)LINEAR_ATTENTION_CHUNK;
    const int64_t left = k.dim[0] - first;
    const int64_t count = left < LINEAR_ATTENTION_CHUNK ? left : LINEAR_ATTENTION_CHUNK;
    float *kv = shared, *total = kv + d * d, *p = total + d, *row = p + d;
    float *out = partial + (head * gridDim.x + blockIdx.x) * sums_floats(d);

    for (int64_t i = threadIdx.x; i < sums_floats(d); i += THREADS)
        shared[i] = 0;
    for (int64_t s = first; s < first + count; s++) {
        __syncthreads();
        for (int64_t i = threadIdx.x; i < d; i += THREADS)
            row[i] = load(v, s * v.stride[0] + head * v.stride[1] + i);
        softmax_row(p, k, s * k.stride[0] + head * k.stride[1], d, part);
        for (int64_t i = threadIdx.x; i < d * d; i += THREADS)
            kv[i] = fmaf(p[i / d], row[i % d], kv[i]);
        for (int64_t i = threadIdx.x; i < d; i += THREADS)
            total[i] += p[i];
    }
    __syncthreads();
    for (int64_t i = threadIdx.x; i < sums_floats(d); i += THREADS)
        out[i] = shared[i];
}

/* sums of a head = those of its chunks, in order; its kv times w^T, [channel of k, channel of out].
 * The chunks' sums are overwritten: the first gets the total of kv. */
__global__ void linear_total_kernel(float *sums, float *partial, int64_t chunks, const float *w,
                                    int64_t d)
{
    const int64_t head = blockIdx.x, floats = sums_floats(d);
    float *first = partial + head * chunks * floats, *out = sums + head * floats;

    for (int64_t i = threadIdx.x; i < floats; i += THREADS) {
        float sum = 0;

        for (int64_t c = 0; c < chunks; c++)
            sum += first[c * floats + i];
        first[i] = sum;
        if (i >= d * d)
            out[i] = sum;
    }
    __syncthreads();
    for (int64_t i = threadIdx.x; i < d * d; i += THREADS) {
        float sum = 0;

        for (int64_t j = 0; j < d; j++)
            sum = fmaf(first[i / d * d + j], w[i % d * d + j], sum);
        out[i] = sum;
    }
}

/* A block has one query of one head. Dynamic shared memory: p [D], and four floats that unrolled
 * loops may read ahead. */
__global__ void linear_apply_kernel(struct tensor sum, struct tensor q, const float *sums,
                                    const float *b)
{
    extern __shared__ float p[];
    __shared__ float part[32];
    const int64_t d = q.dim[2], s = blockIdx.x, head = blockIdx.y;
    const float *kv = sums + head * sums_floats(d), *total = kv + d * d;
    const int64_t at = s * sum.stride[0] + head * sum.stride[1];
    float divisor = 0;

    softmax_row(p, q, s * q.stride[0] + head * q.stride[1], d, part);
    for (int64_t i = threadIdx.x; i < d; i += THREADS)
        divisor = fmaf(p[i], total[i], divisor);
    divisor = LINEAR_ATTENTION_EPS + block_sum(divisor, part);
    for (int64_t j = threadIdx.x; j < d; j += THREADS) {
        float v = 0;

        for (int64_t i = 0; i < d; i++)
            v = fmaf(p[i], kv[i * d + j], v);
        store(sum, at + j, load(sum, at + j) + v / divisor + b[j]);
    }
}

/* ---- heads of 128 in bf16 ---- */

#define D 128
#define TILE 64       // tokens at a time
#define PITCH (D + 8) // of a row of bf16 in shared memory: rows begin in different banks
#define OUT_PITCH (D + 4)

/* Four channels of a row, for each lane of a warp. */
struct four {
    float x[4];
};

__device__ static struct four load_four(const struct tensor &t, int64_t at, int lane)
{
    const __nv_bfloat162 *from =
        (const __nv_bfloat162 *)((const __nv_bfloat16 *)t.data + at + 4 * lane);
    const float2 a = __bfloat1622float2(from[0]), b = __bfloat1622float2(from[1]);

    return { { a.x, a.y, b.x, b.y } };
}

__device__ static void store_four(__nv_bfloat16 *row, int lane, struct four v)
{
    __nv_bfloat162 *to = (__nv_bfloat162 *)(row + 4 * lane);

    to[0] = __floats2bfloat162_rn(v.x[0], v.x[1]);
    to[1] = __floats2bfloat162_rn(v.x[2], v.x[3]);
}

/* phi of a row, rounded to bf16. */
__device__ static struct four phi(struct four v)
{
    const float max = warp_max(fmaxf(fmaxf(v.x[0], v.x[1]), fmaxf(v.x[2], v.x[3])));
    float sum = 0;

    for (int i = 0; i < 4; i++)
        sum += v.x[i] = __expf(v.x[i] - max);
    sum = 1 / warp_sum(sum);
    for (int i = 0; i < 4; i++)
        v.x[i] = __bfloat162float(__float2bfloat16_rn(v.x[i] * sum));
    return v;
}

struct __align__(32) sums_memory
{
    __nv_bfloat16 k[TILE][PITCH], v[TILE][PITCH];
    float total[WARPS][D];
};

/* Each warp computes 16 rows of kv. */
__global__ void __launch_bounds__(THREADS)
    linear_sums_128(float *partial, struct tensor k, struct tensor v)
{
    __shared__ struct sums_memory m;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int64_t head = blockIdx.y, first = blockIdx.x * (int64_t)LINEAR_ATTENTION_CHUNK;
    const int64_t left = k.dim[0] - first;
    const int64_t count = left < LINEAR_ATTENTION_CHUNK ? left : LINEAR_ATTENTION_CHUNK;
    float *out = partial + (head * gridDim.x + blockIdx.x) * sums_floats(D);
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> acc[D / 16];
    struct four total = { { 0, 0, 0, 0 } };

    for (int j = 0; j < D / 16; j++)
        wmma::fill_fragment(acc[j], 0.0f);
    for (int64_t tile = 0; tile < count; tile += TILE) {
        for (int r = warp; r < TILE; r += WARPS) {
            const int64_t s = first + tile + r;
            struct four p = { { 0, 0, 0, 0 } }, row = p;

            if (tile + r < count) {
                p = phi(load_four(k, s * k.stride[0] + head * k.stride[1], lane));
                row = load_four(v, s * v.stride[0] + head * v.stride[1], lane);
            }
            store_four(m.k[r], lane, p);
            store_four(m.v[r], lane, row);
            for (int i = 0; i < 4; i++)
                total.x[i] += p.x[i];
        }
        __syncthreads();
        for (int s = 0; s < TILE; s += 16) {
            wmma::fragment<wmma::matrix_a, 16, 16, 16, __nv_bfloat16, wmma::col_major> a;

            wmma::load_matrix_sync(a, &m.k[s][16 * warp], PITCH);
            for (int j = 0; j < D / 16; j++) {
                wmma::fragment<wmma::matrix_b, 16, 16, 16, __nv_bfloat16, wmma::row_major> b;

                wmma::load_matrix_sync(b, &m.v[s][16 * j], PITCH);
                wmma::mma_sync(acc[j], a, b, acc[j]);
            }
        }
        __syncthreads();
    }
    for (int j = 0; j < D / 16; j++)
        wmma::store_matrix_sync(out + 16 * warp * D + 16 * j, acc[j], D, wmma::mem_row_major);
    for (int i = 0; i < 4; i++)
        m.total[warp][4 * lane + i] = total.x[i];
    __syncthreads();
    if (threadIdx.x < D) {
        float sum = 0;

        for (int i = 0; i < WARPS; i++)
            sum += m.total[i][threadIdx.x];
        out[D * D + threadIdx.x] = sum;
    }
}

struct __align__(32) apply_memory
{
    __nv_bfloat16 kv[D][PITCH], q[TILE][PITCH];
    float divisor[TILE], out[TILE][OUT_PITCH];
};

/* A block has TILE queries of one head; a warp 16 of them and half of the channels. */
__global__ void __launch_bounds__(THREADS)
    linear_apply_128(struct tensor sum, struct tensor q, const float *sums, const float *b)
{
    extern __shared__ __align__(32) char bytes[];
    struct apply_memory *m = (struct apply_memory *)bytes;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int64_t head = blockIdx.y, first = blockIdx.x * (int64_t)TILE;
    const float *kv = sums + head * sums_floats(D), *total = kv + D * D;

    for (int i = threadIdx.x; i < D * D; i += THREADS)
        m->kv[i / D][i % D] = __float2bfloat16_rn(kv[i]);
    for (int r = warp; r < TILE; r += WARPS) {
        struct four p = { { 0, 0, 0, 0 } };
        float divisor = 0;

        if (first + r < q.dim[0])
            p = phi(load_four(q, (first + r) * q.stride[0] + head * q.stride[1], lane));
        for (int i = 0; i < 4; i++)
            divisor = fmaf(p.x[i], total[4 * lane + i], divisor);
        divisor = warp_sum(divisor);
        store_four(m->q[r], lane, p);
        if (lane == 0)
            m->divisor[r] = 1 / (LINEAR_ATTENTION_EPS + divisor);
    }
    __syncthreads();

    const int row = warp / 2 * 16, col = warp % 2 * (D / 2);
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> acc[D / 32];

    for (int j = 0; j < D / 32; j++)
        wmma::fill_fragment(acc[j], 0.0f);
    for (int i = 0; i < D; i += 16) {
        wmma::fragment<wmma::matrix_a, 16, 16, 16, __nv_bfloat16, wmma::row_major> a;

        wmma::load_matrix_sync(a, &m->q[row][i], PITCH);
        for (int j = 0; j < D / 32; j++) {
            wmma::fragment<wmma::matrix_b, 16, 16, 16, __nv_bfloat16, wmma::row_major> x;

            wmma::load_matrix_sync(x, &m->kv[i][col + 16 * j], PITCH);
            wmma::mma_sync(acc[j], a, x, acc[j]);
        }
    }
    for (int j = 0; j < D / 32; j++)
        wmma::store_matrix_sync(&m->out[row][col + 16 * j], acc[j], OUT_PITCH, wmma::mem_row_major);
    __syncthreads();
    for (int r = warp; r < TILE && first + r < q.dim[0]; r += WARPS) {
        const int64_t at = (first + r) * sum.stride[0] + head * sum.stride[1];
        struct four v = load_four(sum, at, lane);

        for (int i = 0; i < 4; i++)
            v.x[i] += fmaf(m->out[r][4 * lane + i], m->divisor[r], b[4 * lane + i]);
        store_four((__nv_bfloat16 *)sum.data + at, lane, v);
    }
}

/* Whether a lane's four channels of every row are aligned. */
static bool in_fours(struct tensor t)
{
    return t.dtype == DT_BF16 && t.dim[2] == D && (uintptr_t)t.data % 8 == 0 &&
           t.stride[0] % 4 == 0 && t.stride[1] % 4 == 0;
}

/* Lets a kernel have so much dynamic shared memory. */
static status allow_shared(const void *kernel, size_t bytes)
{
    return cuda_status(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes), "%s",
        "linear_attention");
}

status plain_linear_attention(struct device *dev, struct tensor sum, struct tensor q,
                              struct tensor k, struct tensor v, struct tensor w, struct tensor b,
                              struct tensor scratch)
{
    const int64_t heads = q.dim[1], d = q.dim[2], chunks = chunks_of(k.dim[0]);
    const bool fast = in_fours(sum) && in_fours(q) && in_fours(k) && in_fours(v);
    const dim3 grid((unsigned)chunks, (unsigned)heads);
    const size_t room = (size_t)(sums_floats(d) + 2 * d) * sizeof(float);
    float *sums = (float *)scratch.data, *partial = sums + heads * sums_floats(d);
    const cudaStream_t stream = cuda_stream(dev);

    if (fast) {
        linear_sums_128<<<grid, THREADS, 0, stream>>>(partial, k, v);
    } else {
        TRY(allow_shared((const void *)linear_sums_kernel, room));
        linear_sums_kernel<<<grid, THREADS, room, stream>>>(partial, k, v);
    }
    TRY(cuda_status(cudaGetLastError(), "%s", "linear_attention"));
    linear_total_kernel<<<(unsigned)heads, THREADS, 0, stream>>>(sums, partial, chunks,
                                                                 (const float *)w.data, d);
    TRY(cuda_status(cudaGetLastError(), "%s", "linear_attention"));
    if (fast) {
        TRY(allow_shared((const void *)linear_apply_128, sizeof(struct apply_memory)));
        linear_apply_128<<<dim3((unsigned)((q.dim[0] + TILE - 1) / TILE), (unsigned)heads), THREADS,
                           sizeof(struct apply_memory), stream>>>(sum, q, sums,
                                                                  (const float *)b.data);
    } else {
        linear_apply_kernel<<<dim3((unsigned)q.dim[0], (unsigned)heads), THREADS,
                              (size_t)(d + 4) * sizeof(float), stream>>>(sum, q, sums,
                                                                         (const float *)b.data);
    }
    return cuda_status(cudaGetLastError(), "%s", "linear_attention");
}
