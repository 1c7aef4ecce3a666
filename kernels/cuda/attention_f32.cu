/* Attention with f32 arithmetic. A block of 256 threads has a tile of queries and walks over the
 * keys in tiles:
 *
 *     s [16 RM, 16 RN]  thread (x, y) has rows y RM + i and keys x + 16 j
 *     o [16 RM, W]      thread (x, y) has rows y RM + i and columns 4 x + 64 c + (0..3)
 *
 * The values are copied while s is computed, the next keys while p v is summed.
 *
 * Heads of more than 384 are cut in parts of W columns: s is summed part by part, and each block
 * has the queries' o of one part. So s is computed once for each part, and nothing is copied ahead.
 */
#include "kernels/cuda/attention.h"

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/plain.h"

#define THREADS 256
#define PAD 4 // floats between rows in shared memory, against bank conflicts

/* Offsets in shared memory, in floats: q, k, v, p. W: head size, rounded up. */
template <int W, int RM, int RN> struct tile {
    static const int rows = 16 * RM, keys = 16 * RN;
    static const int k_at = rows * (W + PAD), v_at = k_at + keys * (W + PAD);
    static const int p_at = v_at + keys * W, floats = p_at + keys * (rows + PAD);
};

/* Copies rows [first, first + count) of one head to rows of W floats in shared memory, `pitch`
 * floats from row to row; rows and columns that t does not have become 0. async  t is f32 and
 * aligned: copies asynchronously, as one group of cp.async */
template <int W>
__device__ void load_rows(float *to, int pitch, int count, const struct tensor &t, int64_t first,
                          int64_t head, bool async)
{
    const int d = (int)t.dim[2];

    for (int i = threadIdx.x; i < count * (W / 4); i += THREADS) {
        const int row = i / (W / 4), col = i % (W / 4) * 4;
        const int64_t at = (first + row) * t.stride[0] + head * t.stride[1] + col;
        const bool inside = first + row < t.dim[0];
        float *dst = to + row * pitch + col;

        if (async) {
            const float *src = (const float *)t.data + (inside && col < d ? at : 0);

            asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                             (uint32_t)__cvta_generic_to_shared(dst)),
                         "l"(src), "r"(inside && col < d ? 16 : 0)
                         : "memory");
        } else {
            for (int j = 0; j < 4; j++)
                dst[j] = inside && col + j < d ? load(t, at + j) : 0;
        }
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Waits until at most N groups of copies are unfinished, in every thread. */
template <int N> __device__ void wait_for_loads(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
    __syncthreads();
}

__device__ inline float4 load4(const float *p)
{
    return *(const float4 *)p;
}

/* Columns [W part, W part + W) of each head, or fewer at its end. */
template <int W> __device__ inline struct tensor columns(const struct tensor &t, int part)
{
    struct tensor view = t;

    view.data = (char *)t.data + part * W * (t.dtype == DT_BF16 ? 2 : 4);
    view.dim[2] = t.dim[2] - part * W < W ? t.dim[2] - part * W : W;
    return view;
}

template <int W, int RM, int RN, bool PARTS>
__global__ void __launch_bounds__(THREADS, 1)
    attention_f32_kernel(struct tensor out, float *lse, struct tensor q, struct tensor k,
                         struct tensor v, float scale, bool async)
{
    using at = tile<W, RM, RN>;
    const int parts = PARTS ? (int)((q.dim[2] + W - 1) / W) : 1, of_out = blockIdx.z;
    extern __shared__ float4 shared[];
    float *const qs = (float *)shared, *const ks = qs + at::k_at, *const vs = qs + at::v_at;
    float *const ps = qs + at::p_at;
    const int x = threadIdx.x % 16, y = threadIdx.x / 16;
    const int64_t first = (int64_t)blockIdx.x * at::rows, head = blockIdx.y;
    float o[RM][W / 16] = {}, top[RM], sum[RM] = {};

    for (int i = 0; i < RM; i++)
        top[i] = -INFINITY;
    if (!PARTS) {
        load_rows<W>(qs, W + PAD, at::rows, q, first, head, async);
        load_rows<W>(ks, W + PAD, at::keys, k, 0, head, async);
    }
    for (int64_t j0 = 0; j0 < k.dim[0]; j0 += at::keys) {
        float s[RM][RN] = {};

        if (!PARTS)
            load_rows<W>(vs, W, at::keys, v, j0, head, async);
        for (int part = 0; part < parts; part++) {
            if (PARTS) {
                if (part > 0)
                    __syncthreads(); // the previous part may still be read
                load_rows<W>(qs, W + PAD, at::rows, columns<W>(q, part), first, head, async);
                load_rows<W>(ks, W + PAD, at::keys, columns<W>(k, part), j0, head, async);
                if (part + 1 == parts)
                    load_rows<W>(vs, W, at::keys, columns<W>(v, of_out), j0, head, async);
                wait_for_loads<0>();
            } else {
                wait_for_loads<1>();
            }
#pragma unroll 2
            for (int c = 0; c < W; c += 4) {
                float4 a[RM], b[RN];

#pragma unroll
                for (int i = 0; i < RM; i++)
                    a[i] = load4(qs + (y * RM + i) * (W + PAD) + c);
#pragma unroll
                for (int j = 0; j < RN; j++)
                    b[j] = load4(ks + (x + 16 * j) * (W + PAD) + c);
#pragma unroll
                for (int i = 0; i < RM; i++)
#pragma unroll
                    for (int j = 0; j < RN; j++) {
                        s[i][j] = fmaf(a[i].x, b[j].x, s[i][j]);
                        s[i][j] = fmaf(a[i].y, b[j].y, s[i][j]);
                        s[i][j] = fmaf(a[i].z, b[j].z, s[i][j]);
                        s[i][j] = fmaf(a[i].w, b[j].w, s[i][j]);
                    }
            }
        }
#pragma unroll
        for (int i = 0; i < RM; i++) {
            float high = top[i];

#pragma unroll
            for (int j = 0; j < RN; j++) {
                s[i][j] = j0 + x + 16 * j < k.dim[0] ? s[i][j] * scale : -INFINITY;
                high = fmaxf(high, s[i][j]);
            }
            for (int lane = 8; lane > 0; lane /= 2)
                high = fmaxf(high, __shfl_xor_sync(~0u, high, lane));

            const float old = exp2f(top[i] - high);

            top[i] = high;
            sum[i] *= old;
#pragma unroll
            for (int j = 0; j < RN; j++) {
                s[i][j] = exp2f(s[i][j] - high);
                sum[i] += s[i][j];
            }
#pragma unroll
            for (int c = 0; c < W / 16; c++)
                o[i][c] *= old;
        }
#pragma unroll
        for (int j = 0; j < RN; j++)
#pragma unroll
            for (int i = 0; i < RM; i += 4)
                *(float4 *)(ps + (x + 16 * j) * (at::rows + PAD) + y * RM + i) =
                    make_float4(s[i][j], s[i + 1][j], s[i + 2][j], s[i + 3][j]);
        __syncthreads();
        if (!PARTS) {
            load_rows<W>(ks, W + PAD, at::keys, k, j0 + at::keys, head, async);
            wait_for_loads<1>();
        }
#pragma unroll 2
        for (int j = 0; j < at::keys; j++) {
            float4 p[RM / 4];

#pragma unroll
            for (int i = 0; i < RM / 4; i++)
                p[i] = load4(ps + j * (at::rows + PAD) + y * RM + 4 * i);
#pragma unroll
            for (int c = 0; c < W / 64; c++) {
                const float4 b = load4(vs + j * W + 4 * x + 64 * c);

#pragma unroll
                for (int i = 0; i < RM; i++) {
                    const float4 &of = p[i / 4];
                    const float a = i % 4 == 0   ? of.x
                                    : i % 4 == 1 ? of.y
                                    : i % 4 == 2 ? of.z
                                                 : of.w;

                    o[i][4 * c] = fmaf(a, b.x, o[i][4 * c]);
                    o[i][4 * c + 1] = fmaf(a, b.y, o[i][4 * c + 1]);
                    o[i][4 * c + 2] = fmaf(a, b.z, o[i][4 * c + 2]);
                    o[i][4 * c + 3] = fmaf(a, b.w, o[i][4 * c + 3]);
                }
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < RM; i++) {
        const int64_t row = first + y * RM + i;

        for (int lane = 8; lane > 0; lane /= 2)
            sum[i] += __shfl_xor_sync(~0u, sum[i], lane);
        if (row >= q.dim[0])
            continue;
#pragma unroll
        for (int c = 0; c < W / 16; c++) {
            const int col = W * of_out + 4 * x + 64 * (c / 4) + c % 4;

            if (col < q.dim[2])
                store(out, row * out.stride[0] + head * out.stride[1] + col, o[i][c] / sum[i]);
        }
        if (lse != NULL && x == 0 && of_out == 0)
            lse[row * q.dim[1] + head] = top[i] * 0.6931471805599453f + logf(sum[i]);
    }
}

template <int W, int RM, int RN, bool PARTS = false>
static status launch(struct device *dev, struct tensor out, struct tensor lse, struct tensor q,
                     struct tensor k, struct tensor v, float scale)
{
    using at = tile<W, RM, RN>;
    auto *const kernel = attention_f32_kernel<W, RM, RN, PARTS>;
    const dim3 grid((unsigned)((q.dim[0] + at::rows - 1) / at::rows), (unsigned)q.dim[1],
                    PARTS ? (unsigned)((q.dim[2] + W - 1) / W) : 1);
    const int bytes = at::floats * (int)sizeof(float);
    bool async = q.dtype == DT_F32 && q.dim[2] % 4 == 0;

    for (const struct tensor *t : { &q, &k, &v })
        async =
            async && (uintptr_t)t->data % 16 == 0 && t->stride[0] % 4 == 0 && t->stride[1] % 4 == 0;
    TRY(cuda_status(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
        "attention"));
    kernel<<<grid, THREADS, bytes, cuda_stream(dev)>>>(out, (float *)lse.data, q, k, v,
                                                       scale * 1.4426950408889634f, async);
    return cuda_status(cudaGetLastError(), "attention");
}

status attention_f32(struct device *dev, struct tensor out, struct tensor lse, struct tensor q,
                     struct tensor k, struct tensor v, float scale)
{
    if (q.dim[2] <= 64)
        return launch<64, 8, 4>(dev, out, lse, q, k, v, scale);
    if (q.dim[2] <= 128)
        return launch<128, 8, 4>(dev, out, lse, q, k, v, scale);
    if (q.dim[2] <= 256)
        return launch<256, 4, 4>(dev, out, lse, q, k, v, scale);
    if (q.dim[2] <= 384)
        return launch<384, 4, 2>(dev, out, lse, q, k, v, scale);
    if (q.dim[2] <= 1024 && (out.data != q.data || tensor_bytes(q) <= dev->table->workspace)) {
        if (out.data == q.data) { // a block reads all columns of q, and writes a part
            const struct tensor copy = tensor_dims(dev->workspace, q.dtype, q.ndim, q.dim);

            TRY(plain_copy(dev, copy, q));
            q = copy;
        }
        return launch<256, 4, 4, true>(dev, out, lse, q, k, v, scale);
    }
    return plain_attention(dev, out, lse, q, k, v, scale);
}
