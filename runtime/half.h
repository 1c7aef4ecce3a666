/* half.h - conversion of 16-bit floats, rounding to nearest even as PyTorch does. */
#ifndef RUNTIME_HALF_H
#define RUNTIME_HALF_H

#include <stdint.h>
#include <string.h>

static inline float f32_from_bits(uint32_t u)
{
    float f;

    memcpy(&f, &u, sizeof(f));
    return f;
}

static inline uint32_t f32_bits(float f)
{
    uint32_t u;

    memcpy(&u, &f, sizeof(u));
    return u;
}

static inline float f32_from_bf16(uint16_t h)
{
    return f32_from_bits((uint32_t)h << 16);
}

static inline uint16_t bf16_from_f32(float f)
{
    uint32_t u = f32_bits(f);

    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((u >> 16) | 0x40u); // NaN stays NaN
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

/* f rounded to bf16. */
static inline float bf16_round(float f)
{
    return f32_from_bf16(bf16_from_f32(f));
}

/* Without branches, so that loops over it become vectors. */
static inline float f32_from_f16(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exp = (h >> 10) & 31u;
    const float subnormal = (float)(int)(h & 0x3ffu) * 0x1p-24f; // exact
    const uint32_t shifted = (uint32_t)(h & 0x7fffu) << 13;
    const uint32_t u = exp == 0    ? f32_bits(subnormal)
                       : exp == 31 ? shifted + 0x70000000u
                                   : shifted + 0x38000000u;

    return f32_from_bits(sign | u);
}

static inline uint16_t f16_from_f32(float f)
{
    const uint32_t sign = f32_bits(f) >> 16 & 0x8000u;
    uint32_t u = f32_bits(f) & 0x7fffffffu;

    if (u > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u); // NaN
    if (u >= 0x477ff000u)
        return (uint16_t)(sign | 0x7c00u); // 65520 and more round to infinity
    if (u < 0x38800000u) // subnormal: the sum with 0.5 rounds to multiples of 2^-24
        return (uint16_t)(sign | (f32_bits(f32_from_bits(u) + 0.5f) - 0x3f000000u));
    u += 0xfffu + (u >> 13 & 1u);
    return (uint16_t)(sign | (u - 0x38000000u) >> 13);
}

#endif
