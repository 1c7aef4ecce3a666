/* cpu.h - what the CPU's ops share.
 *
 * Every source of this folder except select.c is compiled once for each level of the instruction
 * set, with ISA defined as the level's name; CPU(gemm) is then cpu_gemm_v3. table_cpu chooses the
 * level. The compiler vectorizes the loops for the level's vector width.
 *
 * Matrix products, convolution and attention are built on one kernel, the tile: TILE_ROWS rows,
 * each with its own address, times a packed panel of TILE_COLS columns. It sums over K in an order
 * that depends on K alone, so the result of a row does not depend on the row's position. */
#ifndef KERNELS_CPU_CPU_H
#define KERNELS_CPU_CPU_H

#include "kernels/table.h"
#include "runtime/half.h"

#include <assert.h>
#include <math.h>
#include <omp.h>

#define CPU_JOIN(name, isa) cpu_##name##_##isa
#define CPU_NAME(name, isa) CPU_JOIN(name, isa)
#define CPU(name) CPU_NAME(name, ISA)

#define CPU_WORKSPACE ((size_t)64 << 20)
#define CPU_THREADS 256 // at most: every thread needs a part of the workspace

/* What the ops take of the workspace; see table_cpu_used. */
#define BATCH_BYTES ((size_t)6 << 20) // of a packed matrix for every four threads

#if defined(__AVX512F__)
#define VEC 16
#define TILE_ROWS 12 // times 2 vectors of columns: 24 sums in 32 registers
#elif defined(__AVX2__)
#define VEC 8
#define TILE_ROWS 6 // 12 sums in 16 registers
#else
#define VEC 4
#define TILE_ROWS 6
#endif
#define TILE_COLS (2 * VEC)

typedef float vec __attribute__((vector_size(4 * VEC)));
typedef float vec_any __attribute__((vector_size(4 * VEC), aligned(4)));

/* A unit is the 4 bytes that a tile multiplies at a time: an f32, or a pair of bf16 (summed in
 * f32).
 */
enum unit { UNIT_F32, UNIT_PAIR };

/* c[row][col] = sum over segments s and units u < len of
 * a[s * TILE_ROWS + row][u] * panel[s * len + u][col], plus the old c[row][col] with `add`.
 *   c     [rows][TILE_COLS] f32, ldc elements from row to row; 0 < rows <= TILE_ROWS; columns from
 *         `cols` on may be left unwritten
 *   a     addresses of rows of `len` units, TILE_ROWS for each segment
 *   panel as CPU(pack) writes it */
void CPU(tile)(float *c, int64_t ldc, const void *const *a, int64_t segments, int64_t len,
               const void *panel, enum unit unit, int rows, int64_t cols, bool add);

/* panel[k][TILE_COLS] = the transpose of n <= TILE_COLS rows of k elements of dtype dt at w, with
 * ld elements from row to row; columns from n on are 0. For UNIT_PAIR, w is bf16 and k even. */
void CPU(pack)(void *panel, const void *w, enum dtype dt, int64_t ld, int64_t n, int64_t k,
               enum unit unit);

/* Whether this level has an instruction for pairs of bf16. */
bool CPU(has_pairs)(void);

gemm_fn CPU(gemm);
gemm_add_fn CPU(gemm_add);
norm_modulate_fn CPU(norm_modulate);
layer_norm_fn CPU(layer_norm);
add_norm_modulate_fn CPU(add_norm_modulate);
add_layer_norm_fn CPU(add_layer_norm);
rms_norm_fn CPU(rms_norm);
norm_rope_fn CPU(norm_rope);
attention_fn CPU(attention);
attention_merge_fn CPU(attention_merge);
relative_attention_fn CPU(relative_attention);
gate_add_fn CPU(gate_add);
add_rows_fn CPU(add_rows);
silu_fn CPU(silu);
gelu_fn CPU(gelu);
gated_gelu_fn CPU(gated_gelu);
lincomb_fn CPU(lincomb);
copy_fn CPU(copy);
conv3d_fn CPU(conv3d);
channel_norm_fn CPU(channel_norm);
channel_affine_fn CPU(channel_affine);
average_down_fn CPU(average_down);
repeat_up_fn CPU(repeat_up);
find_nonfinite_fn CPU(find_nonfinite);
row_sums_fn CPU(row_sums);

void CPU(table)(struct table *t);

static inline int cpu_threads(const struct device *dev)
{
    return dev->threads < 1 ? 1 : dev->threads > CPU_THREADS ? CPU_THREADS : dev->threads;
}

static inline int cpu_thread(void)
{
    return omp_get_thread_num();
}

static inline int64_t min_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t div_up(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* Number of threads for an op over `work` elements: each gets enough to be worth starting, and
 * `bytes` of workspace. */
static inline int cpu_threads_for(const struct device *dev, int64_t work, size_t bytes)
{
    int64_t n = min_of(cpu_threads(dev), div_up(work, 16384));

    if (bytes > 0)
        n = min_of(n, (int64_t)(CPU_WORKSPACE / bytes));
    assert(n > 0);
    return (int)n;
}

/* A row is a run of the last axis. The number of rows of t, and the element offset of one. */
static inline int64_t rows_of(struct tensor t)
{
    int64_t n = 1;

    for (int i = 0; i < t.ndim - 1; i++)
        n *= t.dim[i];
    return n;
}

static inline int64_t row_at(struct tensor t, int64_t row)
{
    int64_t at = 0;

    for (int i = t.ndim - 2; i > 0; i--) {
        at += row % t.dim[i] * t.stride[i];
        row /= t.dim[i];
    }
    return t.ndim > 1 ? at + row * t.stride[0] : at;
}

/* The address of the element at offset `at` of t. */
static inline const void *element(struct tensor t, int64_t at)
{
    return (const char *)t.data + at * (int64_t)dtype_size(t.dtype);
}

/* dst = n dense elements of t from element offset `at`, as f32. */
static inline void load_row(float *restrict dst, struct tensor t, int64_t at, int64_t n)
{
    if (t.dtype == DT_BF16) {
        const uint16_t *restrict src = (const uint16_t *)t.data + at;
        for (int64_t i = 0; i < n; i++)
            dst[i] = f32_from_bits((uint32_t)src[i] << 16);
    } else if (t.dtype == DT_F16) {
        const uint16_t *restrict src = (const uint16_t *)t.data + at;
        for (int64_t i = 0; i < n; i++)
            dst[i] = f32_from_f16(src[i]);
    } else {
        memcpy(dst, (const float *)t.data + at, (size_t)n * sizeof(float));
    }
}

/* The same without a copy when t is f32; else converted into `converted`. */
static inline const float *read_row(float *converted, struct tensor t, int64_t at, int64_t n)
{
    if (t.dtype == DT_F32)
        return (const float *)t.data + at;
    load_row(converted, t, at, n);
    return converted;
}

/* bf16_from_f32 without a branch, so that loops vectorize. */
static inline uint16_t bf16_bits(float f)
{
    const uint32_t u = f32_bits(f);
    const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    const uint32_t nan = (u >> 16) | 0x40u;

    return (uint16_t)((u & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}

/* Rounds src[n] and writes it to t from element offset `at`. */
static inline void store_row(struct tensor t, int64_t at, const float *restrict src, int64_t n)
{
    if (t.dtype == DT_BF16) {
        uint16_t *restrict dst = (uint16_t *)t.data + at;
        for (int64_t i = 0; i < n; i++)
            dst[i] = bf16_bits(src[i]);
    } else if (t.dtype == DT_F16) {
        uint16_t *restrict dst = (uint16_t *)t.data + at;
        for (int64_t i = 0; i < n; i++)
            dst[i] = f16_from_f32(src[i]);
    } else {
        memcpy((float *)t.data + at, src, (size_t)n * sizeof(float));
    }
}

/* v = v rounded to dt. */
static inline void round_row(float *v, enum dtype dt, int64_t n)
{
    if (dt == DT_BF16)
        for (int64_t i = 0; i < n; i++)
            v[i] = f32_from_bits((uint32_t)bf16_bits(v[i]) << 16);
}

/* e^x with an error of up to 2 units in the last place, without a branch; 0 below -104, inf above
 * 88.8. Source: the minimax polynomial of Cephes expf. */
static inline float exp_of(float x)
{
    const float magic = 12582912.0f; // 1.5 * 2^23: adding it rounds to an integer
    const float y = x < -104.0f ? -104.0f : x > 89.0f ? 89.0f : x;
    const float shifted = y * 1.44269504f + magic;
    const float n = shifted - magic;
    const float r = (y - n * 0.693359375f) + n * 2.12194440e-4f;
    const int32_t i = (int32_t)(f32_bits(shifted) - f32_bits(magic));
    const int32_t half = i >> 1; // 2^i as two factors: 2^128 and 2^-150 are no f32
    float p = 1.9875691500e-4f;

    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * f32_from_bits((uint32_t)(half + 127) << 23) *
           f32_from_bits((uint32_t)(i - half + 127) << 23);
}

/* v = act(v). */
static inline void act_row(float *v, enum act act, int64_t n)
{
    if (act == ACT_GELU)
        for (int64_t i = 0; i < n; i++)
            v[i] = 0.5f * v[i] * (1 + erff(v[i] * (float)M_SQRT1_2));
    else if (act == ACT_GELU_TANH) // 0.5 (1 + tanh u) = 1 / (1 + e^-2u)
        for (int64_t i = 0; i < n; i++)
            v[i] = v[i] / (1 + exp_of(-1.5957691216f * (v[i] + 0.044715f * v[i] * v[i] * v[i])));
    else if (act == ACT_SILU)
        for (int64_t i = 0; i < n; i++)
            v[i] = v[i] / (1 + exp_of(-v[i]));
    else if (act == ACT_RELU)
        for (int64_t i = 0; i < n; i++)
            v[i] = v[i] < 0 ? 0 : v[i];
}

#endif
