#include "runtime/blocks.h"

#include "runtime/convert.h"
#include "runtime/half.h"
#include "runtime/status.h"

#include <string.h>
#include <strings.h>

/* Little-endian f16, as all scales are. */
static inline float half_at(const uint8_t *p)
{
    return f32_from_f16((uint16_t)(p[0] | p[1] << 8));
}

static inline uint32_t u32_at(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* ---- blocks of 32 values: d, or d and m; then the numbers ---- */

CONVERT_WIDE static void decode_q8_0(float *y, const uint8_t *b, size_t blocks)
{
    for (; blocks > 0; blocks--, b += 34, y += 32) {
        const float d = half_at(b);

        for (int i = 0; i < 32; i++)
            y[i] = d * (float)(int8_t)b[2 + i];
    }
}

CONVERT_WIDE static void decode_q4_0(float *y, const uint8_t *b, size_t blocks)
{
    for (; blocks > 0; blocks--, b += 18, y += 32) {
        const float d = half_at(b);

        for (int i = 0; i < 16; i++) {
            y[i] = d * (float)((b[2 + i] & 15) - 8);
            y[i + 16] = d * (float)((b[2 + i] >> 4) - 8);
        }
    }
}

CONVERT_WIDE static void decode_q4_1(float *y, const uint8_t *b, size_t blocks)
{
    for (; blocks > 0; blocks--, b += 20, y += 32) {
        const float d = half_at(b), m = half_at(b + 2);

        for (int i = 0; i < 16; i++) {
            y[i] = d * (float)(b[4 + i] & 15) + m;
            y[i + 16] = d * (float)(b[4 + i] >> 4) + m;
        }
    }
}

/* Of 32 fifth bits, that of value i, in its place. */
static inline int fifth_bit(uint32_t bits, int i)
{
    return (int)(bits >> i & 1) << 4;
}

CONVERT_WIDE static void decode_q5_0(float *y, const uint8_t *b, size_t blocks)
{
    for (; blocks > 0; blocks--, b += 22, y += 32) {
        const float d = half_at(b);
        const uint32_t high = u32_at(b + 2);

        for (int i = 0; i < 16; i++) {
            y[i] = d * (float)(((b[6 + i] & 15) | fifth_bit(high, i)) - 16);
            y[i + 16] = d * (float)(((b[6 + i] >> 4) | fifth_bit(high, i + 16)) - 16);
        }
    }
}

CONVERT_WIDE static void decode_q5_1(float *y, const uint8_t *b, size_t blocks)
{
    for (; blocks > 0; blocks--, b += 24, y += 32) {
        const float d = half_at(b), m = half_at(b + 2);
        const uint32_t high = u32_at(b + 4);

        for (int i = 0; i < 16; i++) {
            y[i] = d * (float)((b[8 + i] & 15) | fifth_bit(high, i)) + m;
            y[i + 16] = d * (float)((b[8 + i] >> 4) | fifth_bit(high, i + 16)) + m;
        }
    }
}

static const int8_t nonlinear[16] = { -127, -104, -83, -65, -49, -35, -22, -10,
                                      1,    13,   25,  38,  53,  69,  89,  113 };

static void decode_iq4_nl(float *y, const uint8_t *b, size_t blocks)
{
    for (; blocks > 0; blocks--, b += 18, y += 32) {
        const float d = half_at(b);

        for (int i = 0; i < 16; i++) {
            y[i] = d * (float)nonlinear[b[2 + i] & 15];
            y[i + 16] = d * (float)nonlinear[b[2 + i] >> 4];
        }
    }
}

/* ---- blocks of 256 values, in groups of 16 or 32 with small scales ---- */

/* 16 x (scale, minimum) of 4 bits; 256 x 2 bits; d, m */
CONVERT_WIDE static void decode_q2_k(float *y, const uint8_t *b, size_t blocks)
{
    for (; blocks > 0; blocks--, b += 84, y += 256) {
        const float d = half_at(b + 80), m = half_at(b + 82);

        for (int g = 0; g < 16; g++) { // values 16g to 16g + 15
            const uint8_t *q = b + 16 + g / 8 * 32 + g % 2 * 16;
            const float scale = d * (float)(b[g] & 15), least = m * (float)(b[g] >> 4);
            const int shift = g % 8 / 2 * 2;

            for (int i = 0; i < 16; i++)
                y[16 * g + i] = scale * (float)(q[i] >> shift & 3) - least;
        }
    }
}

/* 256 x 1 high bit, inverted; 256 x 2 bits; 16 scales of 6 bits; d */
CONVERT_WIDE static void decode_q3_k(float *y, const uint8_t *b, size_t blocks)
{
    for (; blocks > 0; blocks--, b += 110, y += 256) {
        const float d = half_at(b + 108);
        const uint8_t *s = b + 96;

        for (int g = 0; g < 16; g++) {
            const uint8_t *q = b + 32 + g / 8 * 32 + g % 2 * 16, *high = b + g % 2 * 16;
            const int low = g < 8 ? s[g] & 15 : s[g - 8] >> 4;
            const int six = low | (s[8 + g % 4] >> (2 * (g / 4)) & 3) << 4;
            const float scale = d * (float)(six - 32);
            const int shift = g % 8 / 2 * 2, bit = g / 2;

            for (int i = 0; i < 16; i++)
                y[16 * g + i] = scale * (float)((q[i] >> shift & 3) - 4 + 4 * (high[i] >> bit & 1));
        }
    }
}

/* Scale and minimum, of 6 bits, of group j of eight, in 12 bytes. */
static inline void scale_and_least(int j, const uint8_t *s, int *scale, int *least)
{
    if (j < 4) {
        *scale = s[j] & 63;
        *least = s[j + 4] & 63;
    } else {
        *scale = (s[j + 4] & 15) | s[j - 4] >> 6 << 4;
        *least = s[j + 4] >> 4 | s[j] >> 6 << 4;
    }
}

/* d, m; 8 x (scale, minimum); 256 x 4 bits */
CONVERT_WIDE static void decode_q4_k(float *y, const uint8_t *b, size_t blocks)
{
    for (; blocks > 0; blocks--, b += 144, y += 256) {
        const float d = half_at(b), m = half_at(b + 2);

        for (int g = 0; g < 8; g++) { // values 32g to 32g + 31
            const uint8_t *q = b + 16 + g / 2 * 32;
            const int shift = g % 2 * 4;
            int s, n;
            float scale, least;

            scale_and_least(g, b + 4, &s, &n);
            scale = d * (float)s;
            least = m * (float)n;
            for (int i = 0; i < 32; i++)
                y[32 * g + i] = scale * (float)(q[i] >> shift & 15) - least;
        }
    }
}

/* d, m; 8 x (scale, minimum); 256 x 1 high bit; 256 x 4 bits */
CONVERT_WIDE static void decode_q5_k(float *y, const uint8_t *b, size_t blocks)
{
    for (; blocks > 0; blocks--, b += 176, y += 256) {
        const float d = half_at(b), m = half_at(b + 2);

        for (int g = 0; g < 8; g++) {
            const uint8_t *q = b + 48 + g / 2 * 32, *high = b + 16;
            const int shift = g % 2 * 4;
            int s, n;
            float scale, least;

            scale_and_least(g, b + 4, &s, &n);
            scale = d * (float)s;
            least = m * (float)n;
            for (int i = 0; i < 32; i++)
                y[32 * g + i] =
                    scale * (float)((q[i] >> shift & 15) | (high[i] >> g & 1) << 4) - least;
        }
    }
}

/* 256 x 4 bits; 256 x 2 high bits; 16 scales of 8 bits; d */
CONVERT_WIDE static void decode_q6_k(float *y, const uint8_t *b, size_t blocks)
{
    for (; blocks > 0; blocks--, b += 210, y += 256) {
        const float d = half_at(b + 208);

        for (int g = 0; g < 16; g++) {
            const uint8_t *q = b + g / 8 * 64 + g % 4 * 16;
            const uint8_t *high = b + 128 + g / 8 * 32 + g % 2 * 16;
            const float scale = d * (float)(int8_t)b[192 + g];
            const int shift = g % 8 / 4 * 4, high_shift = g % 8 / 2 * 2;

            for (int i = 0; i < 16; i++)
                y[16 * g + i] =
                    scale * (float)(((q[i] >> shift & 15) | (high[i] >> high_shift & 3) << 4) - 32);
        }
    }
}

/* d; 8 x 2 high and 4 low bits of the scales; 256 x 4 bits */
static void decode_iq4_xs(float *y, const uint8_t *b, size_t blocks)
{
    for (; blocks > 0; blocks--, b += 136, y += 256) {
        const float d = half_at(b);
        const int high = b[2] | b[3] << 8;

        for (int g = 0; g < 8; g++) {
            const int low = b[4 + g / 2] >> (4 * (g % 2)) & 15;
            const float scale = d * (float)((low | (high >> (2 * g) & 3) << 4) - 32);
            const uint8_t *q = b + 8 + 16 * g;

            for (int i = 0; i < 16; i++) {
                y[32 * g + i] = scale * (float)nonlinear[q[i] & 15];
                y[32 * g + i + 16] = scale * (float)nonlinear[q[i] >> 4];
            }
        }
    }
}

static const struct ggml_type types[] = {
    { "F32", 0, DT_F32, 1, 4, NULL },
    { "F16", 1, DT_F16, 1, 2, NULL },
    { "BF16", 30, DT_BF16, 1, 2, NULL },
    { "F64", 28, DT_F64, 1, 8, NULL },
    { "I8", 24, DT_I8, 1, 1, NULL },
    { "I16", 25, DT_I16, 1, 2, NULL },
    { "I32", 26, DT_I32, 1, 4, NULL },
    { "I64", 27, DT_I64, 1, 8, NULL },
    { "Q4_0", 2, DT_NONE, 32, 18, decode_q4_0 },
    { "Q4_1", 3, DT_NONE, 32, 20, decode_q4_1 },
    { "Q5_0", 6, DT_NONE, 32, 22, decode_q5_0 },
    { "Q5_1", 7, DT_NONE, 32, 24, decode_q5_1 },
    { "Q8_0", 8, DT_NONE, 32, 34, decode_q8_0 },
    { "IQ4_NL", 20, DT_NONE, 32, 18, decode_iq4_nl },
    { "Q2_K", 10, DT_NONE, 256, 84, decode_q2_k },
    { "Q3_K", 11, DT_NONE, 256, 110, decode_q3_k },
    { "Q4_K", 12, DT_NONE, 256, 144, decode_q4_k },
    { "Q5_K", 13, DT_NONE, 256, 176, decode_q5_k },
    { "Q6_K", 14, DT_NONE, 256, 210, decode_q6_k },
    { "IQ4_XS", 23, DT_NONE, 256, 136, decode_iq4_xs },
    // not read
    { "Q8_1", 9, DT_NONE, 0, 0, NULL },
    { "Q8_K", 15, DT_NONE, 0, 0, NULL },
    { "IQ2_XXS", 16, DT_NONE, 0, 0, NULL },
    { "IQ2_XS", 17, DT_NONE, 0, 0, NULL },
    { "IQ3_XXS", 18, DT_NONE, 0, 0, NULL },
    { "IQ1_S", 19, DT_NONE, 0, 0, NULL },
    { "IQ3_S", 21, DT_NONE, 0, 0, NULL },
    { "IQ2_S", 22, DT_NONE, 0, 0, NULL },
    { "IQ1_M", 29, DT_NONE, 0, 0, NULL },
    { "TQ1_0", 34, DT_NONE, 0, 0, NULL },
    { "TQ2_0", 35, DT_NONE, 0, 0, NULL },
    { "MXFP4", 39, DT_NONE, 0, 0, NULL },
    { "NVFP4", 40, DT_NONE, 0, 0, NULL },
    { "Q1_0", 41, DT_NONE, 0, 0, NULL },
};

const struct ggml_type *ggml_type_named(const char *name)
{
    for (size_t i = 0; i < COUNT(types); i++)
        if (strcasecmp(types[i].name, name) == 0)
            return &types[i];
    return NULL;
}

const struct ggml_type *ggml_type_find(uint32_t id)
{
    for (size_t i = 0; i < COUNT(types); i++)
        if (types[i].id == id)
            return &types[i];
    return NULL;
}
