/* Attention over lists of tiles of keys on Hopper's tensor cores: bf16, head size 128
 * (attention_kernel.cuh, attention_lists.cuh). */
#include "kernels/cuda/attention.h"

#include "kernels/cuda/attention_kernel.cuh"
#include "kernels/cuda/plain.h"

status sparse_attention_sm90(struct device *dev, struct tensor out, struct tensor lse,
                             struct tensor q, struct tensor k, struct tensor v, float scale,
                             const struct tile_lists *lists)
{
    const int bytes = layout<128, 128>::bytes;
    struct cuda_context *c;
    CUtensorMap q_map, k_map, v_map, out_map;
    struct parts outs = {};
    struct sizes z = {};

    z.sq = (int)q.dim[0];
    z.sk = (int)k.dim[0];
    z.heads = (int)q.dim[1];
    z.slices = 1;
    z.lists = view_of(lists);
    z.q_tiles = z.lists.pairs ? (z.lists.lists + 1) / 2 : z.lists.lists;
    z.scale = scale * 1.4426950408889634f;
    z.lse = (float *)lse.data;
    z.flags = (uint2 *)dev->workspace;
    if (q.dtype != DT_BF16 || q.dim[2] != 128 || !is_aligned(q) || !is_aligned(k) ||
        !is_aligned(v) || !is_aligned(out) ||
        (size_t)z.q_tiles * z.heads * WARPS * sizeof(uint2) > dev->table->workspace)
        return plain_sparse_attention(dev, out, lse, q, k, v, scale, lists);
    TRY(cuda_context(dev, &c));
    TRY(describe(c, &q_map, q, 64, 1));
    TRY(describe(c, &k_map, k, 64, 1));
    TRY(describe(c, &v_map, v, 64, 1));
    TRY(describe(c, &out_map, out, 16, 1));
    outs.count = 1;
    outs.part[0].end = z.sq;
    outs.part[0].out = (__nv_bfloat16 *)out.data;
    outs.part[0].token = out.stride[0];
    outs.part[0].head = out.stride[1];
    for (auto *kernel : { attention_kernel<128, 128, false, VISIT_LISTS>,
                          attention_kernel<128, 128, true, VISIT_LISTS> }) {
        TRY(cuda_status(
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
            "sparse attention"));
        kernel<<<min(z.heads * z.q_tiles, c->multiprocessors), THREADS, bytes, cuda_stream(dev)>>>(
            q_map, k_map, v_map, out_map, outs, z);
        TRY(cuda_status(cudaGetLastError(), "sparse attention"));
    }
    device_cuda_written(dev->stream, out);
    return ST_OK;
}
