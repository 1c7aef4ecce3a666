/* Attention on Hopper's tensor cores: bf16, head sizes 128 and 384.
 *
 * A block has 128 queries of one head, 64 for each of two warpgroups, and walks over the keys in
 * tiles of N. One thread of a third warpgroup copies tiles to shared memory with the TMA. The other
 * two compute, for each tile,
 *
 *     s = q k^T [64, N]    p = 2^(s * scale - base)    o += p v [64, 128]
 *
 * and queue the logits of a tile together with p v of the tile before; the exponentials of the tile
 * are taken while the tensor cores still compute p v. The grid has one block for each
 * multiprocessor; each block computes one tile of queries after the other, in an order in which the
 * tiles of one head run at the same time, so that the head's keys and values stay in the L2 cache.
 *
 * `base` is computed from the maximum of the first tile of keys and then kept. Softmax does not
 * change when a constant is subtracted from all logits of a row, as long as nothing overflows or
 * underflows. So no other tile needs a maximum and o is never rescaled. A row whose sum overflows
 * (a logit about 98 above the maximum of the first tile) is not written but flagged, and a second
 * kernel, which updates the maximum with each tile, computes the flagged rows. Which of the two
 * computes a row depends on that row alone.
 *
 * With head size 384 a block computes 128 of the columns of out, so s is computed three times.
 *
 * q and out are in parts, one for each rank (attention_parts_fn). The thread that loads a tile of q
 * first waits until the head's keys have arrived, and its queries for these rows; rows of output
 * are stored to the memory of the part's GPU, not by the TMA, whose stores cannot begin before a
 * tensor. So queries arrive and outputs leave while other heads are computed.
 *
 * Source of the pipeline: Shah et al. 2024, FlashAttention-3. */
#include "kernels/cuda/attention.h"

#include "kernels/cuda/attention_parts.cuh"
#include "kernels/cuda/plain.h"
#include "kernels/cuda/tensor_map.h"

#include <assert.h>

#define ROWS 128           // queries of a block
#define COLUMNS 128        // of v and out
#define STAGES 2           // tiles of keys, and of values, in shared memory
#define GROUPS 2           // warpgroups that compute
#define THREADS 384        // of these and of the warpgroup that loads
#define WARPS (4 * GROUPS) // that compute, and so release buffers
#define MARGIN 32.0f       // base is the first tile's maximum plus this, in powers of two
#define LARGEST 0x1p110f   // a row whose sum of exponentials is not below has overflowed
#define LN2 0.6931471805599453f

/* Tiles in shared memory consist of halves: 64 columns, so rows of 128 bytes, which the TMA writes
 * and wgmma reads with the 128-byte swizzle. The bytes of `rows` rows of a half. */
#define HALF(rows) ((rows)*128)

struct sizes {
    int sq, sk;
    int heads, slices; // slices: of COLUMNS columns each, of a head
    int q_tiles;       // of one head
    float scale;       // * log2(e)
    float last;        // added to the logits of the last key
    float *lse;
    // rows that overflowed: for each warp a bit for each lane, x for row lane / 4, y for the one 8
    // below
    uint2 *flags;
};

/* Waits until k of a head has arrived, and its q for the tile that starts at `row`. */
__device__ inline void wait_for_head(const struct parts &all, int row, int head)
{
    for (int i = 0; i < all.messages; i++)
        wait_for_flag(all.keys[i].flag, all.keys[i].value + head);
    for (int i = 0; i < all.count; i++) {
        const struct part &p = all.part[i];

        if (p.flag != NULL && row < p.end && row + ROWS > p.first)
            wait_for_flag(p.flag, p.value + head);
    }
    async_proxy_fence_global();
}

/* ---- softmax over a warpgroup's logits: element 4i + 2h + e is in row lane / 4 + 8h of the warp's
 * 16 and column 8i + 2 (lane % 4) + e ---- */

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

/* Sets the logits of keys from `keys` on to -inf, and adds `last` to those of the key before; the
 * tile s starts at key `first`. */
template <int R>
__device__ __forceinline__ void mask(float (&s)[R], int first, int keys, float last)
{
    first += threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < R; i++) {
        const int key = first + (i / 4) * 8 + (i & 1);

        s[i] = key >= keys ? -INFINITY : key == keys - 1 ? s[i] + last : s[i];
    }
}

/* s = 2^(s * scale - base), added to l */
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

/* Shared memory: tiles of q, k, v, then their mbarriers. K: head size, N: keys of a tile. */
template <int K, int N> struct layout {
    static const int q_bytes = ROWS * K * 2, k_bytes = N * K * 2, v_bytes = N * COLUMNS * 2;
    static const int q_tiles = K == 128 ? 2 : 1; // as many as fit into shared memory
    static const int k_at = q_tiles * q_bytes, v_at = k_at + STAGES * k_bytes;
    static const int bars_at = v_at + STAGES * v_bytes;
    static const int bytes = bars_at + (2 * q_tiles + 4 * STAGES) * 8 + 1024; // 1024 to align it
};

/* AGAIN: computes the flagged rows only, and updates the maximum with each tile. */
template <int K, int N, bool AGAIN>
__global__ void __launch_bounds__(THREADS, 1)
    attention_kernel(const __grid_constant__ CUtensorMap q_map,
                     const __grid_constant__ CUtensorMap k_map,
                     const __grid_constant__ CUtensorMap v_map,
                     const __grid_constant__ CUtensorMap out_map,
                     const __grid_constant__ struct parts outs, const struct sizes z)
{
    using in = layout<K, N>;
    extern __shared__ uint8_t raw[];
    const uint32_t start = (shared_address(raw) + 1023) & ~1023u;
    const uint32_t k_at = start + in::k_at, v_at = start + in::v_at;
    const uint32_t q_full = start + in::bars_at, q_empty = q_full + 8 * in::q_tiles;
    const uint32_t k_full = q_empty + 8 * in::q_tiles, k_empty = k_full + 8 * STAGES;
    const uint32_t v_full = k_empty + 8 * STAGES, v_empty = v_full + 8 * STAGES;
    const int group = __shfl_sync(~0u, threadIdx.x / 128, 0);
    const int tiles = z.heads * z.slices * z.q_tiles, k_tiles = (z.sk + N - 1) / N;

    auto flagged = [&](int tile) {
        uint32_t any = 0;

        for (int i = 0; i < WARPS; i++)
            any |= z.flags[tile * WARPS + i].x | z.flags[tile * WARPS + i].y;
        return any != 0;
    };

    if (AGAIN) {
        bool any = false;

        for (int i = blockIdx.x + threadIdx.x * gridDim.x; i < tiles; i += THREADS * gridDim.x)
            any = any || flagged(i);
        if (!__syncthreads_or(any))
            return;
    }
    if (threadIdx.x == 0) {
        for (int i = 0; i < in::q_tiles; i++) {
            mbarrier_init(q_full + 8 * i, 1);
            mbarrier_init(q_empty + 8 * i, WARPS);
        }
        for (int i = 0; i < STAGES; i++) {
            mbarrier_init(k_full + 8 * i, 1);
            mbarrier_init(k_empty + 8 * i, WARPS);
            mbarrier_init(v_full + 8 * i, 1);
            mbarrier_init(v_empty + 8 * i, WARPS);
        }
        mbarrier_init_fence();
    }
    __syncthreads();

    if (group == GROUPS) { // loads
        registers_decrease<24>();
        if (threadIdx.x == GROUPS * 128) {
            ring<in::q_tiles> q = { 0, 1 };
            ring<STAGES> k = { 0, 1 }, v = { 0, 1 };

            for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
                const int head = tile / z.q_tiles / z.slices, slice = tile / z.q_tiles % z.slices;

                if (AGAIN && !flagged(tile))
                    continue;
                mbarrier_wait(q_empty + 8 * q.at, q.parity);
                if (!AGAIN)
                    wait_for_head(outs, tile % z.q_tiles * ROWS, head);
                mbarrier_arrive_expect(q_full + 8 * q.at, in::q_bytes);
                for (int i = 0; i < K / 128; i++)
                    tma_load(start + q.at * in::q_bytes + 2 * i * HALF(ROWS), &q_map,
                             q_full + 8 * q.at, 0, tile % z.q_tiles * ROWS, 2 * i, head);
                q.next();
                for (int j = 0; j <= k_tiles; j++) {
                    if (j < k_tiles) {
                        mbarrier_wait(k_empty + 8 * k.at, k.parity);
                        mbarrier_arrive_expect(k_full + 8 * k.at, in::k_bytes);
                        for (int i = 0; i < K / 128; i++)
                            tma_load(k_at + k.at * in::k_bytes + 2 * i * HALF(N), &k_map,
                                     k_full + 8 * k.at, 0, j * N, 2 * i, head);
                        k.next();
                    }
                    if (j > 0) { // values are needed after the next tile's keys
                        mbarrier_wait(v_empty + 8 * v.at, v.parity);
                        mbarrier_arrive_expect(v_full + 8 * v.at, in::v_bytes);
                        tma_load(v_at + v.at * in::v_bytes, &v_map, v_full + 8 * v.at, 0,
                                 (j - 1) * N, 2 * slice, head);
                        v.next();
                    }
                }
            }
        }
        return;
    }
    registers_increase<240>();

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    ring<in::q_tiles> q = { 0, 0 };
    ring<STAGES> k = { 0, 0 }, v = { 0, 0 };
    uint32_t p[N / 4], unreleased_q = 0; // mbarrier of a q tile whose memory a store still reads
    float s[N / 2], o[COLUMNS / 2];

    auto begin_logits = [&]() {
        const uint64_t a =
            matrix_descriptor(start + q.at * in::q_bytes + group * HALF(64), 128, HALF(8), 0);
        const uint64_t b = matrix_descriptor(k_at + k.at * in::k_bytes, 128, HALF(8), 0);

#pragma unroll
        for (int i = 0; i < K / 16; i++)
            wgmma(s, a + i % 4 * 2 + i / 4 * (HALF(ROWS) >> 4),
                  b + i % 4 * 2 + i / 4 * (HALF(N) >> 4), i > 0);
        wgmma_commit();
    };
    auto end_logits = [&]() {
        register_fence(s);
        if (lane == 0)
            mbarrier_arrive(k_empty + 8 * k.at);
        k.next();
    };
    auto begin_values = [&](bool add) {
        const uint64_t b = matrix_descriptor(v_at + v.at * in::v_bytes, 128, HALF(8), HALF(N));

#pragma unroll
        for (int i = 0; i < N / 16; i++)
            wgmma_transposed(o, p + 4 * i, b + i * (HALF(16) >> 4), i > 0 || add);
        wgmma_commit();
    };
    auto end_values = [&]() {
        wgmma_wait<0>();
        register_fence(o);
        register_fence(p);
        if (lane == 0)
            mbarrier_arrive(v_empty + 8 * v.at);
        v.next();
    };
    auto pack_exponentials = [&]() {
#pragma unroll
        for (int i = 0; i < N / 4; i++)
            p[i] = pack(s[2 * i], s[2 * i + 1]);
    };
    auto release_q = [&]() { // waits for the store
        tma_store_wait_read();
        mbarrier_arrive(unreleased_q);
        unreleased_q = 0;
    };

    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const int head = tile / z.q_tiles / z.slices, slice = tile / z.q_tiles % z.slices;
        const int first = tile % z.q_tiles * ROWS + group * 64 + warp * 16; // the warp's row
        uint2 *const flags = z.flags + tile * WARPS + group * 4 + warp;
        float base[2], l[2] = { 0, 0 };

        if (AGAIN && !flagged(tile))
            continue;
        mbarrier_wait(q_full + 8 * q.at, q.parity);
        mbarrier_wait(k_full + 8 * k.at, k.parity);
        register_fence(s);
        wgmma_fence();
        begin_logits();
        if (in::q_tiles > 1 && unreleased_q != 0)
            release_q();
        wgmma_wait<0>();
        end_logits();
        if (z.sk < N || (z.sk == N && z.last != 0))
            mask(s, 0, z.sk, z.last);
        base[0] = fmaf(row_max(s, 0), z.scale, AGAIN ? 0 : MARGIN);
        base[1] = fmaf(row_max(s, 1), z.scale, AGAIN ? 0 : MARGIN);
        exponentials(s, z.scale, base, l);
        pack_exponentials();
        if (k_tiles > 1)
            mbarrier_wait(k_full + 8 * k.at, k.parity);

        for (int j = 1; j < k_tiles; j++) {
            float old[2];

            register_fence(s);
            register_fence(p);
            register_fence(o);
            wgmma_fence();
            begin_logits();
            mbarrier_wait(v_full + 8 * v.at, v.parity);
            wgmma_fence();
            begin_values(j > 1);
            wgmma_wait<1>();
            end_logits();
            if (j == k_tiles - 1 && (z.sk % N != 0 || z.last != 0))
                mask(s, j * N, z.sk, z.last);
            if (AGAIN)
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    const float top = fmaxf(base[h], row_max(s, h) * z.scale);

                    old[h] = top == base[h] ? 1 : exp2_fast(base[h] - top);
                    base[h] = top;
                    l[h] *= old[h];
                }
            exponentials(s, z.scale, base, l);
            register_fence(s);
            register_fence(l);
            // this wait also ends a basic block: without it the compiler moves the wait of
            // end_values to before the exponentials
            if (j + 1 < k_tiles)
                mbarrier_wait(k_full + 8 * k.at, k.parity);
            end_values();
            if (AGAIN)
#pragma unroll
                for (int i = 0; i < COLUMNS / 2; i++)
                    o[i] *= old[i / 2 % 2];
            pack_exponentials();
        }
        mbarrier_wait(v_full + 8 * v.at, v.parity);
        register_fence(p);
        register_fence(o);
        wgmma_fence();
        begin_values(k_tiles > 1);
        end_values();

        uint2 todo = make_uint2(~0u, ~0u), failed;

        if (AGAIN)
            todo = *flags;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int row = first + lane / 4 + 8 * h;

            l[h] += __shfl_xor_sync(~0u, l[h], 1);
            l[h] += __shfl_xor_sync(~0u, l[h], 2);

            const uint32_t lanes = __ballot_sync(~0u, !AGAIN && !(l[h] < LARGEST) && row < z.sq);

            (h == 0 ? failed.x : failed.y) = lanes;
            (h == 0 ? todo.x : todo.y) &= ~lanes;
            if (z.lse != NULL && slice == 0 && lane % 4 == 0 && row < z.sq &&
                ((h == 0 ? todo.x : todo.y) >> lane & 1) != 0)
                z.lse[(int64_t)row * z.heads + head] =
                    l[h] < 1 ? (base[h] - MARGIN) * LN2 +
                                   logf(l[h] * 0x1p32f) // subtracting MARGIN first loses no digits
                             : base[h] * LN2 + logf(l[h]);
            l[h] = 1 / l[h];
        }
        if (!AGAIN && lane == 0)
            *flags = failed;
        if ((todo.x & todo.y) == ~0u) {
            // all rows: staged in the memory of the q tile, whose 64 rows only this warpgroup reads
            const uint32_t to = start + q.at * in::q_bytes + HALF(group * 64 + warp * 16);
            const int row = lane % 16, half_block = lane / 16;

            named_barrier(1 + group, 128);
#pragma unroll
            for (int i = 0; i < COLUMNS / 8; i += 2)
                store_matrices(to + i / 8 * HALF(ROWS) + row * 128 +
                                   ((i % 8 + half_block) ^ (row % 8)) * 16,
                               pack(o[4 * i] * l[0], o[4 * i + 1] * l[0]),
                               pack(o[4 * i + 2] * l[1], o[4 * i + 3] * l[1]),
                               pack(o[4 * i + 4] * l[0], o[4 * i + 5] * l[0]),
                               pack(o[4 * i + 6] * l[1], o[4 * i + 7] * l[1]));
            async_proxy_fence();
            __syncwarp();
            if (outs.count > 1) {
                store_rows(outs, to, HALF(ROWS), first, z.sq, head);
            } else if (lane == 0) {
                tma_store(&out_map, to, 0, first, 2 * slice, head);
                tma_store(&out_map, to + HALF(ROWS), 0, first, 2 * slice + 1, head);
                tma_store_commit();
            }
        } else {
            named_barrier(1 + group, 128);
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int row = first + lane / 4 + 8 * h;
                int at = 0;

                if (row >= z.sq || ((h == 0 ? todo.x : todo.y) >> lane & 1) == 0)
                    continue;
                while (row >= outs.part[at].end)
                    at++;

                const struct part &p = outs.part[at];
                uint32_t *const to = (uint32_t *)(p.out + (row - p.first) * p.token +
                                                  head * p.head + slice * COLUMNS + lane % 4 * 2);

#pragma unroll
                for (int i = 0; i < COLUMNS / 8; i++)
                    to[4 * i] = pack(o[4 * i + 2 * h] * l[h], o[4 * i + 2 * h + 1] * l[h]);
            }
        }
        if (lane == 0) {
            unreleased_q = q_empty + 8 * q.at;
            if (in::q_tiles == 1)
                release_q();
        }
        q.next();
    }
    if (lane == 0)
        tma_store_wait();
}

/* Describes t [tokens, heads, D] as [heads, D / 64, tokens, 64]; a box has `tokens` tokens and
 * `halves` times 64 columns of one head. */
static status describe(struct cuda_context *c, CUtensorMap *map, struct tensor t, int tokens,
                       int halves)
{
    struct tensor_map m = {};
    const int64_t dim[4] = { 64, t.dim[0], t.dim[2] / 64, t.dim[1] };
    const int64_t stride[4] = { 1, t.stride[0], 64, t.stride[1] };
    const int box[4] = { 64, tokens, halves, 1 };

    m.dtype = DT_BF16;
    m.data = t.data;
    m.rank = 4;
    for (int i = 0; i < 4; i++) {
        m.dim[i] = dim[i];
        m.stride[i] = stride[i];
        m.box[i] = box[i];
        m.step[i] = 1;
    }
    m.l2 = CU_TENSOR_MAP_L2_PROMOTION_L2_256B;
    return tensor_map_encode(c, map, &m, "attention");
}

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
    for (auto *kernel : { attention_kernel<K, N, false>, attention_kernel<K, N, true> }) {
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

/* Whether the TMA can address t. */
static bool is_aligned(struct tensor t)
{
    return (uintptr_t)t.data % 16 == 0 && t.stride[0] % 8 == 0 && t.stride[1] % 8 == 0;
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
