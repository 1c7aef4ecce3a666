/* Mersenne Twister and the vector Box-Muller of PyTorch's AVX2 kernel (float polynomials with the
 * same fused multiply-adds).
 *
 * Sources: Matsumoto and Nishimura 1998; Cephes' single precision logf, sinf and cosf by
 * S. Moshier; order of draws: PyTorch, normal_fill in
 * aten/src/ATen/native/cpu/DistributionTemplates.h. */
#include "model/sampling/noise.h"

#include "model/sampling/noise_internal.h"
#include "runtime/half.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>

/* ---- Mersenne Twister ---- */

#define MT_N NOISE_TWISTER
#define MT_M 397

static void twister_seed(struct noise *g, uint32_t seed)
{
    g->twister[0] = seed;
    for (int i = 1; i < MT_N; i++) {
        const uint32_t last = g->twister[i - 1];
        g->twister[i] = 1812433253u * (last ^ last >> 30) + (uint32_t)i;
    }
    g->next = MT_N;
}

static void twister_turn(struct noise *g)
{
    uint32_t *state = g->twister;

    for (int i = 0; i < MT_N; i++) {
        const uint32_t a = state[i], b = state[(i + 1) % MT_N];
        const uint32_t mix = (a & 0x80000000u) | (b & 0x7fffffffu);
        state[i] = state[(i + MT_M) % MT_N] ^ mix >> 1 ^ ((b & 1u) ? 0x9908b0dfu : 0u);
    }
    g->next = 0;
}

static void twister_skip(struct noise *g, int64_t count)
{
    for (; count > MT_N - g->next; twister_turn(g))
        count -= MT_N - g->next;
    g->next += (int)count;
}

static uint32_t twister_draw(struct noise *g)
{
    uint32_t y = 0;

    if (g->next == MT_N)
        twister_turn(g);
    y = g->twister[g->next++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ y >> 18;
}

/* [0, 1) in steps of 2^-24. */
static float uniform_float(struct noise *g)
{
    return (float)(twister_draw(g) & 0xffffffu) * 0x1p-24f;
}

/* [0, 1) in steps of 2^-53; the first draw is the upper half. */
static double uniform_double(struct noise *g)
{
    const uint64_t high = twister_draw(g), low = twister_draw(g);

    return (double)((high << 32 | low) & 0x1fffffffffffffu) * 0x1p-53;
}

/* ---- elementary functions of the vector code; x > 0 in log, 0 <= x <= 2 pi in sin and cos ---- */

static float log_poly(float x)
{
    static const float p[] = { 7.0376836292e-2f,  -1.1514610310e-1f, 1.1676998740e-1f,
                               -1.2420140846e-1f, 1.4249322787e-1f,  -1.6668057665e-1f,
                               2.0000714765e-1f,  -2.4999993993e-1f, 3.3333331174e-1f };
    const uint32_t bits = f32_bits(x);
    float e = (float)((int)(bits >> 23) - 126);
    float m = f32_from_bits((bits & 0x7fffffu) | 0x3f000000u); // [0.5, 1)
    float y = p[0], z = 0;

    if (m < 0.707106781186547524f) {
        e -= 1;
        m = m - 1 + m;
    } else {
        m -= 1;
    }
    z = m * m;
    for (int i = 1; i < 9; i++)
        y = fmaf(y, m, p[i]);
    y = y * m;
    y = fmaf(y, z, e * -2.12194440e-4f);
    y = fmaf(z, -0.5f, y);
    return fmaf(e, 0.693359375f, m + y);
}

static void sincos_poly(float *sine, float *cosine, float x)
{
    const int octant = ((int)(x * 1.27323954473516f) + 1) & ~1;
    const float y = (float)octant;
    float r = fmaf(y, -0.78515625f, x); // pi/4 in three parts
    float z = 0, c = 0, s = 0;

    r = fmaf(y, -2.4187564849853515625e-4f, r);
    r = fmaf(y, -3.77489497744594108e-8f, r);
    z = r * r;
    c = fmaf(2.443315711809948e-5f, z, -1.388731625493765e-3f);
    c = fmaf(c, z, 4.166664568298827e-2f) * z;
    c = fmaf(c, z, -(z * 0.5f)) + 1;
    s = fmaf(-1.9515295891e-4f, z, 8.3321608736e-3f);
    s = fmaf(s, z, -1.6666654611e-1f) * z;
    s = fmaf(s, r, r);
    *sine = octant & 2 ? c : s;
    *cosine = octant & 2 ? s : c;
    if (octant & 4)
        *sine = -*sine;
    if (!((octant - 2) & 4))
        *cosine = -*cosine;
}

/* 16 uniform numbers become 16 normal ones, in place; pair j is (d[j], d[j + 8]). */
static void normals16(float *d)
{
    for (int j = 0; j < 8; j++) {
        const float radius = sqrtf(-2 * log_poly(1 - d[j]));
        const float theta = 6.28318530717958648f * d[j + 8];
        float sine = 0, cosine = 0;

        sincos_poly(&sine, &cosine, theta);
        d[j] = radius * cosine;
        d[j + 8] = radius * sine;
    }
}

/* Fewer than 16: in double, one pair after the other. */
static void normals_scalar(float *out, int64_t n, struct noise *g)
{
    for (int64_t i = 0; i < n; i += 2) {
        const double theta = 2 * M_PI * uniform_double(g);
        const double radius = sqrt(-2 * log1p(-uniform_double(g)));

        out[i] = (float)(radius * cos(theta));
        if (i + 1 < n)
            out[i + 1] = (float)(radius * sin(theta));
    }
}

static void draw_cpu(struct noise *g, float *out, int64_t n)
{
    if (n < 16) {
        normals_scalar(out, n, g);
        return;
    }
    for (int64_t i = 0; i < n; i++)
        out[i] = uniform_float(g);
    for (int64_t i = 0; i + 16 <= n; i += 16)
        normals16(out + i);
    if (n % 16 != 0) { // the last 16 are drawn again
        for (int64_t i = n - 16; i < n; i++)
            out[i] = uniform_float(g);
        normals16(out + n - 16);
    }
}

/* ---- both generators ---- */

void noise_open(struct noise *g, enum noise_device device, uint64_t seed, int sms)
{
    *g = (struct noise){ .device = device, .seed = seed, .sms = sms };
    if (device == NOISE_CPU)
        twister_seed(g, (uint32_t)seed);
}

void noise_draw(struct noise *g, float *out, int64_t n)
{
    if (g->device == NOISE_CPU) {
        draw_cpu(g, out, n);
        return;
    }
    noise_cuda(out, n, g->seed, g->sms, g->calls);
    g->calls += noise_cuda_calls(n, g->sms);
}

void noise_skip(struct noise *g, int64_t n, int draws)
{
    assert(n >= 16);
    if (g->device == NOISE_CPU)
        twister_skip(g, draws * (n + (n % 16 != 0 ? 16 : 0)));
    else
        g->calls += (uint64_t)draws * noise_cuda_calls(n, g->sms);
}
