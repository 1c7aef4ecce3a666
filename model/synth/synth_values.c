/* Random weights from a counter-based generator, so that any range of a tensor can be computed
 * separately. */
#include "model/synth/synth_internal.h"
#include "runtime/convert.h"
#include "runtime/half.h"

#include <math.h>

/* 64 pseudo-random bits from a counter. Source: Steele et al. 2014, SplitMix64. */
static inline uint64_t splitmix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* The sum of four uniform numbers: mean 0, standard deviation 1, absolute value at most 3.47. */
static inline float near_normal(uint64_t key, int64_t index)
{
    const uint64_t z = splitmix(key + (uint64_t)index * 0x9e3779b97f4a7c15u);
    const int sum =
        (int)(z & 0xffff) + (int)(z >> 16 & 0xffff) + (int)(z >> 32 & 0xffff) + (int)(z >> 48);

    return (float)(sum - 131070) * (float)(1.7320508075688772 / 65536);
}

void synth_e4m3(uint64_t key, int64_t first, int64_t count, uint8_t *dst)
{
    for (int64_t i = 0; i < count; i++) {
        const uint64_t z = splitmix(key + (uint64_t)(first + i) * 0x9e3779b97f4a7c15u);

        dst[i] = (uint8_t)((z >> 8 & 0x80) | z % 127);
    }
}

float synth_rms_e4m3(void)
{
    float values[127];
    uint8_t bits[127];
    double sum = 0;

    for (int i = 0; i < 127; i++)
        bits[i] = (uint8_t)i;
    convert_values(values, DT_F32, bits, DT_F8_E4M3, 127);
    for (int i = 0; i < 127; i++)
        sum += (double)values[i] * (double)values[i];
    return (float)sqrt(sum / 127);
}

void synth_values(const struct synth_tensor *t, int64_t first, int64_t count, void *dst)
{
    const enum dtype dt = t->shape.dtype;
    const uint64_t key = t->key;
    const float mean = t->mean, std = t->std;

    if (t->block != NULL) {
        const int64_t values = t->block->values, blocks = count / values;

        blocks_random(t->block, key, std, first / values, blocks, dst);
    } else if (dt == DT_F32) {
        float *to = dst;
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < count; i++)
            to[i] = mean + std * near_normal(key, first + i);
    } else if (dt == DT_BF16) {
        uint16_t *to = dst;
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < count; i++)
            to[i] = bf16_from_f32(mean + std * near_normal(key, first + i));
    } else if (dt == DT_F8_E4M3) {
        synth_e4m3(key, first, count, dst);
    } else {
        uint16_t *to = dst;
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < count; i++)
            to[i] = f16_from_f32(mean + std * near_normal(key, first + i));
    }
}
