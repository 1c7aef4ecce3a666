/* fp8.h - 8-bit floats of 4 exponent bits (OCP e4m3), and rows of them with one scale per row.
 *
 * A row x is quantized with scale = max(max|x|, FP8_LEAST) / 448, and each value is x * (1 /
 * scale), rounded to the nearest e4m3, ties to even; all operations in f32. NaN stays NaN. */
#ifndef RUNTIME_FP8_H
#define RUNTIME_FP8_H

#include "runtime/half.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FP8_MAX 448.0F // the largest e4m3; there are no infinities
#define FP8_LEAST 1e-30F

static inline float f32_from_e4m3(uint8_t b)
{
    const uint32_t exp = (b >> 3) & 15, man = b & 7;
    float f;

    if (exp == 15 && man == 7)
        return f32_from_bits((uint32_t)(b & 0x80) << 24 | 0x7fc00000U);
    f = exp == 0 ? (float)man * 0x1p-9F : f32_from_bits((exp + 120) << 23 | man << 20);
    return b & 0x80 ? -f : f;
}

/* Saturates; NaN stays NaN. Without branches, so that loops over it become vectors. */
static inline uint8_t e4m3_from_f32(float f)
{
    const uint32_t u = f32_bits(f), a = u & 0x7fffffffU;
    const uint32_t normal =
        (a + 0x7ffffU + (a >> 20 & 1U)) >> 20; // with an exponent too large by 120
    const uint32_t small = f32_bits(f32_from_bits(a) + 0x1p14F) - f32_bits(0x1p14F); // in 2^-9
    const uint32_t rounded = a < 0x3c800000U ? small : normal - 960;                 // 2^-6
    const uint32_t q = a > 0x7f800000U ? 127 : rounded > 126 ? 126 : rounded;

    return (uint8_t)(q | (u >> 24 & 0x80U));
}

/* The scale of a row x of n values; then the values of such a row, or a part of it. */
float fp8_scale(const float *x, size_t n);
void fp8_quantize(uint8_t *q, const float *x, float scale, size_t n);

#ifdef __cplusplus
}
#endif
#endif
