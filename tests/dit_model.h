/* dit_model.h - small transformers whose weights are a function of tensor name and index, the same
 * as in golden/make_dit.py: no files are read, and any rank can compute any range. */
#ifndef TESTS_DIT_MODEL_H
#define TESTS_DIT_MODEL_H

#include "model/checkpoint/quantize.h"
#include "model/transformer/dit.h"
#include "runtime/half.h"

#include <stdlib.h>
#include <string.h>

static inline uint64_t dit_seed(const char *name)
{
    uint64_t z = 0xcbf29ce484222325u;

    for (const char *c = name; *c != '\0'; c++)
        z = (z ^ (uint8_t)*c) * 0x100000001b3u;
    return z;
}

/* 128 levels around 0, in (-1, 1): exact in bf16. */
static inline float dit_value(uint64_t seed, int64_t i)
{
    uint64_t z = seed + (uint64_t)(i + 1) * 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return ((float)(z >> 57) - 63.5f) / 64;
}

/* Reads from a weight source; payload: the dit_config. */
static inline status dit_read(void *payload, const struct weight_spec *spec, const char *name,
                              int64_t first, int64_t count, void *dst)
{
    const struct weight_source source = { .read = dit_read, .payload = payload };
    const char *end = strrchr(name, '.');
    const bool gain = strstr(name, "norm") != NULL && end != NULL && strcmp(end, ".weight") == 0;
    const float offset = gain ? 1 : 0, scale = gain                                 ? 0.25f
                                               : strstr(name, "modulation") != NULL ? 1
                                                                                    : 0.125f;
    const int64_t channels = spec->channels_last ? spec->file_dim[1] : 1;
    const uint64_t seed = dit_seed(name);

    if (quantize_makes(spec))
        return quantize_read(&source, spec, name, first, count, dst);
    for (int64_t k = 0; k < count; k++) {
        const int64_t i = first + k, cell = i / channels % 4, row = i / channels / 4;
        const int64_t from = spec->channels_last ? (row * channels + i % channels) * 4 + cell : i;
        const float v = offset + scale * dit_value(seed, from);

        if (spec->dtype == DT_F32)
            ((float *)dst)[k] = v;
        else
            ((uint16_t *)dst)[k] = bf16_from_f32(v);
    }
    return ST_OK;
}

static inline struct weight_source dit_source(struct dit_config *config)
{
    return (struct weight_source){ .read = dit_read, .payload = config };
}

static inline void dit_fill(float *out, int64_t n, const char *name, float scale)
{
    const uint64_t seed = dit_seed(name);

    for (int64_t i = 0; i < n; i++)
        out[i] = scale * dit_value(seed, i);
}

/* Adds the text of both CFG branches, `rows` rows each. */
static inline status dit_text(struct conditioning *c, int64_t rows, int64_t text_dim)
{
    for (int i = 0; i < 2; i++) {
        const int64_t dim[] = { rows, text_dim };
        float *data;

        TRY(conditioning_add(c, i ? CONDITION_UNCOND : CONDITION_COND, 2, dim, &data));
        dit_fill(data, rows * text_dim, i ? "text.uncond" : "text.cond", 4);
    }
    return ST_OK;
}

#endif
