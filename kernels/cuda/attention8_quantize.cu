/* The quantization before attention in 8-bit integers (op_attention_8bit): one pass for the means
 * and extremes of the channels of k and v, one that writes the integers.
 *
 * Everything is computed head by head, and sums in an order that depends on the number of keys
 * alone, so the integers of a head do not depend on which other heads a rank has. */
#include "kernels/cuda/attention8.h"
#include "kernels/cuda/device.cuh"

#define DEPTH 128
#define LANES 16    // threads for a row of 128 channels, 8 each
#define GROUPS 16   // rows that a block reads at once
#define THREADS 256 // LANES * GROUPS
#define KEYS ATTENTION8_KEYS

struct source {
    const __nv_bfloat16 *data; // of head 0
    int64_t token, head;       // strides
};

struct eight {
    float v[8];
};

__device__ __forceinline__ struct eight unpack(uint4 x)
{
    const uint32_t w[4] = { x.x, x.y, x.z, x.w };
    struct eight y;

#pragma unroll
    for (int i = 0; i < 4; i++) {
        y.v[2 * i] = __uint_as_float(w[i] << 16);
        y.v[2 * i + 1] = __uint_as_float(w[i] & 0xffff0000u);
    }
    return y;
}

__device__ __forceinline__ uint4 load_eight(struct source s, int head, int64_t row)
{
    return *(const uint4 *)(s.data + head * s.head + row * s.token + threadIdx.x % LANES * 8);
}

/* |x|, as an integer that orders as its value, with NaN above all. */
__device__ __forceinline__ uint32_t magnitude(float x)
{
    return __float_as_uint(x) & 0x7fffffffu;
}

/* The least magnitude that a scale is computed from, so that no scale is 0. */
__device__ __forceinline__ float at_least(uint32_t bits)
{
    return __uint_as_float(max(bits, __float_as_uint(1e-20f)));
}

__device__ __forceinline__ uint32_t lanes_max(uint32_t v)
{
#pragma unroll
    for (int i = LANES / 2; i > 0; i /= 2)
        v = max(v, __shfl_xor_sync(~0u, v, i));
    return v;
}

/* Four numbers in [-127, 127], rounded to integers, as bytes. */
__device__ __forceinline__ uint32_t bytes_of(float a, float b, float c, float d)
{
    const uint32_t low =
        __byte_perm(__float_as_uint(a + 0x1.8p23f), __float_as_uint(b + 0x1.8p23f), 0x0040);
    const uint32_t high =
        __byte_perm(__float_as_uint(c + 0x1.8p23f), __float_as_uint(d + 0x1.8p23f), 0x0040);

    return __byte_perm(low, high, 0x5410);
}

/* ---- first pass ---- */

__global__ void __launch_bounds__(THREADS)
    sum_block(const struct quantized z, struct source k, struct source v, int blocks)
{
    __shared__ float part[GROUPS][DEPTH];
    const int head = blockIdx.y, lane = threadIdx.x % LANES, group = threadIdx.x / LANES;
    const int first = blockIdx.x * MEAN_KEYS, last = min(first + MEAN_KEYS, z.sk);
    float *out = z.partial + ((int64_t)head * blocks + blockIdx.x) * CHANNEL_ROWS * DEPTH;
    float r[CHANNEL_ROWS][8];

#pragma unroll
    for (int i = 0; i < 8; i++) {
        r[0][i] = r[1][i] = 0;
        r[2][i] = INFINITY;
        r[3][i] = -INFINITY;
    }
#pragma unroll 4
    for (int row = first + group; row < last; row += GROUPS) {
        const struct eight a = unpack(load_eight(k, head, row));
        const struct eight b = unpack(load_eight(v, head, row));

#pragma unroll
        for (int i = 0; i < 8; i++) {
            r[0][i] += a.v[i];
            r[1][i] += b.v[i];
            r[2][i] = fminf(r[2][i], b.v[i]);
            r[3][i] = fmaxf(r[3][i], b.v[i]);
        }
    }
#pragma unroll
    for (int what = 0; what < CHANNEL_ROWS; what++) {
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 8; i++)
            part[group][lane * 8 + i] = r[what][i];
        __syncthreads();
        if (threadIdx.x < DEPTH) {
            float y = part[0][threadIdx.x];

            for (int i = 1; i < GROUPS; i++) {
                const float x = part[i][threadIdx.x];

                y = what < 2 ? y + x : what == 2 ? fminf(y, x) : fmaxf(y, x);
            }
            out[what * DEPTH + threadIdx.x] = y;
        }
    }
}

/* Means are rounded to bf16, so that the order of a sum rarely shows in them. */
__global__ void __launch_bounds__(DEPTH) merge_blocks(const struct quantized z, int blocks)
{
    const int c = threadIdx.x;
    const float *in = z.partial + (int64_t)blockIdx.x * blocks * CHANNEL_ROWS * DEPTH + c;
    float *out = z.channel + (int64_t)blockIdx.x * CHANNEL_ROWS * DEPTH + c;
    float k = 0, v = 0, low = INFINITY, high = -INFINITY;

#pragma unroll 8
    for (int i = 0; i < blocks; i++, in += CHANNEL_ROWS * DEPTH) {
        k += in[0];
        v += in[DEPTH];
        low = fminf(low, in[2 * DEPTH]);
        high = fmaxf(high, in[3 * DEPTH]);
    }
    k = __bfloat162float(__float2bfloat16_rn(k / (float)z.sk));
    v = __bfloat162float(__float2bfloat16_rn(v / (float)z.sk));
    out[CHANNEL_K_MEAN * DEPTH] = k;
    out[CHANNEL_V_MEAN * DEPTH] = v;
    out[CHANNEL_V_SCALE * DEPTH] = at_least(max(magnitude(high - v), magnitude(v - low)));
}

/* ---- second pass ---- */

__global__ void __launch_bounds__(THREADS)
    quantize_q(const struct quantized z, struct source q, float scale, bool wants_mean)
{
    const int head = blockIdx.y, lane = threadIdx.x % LANES, group = threadIdx.x / LANES;
    const float *mean = z.channel + (int64_t)head * CHANNEL_ROWS * DEPTH + lane * 8;
    const int row = blockIdx.x * GROUPS + group;
    uint32_t top = 0;
    float dot = 0;

    // all lanes of a warp go on, for the shuffles
    const struct eight x = unpack(load_eight(q, head, min(row, z.sq - 1)));

#pragma unroll
    for (int i = 0; i < 8; i++)
        top = max(top, magnitude(x.v[i]));

    const float most = at_least(lanes_max(top)), by = 127 / most;

    if (wants_mean) {
#pragma unroll
        for (int i = 0; i < 8; i++)
            dot += x.v[i] * mean[i];
#pragma unroll
        for (int i = LANES / 2; i > 0; i /= 2)
            dot += __shfl_xor_sync(~0u, dot, i);
    }
    if (row >= z.sq)
        return;

    const int64_t at = (int64_t)head * z.sq + row;

    *(uint2 *)(z.q + at * DEPTH + lane * 8) =
        make_uint2(bytes_of(x.v[0] * by, x.v[1] * by, x.v[2] * by, x.v[3] * by),
                   bytes_of(x.v[4] * by, x.v[5] * by, x.v[6] * by, x.v[7] * by));
    if (lane == 0) {
        z.q_scale[at] = most / 127 * (scale * 1.4426950408889634f);
        if (wants_mean)
            z.q_mean[at] = scale * dot;
    }
}

/* A block: 128 keys of one head. Keys 2t, 2t + 1 of each 8 share the t-th scale: those are the
 * keys whose logits one thread of the attention kernel has. */
__global__ void __launch_bounds__(THREADS) quantize_k(const struct quantized z, struct source k)
{
    __shared__ uint32_t part[GROUPS];
    const int head = blockIdx.y, lane = threadIdx.x % LANES, group = threadIdx.x / LANES;
    const int first = blockIdx.x * 128, t = group % 8 / 2;
    const float *mean = z.channel + ((int64_t)head * CHANNEL_ROWS + CHANNEL_K_MEAN) * DEPTH;
    uint4 raw[8];
    float m[8];
    uint32_t top = 0;

#pragma unroll
    for (int i = 0; i < 8; i++)
        m[i] = mean[lane * 8 + i];
#pragma unroll
    for (int j = 0; j < 8; j++)
        raw[j] = load_eight(k, head, min(first + j * GROUPS + group, z.sk - 1));
#pragma unroll
    for (int j = 0; j < 8; j++) {
        const struct eight x = unpack(raw[j]);

        if (first + j * GROUPS + group < z.sk)
#pragma unroll
            for (int i = 0; i < 8; i++)
                top = max(top, magnitude(x.v[i] - m[i]));
    }
    top = lanes_max(top);
    if (lane == 0)
        part[group] = top;
    __syncthreads();
    top = max(max(part[2 * t], part[2 * t + 1]), max(part[2 * t + 8], part[2 * t + 9]));

    const float most = at_least(top), by = 127 / most;

#pragma unroll
    for (int j = 0; j < 8; j++) {
        const struct eight x = unpack(raw[j]);
        const int row = first + j * GROUPS + group;
        float y[8];

#pragma unroll
        for (int i = 0; i < 8; i++)
            y[i] = row < z.sk ? (x.v[i] - m[i]) * by : 0;
        *(uint2 *)(z.k + ((int64_t)head * z.keys + row) * DEPTH + lane * 8) =
            make_uint2(bytes_of(y[0], y[1], y[2], y[3]), bytes_of(y[4], y[5], y[6], y[7]));
    }
    if (lane == 0 && group < 8 && group % 2 == 0)
        z.tile[((int64_t)head * (z.keys / KEYS) + first / KEYS) * TILE_FLOATS +
               first % KEYS / 128 * 4 + t] = most / 127;
}

/* A block: one tile of one head. A thread makes words of four keys, in the order in which
 * the four bytes of p lie: word w of 32 keys has keys 2 (w % 4) + { 0, 1, 8, 9 } + 16 (w / 4). */
__global__ void __launch_bounds__(THREADS) quantize_v(const struct quantized z, struct source v)
{
    __shared__ uint32_t word[DEPTH][KEYS / 4]; // word i of a channel is at i ^ 2 (channel / 8)
    __shared__ uint32_t part[GROUPS];
    const int head = blockIdx.y, lane = threadIdx.x % LANES, group = threadIdx.x / LANES;
    const int first = blockIdx.x * KEYS;
    const float *channel = z.channel + (int64_t)head * CHANNEL_ROWS * DEPTH + lane * 8;
    const int rounds = KEYS / 4 / GROUPS;
    uint4 raw[rounds][4];
    float mean[8], by[8];
    uint32_t top = 0;

#pragma unroll
    for (int i = 0; i < 8; i++) {
        mean[i] = channel[CHANNEL_V_MEAN * DEPTH + i];
        by[i] = 1 / channel[CHANNEL_V_SCALE * DEPTH + i];
    }
    auto row_of = [&](int j, int b) {
        const int w = j * GROUPS + group;

        return first + w / 8 * 32 + w % 8 / 4 * 16 + w % 4 * 2 + b % 2 + b / 2 * 8;
    };
#pragma unroll
    for (int j = 0; j < rounds; j++)
#pragma unroll
        for (int b = 0; b < 4; b++)
            raw[j][b] = load_eight(v, head, min(row_of(j, b), z.sk - 1));
#pragma unroll
    for (int j = 0; j < rounds; j++)
#pragma unroll
        for (int b = 0; b < 4; b++) {
            const struct eight x = unpack(raw[j][b]);

#pragma unroll
            for (int i = 0; i < 8; i++)
                top = max(top, magnitude((x.v[i] - mean[i]) * by[i]));
        }
    top = lanes_max(top); // rows after the last are copies of it, which change no maximum
    if (lane == 0)
        part[group] = top;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < GROUPS; i++)
        top = max(top, part[i]);

    const float most = at_least(top), to = 127 / most;

#pragma unroll
    for (int j = 0; j < rounds; j++) {
        struct eight x[4];

#pragma unroll
        for (int b = 0; b < 4; b++) {
            x[b] = unpack(raw[j][b]);
#pragma unroll
            for (int i = 0; i < 8; i++)
                x[b].v[i] = row_of(j, b) < z.sk ? (x[b].v[i] - mean[i]) * by[i] * to : 0;
        }
#pragma unroll
        for (int i = 0; i < 8; i++)
            word[lane * 8 + i][(j * GROUPS + group) ^ 2 * lane] =
                bytes_of(x[0].v[i], x[1].v[i], x[2].v[i], x[3].v[i]) ^ 0x80808080; // + 128
    }
    __syncthreads();

    uint4 *out = (uint4 *)(z.v + ((int64_t)head * z.keys + first) * DEPTH);

    for (int i = threadIdx.x; i < KEYS * DEPTH / 16; i += THREADS) { // 16 bytes each
        const int at = i % 8, c = i / 8 % DEPTH, box = i / 8 / DEPTH, s = 2 * (c / 8);
        const uint32_t *w = word[c];
        const int f = box * 32 + at * 4;

        out[i] = make_uint4(w[f ^ s], w[(f + 1) ^ s], w[(f + 2) ^ s], w[(f + 3) ^ s]);
    }
    if (threadIdx.x == 0) {
        float *t = z.tile + ((int64_t)head * (z.keys / KEYS) + blockIdx.x) * TILE_FLOATS;

        t[TILE_V_SCALE] = most;
        t[TILE_V_INVERSE] = 1 / most;
    }
}

static struct source source_of(struct tensor t, int head)
{
    return { (const __nv_bfloat16 *)t.data + head * t.stride[1], t.stride[0], t.stride[1] };
}

status attention8_quantize(struct device *dev, const struct quantized *z, struct tensor q,
                           struct tensor k, struct tensor v, int first, float scale,
                           bool wants_mean)
{
    const struct source qs = source_of(q, first), ks = source_of(k, first),
                        vs = source_of(v, first);
    const int blocks = (z->sk + MEAN_KEYS - 1) / MEAN_KEYS, heads = z->heads;
    cudaStream_t stream = cuda_stream(dev);

    sum_block<<<dim3(blocks, heads), THREADS, 0, stream>>>(*z, ks, vs, blocks);
    merge_blocks<<<heads, DEPTH, 0, stream>>>(*z, blocks);
    quantize_q<<<dim3((z->sq + GROUPS - 1) / GROUPS, heads), THREADS, 0, stream>>>(*z, qs, scale,
                                                                                   wants_mean);
    quantize_k<<<dim3(z->keys / 128, heads), THREADS, 0, stream>>>(*z, ks);
    quantize_v<<<dim3(z->keys / KEYS, heads), THREADS, 0, stream>>>(*z, vs);
    return cuda_status(cudaGetLastError(), "8-bit attention");
}
