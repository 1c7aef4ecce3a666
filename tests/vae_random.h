/* vae_random.h - made-up weights and inputs of the VAE, as tests/golden/make_vae.py makes them up:
 * element i of the tensor NAME comes from a hash of (NAME, i), so nothing needs to be stored. */
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

/* The tensors of one config; a weight_source over them, which knows the "conv:" mark. */
struct vae_random {
    struct weight_spec *specs;
    char *names;
    int count;
};

static inline bool ends_in(const char *name, const char *end)
{
    return strlen(name) >= strlen(end) && strcmp(name + strlen(name) - strlen(end), end) == 0;
}

static inline status vae_random_read(void *payload, const char *name, int64_t first, int64_t count,
                                     enum dtype dt, void *dst)
{
    const struct vae_random *r = payload;
    const struct weight_spec *s = r->specs;
    const char *plain = strncmp(name, "conv:", 5) == 0 ? name + 5 : name;
    const uint64_t seed = random_seed(plain);

    while (s < r->specs + r->count && strcmp(s->name, name) != 0)
        s++;
    if (s == r->specs + r->count || (dt != DT_F32 && dt != DT_BF16))
        return fail(ST_FORMAT, "no tensor %s", name);

    int64_t fan = 1, inner = 1; // of an output; frames, rows and columns of a kernel
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

        if (dt == DT_F32)
            ((float *)dst)[i - first] = v;
        else
            ((uint16_t *)dst)[i - first] = bf16_from_f32(v);
    }
    return ST_OK;
}

/* For both halves of a config. ST_MEMORY. */
static inline status vae_random_open(struct vae_random *r, const struct vae_config *config)
{
    struct vae_net *encoder = NULL, *decoder = NULL;
    const status st =
        vae_net_build(config, DT_F32, &encoder, &decoder, &r->specs, &r->names, &r->count);

    vae_net_free(encoder);
    vae_net_free(decoder);
    return st;
}

static inline void vae_random_close(struct vae_random *r)
{
    free(r->specs);
    free(r->names);
}

static inline struct weight_source vae_random_source(struct vae_random *r)
{
    return (struct weight_source){ .read = vae_random_read, .payload = r };
}

#endif
