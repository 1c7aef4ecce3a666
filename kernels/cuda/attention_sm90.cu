/* Attention on Hopper: bf16, head size 128.
 *
 * A block has some queries of one head, 64 to a warpgroup, and walks over the keys in tiles. One
 * thread moves tiles into shared memory with the copy engine; a warpgroup multiplies them,
 *
 *     s = q k^T [64, BN]    p = 2^(s * scale - base)    o += p v [64, 128]
 *
 * and begins the product of the next tile before it takes the exponentials of this one.
 *
 * `base` is the maximum of the first tile, and stays: a row is the same whatever is taken off all
 * its logits, as long as nothing overflows. So no tile but the first looks for a maximum and o is
 * never rescaled. A row whose sum did overflow (a logit more than 69 above the first tile's) is
 * not written but marked, and a second kernel, which follows the maximum, does the marked rows.
 * Which of the two ways a row goes depends on that row alone.
 *
 * Source of the plan: Shah et al. 2024, FlashAttention-3. */
#include "kernels/cuda/attention.h"

#include "kernels/cuda/context.h"
#include "kernels/cuda/plain.h"

#include <cuda.h>
#include <cuda_bf16.h>

#include <stdint.h>

#define D 128 // head size

struct sizes {
    int sq, sk, heads, q_tiles;
    float scale; // * log2(e)
    __nv_bfloat16 *out;
    int64_t out_token, out_head;
    float *lse;
    uint2 *bad;
};

/* ---- the instructions ---- */

__device__ __forceinline__ uint32_t shared_at(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

__device__ __forceinline__ void bar_init(uint32_t bar, int count)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count));
}

__device__ __forceinline__ void bar_expect(uint32_t bar, int bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes)
                 : "memory");
}

__device__ __forceinline__ void bar_arrive(uint32_t bar)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}

__device__ __forceinline__ void bar_wait(uint32_t bar, uint32_t parity)
{
    uint32_t done = 0;
#ifdef BOUNDED
    int polls = 0;
#endif

    while (!done) {
        asm volatile("{\n\t.reg .pred p;\n\t"
                     "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\t"
                     "selp.u32 %0, 1, 0, p;\n\t}"
                     : "=r"(done)
                     : "r"(bar), "r"(parity)
                     : "memory");
#ifdef BOUNDED
        if (polls++ > 64)
            __nanosleep(1000);
        if (polls > BOUNDED)
            __trap();
#endif
    }
}

__device__ __forceinline__ void load_tile(uint32_t to, const CUtensorMap *map, uint32_t bar,
                                          int token, int head)
{
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4, %3, %5}], [%2];" ::"r"(to),
                 "l"(map), "r"(bar), "r"(0), "r"(token), "r"(head)
                 : "memory");
}

/* One half of the head size, for both blocks of the pair. */
__device__ __forceinline__ void load_half(uint32_t to, const CUtensorMap *map, uint32_t bar,
                                          int token, int half, int head)
{
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".multicast::cluster [%0], [%1, {%3, %4, %5, %6}], [%2], %7;" ::"r"(to),
                 "l"(map), "r"(bar), "r"(0), "r"(token), "r"(half), "r"(head), "h"((uint16_t)3)
                 : "memory");
}

__device__ __forceinline__ void bar_arrive_at(uint32_t bar, uint32_t block)
{
    asm volatile("{\n\t.reg .b32 at;\n\t"
                 "mapa.shared::cluster.u32 at, %0, %1;\n\t"
                 "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [at];\n\t}" ::"r"(bar),
                 "r"(block)
                 : "memory");
}

__device__ __forceinline__ void cluster_sync(void)
{
    asm volatile("barrier.cluster.arrive.release;\n\tbarrier.cluster.wait.acquire;" ::: "memory");
}

__device__ __forceinline__ void named_sync(int id, int count)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(count) : "memory");
}

__device__ __forceinline__ void named_arrive(int id, int count)
{
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(count) : "memory");
}

/* A matrix in shared memory, rows of 128 bytes with their 16-byte pieces swizzled. `block` is the
 * distance of two such matrices side by side, used where the rows are the sum's direction. */
__device__ __forceinline__ uint64_t descriptor(uint32_t at, int block)
{
    return (uint64_t)((at & 0x3ffff) >> 4) | (uint64_t)(block >> 4) << 16 | (uint64_t)64 << 32 |
           (uint64_t)1 << 62;
}

#define LIST32                                                                                     \
    "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,"  \
    "%25,%26,%27,%28,%29,%30,%31}"
#define LIST48                                                                                     \
    "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,"  \
    "%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47}"
#define LIST64                                                                                     \
    "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,"  \
    "%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47," \
    "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}"
#define LIST88                                                                                     \
    "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,"  \
    "%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47," \
    "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,%64,%65,%66,%67,%68,%69,%70," \
    "%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87}"
#define REG8(d, i)                                                                                 \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]),    \
        "+f"(d[i + 6]), "+f"(d[i + 7])
#define REG32(d, i) REG8(d, i), REG8(d, i + 8), REG8(d, i + 16), REG8(d, i + 24)

#define MMA_SS(n, list, a, b, add)                                                                 \
    "{\n\t.reg .pred p;\n\tsetp.ne.b32 p, " add ", 0;\n\t"                                         \
    "wgmma.mma_async.sync.aligned.m64n" n "k16.f32.bf16.bf16 " list ", " a ", " b                  \
    ", p, 1, 1, 0, 0;\n\t}"
#define MMA_RS(n, list, a, b, add, trans)                                                          \
    "{\n\t.reg .pred p;\n\tsetp.ne.b32 p, " add ", 0;\n\t"                                         \
    "wgmma.mma_async.sync.aligned.m64n" n "k16.f32.bf16.bf16 " list ", " a ", " b                  \
    ", p, 1, 1, " trans ";\n\t}"

/* d (+)= a b^T: a [64, 16] and b [n, 16] in shared memory */
__device__ __forceinline__ void mma_ss(float (&d)[32], uint64_t a, uint64_t b, int add)
{
    asm volatile(MMA_SS("64", LIST32, "%32", "%33", "%34")
                 : REG32(d, 0)
                 : "l"(a), "l"(b), "r"(add));
}

__device__ __forceinline__ void mma_ss(float (&d)[48], uint64_t a, uint64_t b, int add)
{
    asm volatile(MMA_SS("96", LIST48, "%48", "%49", "%50")
                 : REG32(d, 0), REG8(d, 32), REG8(d, 40)
                 : "l"(a), "l"(b), "r"(add));
}

__device__ __forceinline__ void mma_ss(float (&d)[64], uint64_t a, uint64_t b, int add)
{
    asm volatile(MMA_SS("128", LIST64, "%64", "%65", "%66")
                 : REG32(d, 0), REG32(d, 32)
                 : "l"(a), "l"(b), "r"(add));
}

__device__ __forceinline__ void mma_ss(float (&d)[88], uint64_t a, uint64_t b, int add)
{
    asm volatile(MMA_SS("176", LIST88, "%88", "%89", "%90")
                 : REG32(d, 0), REG32(d, 32), REG8(d, 64), REG8(d, 72), REG8(d, 80)
                 : "l"(a), "l"(b), "r"(add));
}

/* the same with a in registers */
__device__ __forceinline__ void mma_rs(float (&d)[32], const uint32_t *a, uint64_t b, int add)
{
    asm volatile(MMA_RS("64", LIST32, "{%32,%33,%34,%35}", "%36", "%37", "0")
                 : REG32(d, 0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}

__device__ __forceinline__ void mma_rs(float (&d)[48], const uint32_t *a, uint64_t b, int add)
{
    asm volatile(MMA_RS("96", LIST48, "{%48,%49,%50,%51}", "%52", "%53", "0")
                 : REG32(d, 0), REG8(d, 32), REG8(d, 40)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}

__device__ __forceinline__ void mma_rs(float (&d)[64], const uint32_t *a, uint64_t b, int add)
{
    asm volatile(MMA_RS("128", LIST64, "{%64,%65,%66,%67}", "%68", "%69", "0")
                 : REG32(d, 0), REG32(d, 32)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}

__device__ __forceinline__ void mma_rs(float (&d)[88], const uint32_t *a, uint64_t b, int add)
{
    asm volatile(MMA_RS("176", LIST88, "{%88,%89,%90,%91}", "%92", "%93", "0")
                 : REG32(d, 0), REG32(d, 32), REG8(d, 64), REG8(d, 72), REG8(d, 80)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}

/* d (+)= a b: a [64, 16] in registers, b [16, 128] in shared memory */
__device__ __forceinline__ void mma_values(float (&d)[64], const uint32_t *a, uint64_t b, int add)
{
    asm volatile(MMA_RS("128", LIST64, "{%64,%65,%66,%67}", "%68", "%69", "1")
                 : REG32(d, 0), REG32(d, 32)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}

template <int R> __device__ __forceinline__ void hold(float (&d)[R])
{
#pragma unroll
    for (int i = 0; i < R; i++)
        asm volatile("" : "+f"(d[i])::"memory");
}

template <int R> __device__ __forceinline__ void hold(uint32_t (&d)[R])
{
#pragma unroll
    for (int i = 0; i < R; i++)
        asm volatile("" : "+r"(d[i])::"memory");
}

__device__ __forceinline__ void mma_fence(void)
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void mma_commit(void)
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int N> __device__ __forceinline__ void mma_wait(void)
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
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

/* ---- the kernel ---- */

template <int WGS, int BN, int STAGES> struct shape {
    static const int rows = WGS * 64;
    static const int q_bytes = rows * D * 2, kv_bytes = BN * D * 2;
    static const int k_at = q_bytes, v_at = k_at + STAGES * kv_bytes;
    static const int bars_at = v_at + STAGES * kv_bytes;
    static const int bytes = bars_at + (2 + 4 * STAGES) * 8 + 1024; // for the alignment
};

template <int R> __device__ __forceinline__ float row_max(const float (&s)[R], int half)
{
    float a = s[2 * half], b = s[2 * half + 1];

#pragma unroll
    for (int i = 4; i < R; i += 4) {
        a = fmaxf(a, s[i + 2 * half]);
        b = fmaxf(b, s[i + 2 * half + 1]);
    }
    a = fmaxf(a, b);
    a = fmaxf(a, __shfl_xor_sync(~0u, a, 1));
    return fmaxf(a, __shfl_xor_sync(~0u, a, 2));
}

template <int R> __device__ __forceinline__ void mask(float (&s)[R], int first, int keys)
{
#pragma unroll
    for (int i = 0; i < R; i++)
        if (first + (i / 4) * 8 + (i & 1) >= keys)
            s[i] = -INFINITY;
}

/* s = 2^(s * scale - base), sums into l */
template <int R>
__device__ __forceinline__ void exponentials(float (&s)[R], float scale, const float (&base)[2],
                                             float (&l)[2])
{
#pragma unroll
    for (int i = 0; i < R; i += 4) {
        s[i] = exp2_fast(fmaf(s[i], scale, -base[0]));
        s[i + 1] = exp2_fast(fmaf(s[i + 1], scale, -base[0]));
        s[i + 2] = exp2_fast(fmaf(s[i + 2], scale, -base[1]));
        s[i + 3] = exp2_fast(fmaf(s[i + 3], scale, -base[1]));
        l[0] += s[i] + s[i + 1];
        l[1] += s[i + 2] + s[i + 3];
    }
}

/* SAFE: the maximum is followed, and only rows marked bad are done. */
template <int WGS, int BN, int STAGES, bool QREG, bool OVERLAP, bool ORDER, bool EARLY, bool PAIR,
          bool SAFE>
__global__ void __launch_bounds__((WGS + 1) * 128, 1)
    attention_kernel(const __grid_constant__ CUtensorMap q_map,
                     const __grid_constant__ CUtensorMap k_map,
                     const __grid_constant__ CUtensorMap v_map, const struct sizes z)
{
    using at = shape<WGS, BN, STAGES>;
    extern __shared__ uint8_t raw[];
    const uint32_t base = (shared_at(raw) + 1023) & ~1023u;
    const uint32_t q_at = base, k_at = base + at::k_at, v_at = base + at::v_at;
    const uint32_t q_full = base + at::bars_at, q_empty = q_full + 8, k_full = q_full + 16;
    const uint32_t k_empty = k_full + 8 * STAGES, v_full = k_empty + 8 * STAGES;
    const uint32_t v_empty = v_full + 8 * STAGES;
    const int group = __shfl_sync(~0u, threadIdx.x / 128, 0);
    const int n_tiles = (z.sk + BN - 1) / BN, tiles = z.heads * z.q_tiles;

    if (threadIdx.x == 0) {
        bar_init(q_full, 1);
        bar_init(q_empty, WGS * 4);
        for (int i = 0; i < STAGES; i++) {
            bar_init(k_full + 8 * i, 1);
            bar_init(v_full + 8 * i, 1);
            bar_init(k_empty + 8 * i, WGS * (PAIR ? 8 : 4));
            bar_init(v_empty + 8 * i, WGS * (PAIR ? 8 : 4));
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    if (PAIR)
        cluster_sync();
    else
        __syncthreads();

    const uint32_t rank = PAIR ? blockIdx.x % 2 : 0;

    if (group == 0) { // moves tiles into shared memory
        if constexpr (WGS == 2)
            asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        else
            asm volatile("setmaxnreg.dec.sync.aligned.u32 32;");
        if (threadIdx.x == 0) {
            int stage = 0, phase = 1, q_phase = 1, v_stage = 0, v_phase = 1;

            for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
                const int head = tile / z.q_tiles, row = tile % z.q_tiles * at::rows;

                if (SAFE) {
                    bool any = false;

                    for (int i = 0; i < WGS * 4; i++) {
                        const uint2 b = z.bad[tile * (WGS * 4) + i];
                        any |= (b.x | b.y) != 0;
                    }
                    if (!any)
                        continue;
                }
                bar_wait(q_empty, q_phase);
                q_phase ^= 1;
                bar_expect(q_full, at::q_bytes);
                load_tile(q_at, &q_map, q_full, row, head);
                for (int j = 0; j <= n_tiles; j++) {
                    if (j < n_tiles) {
                        bar_wait(k_empty + 8 * stage, phase);
                        bar_expect(k_full + 8 * stage, at::kv_bytes);
                        if (PAIR)
                            load_half(k_at + stage * at::kv_bytes + rank * (at::kv_bytes / 2),
                                      &k_map, k_full + 8 * stage, j * BN, rank, head);
                        else
                            load_tile(k_at + stage * at::kv_bytes, &k_map, k_full + 8 * stage,
                                      j * BN, head);
                        if (++stage == STAGES) {
                            stage = 0;
                            phase ^= 1;
                        }
                    }
                    if (j > 0) {
                        bar_wait(v_empty + 8 * v_stage, v_phase);
                        bar_expect(v_full + 8 * v_stage, at::kv_bytes);
                        if (PAIR)
                            load_half(v_at + v_stage * at::kv_bytes + rank * (at::kv_bytes / 2),
                                      &v_map, v_full + 8 * v_stage, (j - 1) * BN, rank, head);
                        else
                            load_tile(v_at + v_stage * at::kv_bytes, &v_map, v_full + 8 * v_stage,
                                      (j - 1) * BN, head);
                        if (++v_stage == STAGES) {
                            v_stage = 0;
                            v_phase ^= 1;
                        }
                    }
                }
            }
        }
    } else {
        if constexpr (WGS == 2)
            asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
        else
            asm volatile("setmaxnreg.inc.sync.aligned.u32 160;");

        const int wg = group - 1, lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
        const bool first_lane = lane == 0;
        const uint64_t q_desc = descriptor(q_at + wg * 64 * 128, 0);
        const uint64_t k_desc = descriptor(k_at, 0), v_desc = descriptor(v_at, BN * 128);
        int stage = 0, phase = 0, q_phase = 0, v_stage = 0, v_phase = 0;
        float s[BN / 2], o[64];
        uint32_t p[BN / 4], q[QREG ? 32 : 1];

        auto logits = [&]() { // s = q k^T, begun
            const uint64_t kd = k_desc + stage * (at::kv_bytes >> 4);
#pragma unroll
            for (int i = 0; i < D / 16; i++) {
                const uint64_t b = kd + i % 4 * 2 + i / 4 * (BN * 128 >> 4);
                if constexpr (QREG)
                    mma_rs(s, q + 4 * i, b, i > 0);
                else
                    mma_ss(s, q_desc + i % 4 * 2 + i / 4 * (at::rows * 128 >> 4), b, i > 0);
            }
            mma_commit();
        };
        auto values = [&](bool add) { // o += p v, begun
            const uint64_t vd = v_desc + v_stage * (at::kv_bytes >> 4);
#pragma unroll
            for (int i = 0; i < BN / 16; i++)
                mma_values(o, p + 4 * i, vd + i * (16 * 128 >> 4), i > 0 || add);
            mma_commit();
        };
        auto k_done = [&]() {
            if (PAIR) {
                if (lane < 2)
                    bar_arrive_at(k_empty + 8 * stage, lane);
            } else if (first_lane) {
                bar_arrive(k_empty + 8 * stage);
            }
            if (++stage == STAGES) {
                stage = 0;
                phase ^= 1;
            }
        };
        auto v_done = [&]() {
            if (PAIR) {
                if (lane < 2)
                    bar_arrive_at(v_empty + 8 * v_stage, lane);
            } else if (first_lane) {
                bar_arrive(v_empty + 8 * v_stage);
            }
            if (++v_stage == STAGES) {
                v_stage = 0;
                v_phase ^= 1;
            }
        };
        auto shares = [&]() {
#pragma unroll
            for (int i = 0; i < BN / 4; i++)
                p[i] = pack(s[2 * i], s[2 * i + 1]);
        };

        if (ORDER && wg == 0) // the other group's turn comes after ours
            ;
        else if (ORDER)
            named_arrive(1, 256);

        for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
            const int head = tile / z.q_tiles;
            const int row = tile % z.q_tiles * at::rows + wg * 64 + warp * 16 + lane / 4;
            uint2 bad = { ~0u, ~0u };
            float base2[2], l[2] = { 0, 0 };

            if (SAFE) {
                bool any = false;

                for (int i = 0; i < WGS * 4; i++) {
                    const uint2 b = z.bad[tile * (WGS * 4) + i];
                    any |= (b.x | b.y) != 0;
                    if (i == wg * 4 + warp)
                        bad = b;
                }
                if (!any)
                    continue;
            }

            bar_wait(q_full, q_phase);
            q_phase ^= 1;
            if constexpr (QREG) {
                const int r = warp * 16 + lane % 16;
                const uint32_t from = q_at + (wg * 64 + r) * 128;
#pragma unroll
                for (int i = 0; i < D / 16; i++)
                    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                                 : "=r"(q[4 * i]), "=r"(q[4 * i + 1]), "=r"(q[4 * i + 2]),
                                   "=r"(q[4 * i + 3])
                                 : "r"(from + i / 4 * (at::rows * 128) +
                                       ((i % 4 * 2 + lane / 16) ^ (r % 8)) * 16)
                                 : "memory");
                __syncwarp();
                if (first_lane)
                    bar_arrive(q_empty);
            }

            bar_wait(k_full + 8 * stage, phase);
            if (ORDER)
                named_sync(1 + wg, 256);
            hold(s);
            mma_fence();
            logits();
            if (ORDER)
                named_arrive(2 - wg, 256);
            mma_wait<0>();
            hold(s);
            k_done();
            if (z.sk < BN)
                mask(s, lane % 4 * 2, z.sk);
            base2[0] = row_max(s, 0) * z.scale;
            base2[1] = row_max(s, 1) * z.scale;
            exponentials(s, z.scale, base2, l);
            shares();

            for (int j = 1; j < n_tiles; j++) {
                if constexpr (OVERLAP) {
                    if (!EARLY || j == 1)
                        bar_wait(k_full + 8 * stage, phase);
                    if (ORDER)
                        named_sync(1 + wg, 256);
                    hold(s);
                    hold(p);
                    hold(o);
                    mma_fence();
                    logits();
                    bar_wait(v_full + 8 * v_stage, v_phase);
                    values(j > 1);
                    if (ORDER)
                        named_arrive(2 - wg, 256);
                    mma_wait<1>();
                    hold(s);
                    k_done();
                } else {
                    bar_wait(v_full + 8 * v_stage, v_phase);
                    hold(p);
                    hold(o);
                    if (ORDER)
                        named_sync(1 + wg, 256);
                    mma_fence();
                    values(j > 1);
                    mma_wait<0>();
                    hold(o);
                    hold(p);
                    v_done();
                    bar_wait(k_full + 8 * stage, phase);
                    hold(s);
                    mma_fence();
                    logits();
                    if (ORDER)
                        named_arrive(2 - wg, 256);
                    mma_wait<0>();
                    hold(s);
                    k_done();
                }
                if (j == n_tiles - 1 && z.sk % BN != 0)
                    mask(s, j * BN + lane % 4 * 2, z.sk);
                if constexpr (SAFE) {
                    float old[2];

#pragma unroll
                    for (int h = 0; h < 2; h++) {
                        const float top = fmaxf(base2[h], row_max(s, h) * z.scale);

                        // -inf - -inf would be NaN; there is nothing to rescale then
                        old[h] = top == base2[h] ? 1 : exp2_fast(base2[h] - top);
                        base2[h] = top;
                        l[h] *= old[h];
                    }
                    exponentials(s, z.scale, base2, l);
                    if constexpr (OVERLAP) {
                        hold(s);
                        hold(l);
                        if (EARLY && j + 1 < n_tiles)
                            bar_wait(k_full + 8 * stage, phase);
                        mma_wait<0>();
                        hold(o);
                        hold(p);
                        v_done();
                    }
#pragma unroll
                    for (int i = 0; i < 64; i++)
                        o[i] *= old[i / 2 % 2];
                } else {
                    exponentials(s, z.scale, base2, l);
                    if constexpr (OVERLAP) {
                        hold(s);
                        hold(l);
                        if (EARLY && j + 1 < n_tiles)
                            bar_wait(k_full + 8 * stage, phase);
                        mma_wait<0>();
                        hold(o);
                        hold(p);
                        v_done();
                    }
                }
                shares();
            }
            if constexpr (!QREG)
                if (first_lane)
                    bar_arrive(q_empty);
            bar_wait(v_full + 8 * v_stage, v_phase);
            hold(p);
            hold(o);
            mma_fence();
            values(n_tiles > 1);
            mma_wait<0>();
            hold(o);
            v_done();

            __nv_bfloat16 *to = z.out + head * z.out_head;
            uint32_t failed[2];
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int r = row + 8 * h;

                l[h] += __shfl_xor_sync(~0u, l[h], 1);
                l[h] += __shfl_xor_sync(~0u, l[h], 2);

                const float share = 1 / l[h];
                const bool good = SAFE || l[h] < 0x1p100f;

                failed[h] = __ballot_sync(~0u, !good && r < z.sq);
                if (r < z.sq && good && (!SAFE || ((h == 0 ? bad.x : bad.y) >> lane & 1) != 0)) {
#pragma unroll
                    for (int i = 0; i < D / 8; i++)
                        *(uint32_t *)(to + r * z.out_token + i * 8 + lane % 4 * 2) =
                            pack(o[4 * i + 2 * h] * share, o[4 * i + 2 * h + 1] * share);
                    if (z.lse != NULL && lane % 4 == 0)
                        z.lse[(int64_t)r * z.heads + head] =
                            base2[h] * 0.6931471805599453f + logf(l[h]);
                }
            }
            if (!SAFE && first_lane)
                z.bad[tile * (WGS * 4) + wg * 4 + warp] = make_uint2(failed[0], failed[1]);
        }
    }
    if (PAIR)
        cluster_sync();
}

/* t as the copy engine sees it: [heads, 2, tokens, 64], a tile being `rows` tokens of one head. */
static status describe(struct cuda_context *c, CUtensorMap *map, struct tensor t, int rows,
                       int halves)
{
    const cuuint64_t dim[4] = { 64, (cuuint64_t)t.dim[0], 2, (cuuint64_t)t.dim[1] };
    const cuuint64_t stride[3] = { (cuuint64_t)t.stride[0] * 2, 128, (cuuint64_t)t.stride[1] * 2 };
    const cuuint32_t box[4] = { 64, (cuuint32_t)rows, (cuuint32_t)halves, 1 },
                     step[4] = { 1, 1, 1, 1 };
    const CUresult e = ((decltype(&cuTensorMapEncodeTiled))c->encode_tiled)(
        map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, t.data, dim, stride, box, step,
        CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
        CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);

    return e == CUDA_SUCCESS ? ST_OK : fail(ST_DEVICE, "attention: no tensor map (%d)", (int)e);
}

template <int WGS, int BN, int STAGES, bool QREG, bool OVERLAP, bool ORDER, bool EARLY, bool PAIR>
static status launch(struct device *dev, struct tensor out, struct tensor lse, struct tensor q,
                     struct tensor k, struct tensor v, float scale)
{
    using at = shape<WGS, BN, STAGES>;
    using safe = shape<WGS, 128, 2>;
    auto *const kernel =
        attention_kernel<WGS, BN, STAGES, QREG, OVERLAP, ORDER, EARLY, PAIR, false>;
    auto *const again = attention_kernel<WGS, 128, 2, false, WGS == 2, false, false, false, true>;
    struct cuda_context *c;
    CUtensorMap q_map, k_map, v_map;
    struct sizes z = {};

    TRY(cuda_context(dev, &c));
    z.sq = (int)q.dim[0];
    z.sk = (int)k.dim[0];
    z.heads = (int)q.dim[1];
    z.q_tiles = (z.sq + at::rows - 1) / at::rows;
    if (PAIR)
        z.q_tiles = (z.q_tiles + 1) / 2 * 2;
    z.scale = scale * 1.4426950408889634f;
    z.out = (__nv_bfloat16 *)out.data;
    z.out_token = out.stride[0];
    z.out_head = out.stride[1];
    z.lse = (float *)lse.data;
    z.bad = (uint2 *)dev->workspace;

    const int tiles = z.heads * z.q_tiles, grid = min(tiles, c->multiprocessors / 2 * 2);

    TRY(describe(c, &q_map, q, at::rows, 2));
    TRY(describe(c, &k_map, k, BN, PAIR ? 1 : 2));
    TRY(describe(c, &v_map, v, BN, PAIR ? 1 : 2));
    TRY(cuda_check(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, at::bytes),
        "attention"));
    cudaLaunchAttribute pair;
    cudaLaunchConfig_t how = {};

    pair.id = cudaLaunchAttributeClusterDimension;
    pair.val.clusterDim.x = 2;
    pair.val.clusterDim.y = pair.val.clusterDim.z = 1;
    how.gridDim = grid;
    how.blockDim = (WGS + 1) * 128;
    how.dynamicSmemBytes = at::bytes;
    how.stream = cuda_stream(dev);
    how.attrs = &pair;
    how.numAttrs = PAIR;
    TRY(cuda_check(cudaLaunchKernelEx(&how, kernel, q_map, k_map, v_map, z), "attention"));
    TRY(describe(c, &k_map, k, 128, 2));
    TRY(describe(c, &v_map, v, 128, 2));
    TRY(cuda_check(
        cudaFuncSetAttribute(again, cudaFuncAttributeMaxDynamicSharedMemorySize, safe::bytes),
        "attention"));
    again<<<grid, (WGS + 1) * 128, safe::bytes, cuda_stream(dev)>>>(q_map, k_map, v_map, z);
    return cuda_check(cudaGetLastError(), "attention");
}

/* What the copy engine can address. */
static bool aligned(struct tensor t)
{
    return (uintptr_t)t.data % 16 == 0 && t.stride[0] % 8 == 0 && t.stride[1] % 8 == 0;
}

status attention_sm90(struct device *dev, struct tensor out, struct tensor lse, struct tensor q,
                      struct tensor k, struct tensor v, float scale)
{
    const size_t marks = (size_t)((q.dim[0] + 191) / 64 * q.dim[1]) * 4 * sizeof(uint2);

    if (q.dtype != DT_BF16 || q.dim[2] != D || !aligned(q) || !aligned(k) || !aligned(v) ||
        out.stride[0] % 2 != 0 || out.stride[1] % 2 != 0 || marks > dev->table->workspace)
        return attention_f32(dev, out, lse, q, k, v, scale);
    return launch<2, 128, 2, false, true, false, true, false>(dev, out, lse, q, k, v, scale);
}
