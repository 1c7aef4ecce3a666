/* Quantized weights as values: each thread has eight that follow each other in one block or row, so
 * that a warp writes 512 bytes of bf16 in one piece. What is read is a fraction of that. Products
 * and sums are rounded one by one, as on the host (runtime/blocks.c, runtime/stored.c). */
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/divide.cuh"
#include "kernels/cuda/plain.h"

#include <cuda_fp16.h>
#include <cuda_fp8.h>

#define EACH 8
#define THREADS 256

/* ---- GGUF's blocks: eight values of the block at b, from value `at` on, a multiple of eight ----
 */

static __device__ __forceinline__ float half_at(const uint8_t *p) // at even addresses
{
    return __half2float(__ushort_as_half(*(const unsigned short *)p));
}

static __device__ __forceinline__ uint32_t u32_at(const uint8_t *p)
{
    return *(const unsigned short *)p | (uint32_t) * (const unsigned short *)(p + 2) << 16;
}

static __device__ __forceinline__ float times(float scale, int number)
{
    return __fmul_rn(scale, (float)number);
}

struct q8_0 {
    static const int values = 32, bytes = 34;
    static __device__ void decode(float *y, const uint8_t *b, int at)
    {
        const float d = half_at(b);

#pragma unroll
        for (int i = 0; i < EACH; i++)
            y[i] = times(d, (int8_t)b[2 + at + i]);
    }
};

struct q4_0 {
    static const int values = 32, bytes = 18;
    static __device__ void decode(float *y, const uint8_t *b, int at)
    {
        const float d = half_at(b);

#pragma unroll
        for (int i = 0; i < EACH; i++)
            y[i] = times(d, (b[2 + at % 16 + i] >> at / 16 * 4 & 15) - 8);
    }
};

struct q4_1 {
    static const int values = 32, bytes = 20;
    static __device__ void decode(float *y, const uint8_t *b, int at)
    {
        const float d = half_at(b), m = half_at(b + 2);

#pragma unroll
        for (int i = 0; i < EACH; i++)
            y[i] = __fadd_rn(times(d, b[4 + at % 16 + i] >> at / 16 * 4 & 15), m);
    }
};

struct q5_0 {
    static const int values = 32, bytes = 22;
    static __device__ void decode(float *y, const uint8_t *b, int at)
    {
        const float d = half_at(b);
        const uint32_t high = u32_at(b + 2) >> at;

#pragma unroll
        for (int i = 0; i < EACH; i++)
            y[i] = times(d, ((b[6 + at % 16 + i] >> at / 16 * 4 & 15) | (high >> i & 1) << 4) - 16);
    }
};

struct q5_1 {
    static const int values = 32, bytes = 24;
    static __device__ void decode(float *y, const uint8_t *b, int at)
    {
        const float d = half_at(b), m = half_at(b + 2);
        const uint32_t high = u32_at(b + 4) >> at;

#pragma unroll
        for (int i = 0; i < EACH; i++)
            y[i] = __fadd_rn(
                times(d, (b[8 + at % 16 + i] >> at / 16 * 4 & 15) | (high >> i & 1) << 4), m);
    }
};

/* Entry i of -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113. */
static __device__ __forceinline__ int nonlinear(uint32_t i)
{
    const uint32_t low = __byte_perm(0xbfad9881u, 0xf6eaddcfu, i & 7);
    const uint32_t high = __byte_perm(0x26190d01u, 0x71594535u, i & 7);

    return (int8_t)(i & 8 ? high : low);
}

struct iq4_nl {
    static const int values = 32, bytes = 18;
    static __device__ void decode(float *y, const uint8_t *b, int at)
    {
        const float d = half_at(b);

#pragma unroll
        for (int i = 0; i < EACH; i++)
            y[i] = times(d, nonlinear(b[2 + at % 16 + i] >> at / 16 * 4 & 15));
    }
};

struct q2_k {
    static const int values = 256, bytes = 84;
    static __device__ void decode(float *y, const uint8_t *b, int at)
    {
        const int g = at / 16, shift = g % 8 / 2 * 2;
        const uint8_t *q = b + 16 + g / 8 * 32 + g % 2 * 16 + at % 16;
        const float scale = times(half_at(b + 80), b[g] & 15);
        const float least = times(half_at(b + 82), b[g] >> 4);

#pragma unroll
        for (int i = 0; i < EACH; i++)
            y[i] = __fsub_rn(times(scale, q[i] >> shift & 3), least);
    }
};

struct q3_k {
    static const int values = 256, bytes = 110;
    static __device__ void decode(float *y, const uint8_t *b, int at)
    {
        const int g = at / 16, shift = g % 8 / 2 * 2, bit = g / 2;
        const uint8_t *q = b + 32 + g / 8 * 32 + g % 2 * 16 + at % 16;
        const uint8_t *high = b + g % 2 * 16 + at % 16, *s = b + 96;
        const int low = g < 8 ? s[g] & 15 : s[g - 8] >> 4;
        const int six = low | (s[8 + g % 4] >> (2 * (g / 4)) & 3) << 4;
        const float scale = times(half_at(b + 108), six - 32);

#pragma unroll
        for (int i = 0; i < EACH; i++)
            y[i] = times(scale, (q[i] >> shift & 3) - 4 + 4 * (high[i] >> bit & 1));
    }
};

/* Scale and minimum, of 6 bits, of group j of eight, in 12 bytes. */
static __device__ __forceinline__ void scale_and_least(int j, const uint8_t *s, int *scale,
                                                       int *least)
{
    if (j < 4) {
        *scale = s[j] & 63;
        *least = s[j + 4] & 63;
    } else {
        *scale = (s[j + 4] & 15) | s[j - 4] >> 6 << 4;
        *least = s[j + 4] >> 4 | s[j] >> 6 << 4;
    }
}

struct q4_k {
    static const int values = 256, bytes = 144;
    static __device__ void decode(float *y, const uint8_t *b, int at)
    {
        const int g = at / 32, shift = g % 2 * 4;
        const uint8_t *q = b + 16 + g / 2 * 32 + at % 32;
        int s, n;

        scale_and_least(g, b + 4, &s, &n);
        const float scale = times(half_at(b), s), least = times(half_at(b + 2), n);
#pragma unroll
        for (int i = 0; i < EACH; i++)
            y[i] = __fsub_rn(times(scale, q[i] >> shift & 15), least);
    }
};

struct q5_k {
    static const int values = 256, bytes = 176;
    static __device__ void decode(float *y, const uint8_t *b, int at)
    {
        const int g = at / 32, shift = g % 2 * 4;
        const uint8_t *q = b + 48 + g / 2 * 32 + at % 32, *high = b + 16 + at % 32;
        int s, n;

        scale_and_least(g, b + 4, &s, &n);
        const float scale = times(half_at(b), s), least = times(half_at(b + 2), n);
#pragma unroll
        for (int i = 0; i < EACH; i++)
            y[i] = __fsub_rn(times(scale, (q[i] >> shift & 15) | (high[i] >> g & 1) << 4), least);
    }
};

struct q6_k {
    static const int values = 256, bytes = 210;
    static __device__ void decode(float *y, const uint8_t *b, int at)
    {
        const int g = at / 16, shift = g % 8 / 4 * 4, high_shift = g % 8 / 2 * 2;
        const uint8_t *q = b + g / 8 * 64 + g % 4 * 16 + at % 16;
        const uint8_t *high = b + 128 + g / 8 * 32 + g % 2 * 16 + at % 16;
        const float scale = times(half_at(b + 208), (int8_t)b[192 + g]);

#pragma unroll
        for (int i = 0; i < EACH; i++)
            y[i] = times(scale, ((q[i] >> shift & 15) | (high[i] >> high_shift & 3) << 4) - 32);
    }
};

struct iq4_xs {
    static const int values = 256, bytes = 136;
    static __device__ void decode(float *y, const uint8_t *b, int at)
    {
        const int g = at / 32, shift = at % 32 / 16 * 4;
        const int low = b[4 + g / 2] >> (4 * (g % 2)) & 15, high = b[2] | b[3] << 8;
        const float scale = times(half_at(b), (low | (high >> (2 * g) & 3) << 4) - 32);
        const uint8_t *q = b + 8 + 16 * g + at % 16;

#pragma unroll
        for (int i = 0; i < EACH; i++)
            y[i] = times(scale, nonlinear(q[i] >> shift & 15));
    }
};

/* ---- all forms ---- */

/* Stores the first n of eight values as elements from `at` on. */
static __device__ __forceinline__ void put(const struct tensor &out, int64_t at, const float *y,
                                           int64_t n)
{
    if (n < EACH || (uintptr_t)out.data % 16 != 0) {
        for (int i = 0; i < EACH && i < n; i++)
            store(out, at + i, y[i]);
    } else if (out.dtype == DT_BF16) {
        union {
            __nv_bfloat162 pair[EACH / 2];
            uint4 all;
        } u;

#pragma unroll
        for (int i = 0; i < EACH; i += 2)
            u.pair[i / 2] = __floats2bfloat162_rn(y[i], y[i + 1]);
        *(uint4 *)((__nv_bfloat16 *)out.data + at) = u.all;
    } else {
        float4 *to = (float4 *)((float *)out.data + at);

        to[0] = make_float4(y[0], y[1], y[2], y[3]);
        to[1] = make_float4(y[4], y[5], y[6], y[7]);
    }
}

template <class Block>
static __global__ void __launch_bounds__(THREADS)
    blocks_kernel(struct tensor out, const uint8_t *stored, int64_t first, int64_t n)
{
    const int64_t at = (blockIdx.x * (int64_t)THREADS + threadIdx.x) * EACH;
    const uint8_t *b = stored + (first + at) / Block::values * Block::bytes;
    float y[EACH];

    if (at >= n)
        return;
    Block::decode(y, b, (int)((first + at) % Block::values));
    put(out, at, y, n - at);
}

static __device__ float from_e4m3(uint8_t b)
{
    const int exp = (b >> 3) & 15, man = b & 7;
    const float f = exp == 15 && man == 7 ? __uint_as_float(0x7fc00000u)
                    : exp == 0            ? (float)man * 0x1p-9f
                                          : __uint_as_float((exp + 120) << 23 | man << 20);

    return b & 0x80 ? -f : f;
}

/* Pairs of floats of a sign, two exponent bits and one more. */
static __device__ float from_e2m1(int four)
{
    const int three = four & 7;
    const float f = three < 2 ? 0.5f * three : (float)(2 + (three & 1)) * (1 << (three / 2)) / 4;

    return four & 8 ? -f : f;
}

/* Number i of a type; high_first: of two of 4 bits. */
static __device__ __forceinline__ float number_at(enum dtype dt, const void *p, int64_t i,
                                                  bool high_first)
{
    const uint8_t byte = dt == DT_F64 || dt == DT_F32 || dt == DT_BF16 || dt == DT_F16
                             ? 0
                             : ((const uint8_t *)p)[dt == DT_U8 ? i / 2 : i];

    switch (dt) {
    case DT_F32:
        return ((const float *)p)[i];
    case DT_BF16:
        return __bfloat162float(((const __nv_bfloat16 *)p)[i]);
    case DT_F16:
        return __half2float(((const __half *)p)[i]);
    case DT_F64:
        return (float)((const double *)p)[i];
    case DT_I8:
        return (float)(int8_t)byte;
    case DT_U8:
        return from_e2m1((i % 2 == 0) == high_first ? byte >> 4 : byte & 15);
    case DT_F8_E4M3:
        return from_e4m3(byte);
    case DT_F8_E5M2:
        return __half2float(__ushort_as_half((unsigned short)(byte << 8)));
    case DT_F8_E8M0:
        return byte == 255 ? __uint_as_float(0x7fc00000u)
               : byte == 0 ? 0x1p-127f
                           : __uint_as_float((uint32_t)byte << 23);
    default:
        return 0;
    }
}

struct scales {
    enum dtype dtype; // DT_NONE: there are none
    const void *data;
    int64_t row, rows, columns, per_row;
    bool tiled;
    float factor;
    bool divides;
};

/* The scale of value `at` of the tensor: stored_scale_index. */
static __device__ float scale_of(const struct scales &s, int64_t at)
{
    int64_t column, rest;
    const int64_t row = divide(divide(at, s.row, &column), s.rows, &rest);
    const int64_t group = divide(column, s.columns, &rest);
    const int64_t index = s.tiled ? (row / 128 * ((s.per_row + 3) / 4) + group / 4) * 512 +
                                        row % 32 * 16 + row % 128 / 32 * 4 + group % 4
                                  : row * s.per_row + group;
    const float scale = number_at(s.dtype, s.data, index, false);

    return s.factor == 1 ? scale
           : s.divides   ? __fdiv_rn(scale, s.factor)
                         : __fmul_rn(s.factor, scale);
}

/* Numbers of 8 bits, eight of which are read at once and have one scale. */
template <enum dtype Type>
static __global__ void __launch_bounds__(THREADS)
    bytes_kernel(struct tensor out, const uint8_t *numbers, struct scales s, int64_t first,
                 int64_t n)
{
    const int64_t at = (blockIdx.x * (int64_t)THREADS + threadIdx.x) * EACH;
    const float scale = s.dtype != DT_NONE && at < n ? scale_of(s, first + at) : 1;
    union {
        uint2 all;
        uint8_t byte[EACH];
    } u;
    float y[EACH];

    if (at >= n)
        return;
    u.all = *(const uint2 *)(numbers + first + at);
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        if (Type == DT_I8)
            y[i] = (float)(int8_t)u.byte[i];
        else
            y[i] = __half2float(__nv_cvt_fp8_to_halfraw(
                u.byte[i], Type == DT_F8_E4M3 ? __NV_E4M3 : __NV_E5M2)); // exact
        if (s.dtype != DT_NONE)
            y[i] = __fmul_rn(y[i], scale);
    }
    put(out, at, y, n - at);
}

/* together: eight values from a multiple of eight on have one scale. */
static __global__ void __launch_bounds__(THREADS)
    numbers_kernel(struct tensor out, enum dtype dt, bool high_first, const void *numbers,
                   struct scales s, bool together, int64_t first, int64_t n)
{
    const int64_t at = (blockIdx.x * (int64_t)THREADS + threadIdx.x) * EACH;
    float y[EACH], scale = 1;

    if (at >= n)
        return;
    if (s.dtype != DT_NONE && together)
        scale = scale_of(s, first + at);
    for (int i = 0; i < EACH && i < n - at; i++) {
        y[i] = number_at(dt, numbers, first + at + i, high_first);
        if (s.dtype != DT_NONE)
            y[i] = __fmul_rn(y[i], together ? scale : scale_of(s, first + at + i));
    }
    put(out, at, y, n - at);
}

static const struct {
    uint32_t id; // of ggml
    void (*kernel)(struct tensor out, const uint8_t *stored, int64_t first, int64_t n);
} blocks[] = {
    { 2, blocks_kernel<q4_0> },  { 3, blocks_kernel<q4_1> },    { 6, blocks_kernel<q5_0> },
    { 7, blocks_kernel<q5_1> },  { 8, blocks_kernel<q8_0> },    { 10, blocks_kernel<q2_k> },
    { 11, blocks_kernel<q3_k> }, { 12, blocks_kernel<q4_k> },   { 13, blocks_kernel<q5_k> },
    { 14, blocks_kernel<q6_k> }, { 20, blocks_kernel<iq4_nl> }, { 23, blocks_kernel<iq4_xs> },
};

status plain_expand(struct device *dev, struct tensor out, const struct stored_form *form,
                    const void *stored, int64_t first)
{
    const int64_t n = tensor_count(out), threads = (n + EACH - 1) / EACH;
    const unsigned grid = (unsigned)((threads + THREADS - 1) / THREADS);
    const struct scales s = {
        form->scale.dtype,   (const char *)stored + stored_scales_at(form),
        form->row,           form->scale.rows,
        form->scale.columns, form->scale.per_row,
        form->scale.tiled,   form->scale.factor,
        form->scale.divides,
    };
    const bool whole = form->scale.rows * form->row >= form->count; // one scale for all rows
    const bool together = form->row % EACH == 0 ? form->scale.columns % EACH == 0
                                                : whole && form->scale.columns == form->row;

    if (form->block == NULL && n % EACH == 0 && (together || s.dtype == DT_NONE)) {
        const struct {
            enum dtype type;
            void (*kernel)(struct tensor out, const uint8_t *numbers, struct scales s,
                           int64_t first, int64_t n);
        } bytes[] = { { DT_F8_E4M3, bytes_kernel<DT_F8_E4M3> },
                      { DT_F8_E5M2, bytes_kernel<DT_F8_E5M2> },
                      { DT_I8, bytes_kernel<DT_I8> } };

        for (size_t i = 0; i < COUNT(bytes); i++) {
            if (bytes[i].type != form->dtype)
                continue;
            bytes[i].kernel<<<grid, THREADS, 0, cuda_stream(dev)>>>(out, (const uint8_t *)stored, s,
                                                                    first, n);
            return cuda_status(cudaGetLastError(), "expand");
        }
    }
    if (form->block == NULL) {
        numbers_kernel<<<grid, THREADS, 0, cuda_stream(dev)>>>(
            out, form->dtype, form->nibbles == NIBBLES_E2M1_HIGH, stored, s, together, first, n);
        return cuda_status(cudaGetLastError(), "expand");
    }
    for (size_t i = 0; i < COUNT(blocks); i++) {
        if (blocks[i].id != form->block->id)
            continue;
        blocks[i].kernel<<<grid, THREADS, 0, cuda_stream(dev)>>>(out, (const uint8_t *)stored,
                                                                 first, n);
        return cuda_status(cudaGetLastError(), "expand");
    }
    return fail(ST_DEVICE, "expand: no kernel for %s", form->block->name);
}
