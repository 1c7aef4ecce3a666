/* Attention in 8-bit integers on Hopper's tensor cores, head size 128 (op_attention8).
 *
 * As in attention_sm90.cu, a block has 128 queries of one head, 64 for each of two warpgroups, a
 * third warpgroup copies tiles to shared memory, and the grid has one block for each
 * multiprocessor. For each tile of KEYS keys a warpgroup computes
 *
 *     s = q8 k8^T [64, KEYS]    p8 = round(255 * 2^(s * scales - ref))    t = p8 v8 [64, 128]
 *     o = o * 2^(last ref - ref) + t
 *
 * with s and t in 32-bit integers, which are exact, and ref the largest logit of a row in this tile
 * (not less than FAR below that of all tiles so far). So p8 uses all of its 8 bits in each tile,
 * and o is in units of the last tile.
 *
 * Exponentials are as long as both products (the units that compute them take 16 a cycle), so
 * nearly every other instruction of the loop costs time. These are avoided:
 *
 *   - conversions of s to float: the product adds s to registers that have the bits of 1.5 * 2^23
 *     (MAGIC), which gives the float 1.5 * 2^23 + s. They are set by loads of 16 bytes.
 *   - conversions of t: v8 is stored as v8 + 128, so t is in [0, 2^24), and the bits of such an
 *     integer are the float t * 2^-149, as floats below 2^-125 are evenly spaced. o has that unit;
 *     it has 128 times the sum of p, in the units of its tiles, too much.
 *   - a comparison for each logit: the maximum of three integers is one instruction.
 *   - shuffles: keys lie in v8 in the order in which a thread has their p8 (quantize_v).
 *   - the sum of p: dp4a adds four bytes.
 *
 * The warpgroups take turns: one computes exponentials while the other waits for p v, adds it to o,
 * and queues its next logits.
 *
 * Sources: Zhang et al. 2024, SageAttention2 (integers, scales by thread, the mean of the keys);
 * Shah et al. 2024, FlashAttention-3 (the pipeline). */
#include "kernels/cuda/attention.h"

#include "kernels/cuda/attention8.h"
#include "kernels/cuda/attention_parts.cuh"
#include "kernels/cuda/hopper_s8.cuh"
#include "kernels/cuda/tensor_map.h"

#include <assert.h>

#define DEPTH 128 // of a head; also the bytes of a row of q, k and v in shared memory
#define KEYS ATTENTION8_KEYS
#define BLOCKS (KEYS / 128)
#define ROWS 128           // queries of a block
#define STAGES 2           // tiles of q, of k and of v in shared memory
#define GROUPS 2           // warpgroups that compute
#define THREADS 384        // of these and of the warpgroup that loads
#define WARPS (4 * GROUPS) // that compute, and so release buffers
#define TURN 3             // named barrier of the first group's turn; the next is the second's
#define LN2 0.6931471805599453f
#define LOG255 7.994353436858858f // log2
#define FAR 30.0f                 // powers of two
#define MAGIC 0x4b400000          // the bits of MAGIC_VALUE
#define MAGIC_VALUE 0x1.8p23f

struct sizes {
    int sq, sk, keys; // keys: sk rounded up to whole tiles
    int heads, first; // heads of this launch, and the first one's index in out
    int q_tiles;      // of one head
    int out_heads;
    const float *q_scale, *q_mean, *tile, *channel; // as in struct quantized
    float *lse;
};

/* Four numbers in [0, 255], rounded to integers, as bytes: two instructions. */
__device__ __forceinline__ uint32_t pack_bytes(float a, float b, float c, float d)
{
    uint32_t high, all;

    asm("{\n.reg .s32 a, b;\ncvt.rni.s32.f32 a, %1;\ncvt.rni.s32.f32 b, %2;\n"
        "cvt.pack.sat.u8.s32.b32 %0, b, a, 0;\n}\n"
        : "=r"(high)
        : "f"(c), "f"(d));
    asm("{\n.reg .s32 a, b;\ncvt.rni.s32.f32 a, %1;\ncvt.rni.s32.f32 b, %2;\n"
        "cvt.pack.sat.u8.s32.b32 %0, b, a, %3;\n}\n"
        : "=r"(all)
        : "f"(a), "f"(b), "r"(high));
    return all;
}

/* Describes rows of 128 bytes to wgmma; `low` is shared_bits of their address. */
__device__ __forceinline__ uint64_t rows_descriptor(uint32_t low)
{
    return (uint64_t)0x40000040 << 32 | low; // swizzle of 128 bytes, 1024 bytes from 8 rows to 8
}

__device__ __forceinline__ uint32_t shared_bits(uint32_t address)
{
    return (address & 0x3ffff) >> 4;
}

/* Sets s to MAGIC, of which four are at `at` in shared memory. Volatile, because the compiler would
 * load once and copy registers. */
__device__ __forceinline__ void preset(int32_t (&s)[KEYS / 2], uint32_t at)
{
#pragma unroll
    for (int i = 0; i < KEYS / 2; i += 4)
        asm volatile("ld.volatile.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(s[i]), "=r"(s[i + 1]), "=r"(s[i + 2]), "=r"(s[i + 3])
                     : "r"(at)
                     : "memory");
}

/* ---- over a warpgroup's logits: element 4i + 2h + e is in row lane / 4 + 8h of the warp's 16 and
 * column 8i + 2 (lane % 4) + e ---- */

/* The largest of row h in 128 keys, elements 64 b on, as bits. */
__device__ __forceinline__ int row_max(const int32_t (&s)[KEYS / 2], int b, int h)
{
    int x = s[64 * b + 2 * h], y = s[64 * b + 4 + 2 * h];

    x = max(x, s[64 * b + 2 * h + 1]);
    y = max(y, s[64 * b + 4 + 2 * h + 1]);
#pragma unroll
    for (int i = 8; i < 64; i += 8) {
        x = __vimax3_s32(x, s[64 * b + i + 2 * h], s[64 * b + i + 2 * h + 1]);
        y = __vimax3_s32(y, s[64 * b + i + 4 + 2 * h], s[64 * b + i + 4 + 2 * h + 1]);
    }
    return max(x, y);
}

/* Sets the logits of keys from `left` on to less than any other. */
__device__ __forceinline__ void mask(int32_t (&s)[KEYS / 2], int left)
{
#pragma unroll
    for (int i = 0; i < KEYS / 2; i++)
        if (i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2 >= left)
            s[i] = -(1 << 30);
}

/* The bytes of p: register i has, of row i % 2, the keys of elements e, e + 1, e + 4 and e + 5 with
 * e as here, which is the order of the first operand of wgmma. */
__device__ __forceinline__ constexpr int first_element(int i)
{
    return i / 4 * 16 + i / 2 % 2 * 8 + i % 2 * 2;
}

/* Sets the bytes of keys from `left` on to 0. */
__device__ __forceinline__ void mask_bytes(uint32_t (&p)[KEYS / 8], int left)
{
#pragma unroll
    for (int i = 0; i < KEYS / 8; i++)
#pragma unroll
        for (int c = 0; c < 4; c++)
            if (first_element(i) / 4 * 8 + c / 2 * 8 + threadIdx.x % 4 * 2 + c % 2 >= left)
                p[i] &= ~(0xffu << 8 * c);
}

/* ---- the kernel ---- */

/* Shared memory: tiles of q, k, v, the output, MAGIC, then mbarriers. */
enum {
    Q_BYTES = ROWS * DEPTH,
    KV_BYTES = KEYS * DEPTH,
    K_AT = STAGES * Q_BYTES,
    V_AT = K_AT + STAGES * KV_BYTES,
    OUT_AT = V_AT + STAGES * KV_BYTES,
    MAGIC_AT = OUT_AT + ROWS * DEPTH * 2,
    BARS_AT = MAGIC_AT + 16,
    SHARED_BYTES = BARS_AT + 6 * STAGES * 8 + 1024 // 1024 to align it
};

__global__ void __launch_bounds__(THREADS, 1)
    attention8_kernel(const __grid_constant__ CUtensorMap q_map,
                      const __grid_constant__ CUtensorMap k_map,
                      const __grid_constant__ CUtensorMap v_map,
                      const __grid_constant__ CUtensorMap out_map,
                      const __grid_constant__ struct parts outs, const struct sizes z)
{
    extern __shared__ uint8_t raw[];
    const uint32_t start = (shared_address(raw) + 1023) & ~1023u;
    const uint32_t k_at = start + K_AT, v_at = start + V_AT;
    const uint32_t q_full = start + BARS_AT, q_empty = q_full + 8 * STAGES;
    const uint32_t k_full = q_empty + 8 * STAGES, k_empty = k_full + 8 * STAGES;
    const uint32_t v_full = k_empty + 8 * STAGES, v_empty = v_full + 8 * STAGES;
    const int group = __shfl_sync(~0u, threadIdx.x / 128, 0);
    const int tiles = z.heads * z.q_tiles, k_tiles = z.keys / KEYS;

    if (threadIdx.x < 4)
        asm volatile("st.shared.b32 [%0], %1;" ::"r"(start + MAGIC_AT + 4 * threadIdx.x), "r"(MAGIC)
                     : "memory");
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            mbarrier_init(q_full + 8 * i, 1);
            mbarrier_init(q_empty + 8 * i, WARPS);
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
            ring<STAGES> q = { 0, 1 }, k = { 0, 1 }, v = { 0, 1 };

            for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
                const int head = tile / z.q_tiles;

                mbarrier_wait(q_empty + 8 * q.at, q.parity);
                mbarrier_arrive_expect(q_full + 8 * q.at, Q_BYTES);
                tma_load(start + q.at * Q_BYTES, &q_map, q_full + 8 * q.at, 0,
                         tile % z.q_tiles * ROWS, head);
                q.next();
                for (int j = 0; j <= k_tiles; j++) {
                    if (j < k_tiles) {
                        mbarrier_wait(k_empty + 8 * k.at, k.parity);
                        mbarrier_arrive_expect(k_full + 8 * k.at, KV_BYTES);
                        tma_load(k_at + k.at * KV_BYTES, &k_map, k_full + 8 * k.at, 0, j * KEYS,
                                 head);
                        k.next();
                    }
                    if (j > 0) { // values are needed after the next tile's keys
                        mbarrier_wait(v_empty + 8 * v.at, v.parity);
                        mbarrier_arrive_expect(v_full + 8 * v.at, KV_BYTES);
                        tma_load(v_at + v.at * KV_BYTES, &v_map, v_full + 8 * v.at, 0,
                                 (j - 1) * KEYS, head);
                        v.next();
                    }
                }
            }
        }
        return;
    }
    registers_increase<240>();

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    const uint32_t q_bits = shared_bits(start + group * 64 * DEPTH);
    const uint32_t k_bits = shared_bits(k_at), v_bits = shared_bits(v_at);
    ring<STAGES> q = { 0, 0 }, k = { 0, 0 }, v = { 0, 0 };
    int32_t s[KEYS / 2], t[DEPTH / 2];
    uint32_t p[KEYS / 8];
    float o[DEPTH / 2];
    // of the thread's two rows: scale of q, ref (in powers of two), the largest logit so far, the
    // factor from the last tile's unit of o to this one's, the sum of p in powers of two, and in
    // the unit of o
    float q_scale[2], ref[2], top[2], change[2], l[2], m[2];
    float v_scale; // of the last tile
    float coef[2][BLOCKS], bias[2][BLOCKS];
    bool turn = false; // this group's turn has begun

    auto begin_logits = [&]() {
        const uint32_t a = q_bits + q.at * (Q_BYTES >> 4), b = k_bits + k.at * (KV_BYTES >> 4);

#pragma unroll
        for (int i = 0; i < DEPTH / 32; i++)
            wgmma_s8(s, rows_descriptor(a + i * 2), rows_descriptor(b + i * 2), 1);
        wgmma_commit();
    };
    auto begin_values = [&]() {
        const uint32_t b = v_bits + v.at * (KV_BYTES >> 4);

#pragma unroll
        for (int i = 0; i < KEYS / 32; i++)
            wgmma_u8(t, p + 4 * i, rows_descriptor(b + i / 4 * (128 * DEPTH >> 4) + i % 4 * 2),
                     i > 0);
        wgmma_commit();
    };
    // waits for the logits of a tile and sets what its exponentials need; left: number of keys from
    // the tile's first on
    auto end_logits = [&](const float(&k_scale)[BLOCKS], float2 of_v, int left) {
        wgmma_wait<0>();
        register_fence(s);
        __syncwarp();
        if (lane == 0)
            mbarrier_arrive(k_empty + 8 * k.at);
        k.next();
        if (left < KEYS)
            mask(s, left);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float most = -INFINITY;

#pragma unroll
            for (int b = 0; b < BLOCKS; b++) {
                coef[h][b] = q_scale[h] * k_scale[b];
                most = fmaxf(most, (__int_as_float(row_max(s, b, h)) - MAGIC_VALUE) * coef[h][b]);
            }
            most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
            most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
            top[h] = fmaxf(top[h], most);

            const float next = fmaxf(most, top[h] - FAR);
            const float by = exp2_fast(ref[h] - next);

            ref[h] = next;
            l[h] *= by;
            change[h] = by * (v_scale * of_v.y);
#pragma unroll
            for (int b = 0; b < BLOCKS; b++)
                bias[h][b] = fmaf(coef[h][b], -MAGIC_VALUE, LOG255 - next);
        }
        v_scale = of_v.x;
    };
    auto exponential = [&](int i) {
        const int h = i / 2 % 2, b = i / 64;

        return exp2_fast(fmaf(__int_as_float(s[i]), coef[h][b], bias[h][b]));
    };
    auto make_p = [&](int left) {
        uint32_t sum[2] = { 0, 0 };

#pragma unroll
        for (int i = 0; i < KEYS / 8; i++) {
            const int e = first_element(i);

            p[i] = pack_bytes(exponential(e), exponential(e + 1), exponential(e + 4),
                              exponential(e + 5));
        }
        if (left < KEYS)
            mask_bytes(p, left);
#pragma unroll
        for (int i = 0; i < KEYS / 8; i++)
            sum[i % 2] = __dp4a(p[i], 0x01010101u, sum[i % 2]);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            l[h] += (float)sum[h];
            m[h] = fmaf(m[h], change[h], (float)sum[h]);
        }
    };

    if (group == 1)
        named_barrier_arrive(TURN, 256);
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const int head = tile / z.q_tiles;
        const int first = tile % z.q_tiles * ROWS + group * 64 + warp * 16; // the warp's row

#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int row = min(first + lane / 4 + 8 * h, z.sq - 1);

            q_scale[h] = z.q_scale[(int64_t)head * z.sq + row];
            ref[h] = top[h] = -INFINITY;
            l[h] = m[h] = 0;
        }
        v_scale = 1;
#pragma unroll
        for (int i = 0; i < DEPTH / 2; i++)
            o[i] = 0;
        mbarrier_wait(q_full + 8 * q.at, q.parity);
        for (int j = 0; j < k_tiles; j++) {
            const float *of_tile = z.tile + ((int64_t)head * k_tiles + j) * TILE_FLOATS;
            const float2 of_v = __ldg((const float2 *)(of_tile + TILE_V_SCALE));
            const int left = z.sk - j * KEYS;
            float k_scale[BLOCKS];

#pragma unroll
            for (int b = 0; b < BLOCKS; b++)
                k_scale[b] = __ldg(of_tile + b * 4 + lane % 4);
            preset(s, start + MAGIC_AT);
            mbarrier_wait(k_full + 8 * k.at, k.parity);
            register_fence(s);
            wgmma_fence();
            begin_logits();
            if (turn)
                named_barrier_arrive(TURN + 1 - group, 256);
            end_logits(k_scale, of_v, left);
            make_p(left);
            named_barrier(TURN + group, 256);
            turn = true;
            mbarrier_wait(v_full + 8 * v.at, v.parity);
            register_fence(p);
            register_fence(t);
            wgmma_fence();
            begin_values();
            wgmma_wait<0>();
            register_fence(t);
            register_fence(p);
            if (lane == 0)
                mbarrier_arrive(v_empty + 8 * v.at);
            v.next();
#pragma unroll
            for (int i = 0; i < DEPTH / 2; i++)
                o[i] = fmaf(o[i], change[i / 2 % 2], __int_as_float(t[i]));
        }
        __syncwarp();
        if (lane == 0) {
            mbarrier_arrive(q_empty + 8 * q.at);
            tma_store_wait_read(); // of the last tile's output
        }
        __syncwarp();
        q.next();

        const float *channel = z.channel + (int64_t)head * CHANNEL_ROWS * DEPTH + lane % 4 * 2;
        float factor[2];

#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int row = first + lane / 4 + 8 * h;

            l[h] += __shfl_xor_sync(~0u, l[h], 1);
            l[h] += __shfl_xor_sync(~0u, l[h], 2);
            m[h] += __shfl_xor_sync(~0u, m[h], 1);
            m[h] += __shfl_xor_sync(~0u, m[h], 2);
            if (z.lse != NULL && lane % 4 == 0 && row < z.sq)
                z.lse[(int64_t)row * z.out_heads + z.first + head] =
                    (ref[h] - LOG255) * LN2 + logf(l[h]) + z.q_mean[(int64_t)head * z.sq + row];
            // the last term is not finite if a scale is not
            factor[h] = 0x1p23f * v_scale / (127 * l[h]) + 0 * coef[h][0];
        }

        const uint32_t to = start + OUT_AT + group * 64 * DEPTH * 2 + warp * 16 * 128;
        const int row = lane % 16, half_block = lane / 16;

#pragma unroll
        for (int i = 0; i < DEPTH / 8; i += 2) {
            float2 scale[2], mean[2];

#pragma unroll
            for (int e = 0; e < 2; e++) {
                scale[e] = *(const float2 *)(channel + CHANNEL_V_SCALE * DEPTH + (i + e) * 8);
                mean[e] = *(const float2 *)(channel + CHANNEL_V_MEAN * DEPTH + (i + e) * 8);
            }

            auto two = [&](int e, int h) {
                const int at = 4 * (i + e) + 2 * h;
                // in units of 2^23
                const float a = fmaf(o[at], 0x1p126f, m[h] * -0x1p-16f) * factor[h];
                const float b = fmaf(o[at + 1], 0x1p126f, m[h] * -0x1p-16f) * factor[h];

                return pack(fmaf(a, scale[e].x, mean[e].x), fmaf(b, scale[e].y, mean[e].y));
            };

            store_matrices(to + i / 8 * 64 * 128 + row * 128 +
                               ((i % 8 + half_block) ^ (row % 8)) * 16,
                           two(0, 0), two(0, 1), two(1, 0), two(1, 1));
        }
        async_proxy_fence();
        __syncwarp();
        if (outs.count > 1) {
            store_rows(outs, to, 64 * 128, first, z.sq, z.first + head);
        } else if (lane == 0) {
            tma_store(&out_map, to, 0, first, 0, z.first + head);
            tma_store(&out_map, to + 64 * 128, 0, first, 1, z.first + head);
            tma_store_commit();
        }
    }
    if (turn)
        named_barrier_arrive(TURN + 1 - group, 256);
    if (group == 0) // for the arrival that nothing has waited for
        named_barrier(TURN, 256);
    if (lane == 0)
        tma_store_wait();
}

/* ---- the op ---- */

/* Describes [heads, rows, 128] bytes; a box has `box` rows of a head. */
static status describe_bytes(struct cuda_context *c, CUtensorMap *map, const void *data,
                             int64_t heads, int64_t rows, int box)
{
    struct tensor_map m = {};
    const int64_t dim[3] = { DEPTH, rows, heads }, stride[3] = { 1, DEPTH, rows * DEPTH };
    const int boxes[3] = { DEPTH, box, 1 };

    m.dtype = DT_I8;
    m.data = data;
    m.rank = 3;
    for (int i = 0; i < 3; i++) {
        m.dim[i] = dim[i];
        m.stride[i] = stride[i];
        m.box[i] = boxes[i];
        m.step[i] = 1;
    }
    m.l2 = CU_TENSOR_MAP_L2_PROMOTION_L2_256B;
    return tensor_map_encode(c, map, &m, "8-bit attention");
}

/* Describes t [tokens, heads, 128] as [heads, 2, tokens, 64]; a box has 16 tokens and 64 columns.
 */
static status describe_out(struct cuda_context *c, CUtensorMap *map, struct tensor t)
{
    struct tensor_map m = {};
    const int64_t dim[4] = { 64, t.dim[0], 2, t.dim[1] };
    const int64_t stride[4] = { 1, t.stride[0], 64, t.stride[1] };
    const int box[4] = { 64, 16, 1, 1 };

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
    return tensor_map_encode(c, map, &m, "8-bit attention");
}

/* Places the buffers of `heads` heads in scratch. Returns their bytes. */
static size_t place(struct quantized *z, void *scratch, int heads, int64_t sq, int64_t sk,
                    bool wants_mean)
{
    const int64_t tiles = (sk + KEYS - 1) / KEYS, keys = tiles * KEYS, n = heads;
    const int64_t blocks = (sk + MEAN_KEYS - 1) / MEAN_KEYS;
    size_t used = 0;
    auto take = [&](int64_t bytes) {
        char *at = (char *)scratch + used;

        used += (size_t)((bytes + 255) / 256 * 256);
        return (void *)at;
    };

    *z = {};
    z->heads = heads;
    z->sq = (int)sq;
    z->sk = (int)sk;
    z->keys = (int)keys;
    z->q = (int8_t *)take(n * sq * DEPTH);
    z->q_scale = (float *)take(n * sq * 4);
    z->q_mean = (float *)take(wants_mean ? n * sq * 4 : 0);
    z->k = (int8_t *)take(n * keys * DEPTH);
    z->v = (uint8_t *)take(n * keys * DEPTH);
    z->tile = (float *)take(n * tiles * TILE_FLOATS * 4);
    z->channel = (float *)take(n * CHANNEL_ROWS * DEPTH * 4);
    z->partial = (float *)take(n * blocks * CHANNEL_ROWS * DEPTH * 4);
    return used;
}

static status launch(struct device *dev, const struct attention_part *part, int parts,
                     struct tensor lse, const struct quantized *q, int first, int out_heads)
{
    struct cuda_context *c;
    CUtensorMap q_map, k_map, v_map, out_map;
    struct parts outs;
    struct sizes z = {};

    TRY(cuda_context(dev, &c));
    z.sq = q->sq;
    z.sk = q->sk;
    z.keys = q->keys;
    z.heads = q->heads;
    z.first = first;
    z.out_heads = out_heads;
    z.q_tiles = (q->sq + ROWS - 1) / ROWS;
    z.q_scale = q->q_scale;
    z.q_mean = q->q_mean;
    z.tile = q->tile;
    z.channel = q->channel;
    z.lse = (float *)lse.data;
    TRY(describe_bytes(c, &q_map, q->q, q->heads, q->sq, ROWS));
    TRY(describe_bytes(c, &k_map, q->k, q->heads, q->keys, KEYS));
    TRY(describe_bytes(c, &v_map, q->v, q->heads, q->keys, KEYS));
    TRY(describe_out(c, &out_map, list_parts(&outs, part, parts))); // used if it is the only one
    TRY(cuda_status(cudaFuncSetAttribute(attention8_kernel,
                                         cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_BYTES),
                    "8-bit attention"));
    attention8_kernel<<<min(z.heads * z.q_tiles, c->multiprocessors), THREADS, SHARED_BYTES,
                        cuda_stream(dev)>>>(q_map, k_map, v_map, out_map, outs, z);
    return cuda_status(cudaGetLastError(), "8-bit attention");
}

/* Whether rows can be read and written 16 bytes at a time. */
static bool is_aligned(struct tensor t)
{
    return (uintptr_t)t.data % 16 == 0 && t.stride[0] % 8 == 0 && t.stride[1] % 8 == 0;
}

status attention8_sm90(struct device *dev, const struct attention_part *part, int parts,
                       struct tensor lse, struct tensor q, struct tensor k, struct tensor v,
                       float scale, struct tensor scratch)
{
    const int heads = (int)q.dim[1];
    const bool wants_mean = lse.data != NULL;
    struct quantized z;
    int at_once = heads;

    if (q.dtype != DT_BF16 || q.dim[2] != DEPTH)
        return fail(ST_USAGE, "8-bit attention on GPUs is for bf16 and heads of 128: remove "
                              "--attention 8bit");
    assert(is_aligned(q) && is_aligned(k) && is_aligned(v) && (uintptr_t)scratch.data % 16 == 0);
    for (int i = 0; i < parts; i++)
        assert(is_aligned(part[i].out));
    while (at_once > 1 &&
           place(&z, NULL, at_once, q.dim[0], k.dim[0], wants_mean) > tensor_bytes(scratch))
        at_once--;
    for (int i = 0; i < heads; i += at_once) {
        place(&z, scratch.data, min(at_once, heads - i), q.dim[0], k.dim[0], wants_mean);
        TRY(attention8_quantize(dev, &z, q, k, v, i, scale, wants_mean));
        TRY(launch(dev, part, parts, lse, &z, i, heads));
    }
    for (int i = 0; i < parts; i++)
        if (part[i].count > 0)
            device_cuda_written(dev->stream, part[i].out);
    return ST_OK;
}
