/* vae_random.h - random weights and inputs of the VAE, the same as in tests/golden/make_vae.py:
 * element i of the tensor NAME is a hash of (NAME, i), so no file is needed. */
#ifndef TESTS_VAE_RANDOM_H
#define TESTS_VAE_RANDOM_H

#include "model/vae/vae_internal.h"
#include "runtime/half.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static inline uint64_t random_seed(const char *name)
{
    uint64_t seed = 14695981039346656037u; // FNV-1a

    for (; *name; name++)
        seed = (seed ^ (unsigned char)*name) * 1099511628211u;
    return seed;
}

/* In [-1, 1), 24 bits: splitmix64. */
static inline float random_at(uint64_t seed, int64_t i)
{
    uint64_t x = seed + ((uint64_t)i + 1) * 0x9E3779B97F4A7C15u;

    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    x = x ^ (x >> 31);
    return (float)(x >> 40) * 0x1p-23f - 1;
}

static inline float *random_input(const char *name, int64_t count, float size)
{
    const uint64_t seed = random_seed(name);
    float *x = malloc((size_t)count * sizeof(float));

    for (int64_t i = 0; i < count; i++)
        x[i] = random_at(seed, i) * size;
    return x;
}

static inline bool ends_in(const char *name, const char *end)
{
    return strlen(name) >= strlen(end) && strcmp(name + strlen(name) - strlen(end), end) == 0;
}

static inline status vae_random_read(void *payload, const struct weight_spec *s, const char *name,
                                     int64_t first, int64_t count, void *dst)
{
    const uint64_t seed = random_seed(name);

    int64_t fan = 1, inner = 1; // inputs of one output; kernel size: frames * rows * columns
    for (int i = 1; i < s->ndim; i++)
        fan *= s->dim[i];
    if (s->ndim == 5)
        inner = s->dim[1] * s->dim[2] * s->dim[3];

    const int64_t channels = fan / inner;
    const float bound = (float)sqrt(3.0 / (double)fan);

    for (int64_t i = first; i < first + count; i++) {
        const int64_t o = i / fan, at = i % fan / channels, c = i % channels;
        const float u = random_at(seed, o * fan + c * inner + at);

        const float v = ends_in(name, "gamma")  ? 1 + u * 0.25f
                        : ends_in(name, "bias") ? u * 0.125f
                                                : u * bound;

        if (s->dtype == DT_F32)
            ((float *)dst)[i - first] = v;
        else
            ((uint16_t *)dst)[i - first] = bf16_from_f32(v);
    }
    return ST_OK;
}

static inline struct weight_source vae_random_source(void)
{
    return (struct weight_source){ .read = vae_random_read };
}

#endif
