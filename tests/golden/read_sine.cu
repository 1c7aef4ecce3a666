/* Measures the sine_table of model/sampling/noise_cuda.c on a GPU, and compares that file's results
 * with the GPU's.
 *
 *     nvcc -arch=native -Xcompiler -ffp-contract=off -I. -o read_sine tests/golden/read_sine.cu
 *     ./read_sine
 *
 * A parabola is measured by its 131,072 sines, truncated to 24 bits: only one integer start value,
 * slope and curvature fit them all. Then sine, cosine and radius of every float that a 32-bit input
 * can become are compared, and pairs with cuRAND's own Box-Muller. Exit 1 if anything differs. */
#include "model/sampling/noise_cuda.c"

#include <curand_kernel.h>
#include <stdio.h>
#include <stdlib.h>

#define CHUNK (1ll << 22)
#define FLOATS ((1ll << 24) + 8 * (1ll << 23) + 1) // floats that 32-bit numbers can become
#define NEAR 24 // slope and curvature are searched within this distance of the estimate

static void need(cudaError_t e)
{
    if (e != cudaSuccess) {
        fprintf(stderr, "read_sine: %s\n", cudaGetErrorString(e));
        exit(1);
    }
}

/* A 32-bit number that becomes the i-th of those floats. */
__host__ __device__ static uint32_t number(int64_t i)
{
    const int64_t k = i - (1 << 24), e = k >> 23;

    if (k < 0)
        return (uint32_t)i;
    return e < 8 ? (uint32_t)((1 << 23) + (k & 0x7fffff)) << (e + 1) : UINT32_MAX; // that is 2^32
}

/* A 32-bit hash of i. */
__host__ __device__ static uint32_t scatter(int64_t i)
{
    uint32_t h = (uint32_t)i * 0x9e3779b1u;

    h = (h ^ h >> 15) * 0x85ebca77u;
    return h ^ h >> 13;
}

/* sin of the angles from `first` on, in units of 2^-25 turns, in the first quarter. The argument is
 * the smallest angle in radians that the compiled product, rounded toward 0, converts to that
 * angle. */
__global__ void sines(float *out, uint32_t first)
{
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x, angle = first + i;
    float v = angle * 1.8725e-7f; // a little less than 2 pi / 2^25

    while (__fmul_rz(v, 0.159154937f) * 0x1p25f < angle)
        v = __uint_as_float(__float_as_uint(v) + 1);
    out[i] = __fmul_rz(v, 0.159154937f) * 0x1p25f < angle + 1 ? __sinf(v) : NAN;
}

enum what { SINCOS, RADIUS, PAIR };

__global__ void values(float2 *out, int64_t first, enum what what)
{
    const int64_t i = blockIdx.x * blockDim.x + threadIdx.x;
    const uint32_t n = number(first + i);
    const float turn = CURAND_2POW32_INV_2PI;

    if (what == SINCOS)
        __sincosf(n * turn + turn / 2, &out[i].x, &out[i].y);
    else if (what == RADIUS)
        out[i].x = out[i].y = sqrtf(-2.0f * logf(n * CURAND_2POW32_INV + CURAND_2POW32_INV / 2));
    else
        out[i] = _curand_box_muller(scatter(first + i), n);
}

/* The range of start values, in units of 2^-26, that give all of y; empty if low > high. */
static void start_range(int64_t *low, int64_t *high, const float *y, int64_t slope, int64_t bend)
{
    *low = 0, *high = 1 << 26;
    for (int64_t i = 0; i < 1 << 17 && *low <= *high; i++) {
        const int64_t x =
            i * 30011 & 0x1ffff; // distant points first, to reject most candidates early
        const double at_least = y[x] * 0x1p37, below = nextafterf(y[x], 2) * 0x1p37;
        int64_t square = 0;

        for (int bit = 0; bit < 17; bit++)
            square += x >> bit & 1 ? x >> (18 - bit) : 0;
        const double rest = (double)(slope * x + bend * (square >> 1));
        *low = (int64_t)fmax(*low, ceil((at_least - rest) / 2048));
        *high = (int64_t)fmin(*high, ceil((below - rest) / 2048) - 1);
    }
}

/* Prints the parabola of these 131,072 sines; true if there is only one and it is the table's. */
static bool read_parabola(int segment, const float *y)
{
    const double from = segment * M_PI / 128;
    const int64_t slope = lround(M_PI / 4 * 0x1p15 * cos(from));
    const int64_t bend = lround(-M_PI * M_PI / 16 * 0x1p11 * sin(from + M_PI / 256));
    const int32_t *want = sine_table[segment];
    bool same = false;
    int found = 0;

    for (int64_t s = slope - NEAR; s <= slope + NEAR; s++) {
        for (int64_t b = bend - NEAR; b <= bend + NEAR; b++) {
            int64_t low, high;

            start_range(&low, &high, y, s, b);
            for (int64_t c = low; c <= high; c++) {
                printf("%s{ %lld, %lld, %lld },%s", found > 0 ? "or " : "", (long long)c,
                       (long long)s, (long long)b, segment % 3 == 2 ? "\n" : " ");
                same = c == want[0] && s == want[1] && b == want[2];
                found++;
            }
        }
    }
    return found == 1 && same;
}

static int64_t unequal(float a, float b)
{
    return f32_bits(a) != f32_bits(b);
}

/* Counts the GPU's numbers that differ from those of noise_cuda.c. */
static int64_t compare(float2 *host, float2 *dev, enum what what)
{
    int64_t wrong = 0;

    for (int64_t first = 0; first < FLOATS; first += CHUNK) {
        values<<<CHUNK / 256, 256>>>(dev, first, what);
        need(cudaGetLastError());
        need(cudaMemcpy(host, dev, CHUNK * sizeof(*host), cudaMemcpyDeviceToHost));
        for (int64_t i = 0; i < CHUNK && first + i < FLOATS; i++) {
            const uint32_t n = number(first + i), angle = gpu_angle(n);
            float pair[2] = { gpu_sine(angle), gpu_sine(angle + (1u << 23)) };

            if (what == RADIUS)
                pair[0] = pair[1] = gpu_radius(n);
            if (what == PAIR)
                normals_pair(pair, scatter(first + i), n);
            wrong += unequal(pair[0], host[i].x) + unequal(pair[1], host[i].y);
        }
    }
    return wrong;
}

int main(void)
{
    static const char *const names[] = { "sines and cosines", "radii", "normal numbers" };
    float2 *host = (float2 *)malloc(CHUNK * sizeof(*host)), *dev = NULL;
    int64_t differ = 0;

    need(cudaMalloc(&dev, CHUNK * sizeof(*dev)));
    for (int segment = 0; segment < 64; segment++) {
        sines<<<(1 << 17) / 256, 256>>>((float *)dev, segment << 17);
        need(cudaGetLastError());
        need(cudaMemcpy(host, dev, (1 << 17) * sizeof(float), cudaMemcpyDeviceToHost));
        differ += !read_parabola(segment, (float *)host);
    }
    printf("\n%lld of 64 parabolas differ from the table\n", (long long)differ);
    for (int what = SINCOS; what <= PAIR; what++) {
        const int64_t wrong = compare(host, dev, (enum what)what);

        printf("%lld of %lld %s differ\n", (long long)wrong, (long long)(2 * FLOATS), names[what]);
        differ += wrong;
    }
    cudaFree(dev);
    free(host);
    return differ > 0;
}
