/* Attention to all keys on Hopper's tensor cores: bf16, head sizes 128 and 384
 * (attention_kernel.cuh). */
#include "kernels/cuda/attention.h"

#include "kernels/cuda/attention_kernel.cuh"
#include "kernels/cuda/plain.h"

#include <assert.h>

template <int K, int N>
static status launch(struct device *dev, const struct attention_part *part, int parts,
                     const struct arrival *keys, int messages, struct tensor lse, struct tensor q,
                     struct tensor k, struct tensor v, float scale, int64_t equal = 1)
{
    const int bytes = layout<K, N>::bytes;
    struct cuda_context *c;
    CUtensorMap q_map, k_map, v_map, out_map;
    struct parts outs;
    struct sizes z = {};

    TRY(cuda_context(dev, &c));
    z.sq = (int)q.dim[0];
    z.sk = (int)(k.dim[0] - equal + 1);
    z.heads = (int)q.dim[1];
    z.slices = K / COLUMNS;
    z.q_tiles = (z.sq + ROWS - 1) / ROWS;
    z.scale = scale * 1.4426950408889634f;
    z.last = logf((float)equal) / scale;
    z.lse = (float *)lse.data;
    z.flags = (uint2 *)dev->workspace;
    TRY(describe(c, &q_map, q, ROWS, 2));
    TRY(describe(c, &k_map, k, N, 2));
    TRY(describe(c, &v_map, v, N, 2));
    TRY(describe(c, &out_map, list_parts(&outs, part, parts), 16, 1)); // used if it is the only one
    outs.messages = messages;
    for (int i = 0; i < messages; i++)
        outs.keys[i] = keys[i];
    for (auto *kernel :
         { attention_kernel<K, N, false, VISIT_ALL>, attention_kernel<K, N, true, VISIT_ALL> }) {
        TRY(cuda_status(
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
            "attention"));
        kernel<<<min(z.heads * z.slices * z.q_tiles, c->multiprocessors), THREADS, bytes,
                 cuda_stream(dev)>>>(q_map, k_map, v_map, out_map, outs, z);
        TRY(cuda_status(cudaGetLastError(), "attention"));
    }
    for (int i = 0; i < parts; i++)
        if (part[i].count > 0)
            device_cuda_written(dev->stream, part[i].out);
    return ST_OK;
}

/* Bytes of workspace for the flags of rows to compute again. */
static size_t flag_bytes(struct tensor q)
{
    const int64_t tiles = (q.dim[0] + ROWS - 1) / ROWS * q.dim[1] * (q.dim[2] / COLUMNS);

    return (size_t)tiles * WARPS * sizeof(uint2);
}

static bool inputs_fit(struct device *dev, struct tensor q, struct tensor k, struct tensor v)
{
    return q.dtype == DT_BF16 && is_aligned(q) && is_aligned(k) && is_aligned(v) &&
           flag_bytes(q) <= dev->table->workspace;
}

status attention_parts_sm90(struct device *dev, const struct attention_part *part, int parts,
                            const struct arrival *keys, int messages, struct tensor q,
                            struct tensor k, struct tensor v, float scale)
{
    const struct tensor none = {};
    bool fit = q.dim[2] == 128 && inputs_fit(dev, q, k, v), waits = false;

    for (int i = 0; i < parts; i++) {
        fit = fit && is_aligned(part[i].out);
        waits = waits || part[i].arrival.flag != NULL;
    }
    if (fit)
        return launch<128, 128>(dev, part, parts, keys, messages, none, q, k, v, scale);
    assert(!waits);
    return attention_each_part(dev, part, parts, keys, messages, q, k, v, scale);
}

status attention_sm90(struct device *dev, struct tensor out, struct tensor lse, struct tensor q,
                      struct tensor k, struct tensor v, float scale)
{
    const size_t flags = (flag_bytes(q) + 255) / 256 * 256;
    struct attention_part all = { 0, q.dim[0], out };

    if (!inputs_fit(dev, q, k, v) || !is_aligned(out))
        return attention_f32(dev, out, lse, q, k, v, scale);
    if (q.dim[2] == 128)
        return launch<128, 128>(dev, &all, 1, NULL, 0, lse, q, k, v, scale);
    if (q.dim[2] == 384 && flags + tensor_bytes(q) <= dev->table->workspace) {
        if (out.data == q.data) // blocks of other columns still read q
            all.out = tensor_dims((char *)dev->workspace + flags, DT_BF16, 3, q.dim);
        TRY((launch<384, 64>(dev, &all, 1, NULL, 0, lse, q, k, v, scale)));
        return out.data == q.data ? dev->table->copy(dev, out, all.out) : ST_OK;
    }
    return q.dim[2] > 256 ? attention_products(dev, out, lse, q, k, v, scale)
                          : attention_f32(dev, out, lse, q, k, v, scale);
}

status attention_repeated_sm90(struct device *dev, struct tensor out, struct tensor q,
                               struct tensor k, struct tensor v, float scale, int64_t equal)
{
    const struct tensor none = {};
    struct attention_part all = { 0, q.dim[0], out };

    if (q.dim[2] == 128 && scale != 0 && inputs_fit(dev, q, k, v) && is_aligned(out))
        return launch<128, 128>(dev, &all, 1, NULL, 0, none, q, k, v, scale, equal);
    return attention_sm90(dev, out, none, q, k, v, scale);
}
