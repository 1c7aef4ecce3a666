/* attention_parts.cuh - what the attention kernels of Hopper share: q and out in parts, one for
 * each rank (attention_parts_fn), and pairs of bf16. */
#ifndef KERNELS_CUDA_ATTENTION_PARTS_CUH
#define KERNELS_CUDA_ATTENTION_PARTS_CUH

#include "kernels/cuda/context.h"
#include "kernels/cuda/hopper.cuh"

#include <cuda_bf16.h>

/* The rows of q and out of one rank. */
struct part {
    int first, end;
    uint32_t value; // of *flag, when head 0 of q has arrived
    const volatile uint32_t *flag;
    __nv_bfloat16 *out;
    int64_t token, head; // strides of out
};

struct parts {
    struct part part[ATTENTION_PARTS];
    struct arrival keys[ATTENTION_PARTS];
    int count, messages; // of part, of keys
};

/* Stores a warp's 16 rows of 128 columns from shared memory, where they are in two halves of 64
 * columns, `half` bytes apart, with the swizzle of 128 bytes. */
__device__ inline void store_rows(const struct parts &all, uint32_t from, int half, int first,
                                  int rows, int head)
{
    const int lane = threadIdx.x % 32;

#pragma unroll
    for (int i = 0; i < 8; i++) {
        const int row = 2 * i + lane / 16, chunk = lane % 16;
        const uint32_t at = from + chunk / 8 * half + row * 128 + (chunk ^ row) % 8 * 16;
        uint4 v;
        int p = 0;

        asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                     : "r"(at)
                     : "memory");
        if (first + row >= rows)
            continue;
        while (first + row >= all.part[p].end)
            p++;

        const struct part &to = all.part[p];

        *(uint4 *)(to.out + (first + row - to.first) * to.token + head * to.head + chunk * 8) = v;
    }
    __syncwarp();
}

__device__ __forceinline__ float exp2_fast(float x)
{
    float y;

    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ uint32_t pack(float low, float high)
{
    uint32_t y;

    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}

/* Empty parts are left out. Returns the output of the last one that is not. */
static struct tensor list_parts(struct parts *all, const struct attention_part *part, int count)
{
    struct tensor last = {};

    all->count = 0;
    for (int i = 0; i < count; i++) {
        if (part[i].count == 0)
            continue;
        last = part[i].out;
        all->part[all->count++] = (struct part){
            .first = (int)part[i].first,
            .end = (int)(part[i].first + part[i].count),
            .value = part[i].arrival.value,
            .flag = part[i].arrival.flag,
            .out = (__nv_bfloat16 *)last.data,
            .token = last.stride[0],
            .head = last.stride[1],
        };
    }
    return last;
}

#endif
