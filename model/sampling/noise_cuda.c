/* Philox 4x32-10 with cuRAND's counter, and cuRAND's Box-Muller with the arithmetic of an NVIDIA
 * GPU.
 *
 * Logarithm, square root and products are IEEE operations, in the order in which nvcc compiles
 * them. Sine and cosine are the GPU instructions MUFU.SIN and MUFU.COS: 64 parabolas per quarter
 * turn in fixed point, with a squarer that drops low bits. The results equal those of an H200 bit
 * for bit, for each of the 2^32 inputs of both; tests/golden/read_sine.cu measures the parabolas on
 * a GPU and compares.
 *
 * Sources: Salmon et al. 2011; Oberman and Siu 2005 for the interpolator; envytools' description of
 * the same unit in the first GPUs that had it. */
#include "model/sampling/noise_internal.h"

#include "runtime/half.h"

#include <math.h>

/* Ten rounds over counter c, in place. */
static void philox(uint32_t c[4], uint64_t key)
{
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);

    for (int round = 0; round < 10; round++) {
        const uint64_t a = (uint64_t)0xd2511f53u * c[0], b = (uint64_t)0xcd9e8d57u * c[2];
        const uint32_t next[4] = { (uint32_t)(b >> 32) ^ c[1] ^ k0, (uint32_t)b,
                                   (uint32_t)(a >> 32) ^ c[3] ^ k1, (uint32_t)a };

        for (int i = 0; i < 4; i++)
            c[i] = next[i];
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
}

/* ln x = ln m + e ln 2, with m in [2/3, 4/3). */
static float gpu_log(float x)
{
    static const float p[] = { -0.130188569f, 0.140846103f,  -0.121486276f,
                               0.139806107f,  -0.166842356f, 0.200122997f,
                               -0.249996692f, 0.333331823f,  -0.5f };
    const uint32_t e = (f32_bits(x) - 0x3f2aaaabu) & 0xff800000u;
    const float m = f32_from_bits(f32_bits(x) - e) - 1;
    float y = p[0];

    for (int i = 1; i < 9; i++)
        y = fmaf(y, m, p[i]);
    y = fmaf(m, m * y, m);
    return fmaf((float)(int32_t)e * 0x1p-23f, 0.693147182f, y);
}

/* d rounded to float toward zero. */
static float toward_zero(double d)
{
    uint64_t bits;

    memcpy(&bits, &d, sizeof(bits));
    bits &= ~(uint64_t)0x1fffffff;
    memcpy(&d, &bits, sizeof(d));
    return (float)d;
}

/* For each parabola of the first quarter: start value in units of 2^-26, slope, curvature. */
static const int32_t sine_table[64][3] = {
    { 0, 25737, -14 },          { 1646926, 25730, -48 },    { 3292872, 25706, -76 },
    { 4936828, 25668, -110 },   { 6577812, 25613, -137 },   { 8214836, 25544, -171 },
    { 9846906, 25459, -201 },   { 11473052, 25358, -229 },  { 13092282, 25243, -262 },
    { 14703632, 25112, -292 },  { 16306120, 24966, -322 },  { 17898788, 24805, -352 },
    { 19480670, 24629, -381 },  { 21050826, 24438, -410 },  { 22608290, 24233, -441 },
    { 24152140, 24013, -470 },  { 25681450, 23778, -497 },  { 27195286, 23529, -525 },
    { 28692734, 23266, -553 },  { 30172904, 22989, -581 },  { 31634900, 22698, -608 },
    { 33077832, 22394, -637 },  { 34500844, 22076, -664 },  { 35903084, 21744, -688 },
    { 37283680, 21400, -715 },  { 38641832, 21042, -738 },  { 39976700, 20672, -763 },
    { 41287492, 20290, -790 },  { 42573406, 19895, -812 },  { 43833682, 19489, -839 },
    { 45067552, 19070, -859 },  { 46274276, 18640, -881 },  { 47453130, 18199, -904 },
    { 48603396, 17747, -926 },  { 49724388, 17284, -946 },  { 50815422, 16811, -967 },
    { 51875848, 16328, -988 },  { 52905036, 15834, -1004 }, { 53902340, 15332, -1025 },
    { 54867186, 14820, -1043 }, { 55798976, 14299, -1059 }, { 56697166, 13769, -1074 },
    { 57561188, 13232, -1093 }, { 58390546, 12686, -1107 }, { 59184728, 12133, -1123 },
    { 59943264, 11572, -1136 }, { 60665692, 11004, -1148 }, { 61351576, 10430, -1162 },
    { 62000506, 9849, -1172 },  { 62612084, 9263, -1185 },  { 63185948, 8671, -1196 },
    { 63721758, 8073, -1203 },  { 64219180, 7471, -1213 },  { 64677922, 6864, -1220 },
    { 65097690, 6254, -1230 },  { 65478264, 5639, -1236 },  { 65819388, 5021, -1242 },
    { 66120864, 4400, -1247 },  { 66382514, 3776, -1250 },  { 66604174, 3151, -1258 },
    { 66785714, 2523, -1260 },  { 66927034, 1893, -1260 },  { 67028028, 1263, -1263 },
    { 67088652, 632, -1265 },
};

/* sin of `angle`, given in units of 2^-25 turns. */
static float gpu_sine(uint32_t angle)
{
    const uint32_t a = angle >> 23 & 1 ? ~angle : angle; // odd quarters are mirrored
    const int32_t *p = sine_table[a >> 17 & 63];
    const int64_t x = a & 0x1ffff;
    int64_t square = 0;
    float y = 0;

    for (int bit = 0; bit < 17; bit++)
        square += x >> bit & 1 ? x >> (18 - bit) : 0;
    y = toward_zero((double)(p[0] * 2048ll + p[1] * x + p[2] * (square >> 1)) * 0x1p-37);
    return angle >> 24 & 1 ? -y : y;
}

#define STEP 2.3283064e-10f // 2^-32

static float gpu_radius(uint32_t x)
{
    return sqrtf(-2 * gpu_log(fmaf((float)x, STEP, STEP / 2)));
}

/* y * 2^-32 turns, computed through radians as the GPU does. */
static uint32_t gpu_angle(uint32_t y)
{
    const float turn = STEP * 6.2831855f, v = fmaf((float)y, turn, turn / 2);

    return (uint32_t)(toward_zero((double)v * 0.159154937f) * 0x1p25f);
}

static void normals_pair(float out[2], uint32_t x, uint32_t y)
{
    const float radius = gpu_radius(x);
    const uint32_t angle = gpu_angle(y);

    out[0] = radius * gpu_sine(angle);
    out[1] = radius * gpu_sine(angle + (1u << 23));
}

/* The threads that PyTorch starts for n numbers: at most as many as the GPU holds. */
static int64_t threads_of(int64_t n, int sms)
{
    const int64_t blocks = (n + 255) / 256, most = (int64_t)sms * (2048 / 256);

    return 256 * (blocks < most ? blocks : most);
}

uint64_t noise_cuda_calls(int64_t n, int sms)
{
    return (uint64_t)((n - 1) / (threads_of(n, sms) * 4) + 1);
}

void noise_cuda(float *out, int64_t n, uint64_t seed, int sms, uint64_t calls)
{
    const int64_t threads = threads_of(n, sms);

    for (int64_t k = 0; k * 4 * threads < n; k++) {
        for (int64_t j = 0; j < threads; j++) {
            const uint64_t call = calls + (uint64_t)k;
            uint32_t c[4] = { (uint32_t)call, (uint32_t)(call >> 32), (uint32_t)j,
                              (uint32_t)(j >> 32) };
            float normal[4] = { 0 };

            if (j + threads * 4 * k >= n)
                break;
            philox(c, seed);
            normals_pair(normal, c[0], c[1]);
            normals_pair(normal + 2, c[2], c[3]);
            for (int64_t q = 0; q < 4 && j + threads * (4 * k + q) < n; q++)
                out[j + threads * (4 * k + q)] = normal[q];
        }
    }
}
