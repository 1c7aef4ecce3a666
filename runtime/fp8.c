#include "runtime/fp8.h"

#include "runtime/convert.h"

/* The largest absolute value of those that are numbers. Absolute values are ordered as their bits
 * are. */
CONVERT_WIDE static float largest(const float *x, size_t n)
{
    int32_t most = 0;

    for (size_t i = 0; i < n; i++) {
        const int32_t bits = (int32_t)(f32_bits(x[i]) & 0x7fffffffU);
        const int32_t number = bits > 0x7f800000 ? 0 : bits;

        most = number > most ? number : most;
    }
    return f32_from_bits((uint32_t)most);
}

float fp8_scale(const float *x, size_t n)
{
    const float most = largest(x, n);

    return (most > FP8_LEAST ? most : FP8_LEAST) / FP8_MAX;
}

CONVERT_WIDE static void quantize(uint8_t *q, const float *x, float factor, size_t n)
{
    for (size_t i = 0; i < n; i++)
        q[i] = e4m3_from_f32(x[i] * factor);
}

void fp8_quantize(uint8_t *q, const float *x, float scale, size_t n)
{
    quantize(q, x, 1 / scale, n);
}
