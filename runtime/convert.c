#include "runtime/convert.h"

#include "runtime/fp8.h"
#include "runtime/status.h"

#include <assert.h>
#include <string.h>

/* OCP 8-bit exponent, 2^(b - 127). */
static float f32_from_e8m0(uint8_t b)
{
    return b == 255 ? f32_from_bits(0x7fc00000u)
           : b == 0 ? 0x1p-127f
                    : f32_from_bits((uint32_t)b << 23);
}

static float f32_from_byte(uint8_t b, enum dtype from)
{
    if (from == DT_F8_E4M3)
        return f32_from_e4m3(b);
    if (from == DT_F8_E8M0)
        return f32_from_e8m0(b);
    return f32_from_f16((uint16_t)(b << 8)); // E5M2 is the upper half of a half
}

bool convert_possible(enum dtype to, enum dtype from)
{
    return to == from ||
           ((to == DT_F32 || to == DT_BF16) && (dtype_is_float(from) || from == DT_F8_E8M0));
}

/* dst[i] = bf16(src[i]) */
CONVERT_WIDE static void to_bf16(uint16_t *dst, const float *src, size_t n)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = bf16_from_f32(src[i]);
}

/* dst[i] = table[src[i]] */
CONVERT_WIDE static void look_up(float *dst, const uint8_t *src, const float *table, size_t n)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = table[src[i]];
}

/* One of 256 values each. */
static void bytes_to_f32(float *dst, const uint8_t *src, enum dtype from, size_t n)
{
    float table[256];

    for (int i = 0; n >= COUNT(table) && i < (int)COUNT(table); i++)
        table[i] = f32_from_byte((uint8_t)i, from);
    if (n >= COUNT(table))
        look_up(dst, src, table, n);
    for (size_t i = 0; n < COUNT(table) && i < n; i++)
        dst[i] = f32_from_byte(src[i], from);
}

/* dst[i] = (float)src[i] */
CONVERT_WIDE static void to_f32(float *dst, const void *src, enum dtype from, size_t n)
{
    switch (from) {
    case DT_F32:
        memcpy(dst, src, n * sizeof(float));
        break;
    case DT_BF16:
        for (size_t i = 0; i < n; i++)
            dst[i] = f32_from_bf16(((const uint16_t *)src)[i]);
        break;
    case DT_F16:
        for (size_t i = 0; i < n; i++)
            dst[i] = f32_from_f16(((const uint16_t *)src)[i]);
        break;
    case DT_F64:
        for (size_t i = 0; i < n; i++)
            dst[i] = (float)((const double *)src)[i];
        break;
    case DT_F8_E4M3:
    case DT_F8_E5M2:
    case DT_F8_E8M0:
        bytes_to_f32(dst, src, from, n);
        break;
    default:
        assert(!"converted without asking convert_possible()");
    }
}

void convert_values(void *dst, enum dtype to, const void *src, enum dtype from, size_t n)
{
    assert(convert_possible(to, from));
    if (to == from) {
        memcpy(dst, src, n * dtype_size(to));
        return;
    }
    if (to == DT_F32) {
        to_f32(dst, src, from, n);
        return;
    }
    if (from == DT_F32) {
        to_bf16(dst, src, n);
        return;
    }
    for (size_t done = 0; done < n;) {
        const size_t take = n - done < 1024 ? n - done : 1024;
        float wide[1024];

        to_f32(wide, (const char *)src + done * dtype_size(from), from, take);
        to_bf16((uint16_t *)dst + done, wide, take);
        done += take;
    }
}
