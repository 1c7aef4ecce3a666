/* PyTorch's normal random numbers, compared with recorded ones. */
#include "model/sampling/noise.h"
#include "runtime/half.h"
#include "tests/check.h"
#include "tests/golden.h"

/* Distance of a and b in units in the last place. */
static int64_t ulps(float a, float b)
{
    const int32_t i = (int32_t)f32_bits(a), j = (int32_t)f32_bits(b);

    if ((i < 0) != (j < 0))
        return llabs((int64_t)(i & INT32_MAX)) + (j & INT32_MAX);
    return llabs((int64_t)i - j);
}

static void noise_cpu(float *out, int64_t n, uint64_t seed)
{
    struct noise g;

    noise_open(&g, NOISE_CPU, seed, 0);
    noise_draw(&g, out, n);
}

static void noise_cuda(float *out, int64_t n, uint64_t seed, int sms)
{
    struct noise g;

    noise_open(&g, NOISE_CUDA, seed, sms);
    noise_draw(&g, out, n);
}

static void check_cpu(const char *folder)
{
    static const int64_t sizes[] = { 1, 2, 7, 15, 16, 17, 31, 100, 1003, 300000, 2096645 };
    struct golden g = golden_open(folder, "cpu_noise.safetensors");

    for (size_t i = 0; i < COUNT(sizes); i++) {
        int64_t count = 0;
        int64_t *index = golden_i64(&g, &count, "index.%lld", (long long)sizes[i]);
        float *got = malloc((size_t)sizes[i] * sizeof(*got));

        for (int64_t seed = 0; seed >= 0; seed = seed == 0 ? 42 : seed == 42 ? 1ll << 31 : -1) {
            float *want =
                golden_f32(&g, NULL, "values.%lld.%lld", (long long)sizes[i], (long long)seed);
            int64_t worst = 0;

            noise_cpu(got, sizes[i], (uint64_t)seed);
            for (int64_t k = 0; k < count; k++)
                worst = ulps(got[index[k]], want[k]) > worst ? ulps(got[index[k]], want[k]) : worst;
            CHECK(worst <= 1, "CPU noise, %lld values, seed %lld: %lld ulp off",
                  (long long)sizes[i], (long long)seed, (long long)worst);
            free(want);
        }
        free(got);
        free(index);
    }
    golden_close(&g);
}

static void check_cuda(const char *folder)
{
    static const int64_t sizes[] = { 1000, 300000, 2096640 };
    struct golden g = golden_open(folder, "cuda_noise.safetensors");
    int64_t *sms = golden_i64(&g, NULL, "sms");

    for (size_t i = 0; i < COUNT(sizes); i++) {
        int64_t count = 0;
        int64_t *index = golden_i64(&g, &count, "index.%lld", (long long)sizes[i]);
        float *got = malloc((size_t)sizes[i] * sizeof(*got));

        for (int64_t seed = 0; seed >= 0; seed = seed == 0 ? 42 : seed == 42 ? 1ll << 31 : -1) {
            float *want =
                golden_f32(&g, NULL, "values.%lld.%lld", (long long)sizes[i], (long long)seed);
            int64_t off = 0;

            noise_cuda(got, sizes[i], (uint64_t)seed, (int)sms[0]);
            for (int64_t k = 0; k < count; k++)
                off += f32_bits(got[index[k]]) != f32_bits(want[k]);
            CHECK(off == 0, "CUDA noise, %lld values, seed %lld: %lld of %lld not equal",
                  (long long)sizes[i], (long long)seed, (long long)off, (long long)count);
            free(want);
        }
        free(got);
        free(index);
    }
    free(sms);
    golden_close(&g);
}

/* On CUDA the mapping of elements to threads depends on the GPU. On the CPU a draw is not the
 * beginning of a longer one, and only the lower half of the seed is used. */
static void check_parameters(void)
{
    float a[300], b[300];
    int same = 0;

    noise_cuda(a, 300, 7, 1);
    noise_cuda(b, 300, 7, 132);
    for (int i = 0; i < 300; i++)
        same += a[i] == b[i];
    CHECK(same == 300, "1 SM has enough threads for 300 values: %d equal", same);
    noise_cpu(a, 288, 7);
    noise_cpu(b, 281, 7);
    CHECK(a[0] == b[0] && a[270] != b[270], "the last 16 of 281 are drawn again");
    noise_cpu(b, 288, 7 + (1ull << 32));
    CHECK(a[17] == b[17], "the CPU generator uses only the lower half of a seed");

    // torch.randn(16) after torch.manual_seed(s), elements 0, 7 and 15
    static const struct {
        uint64_t seed;
        float value[3];
    } large[] = {
        { 1ull << 63, { -1.1258398294448853f, -2.1152193546295166f, -0.2472781538963318f } },
        { UINT64_MAX, { -2.664297580718994f, 0.7936442494392395f, 0.1409096121788025f } },
    };
    for (size_t i = 0; i < COUNT(large); i++) {
        noise_cpu(a, 16, large[i].seed);
        CHECK(ulps(a[0], large[i].value[0]) <= 1 && ulps(a[7], large[i].value[1]) <= 1 &&
                  ulps(a[15], large[i].value[2]) <= 1,
              "seed %llu", (unsigned long long)large[i].seed);
    }
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return 1;
    check_cpu(argv[1]);
    check_cuda(argv[1]);
    check_parameters();
    return check_end("noise");
}
