/* Attention with wide heads: two matrix products, and between them the softmax of whole rows, which
 * are in the workspace. The logits are f32, the probabilities bf16. Rows are computed in blocks
 * that fit the workspace; as products sum in the same order for any number of rows (gemm.c), a row
 * does not depend on its block. */
#include "kernels/cuda/attention.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/gemm.h"

#define THREADS 256
#define LEAST_ROWS 128 // of a block: fewer would be slow

/* p = softmax(scale * logits) for one row per block; columns [keys, stride of p) become 0. */
__global__ void softmax_kernel(struct tensor p, struct tensor logits, float *lse, int64_t lse_step,
                               float scale)
{
    __shared__ float part[32];
    const int keys = (int)logits.dim[1], pitch = (int)p.stride[0];
    const float *l = (const float *)logits.data + blockIdx.x * logits.stride[0];
    __nv_bfloat16 *to = (__nv_bfloat16 *)p.data + blockIdx.x * p.stride[0];
    const float log2 = scale * 1.4426950408889634f;
    float max = -INFINITY, sum = 0;

    for (int i = threadIdx.x; i < keys; i += THREADS)
        max = fmaxf(max, l[i]);
    max = block_max(max, part);
    for (int i = threadIdx.x; i < keys; i += THREADS)
        sum += exp2f(log2 * (l[i] - max));
    sum = block_sum(sum, part);
    for (int i = threadIdx.x; i < pitch; i += THREADS)
        to[i] = __float2bfloat16_rn(i < keys ? exp2f(log2 * (l[i] - max)) / sum : 0);
    if (lse != NULL && threadIdx.x == 0)
        lse[blockIdx.x * lse_step] = scale * max + logf(sum);
}

/* Head `head` of x [S, N, D] as a matrix. */
static struct tensor head_of(struct tensor x, int64_t head)
{
    static const int by_head[] = { 1, 0, 2 };

    return tensor_at(tensor_permute(x, by_head), head);
}

/* Whether the products can read or write all heads of x. */
static bool is_aligned(struct tensor x)
{
    return (uintptr_t)x.data % 16 == 0 && x.dim[2] % 8 == 0 && x.stride[1] % 8 == 0 &&
           x.stride[0] % 8 == 0 && x.stride[0] >= x.dim[2];
}

status attention_products(struct device *dev, struct tensor out, struct tensor lse, struct tensor q,
                          struct tensor k, struct tensor v, float scale)
{
    const int64_t keys = k.dim[0], pitch = (keys + 7) / 8 * 8;
    const int64_t row_bytes = pitch * (int64_t)(sizeof(float) + sizeof(__nv_bfloat16));
    const int64_t most = (int64_t)dev->table->workspace / row_bytes / LEAST_ROWS * LEAST_ROWS;

    if (q.dtype != DT_BF16 || most == 0 || !is_aligned(q) || !is_aligned(k) || !is_aligned(v) ||
        !is_aligned(out))
        return attention_f32(dev, out, lse, q, k, v, scale);
    for (int64_t n = 0; n < q.dim[1]; n++)
        for (int64_t first = 0, rows; first < q.dim[0]; first += rows) {
            const int64_t dims[] = { 0, pitch };
            struct tensor logits = tensor_dims(dev->workspace, DT_F32, 2, dims), p;
            bool missing;

            rows = q.dim[0] - first < most ? q.dim[0] - first : most;
            logits.dim[0] = rows;
            logits.dim[1] = keys;
            p = logits;
            p.dtype = DT_BF16;
            p.data = (float *)logits.data + rows * pitch;
            TRY(gemm_strided(dev, logits, head_of(tensor_slice(q, 0, first, rows), n),
                             head_of(k, n), false, &missing));
            if (!missing) {
                softmax_kernel<<<(unsigned)rows, THREADS, 0, cuda_stream(dev)>>>(
                    p, logits, lse.data != NULL ? (float *)lse.data + first * q.dim[1] + n : NULL,
                    q.dim[1], scale);
                TRY(cuda_status(cudaGetLastError(), "attention"));
                TRY(gemm_strided(dev, head_of(tensor_slice(out, 0, first, rows), n), p,
                                 head_of(v, n), true, &missing));
            }
            if (missing && n == 0 && first == 0) // nothing of out is written yet
                return attention_f32(dev, out, lse, q, k, v, scale);
            if (missing)
                return fail(ST_DEVICE, "attention: cuBLASLt has no kernel for %lld rows of %lld",
                            (long long)rows, (long long)keys);
        }
    return ST_OK;
}
