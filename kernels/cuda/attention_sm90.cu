/* Attention on Hopper, bf16, head sizes 128 and 384.
 *
 * A block has 128 queries of one head, 64 to a warpgroup, and walks over the keys in tiles of N.
 * One thread moves tiles into shared memory with the copy engine; a warpgroup multiplies them,
 *
 *     s = q k^T [64, N]    p = 2^(s * scale - base)    o += p v [64, 128]
 *
 * and begins the products of a tile before it takes the exponentials of it, so that the tensor
 * cores go on meanwhile. There is a block a multiprocessor; it does one tile of queries after the
 * other, all tiles of a head running side by side, so that its keys and values stay in the L2.
 *
 * `base` comes from the maximum of the first tile of keys, and stays: a row is the same whatever is
 * taken off all its logits, as long as nothing overflows or vanishes. So no other tile looks for a
 * maximum and o is never rescaled. A row whose sum did overflow (a logit some 98 above the first
 * tile's) is not written but marked, and a second kernel, which follows the maximum, does the
 * marked rows. Which of the two ways a row goes depends on that row alone.
 *
 * With head size 384 a block has 128 of the columns of v, and repeats s.
 *
 * Source of the plan: Shah et al. 2024, FlashAttention-3. */
#include "kernels/cuda/attention.h"

#include "kernels/cuda/context.h"
#include "kernels/cuda/plain.h"

#include <cuda.h>
#include <cuda_bf16.h>

#include <stdint.h>

#define ROWS 128           // queries of a block
#define COLUMNS 128        // of v
#define STAGES 2           // tiles of keys in shared memory
#define GROUPS 2           // warpgroups that compute
#define THREADS 384        // theirs, and as many as one more for the loads
#define WARPS (4 * GROUPS) // that release a tile
#define AHEAD 32.0f        // base is as many powers of two above the first tile's maximum
#define LARGEST 0x1p110f   // sum of exponentials that is taken for sound
#define LN2 0.6931471805599453f

/* Halves of 64 columns, each with rows of 128 bytes: what the copy engine writes with its 128-byte
 * swizzle and the tensor cores read. */
#define HALF(rows) ((rows)*128)

struct sizes {
    int sq, sk;
    int heads, parts; // of q; of the columns of v
    int q_tiles;      // of one head
    float scale;      // * log2(e)
    __nv_bfloat16 *out;
    int64_t out_token, out_head;
    float *lse;
    uint2 *marks; // a bit a lane for each warp's rows: lane / 4, and 8 more
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

    while (!done)
        asm volatile("{\n\t.reg .pred p;\n\t"
                     "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\t"
                     "selp.u32 %0, 1, 0, p;\n\t}"
                     : "=r"(done)
                     : "r"(bar), "r"(parity)
                     : "memory");
}

/* Two halves from column 64 * `half` on. */
__device__ __forceinline__ void load_tile(uint32_t to, const CUtensorMap *map, uint32_t bar,
                                          int token, int half, int head)
{
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(to),
                 "l"(map), "r"(bar), "r"(0), "r"(token), "r"(half), "r"(head)
                 : "memory");
}

/* One half. */
__device__ __forceinline__ void store_tile(const CUtensorMap *map, uint32_t from, int token,
                                           int half, int head)
{
    asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group "
                 "[%0, {%2, %3, %4, %5}], [%1];" ::"l"(map),
                 "r"(from), "r"(0), "r"(token), "r"(half), "r"(head)
                 : "memory");
}

/* A matrix for the tensor cores. `half` is the distance of its halves where they lie along the
 * columns of the product, as those of v do. */
__device__ __forceinline__ uint64_t matrix(uint32_t at, int half)
{
    return (uint64_t)((at & 0x3ffff) >> 4) | (uint64_t)(half >> 4) << 16 | (uint64_t)64 << 32 |
           (uint64_t)1 << 62;
}

#define LIST32                                                                                     \
    "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,"  \
    "%25,%26,%27,%28,%29,%30,%31}"
#define LIST64                                                                                     \
    "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,"  \
    "%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47," \
    "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}"
#define REG8(d, i)                                                                                 \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]),    \
        "+f"(d[i + 6]), "+f"(d[i + 7])
#define REG32(d, i) REG8(d, i), REG8(d, i + 8), REG8(d, i + 16), REG8(d, i + 24)

/* d (+)= a b^T, a [64, 16] and b [2R, 16] in shared memory; queued, like the next */
__device__ __forceinline__ void mma_logits(float (&d)[32], uint64_t a, uint64_t b, int add)
{
    asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %34, 0;\n\t"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " LIST32
                 ", %32, %33, p, 1, 1, 0, 0;\n\t}"
                 : REG32(d, 0)
                 : "l"(a), "l"(b), "r"(add));
}

__device__ __forceinline__ void mma_logits(float (&d)[64], uint64_t a, uint64_t b, int add)
{
    asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %66, 0;\n\t"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " LIST64
                 ", %64, %65, p, 1, 1, 0, 0;\n\t}"
                 : REG32(d, 0), REG32(d, 32)
                 : "l"(a), "l"(b), "r"(add));
}

/* d (+)= a b, a [64, 16] in registers, b [16, 128] in shared memory */
__device__ __forceinline__ void mma_values(float (&d)[64], const uint32_t *a, uint64_t b, int add)
{
    asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %69, 0;\n\t"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " LIST64
                 ", {%64,%65,%66,%67}, %68, p, 1, 1, 1;\n\t}"
                 : REG32(d, 0), REG32(d, 32)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}

/* Registers of queued products: what the compiler has before this stays before it, and after. */
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

template <int N> __device__ __forceinline__ void mma_wait_but(void)
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

/* ---- a warpgroup's products: element 4i + 2h + e is of row lane / 4 + 8h of the warp's 16 and of
 * column 8i + 2 (lane % 4) + e ---- */

template <int R> __device__ __forceinline__ float row_max(const float (&s)[R], int h)
{
    float a = s[2 * h], b = s[2 * h + 1];

#pragma unroll
    for (int i = 4; i < R; i += 4) {
        a = fmaxf(a, s[i + 2 * h]);
        b = fmaxf(b, s[i + 2 * h + 1]);
    }
    a = fmaxf(a, b);
    a = fmaxf(a, __shfl_xor_sync(~0u, a, 1));
    return fmaxf(a, __shfl_xor_sync(~0u, a, 2));
}

/* Columns from `keys` on are -inf; s begins at column `first` but for the lane's share. */
template <int R> __device__ __forceinline__ void mask(float (&s)[R], int first, int keys)
{
    first += threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < R; i++)
        if (first + (i / 4) * 8 + (i & 1) >= keys)
            s[i] = -INFINITY;
}

/* s = 2^(s * scale - base), summed into l */
template <int R>
__device__ __forceinline__ void exponentials(float (&s)[R], float scale, const float (&base)[2],
                                             float (&l)[2])
{
#pragma unroll
    for (int i = 0; i < R; i += 2) {
        const int h = i / 2 % 2;

        s[i] = exp2_fast(fmaf(s[i], scale, -base[h]));
        s[i + 1] = exp2_fast(fmaf(s[i + 1], scale, -base[h]));
        l[h] += s[i] + s[i + 1];
    }
}

/* ---- the kernel ---- */

/* K the head size, N keys to a tile. */
template <int K, int N> struct layout {
    static const int q_bytes = ROWS * K * 2, k_bytes = N * K * 2, v_bytes = N * COLUMNS * 2;
    static const int q_tiles = K == 128 ? 2 : 1; // as many as fit
    static const int k_at = q_tiles * q_bytes, v_at = k_at + STAGES * k_bytes;
    static const int bars_at = v_at + STAGES * v_bytes;
    static const int bytes = bars_at + (2 * q_tiles + 4 * STAGES) * 8 + 1024; // to align it
};

/* Where one is in a ring of buffers: the parity of a barrier's phase that comes next. */
template <int COUNT> struct ring {
    int at, phase;

    __device__ __forceinline__ void next(void)
    {
        if (++at == COUNT) {
            at = 0;
            phase ^= 1;
        }
    }
};

/* AGAIN: the maximum is followed, and only marked rows are done. */
template <int K, int N, bool AGAIN>
__global__ void __launch_bounds__(THREADS, 1)
    attention_kernel(const __grid_constant__ CUtensorMap q_map,
                     const __grid_constant__ CUtensorMap k_map,
                     const __grid_constant__ CUtensorMap v_map,
                     const __grid_constant__ CUtensorMap out_map, const struct sizes z)
{
    using in = layout<K, N>;
    extern __shared__ uint8_t raw[];
    const uint32_t start = (shared_at(raw) + 1023) & ~1023u;
    const uint32_t k_at = start + in::k_at, v_at = start + in::v_at;
    const uint32_t q_full = start + in::bars_at, q_empty = q_full + 8 * in::q_tiles;
    const uint32_t k_full = q_empty + 8 * in::q_tiles, k_empty = k_full + 8 * STAGES;
    const uint32_t v_full = k_empty + 8 * STAGES, v_empty = v_full + 8 * STAGES;
    const int group = __shfl_sync(~0u, threadIdx.x / 128, 0);
    const int tiles = z.heads * z.parts * z.q_tiles, k_tiles = (z.sk + N - 1) / N;

    auto marked = [&](int tile) {
        uint32_t any = 0;

        for (int i = 0; i < WARPS; i++)
            any |= z.marks[tile * WARPS + i].x | z.marks[tile * WARPS + i].y;
        return any != 0;
    };

    if (AGAIN) {
        bool any = false;

        for (int i = blockIdx.x + threadIdx.x * gridDim.x; i < tiles; i += THREADS * gridDim.x)
            any = any || marked(i);
        if (!__syncthreads_or(any))
            return;
    }
    if (threadIdx.x == 0) {
        for (int i = 0; i < in::q_tiles; i++) {
            bar_init(q_full + 8 * i, 1);
            bar_init(q_empty + 8 * i, WARPS);
        }
        for (int i = 0; i < STAGES; i++) {
            bar_init(k_full + 8 * i, 1);
            bar_init(k_empty + 8 * i, WARPS);
            bar_init(v_full + 8 * i, 1);
            bar_init(v_empty + 8 * i, WARPS);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();

    if (group == GROUPS) { // loads
        asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        if (threadIdx.x == GROUPS * 128) {
            ring<in::q_tiles> q = { 0, 1 };
            ring<STAGES> k = { 0, 1 }, v = { 0, 1 };

            for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
                const int head = tile / z.q_tiles / z.parts, part = tile / z.q_tiles % z.parts;

                if (AGAIN && !marked(tile))
                    continue;
                bar_wait(q_empty + 8 * q.at, q.phase);
                bar_expect(q_full + 8 * q.at, in::q_bytes);
                for (int i = 0; i < K / 128; i++)
                    load_tile(start + q.at * in::q_bytes + 2 * i * HALF(ROWS), &q_map,
                              q_full + 8 * q.at, tile % z.q_tiles * ROWS, 2 * i, head);
                q.next();
                for (int j = 0; j <= k_tiles; j++) {
                    if (j < k_tiles) {
                        bar_wait(k_empty + 8 * k.at, k.phase);
                        bar_expect(k_full + 8 * k.at, in::k_bytes);
                        for (int i = 0; i < K / 128; i++)
                            load_tile(k_at + k.at * in::k_bytes + 2 * i * HALF(N), &k_map,
                                      k_full + 8 * k.at, j * N, 2 * i, head);
                        k.next();
                    }
                    if (j > 0) { // needed after the next keys
                        bar_wait(v_empty + 8 * v.at, v.phase);
                        bar_expect(v_full + 8 * v.at, in::v_bytes);
                        load_tile(v_at + v.at * in::v_bytes, &v_map, v_full + 8 * v.at, (j - 1) * N,
                                  2 * part, head);
                        v.next();
                    }
                }
            }
        }
        return;
    }
    asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    ring<in::q_tiles> q = { 0, 0 };
    ring<STAGES> k = { 0, 0 }, v = { 0, 0 };
    uint32_t p[N / 4], lent = 0; // a tile of q whose space a store still reads
    float s[N / 2], o[COLUMNS / 2];

    auto begin_logits = [&]() {
        const uint64_t a = matrix(start + q.at * in::q_bytes + group * HALF(64), 0);
        const uint64_t b = matrix(k_at + k.at * in::k_bytes, 0);

#pragma unroll
        for (int i = 0; i < K / 16; i++)
            mma_logits(s, a + i % 4 * 2 + i / 4 * (HALF(ROWS) >> 4),
                       b + i % 4 * 2 + i / 4 * (HALF(N) >> 4), i > 0);
        mma_commit();
    };
    auto end_logits = [&]() {
        hold(s);
        if (lane == 0)
            bar_arrive(k_empty + 8 * k.at);
        k.next();
    };
    auto begin_values = [&](bool add) {
        const uint64_t b = matrix(v_at + v.at * in::v_bytes, HALF(N));

#pragma unroll
        for (int i = 0; i < N / 16; i++)
            mma_values(o, p + 4 * i, b + i * (HALF(16) >> 4), i > 0 || add);
        mma_commit();
    };
    auto end_values = [&]() {
        mma_wait_but<0>();
        hold(o);
        hold(p);
        if (lane == 0)
            bar_arrive(v_empty + 8 * v.at);
        v.next();
    };
    auto pack_shares = [&]() {
#pragma unroll
        for (int i = 0; i < N / 4; i++)
            p[i] = pack(s[2 * i], s[2 * i + 1]);
    };
    auto return_q = [&]() { // the tile that was lent
        asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
        bar_arrive(lent);
        lent = 0;
    };

    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const int head = tile / z.q_tiles / z.parts, part = tile / z.q_tiles % z.parts;
        const int first = tile % z.q_tiles * ROWS + group * 64 + warp * 16; // the warp's row
        uint2 *const marks = z.marks + tile * WARPS + group * 4 + warp;
        float base[2], l[2] = { 0, 0 };

        if (AGAIN && !marked(tile))
            continue;
        bar_wait(q_full + 8 * q.at, q.phase);
        bar_wait(k_full + 8 * k.at, k.phase);
        hold(s);
        mma_fence();
        begin_logits();
        if (in::q_tiles > 1 && lent != 0)
            return_q();
        mma_wait_but<0>();
        end_logits();
        if (z.sk < N)
            mask(s, 0, z.sk);
        base[0] = fmaf(row_max(s, 0), z.scale, AGAIN ? 0 : AHEAD);
        base[1] = fmaf(row_max(s, 1), z.scale, AGAIN ? 0 : AHEAD);
        exponentials(s, z.scale, base, l);
        pack_shares();
        if (k_tiles > 1)
            bar_wait(k_full + 8 * k.at, k.phase);

        for (int j = 1; j < k_tiles; j++) {
            float old[2];

            hold(s);
            hold(p);
            hold(o);
            mma_fence();
            begin_logits();
            bar_wait(v_full + 8 * v.at, v.phase);
            mma_fence();
            begin_values(j > 1);
            mma_wait_but<1>();
            end_logits();
            if (j == k_tiles - 1 && z.sk % N != 0)
                mask(s, j * N, z.sk);
            if (AGAIN)
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    const float top = fmaxf(base[h], row_max(s, h) * z.scale);

                    old[h] = top == base[h] ? 1 : exp2_fast(base[h] - top);
                    base[h] = top;
                    l[h] *= old[h];
                }
            exponentials(s, z.scale, base, l);
            hold(s);
            hold(l);
            // also the block boundary that keeps the compiler from waiting before the exponentials
            if (j + 1 < k_tiles)
                bar_wait(k_full + 8 * k.at, k.phase);
            end_values();
            if (AGAIN)
#pragma unroll
                for (int i = 0; i < COLUMNS / 2; i++)
                    o[i] *= old[i / 2 % 2];
            pack_shares();
        }
        bar_wait(v_full + 8 * v.at, v.phase);
        hold(p);
        hold(o);
        mma_fence();
        begin_values(k_tiles > 1);
        end_values();

        uint2 todo = make_uint2(~0u, ~0u), failed;

        if (AGAIN)
            todo = *marks;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int row = first + lane / 4 + 8 * h;

            l[h] += __shfl_xor_sync(~0u, l[h], 1);
            l[h] += __shfl_xor_sync(~0u, l[h], 2);

            const uint32_t lanes = __ballot_sync(~0u, !AGAIN && !(l[h] < LARGEST) && row < z.sq);

            (h == 0 ? failed.x : failed.y) = lanes;
            (h == 0 ? todo.x : todo.y) &= ~lanes;
            if (z.lse != NULL && part == 0 && lane % 4 == 0 && row < z.sq &&
                ((h == 0 ? todo.x : todo.y) >> lane & 1) != 0)
                z.lse[(int64_t)row * z.heads + head] =
                    l[h] < 1
                        ? (base[h] - AHEAD) * LN2 + logf(l[h] * 0x1p32f) // no digits lost to AHEAD
                        : base[h] * LN2 + logf(l[h]);
            l[h] = 1 / l[h];
        }
        if (!AGAIN && lane == 0)
            *marks = failed;
        if ((todo.x & todo.y) ==
            ~0u) { // through the space of q, of which this warp has had its own
            const uint32_t to = start + q.at * in::q_bytes + HALF(group * 64 + warp * 16);
            const int row = lane % 16, half_block = lane / 16;

            asm volatile("bar.sync %0, 128;" ::"r"(1 + group) : "memory");
#pragma unroll
            for (int i = 0; i < COLUMNS / 8; i += 2)
                asm volatile(
                    "stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                        to + i / 8 * HALF(ROWS) + row * 128 +
                        ((i % 8 + half_block) ^ (row % 8)) * 16),
                    "r"(pack(o[4 * i] * l[0], o[4 * i + 1] * l[0])),
                    "r"(pack(o[4 * i + 2] * l[1], o[4 * i + 3] * l[1])),
                    "r"(pack(o[4 * i + 4] * l[0], o[4 * i + 5] * l[0])),
                    "r"(pack(o[4 * i + 6] * l[1], o[4 * i + 7] * l[1]))
                    : "memory");
            asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
            __syncwarp();
            if (lane == 0) {
                store_tile(&out_map, to, first, 2 * part, head);
                store_tile(&out_map, to + HALF(ROWS), first, 2 * part + 1, head);
                asm volatile("cp.async.bulk.commit_group;" ::: "memory");
            }
        } else {
            asm volatile("bar.sync %0, 128;" ::"r"(1 + group) : "memory");
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int row = first + lane / 4 + 8 * h;
                uint32_t *const to = (uint32_t *)(z.out + row * z.out_token + head * z.out_head +
                                                  part * COLUMNS + lane % 4 * 2);

                if (row < z.sq && ((h == 0 ? todo.x : todo.y) >> lane & 1) != 0)
#pragma unroll
                    for (int i = 0; i < COLUMNS / 8; i++)
                        to[4 * i] = pack(o[4 * i + 2 * h] * l[h], o[4 * i + 2 * h + 1] * l[h]);
            }
        }
        if (lane == 0) {
            lent = q_empty + 8 * q.at;
            if (in::q_tiles == 1)
                return_q();
        }
        q.next();
    }
    if (lane == 0)
        asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

/* t as the copy engine sees it: [heads, halves, tokens, 64], and pieces of it. */
static status describe(struct cuda_context *c, CUtensorMap *map, struct tensor t, int tokens,
                       int halves)
{
    const cuuint64_t dim[4] = { 64, (cuuint64_t)t.dim[0], (cuuint64_t)t.dim[2] / 64,
                                (cuuint64_t)t.dim[1] };
    const cuuint64_t stride[3] = { (cuuint64_t)t.stride[0] * 2, 128, (cuuint64_t)t.stride[1] * 2 };
    const cuuint32_t box[4] = { 64, (cuuint32_t)tokens, (cuuint32_t)halves, 1 };
    const cuuint32_t step[4] = { 1, 1, 1, 1 };
    const CUresult e = ((decltype(&cuTensorMapEncodeTiled))c->encode_tiled)(
        map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, t.data, dim, stride, box, step,
        CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
        CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);

    return e == CUDA_SUCCESS ? ST_OK : fail(ST_DEVICE, "attention: no tensor map (%d)", (int)e);
}

template <int K, int N>
static status launch(struct device *dev, struct tensor out, struct tensor lse, struct tensor q,
                     struct tensor k, struct tensor v, float scale)
{
    const int bytes = layout<K, N>::bytes;
    struct cuda_context *c;
    CUtensorMap q_map, k_map, v_map, out_map;
    struct sizes z = {};

    TRY(cuda_context(dev, &c));
    z.sq = (int)q.dim[0];
    z.sk = (int)k.dim[0];
    z.heads = (int)q.dim[1];
    z.parts = K / COLUMNS;
    z.q_tiles = (z.sq + ROWS - 1) / ROWS;
    z.scale = scale * 1.4426950408889634f;
    z.out = (__nv_bfloat16 *)out.data;
    z.out_token = out.stride[0];
    z.out_head = out.stride[1];
    z.lse = (float *)lse.data;
    z.marks = (uint2 *)dev->workspace;
    TRY(describe(c, &q_map, q, ROWS, 2));
    TRY(describe(c, &k_map, k, N, 2));
    TRY(describe(c, &v_map, v, N, 2));
    TRY(describe(c, &out_map, out, 16, 1));
    for (auto *kernel : { attention_kernel<K, N, false>, attention_kernel<K, N, true> }) {
        TRY(cuda_check(
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
            "attention"));
        kernel<<<min(z.heads * z.parts * z.q_tiles, c->multiprocessors), THREADS, bytes,
                 cuda_stream(dev)>>>(q_map, k_map, v_map, out_map, z);
        TRY(cuda_check(cudaGetLastError(), "attention"));
    }
    device_cuda_written(dev->stream, out);
    return ST_OK;
}

/* What the copy engine can address. */
static bool aligned(struct tensor t)
{
    return (uintptr_t)t.data % 16 == 0 && t.stride[0] % 8 == 0 && t.stride[1] % 8 == 0;
}

status attention_sm90(struct device *dev, struct tensor out, struct tensor lse, struct tensor q,
                      struct tensor k, struct tensor v, float scale)
{
    const int64_t tiles = (q.dim[0] + ROWS - 1) / ROWS * q.dim[1] * (q.dim[2] / COLUMNS);
    const size_t marks = (size_t)tiles * WARPS * sizeof(uint2);

    if (q.dtype != DT_BF16 || !aligned(q) || !aligned(k) || !aligned(v) || !aligned(out))
        return attention_f32(dev, out, lse, q, k, v, scale);
    if (q.dim[2] == 128 && marks <= dev->table->workspace)
        return launch<128, 128>(dev, out, lse, q, k, v, scale);
    if (q.dim[2] == 384 && marks + tensor_bytes(q) <= dev->table->workspace) {
        struct tensor to = out;

        if (out.data == q.data) // the other columns' blocks still read it
            to = tensor_dims((char *)dev->workspace + (marks + 255) / 256 * 256, DT_BF16, 3, q.dim);
        TRY((launch<384, 64>(dev, to, lse, q, k, v, scale)));
        return out.data == q.data ? dev->table->copy(dev, out, to) : ST_OK;
    }
    return attention_f32(dev, out, lse, q, k, v, scale);
}
