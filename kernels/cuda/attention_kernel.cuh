/* attention_kernel.cuh - attention on Hopper's tensor cores: bf16, head sizes 128 and 384.
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
 * Source of the pipeline: Shah et al. 2024, FlashAttention-3.
 *
 * VISIT_LISTS: of the keys, those of the tiles in a list (op_sparse_attention), in pieces of up to
 * 64 adjacent rows, two in a tile of N = 128 (attention_lists.cuh). */
#ifndef KERNELS_CUDA_ATTENTION_KERNEL_CUH
#define KERNELS_CUDA_ATTENTION_KERNEL_CUH

#include "kernels/cuda/attention_lists.cuh"
#include "kernels/cuda/attention_parts.cuh"
#include "kernels/cuda/tensor_map.h"

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
    struct list_view lists; // only of VISIT_LISTS
};

/* The keys of a tile of queries: all of them, or those in its list. */
enum visit { VISIT_ALL, VISIT_LISTS };

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

/* Sets the logits of the keys of two pieces of 64 to -inf, from rows % 256 of the first on, and
 * from rows / 256 of the second on. */
template <int R> __device__ __forceinline__ void mask_pieces(float (&s)[R], uint32_t rows)
{
    const uint32_t first = threadIdx.x % 4 * 2;

#pragma unroll
    for (int i = 0; i < R; i++)
        if (first + i / 4 % 8 * 8 + (i & 1) >= (i < R / 2 ? rows % 256 : rows / 256))
            s[i] = -INFINITY;
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

/* The end of a warpgroup's rows of q. A macro: with a variable or a function the compiler orders
 * the instructions of the dense kernel in another way. */
#define Q_END (VISIT == VISIT_LISTS ? listed.y : z.sq)

/* Shared memory: tiles of q, k, v, then their mbarriers. K: head size, N: keys of a tile. */
template <int K, int N> struct layout {
    static const int q_bytes = ROWS * K * 2, k_bytes = N * K * 2, v_bytes = N * COLUMNS * 2;
    static const int q_tiles = K == 128 ? 2 : 1; // as many as fit into shared memory
    static const int k_at = q_tiles * q_bytes, v_at = k_at + STAGES * k_bytes;
    static const int bars_at = v_at + STAGES * v_bytes;
    static const int step_at = bars_at + (2 * q_tiles + 4 * STAGES) * 8; // only of VISIT_LISTS
    static const int bytes = step_at + STAGES * GROUPS * 4 + 1024;       // 1024 to align it
};

/* AGAIN: computes the flagged rows only, and updates the maximum with each tile. */
template <int K, int N, bool AGAIN, enum visit VISIT>
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
    const uint32_t step_at = start + in::step_at;
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
            // queues the two pieces of 64 rows of a step, of keys or values
            auto load_pieces = [&](const CUtensorMap *map, uint32_t to, uint32_t full, int head,
                                   int first, int second) {
                mbarrier_arrive_expect(full, in::k_bytes);
                for (int i = 0; i < 2; i++) {
                    tma_load(to + i * HALF(N), map, full, 0, first, i, head);
                    tma_load(to + i * HALF(N) + HALF(64), map, full, 0, second, i, head);
                }
            };
            auto load_values = [&](int head, int first, int second) {
                mbarrier_wait(v_empty + 8 * v.at, v.parity);
                load_pieces(&v_map, v_at + v.at * in::v_bytes, v_full + 8 * v.at, head, first,
                            second);
                v.next();
            };
            auto load_lists = [&](int head, int q_tile) {
                struct walk walk(z.lists, head, q_tile);
                struct piece next, first = {}, second = {};
                bool more = walk.next(next);

                load_pieces(&q_map, start + q.at * in::q_bytes, q_full + 8 * q.at, head,
                            rows_of(z.lists, q_tile, 0).x, rows_of(z.lists, q_tile, 1).x);
                q.next();
                for (int j = 0; more; j++) {
                    const struct piece last_first = first, last_second = second;

                    first = next;
                    second.first = first.first; // loaded, but not used
                    second.rows = 0;
                    if (walk.next(second))
                        more = walk.next(next);
                    else
                        more = false;
                    mbarrier_wait(k_empty + 8 * k.at, k.parity);
                    for (int i = 0; i < GROUPS; i++)
                        store_shared(step_at + (k.at * GROUPS + i) * 4,
                                     first.rows_for(i) | second.rows_for(i) << 8 | !more << 16);
                    load_pieces(&k_map, k_at + k.at * in::k_bytes, k_full + 8 * k.at, head,
                                first.first, second.first);
                    k.next();
                    if (j > 0)
                        load_values(head, last_first.first, last_second.first);
                }
                load_values(head, first.first, second.first);
            };

            for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
                const int head = tile / z.q_tiles / z.slices, slice = tile / z.q_tiles % z.slices;

                if (AGAIN && !flagged(tile))
                    continue;
                mbarrier_wait(q_empty + 8 * q.at, q.parity);
                if constexpr (VISIT == VISIT_LISTS) {
                    load_lists(head, tile % z.q_tiles);
                    continue;
                }
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
    uint32_t step = 0; // VISIT_LISTS: rows of the two pieces of keys, and whether they are the last
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

    auto rows_of_list = [&](int q_tile) {
        if constexpr (VISIT == VISIT_LISTS)
            return rows_of(z.lists, q_tile, group);
        else
            return make_int2(0, 0);
    };
    auto begin_step = [&]() {
        if constexpr (VISIT == VISIT_LISTS)
            step = load_shared(step_at + (k.at * GROUPS + group) * 4);
    };
    auto has_step = [&](int j) {
        if constexpr (VISIT == VISIT_LISTS)
            return step >> 16 == 0;
        else
            return j < k_tiles;
    };

    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const int head = tile / z.q_tiles / z.slices, slice = tile / z.q_tiles % z.slices;
        const int2 listed = rows_of_list(tile % z.q_tiles); // VISIT_LISTS: the warpgroup's rows
        const int first = VISIT == VISIT_LISTS ? listed.x + warp * 16 // the warp's row
                                               : tile % z.q_tiles * ROWS + group * 64 + warp * 16;
        uint2 *const flags = z.flags + tile * WARPS + group * 4 + warp;
        float base[2], l[2] = { 0, 0 };

        if (AGAIN && !flagged(tile))
            continue;
        mbarrier_wait(q_full + 8 * q.at, q.parity);
        mbarrier_wait(k_full + 8 * k.at, k.parity);
        begin_step();
        register_fence(s);
        wgmma_fence();
        begin_logits();
        if (in::q_tiles > 1 && unreleased_q != 0)
            release_q();
        wgmma_wait<0>();
        end_logits();
        if (VISIT == VISIT_LISTS) {
            if (step % 65536 != 64 * 257)
                mask_pieces(s, step % 65536);
        } else if (z.sk < N || (z.sk == N && z.last != 0)) {
            mask(s, 0, z.sk, z.last);
        }
        base[0] = fmaf(row_max(s, 0), z.scale, AGAIN ? 0 : MARGIN);
        base[1] = fmaf(row_max(s, 1), z.scale, AGAIN ? 0 : MARGIN);
        exponentials(s, z.scale, base, l);
        pack_exponentials();
        if (has_step(1))
            mbarrier_wait(k_full + 8 * k.at, k.parity);

        const bool add = has_step(1); // to what the last product finds in o

        for (int j = 1; has_step(j); j++) {
            float old[2];

            begin_step();

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
            if (VISIT == VISIT_LISTS) {
                if (step % 65536 != 64 * 257)
                    mask_pieces(s, step % 65536);
            } else if (j == k_tiles - 1 && (z.sk % N != 0 || z.last != 0)) {
                mask(s, j * N, z.sk, z.last);
            }
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
            if (has_step(j + 1))
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
        begin_values(add);
        end_values();

        uint2 todo = make_uint2(~0u, ~0u), failed;

        if (AGAIN)
            todo = *flags;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int row = first + lane / 4 + 8 * h;

            l[h] += __shfl_xor_sync(~0u, l[h], 1);
            l[h] += __shfl_xor_sync(~0u, l[h], 2);

            const uint32_t lanes = __ballot_sync(~0u, !AGAIN && !(l[h] < LARGEST) && row < Q_END);

            (h == 0 ? failed.x : failed.y) = lanes;
            (h == 0 ? todo.x : todo.y) &= ~lanes;
            if (z.lse != NULL && slice == 0 && lane % 4 == 0 && row < Q_END &&
                ((h == 0 ? todo.x : todo.y) >> lane & 1) != 0)
                z.lse[(int64_t)row * z.heads + head] =
                    l[h] < 1 ? (base[h] - MARGIN) * LN2 +
                                   logf(l[h] * 0x1p32f) // subtracting MARGIN first loses no digits
                             : base[h] * LN2 + logf(l[h]);
            l[h] = 1 / l[h];
        }
        if (!AGAIN && lane == 0)
            *flags = failed;
        if ((todo.x & todo.y) == ~0u && (VISIT == VISIT_ALL || first + 16 <= listed.y)) {
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

                if (row >= Q_END || ((h == 0 ? todo.x : todo.y) >> lane & 1) == 0)
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

#undef Q_END

/* Whether the TMA can address t. */
static bool is_aligned(struct tensor t)
{
    return (uintptr_t)t.data % 16 == 0 && t.stride[0] % 8 == 0 && t.stride[1] % 8 == 0;
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

#endif
