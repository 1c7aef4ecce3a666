#include "runtime/blocks.h"
#include "runtime/half.h"
#include "runtime/status.h"

#include <assert.h>
#include <math.h>

#define SAMPLE 32 // blocks from which a scale is found

/* Where the f16 scales of a block are; the second one is `ratio` times the first, so that the mean
 * of the values is 0. */
static const struct {
    uint32_t id;
    int scale, second; // -1: none
    float ratio;
} scales[] = {
    { 2, 0, -1, 0 },    { 3, 0, 2, -7.5f },  { 6, 0, -1, 0 },      { 7, 0, 2, -15.5f },
    { 8, 0, -1, 0 },    { 20, 0, -1, 0 },    { 10, 80, 82, 1.5f }, { 11, 108, -1, 0 },
    { 12, 0, 2, 7.5f }, { 13, 0, 2, 15.5f }, { 14, 208, -1, 0 },   { 23, 0, -1, 0 },
};

/* Source: Steele et al. 2014, SplitMix64. */
static uint64_t splitmix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static void put_half(uint8_t *p, float value)
{
    const uint16_t h = f16_from_f32(value);

    p[0] = (uint8_t)h;
    p[1] = (uint8_t)(h >> 8);
}

static void fill(const struct ggml_type *type, uint64_t key, float scale, int64_t first,
                 int64_t count, uint8_t *dst)
{
    size_t t = 0;

    while (scales[t].id != type->id)
        assert(++t < COUNT(scales));
    for (int64_t b = 0; b < count; b++, dst += type->bytes) {
        for (int i = 0; i < type->bytes; i += 8) {
            const uint64_t at = (uint64_t)(first + b) * 64 + (uint64_t)i / 8;
            const uint64_t bits = splitmix(key + at * 0x9e3779b97f4a7c15u);

            for (int k = 0; k < 8 && i + k < type->bytes; k++)
                dst[i + k] = (uint8_t)(bits >> 8 * k);
        }
        put_half(dst + scales[t].scale, scale);
        if (scales[t].second >= 0)
            put_half(dst + scales[t].second, scale * scales[t].ratio);
    }
}

void blocks_random(const struct ggml_type *type, uint64_t key, float std, int64_t first,
                   int64_t count, void *dst)
{
    uint8_t sample[SAMPLE * 512];
    float values[SAMPLE * BLOCK_VALUES_MAX];
    double sum = 0;

    assert(type->bytes <= 512);
    fill(type, 1, 1, 0, SAMPLE, sample);
    type->decode(values, sample, SAMPLE);
    for (int i = 0; i < SAMPLE * type->values; i++)
        sum += (double)values[i] * (double)values[i];
    fill(type, key, std / (float)sqrt(sum / (SAMPLE * type->values)), first, count, dst);
}
