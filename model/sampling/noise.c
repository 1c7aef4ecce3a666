/* Mersenne Twister and the vector Box-Muller of PyTorch's AVX2 kernel (float polynomials with the
 * same fused multiply-adds).
 *
 * Sources: Matsumoto and Nishimura 1998; Cephes' single precision logf, sinf and cosf by
 * S. Moshier; order of draws: PyTorch, normal_fill in
 * aten/src/ATen/native/cpu/DistributionTemplates.h. */
#include "model/sampling/noise.h"

#include "runtime/half.h"

#include <math.h>
#include <stdbool.h>

/* ---- Mersenne Twister ---- */

#define MT_N 624
#define MT_M 397

struct twister {
    uint32_t state[MT_N];
    int next;
};

static void twister_seed(struct twister *t, uint32_t seed)
{
    t->state[0] = seed;
    for (int i = 1; i < MT_N; i++) {
        const uint32_t last = t->state[i - 1];
        t->state[i] = 1812433253u * (last ^ last >> 30) + (uint32_t)i;
    }
    t->next = MT_N;
}

static void twister_turn(struct twister *t)
{
    for (int i = 0; i < MT_N; i++) {
        const uint32_t a = t->state[i], b = t->state[(i + 1) % MT_N];
        const uint32_t mix = (a & 0x80000000u) | (b & 0x7fffffffu);
        t->state[i] = t->state[(i + MT_M) % MT_N] ^ mix >> 1 ^ ((b & 1u) ? 0x9908b0dfu : 0u);
    }
    t->next = 0;
}

static uint32_t twister_draw(struct twister *t)
{
    uint32_t y = 0;

    if (t->next == MT_N)
        twister_turn(t);
    y = t->state[t->next++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ y >> 18;
}

/* [0, 1) in steps of 2^-24. */
static float uniform_float(struct twister *t)
{
    return (float)(twister_draw(t) & 0xffffffu) * 0x1p-24f;
}

/* [0, 1) in steps of 2^-53; the first draw is the upper half. */
static double uniform_double(struct twister *t)
{
    const uint64_t high = twister_draw(t), low = twister_draw(t);

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
static void normals_scalar(float *out, int64_t n, struct twister *t)
{
    for (int64_t i = 0; i < n; i += 2) {
        const double theta = 2 * M_PI * uniform_double(t);
        const double radius = sqrt(-2 * log1p(-uniform_double(t)));

        out[i] = (float)(radius * cos(theta));
        if (i + 1 < n)
            out[i + 1] = (float)(radius * sin(theta));
    }
}

void noise_cpu(float *out, int64_t n, uint64_t seed)
{
    struct twister t;

    twister_seed(&t, (uint32_t)seed);
    if (n < 16) {
        normals_scalar(out, n, &t);
        return;
    }
    for (int64_t i = 0; i < n; i++)
        out[i] = uniform_float(&t);
    for (int64_t i = 0; i + 16 <= n; i += 16)
        normals16(out + i);
    if (n % 16 != 0) { // the last 16 are drawn again
        for (int64_t i = n - 16; i < n; i++)
            out[i] = uniform_float(&t);
        normals16(out + n - 16);
    }
}
