#include "kernels/cpu/cpu.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

typedef int32_t lanes __attribute__((vector_size(4 * VEC)));

INLINE vec load(const void *p)
{
    return *(const vec_any *)p;
}

/* Unit u of a row in every lane. */
INLINE vec broadcast(const void *row, int64_t u)
{
    return ((const float *)row)[u] - (vec){ 0 };
}

/* The same for a pair of bf16, whose address may not be a multiple of 4. */
INLINE vec broadcast_pair(const void *row, int64_t u)
{
    int32_t pair;

    memcpy(&pair, (const char *)row + 4 * u, sizeof(pair));
    return (vec)(pair - (lanes){ 0 });
}

/* sum + a * w, lanes of f32 or of pairs of bf16. */
INLINE vec multiply_add(vec sum, vec a, vec w, enum unit unit)
{
#if defined(__AVX512BF16__)
    if (unit == UNIT_PAIR)
        return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)w);
#endif
    return sum + a * w;
}

/* CPU(tile) with `rows`, `vecs` (vectors of columns) and `unit` as constants after inlining, so
 * that the sums stay in registers. */
INLINE void tile_of(float *c, int64_t ldc, const void *const *a, int64_t segments, int64_t len,
                    const float *w, enum unit unit, const int rows, const int vecs, bool add)
{
    vec sum[TILE_ROWS][2];

#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int j = 0; j < vecs; j++)
            sum[i][j] = add ? load(c + i * ldc + j * VEC) : (vec){ 0 };
    for (int64_t s = 0; s < segments; s++) {
        const void *row[TILE_ROWS];

#pragma GCC unroll 16
        for (int i = 0; i < rows; i++)
            row[i] = a[s * TILE_ROWS + i];
        for (int64_t u = 0; u < len; u++, w += TILE_COLS) {
            const vec w0 = load(w), w1 = vecs > 1 ? load(w + VEC) : w0;

#pragma GCC unroll 16
            for (int i = 0; i < rows; i++) {
                const vec x = unit == UNIT_PAIR ? broadcast_pair(row[i], u) : broadcast(row[i], u);

                sum[i][0] = multiply_add(sum[i][0], x, w0, unit);
                if (vecs > 1)
                    sum[i][1] = multiply_add(sum[i][1], x, w1, unit);
            }
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int j = 0; j < vecs; j++)
            *(vec_any *)(c + i * ldc + j * VEC) = sum[i][j];
}

/* A full tile, or at the end of a matrix the remaining rows, four or one at a time. */
INLINE void tile_rows(float *c, int64_t ldc, const void *const *a, int64_t segments, int64_t len,
                      const float *w, enum unit unit, int rows, const int vecs, bool add)
{
    int i = 0;

    if (rows == TILE_ROWS) {
        tile_of(c, ldc, a, segments, len, w, unit, TILE_ROWS, vecs, add);
        return;
    }
    for (; i + 4 <= rows; i += 4)
        tile_of(c + i * ldc, ldc, a + i, segments, len, w, unit, 4, vecs, add);
    for (; i < rows; i++)
        tile_of(c + i * ldc, ldc, a + i, segments, len, w, unit, 1, vecs, add);
}

void CPU(tile)(float *c, int64_t ldc, const void *const *a, int64_t segments, int64_t len,
               const void *panel, enum unit unit, int rows, int64_t cols, bool add)
{
#if defined(__AVX512BF16__)
    if (unit == UNIT_PAIR && cols > VEC)
        tile_rows(c, ldc, a, segments, len, panel, UNIT_PAIR, rows, 2, add);
    else if (unit == UNIT_PAIR)
        tile_rows(c, ldc, a, segments, len, panel, UNIT_PAIR, rows, 1, add);
    else
#endif
        if (cols > VEC)
        tile_rows(c, ldc, a, segments, len, panel, UNIT_F32, rows, 2, add);
    else
        tile_rows(c, ldc, a, segments, len, panel, UNIT_F32, rows, 1, add);
}

bool CPU(has_pairs)(void)
{
#if defined(__AVX512BF16__)
    return true;
#else
    return false;
#endif
}

/* The lanes that interleave the lower, and the upper, halves of two vectors. */
#if VEC == 16
#define LOWER 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define UPPER 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif VEC == 8
#define LOWER 0, 8, 1, 9, 2, 10, 3, 11
#define UPPER 4, 12, 5, 13, 6, 14, 7, 15
#else
#define LOWER 0, 4, 1, 5
#define UPPER 2, 6, 3, 7
#endif

/* Transposes VEC rows of VEC: log2(VEC) rounds that interleave row i with row i + VEC / 2. */
INLINE void transpose(vec *r)
{
#pragma GCC unroll 4
    for (int round = 1; round < VEC; round *= 2) {
        vec t[VEC];

#pragma GCC unroll 16
        for (int i = 0; i < VEC / 2; i++) {
            t[2 * i] = __builtin_shufflevector(r[i], r[i + VEC / 2], LOWER);
            t[2 * i + 1] = __builtin_shufflevector(r[i], r[i + VEC / 2], UPPER);
        }
#pragma GCC unroll 16
        for (int i = 0; i < VEC; i++)
            r[i] = t[i];
    }
}

typedef uint16_t halves __attribute__((vector_size(2 * VEC), aligned(2)));
typedef uint32_t words __attribute__((vector_size(4 * VEC)));

INLINE vec load_bf16(const uint16_t *p)
{
    return (vec)(__builtin_convertvector(*(const halves *)p, words) << 16);
}

/* CPU(pack). `widen`: w is bf16 and converted to f32; else units are copied. ld, k in units of w.
 */
INLINE void pack_of(float *restrict panel, const void *w, int64_t ld, int64_t n, int64_t k,
                    const bool widen)
{
    const size_t size = widen ? 2 : 4;

    for (int64_t first = 0; first < TILE_COLS; first += VEC) {
        const char *from = (const char *)w + first * ld * (int64_t)size;
        const int64_t rows = n - first; // may be < 0
        int64_t u = 0;

        if (rows >= VEC)
            for (; u + VEC <= k; u += VEC) {
                vec r[VEC];

#pragma GCC unroll 16
                for (int i = 0; i < VEC; i++)
                    r[i] = widen ? load_bf16((const uint16_t *)from + i * ld + u)
                                 : load((const float *)from + i * ld + u);
                transpose(r);
#pragma GCC unroll 16
                for (int i = 0; i < VEC; i++)
                    *(vec_any *)(panel + (u + i) * TILE_COLS + first) = r[i];
            }
        for (; u < k; u++)
            for (int64_t i = 0; i < VEC; i++) {
                float *to = panel + u * TILE_COLS + first + i;

                if (i >= rows)
                    *to = 0;
                else if (widen)
                    *to = f32_from_bf16(((const uint16_t *)from)[i * ld + u]);
                else
                    memcpy(to, from + (i * ld + u) * 4, 4);
            }
    }
}

void CPU(pack)(void *panel, const void *w, enum dtype dt, int64_t ld, int64_t n, int64_t k,
               enum unit unit)
{
    if (unit == UNIT_PAIR)
        pack_of(panel, w, ld / 2, n, k / 2, false);
    else if (dt == DT_BF16)
        pack_of(panel, w, ld, n, k, true);
    else
        pack_of(panel, w, ld, n, k, false);
}
