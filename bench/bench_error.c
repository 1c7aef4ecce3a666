/* bench_error [14B|1.3B [LAYERS [cpu]]]
 *
 * What a transformer's velocity v loses: the relative L2 distance and the cosine of v to that of
 * fp32, for bf16 and for --matmul fp8 with several --matmul_bf16_blocks, at three noise levels. The
 * widths are real, the latent is small and the weights are random; without and with outliers: every
 * 64th channel of the norms' scales is 20 times as large, as trained models have them. */
#include "kernels/table.h"
#include "model/checkpoint/quantize.h"
#include "model/transformer/dit.h"
#include "runtime/half.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STEPS 3
#define OUTLIER 20.0F
#define OUTLIER_CHANNELS 64 // one of so many

static const float times[STEPS] = { 990, 700, 250 };

struct source {
    const struct dit_config *config;
    bool outliers;
};

static void need(status st)
{
    if (st != ST_OK) {
        printf("bench_error: %s\n", status_line());
        exit(1);
    }
}

static uint64_t hash(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* Approximately normal with deviation 1: the sum of four uniform numbers. */
static float draw(uint64_t seed, int64_t index)
{
    const uint64_t z = hash(seed + (uint64_t)(index + 1) * 0x9e3779b97f4a7c15u);
    const int sum =
        (int)(z & 0xffff) + (int)(z >> 16 & 0xffff) + (int)(z >> 32 & 0xffff) + (int)(z >> 48);

    return (float)(sum - 131070) * (float)(1.7320508075688772 / 65536);
}

static uint64_t seed_of(const char *name)
{
    uint64_t z = 0xcbf29ce484222325u;

    for (const char *c = name; *c != '\0'; c++)
        z = (z ^ (uint8_t)*c) * 0x100000001b3u;
    return hash(z);
}

/* Matrices with deviation 1/sqrt(inputs), norms around 1, modulation and biases small. Modulation
 * [6, C]: rows 1 and 4 are scales, which get the outliers. */
static status read_values(void *payload, const struct weight_spec *spec, const char *name,
                          int64_t first, int64_t count, void *dst)
{
    const struct weight_source values = { .read = read_values, .payload = payload };
    const struct source *s = payload;
    const char *last = strrchr(name, '.');
    const bool norm = strstr(name, "norm") != NULL && strcmp(last, ".weight") == 0;
    const bool modulation = strstr(name, "modulation") != NULL;
    const int64_t inputs = spec->ndim > 1 ? spec->dim[spec->ndim - 1] : 0, c = s->config->dim;
    const float deviation = norm || inputs == 0 || modulation ? 0.1F : 1 / sqrtf((float)inputs);
    const uint64_t seed = seed_of(name);

    if (quantize_makes(spec))
        return quantize_read(&values, spec, name, first, count, dst);
    for (int64_t i = 0; i < count; i++) {
        const int64_t at = first + i, row = at / c;
        float v = (norm ? 1 : 0) + deviation * draw(seed, at);

        if (s->outliers && at % OUTLIER_CHANNELS == 5 &&
            ((modulation && (row == 1 || row == 4)) || strstr(name, "norm3.weight") != NULL))
            v = OUTLIER;
        if (spec->dtype == DT_F32)
            ((float *)dst)[i] = v;
        else
            ((uint16_t *)dst)[i] = bf16_from_f32(v);
    }
    return ST_OK;
}

static void fill(float *x, int64_t n, const char *name, float size)
{
    const uint64_t seed = seed_of(name);

    for (int64_t i = 0; i < n; i++)
        x[i] = size * draw(seed, i);
}

/* v of STEPS forwards, [STEPS][n]. */
static float *forwards(struct device *dev, const struct source *s, enum dtype cdt,
                       struct dit_matmul matmul, int64_t *n)
{
    static const int64_t f = 3, h = 15, w = 26;
    const int64_t row = 4 * s->config->in_dim, dims[] = { 100, s->config->text_dim };
    const struct weight_source source = { .read = read_values, .payload = (void *)s };
    struct world world;
    struct mesh mesh;
    struct arena weights, run, step;
    struct dit m;
    struct dit_run r;
    struct conditioning text = { 0 };
    struct tensor x, v;
    float *data, *in = malloc((size_t)(f * h * w * row) * sizeof(float)), *out;

    world_describe(&world, 0, 1, 1);
    need(mesh_open(&mesh, &world, dev, (struct mesh_shape){ 1, 1, 1 }));
    need(arena_init(&weights, dev, "weights", (size_t)(cdt == DT_F32 ? 60 : 30) << 30));
    need(arena_init(&run, dev, "run", (size_t)2 << 30));
    need(arena_init(&step, dev, "step", (size_t)2 << 30));
    need(dit_open(&m, s->config, &mesh, dev, &weights, cdt, matmul, (struct tensors_place){ 0 },
                  source));
    need(dit_complete(&m));
    for (int i = 0; i < 2; i++) {
        need(conditioning_add(&text, i ? CONDITION_UNCOND : CONDITION_COND, 2, dims, &data));
        fill(data, dims[0] * dims[1], i ? "uncond" : "cond", 0.2F);
    }
    need(dit_begin(&r, &m, &run, &step,
                   &(struct dit_input){ .f = f,
                                        .h = h,
                                        .w = w,
                                        .steps = STEPS,
                                        .timestep = times,
                                        .last_step = STEPS - 1,
                                        .branches = 1,
                                        .conditioning = &text }));
    *n = f * h * w * 4 * s->config->out_dim;
    out = malloc((size_t)(STEPS * *n) * sizeof(float));
    need(arena_take(&run, &x, DT_F32, f * h * w, row));
    need(arena_take(&run, &v, DT_F32, f * h * w, 4 * s->config->out_dim));
    fill(in, f * h * w * row, "latent", 1);
    for (int i = 0; i < STEPS; i++) {
        need(device_upload(dev, x, in));
        need(dit_forward(&r, &step, i, 0, v, x));
        need(device_download(dev, out + i * *n, v));
        need(device_wait(dev));
    }
    conditioning_done(&text);
    dit_close(&m);
    arena_done(&weights);
    arena_done(&run);
    arena_done(&step);
    mesh_close(&mesh);
    world_close(&world);
    free(in);
    return out;
}

/* Prints the errors of `got`; returns the relative L2 distance over all steps. */
static double compare(const char *what, const float *got, const float *want, int64_t n, double unit)
{
    double all = 0, norm = 0;

    printf("  %-28s", what);
    for (int i = 0; i < STEPS; i++) {
        double diff = 0, a = 0, b = 0, ab = 0;

        for (int64_t k = i * n; k < (i + 1) * n; k++) {
            diff += ((double)got[k] - want[k]) * ((double)got[k] - want[k]);
            a += (double)got[k] * got[k];
            b += (double)want[k] * want[k];
            ab += (double)got[k] * want[k];
        }
        all += diff;
        norm += b;
        printf("  %.2e %.6f", sqrt(diff / b), ab / sqrt(a * b));
    }
    all = sqrt(all / norm);
    printf("  %.2e", all);
    if (unit > 0)
        printf("  %.1f x bf16", all / unit);
    printf("\n");
    return all;
}

int main(int argc, char **argv)
{
    static const int kept[] = { 0, 1, 3, 5, 10 };
    struct dit_config config = { .in_dim = 16,
                                 .out_dim = 16,
                                 .freq_dim = 256,
                                 .text_len = 512,
                                 .text_dim = 4096,
                                 .eps = 1e-6F };
    const bool large = argc > 1 && strcmp(argv[1], "14B") == 0;
    const bool cpu = argc > 3 && strcmp(argv[3], "cpu") == 0;
    struct table table;
    struct device dev;

    setvbuf(stdout, NULL, _IOLBF, 0);
    config.dim = large ? 5120 : 1536;
    config.ffn_dim = large ? 13824 : 8960;
    config.heads = large ? 40 : 12;
    config.layers = argc > 2 ? atoi(argv[2]) : large ? 40 : 30;
    if (cpu) {
        table_cpu(&table);
        need(device_open_cpu(&dev, 2, &table, table.workspace));
    } else {
        table_cuda(&table);
        need(device_open_cuda(&dev, 0, &table, table.workspace));
    }
    for (int outliers = 0; outliers < 2; outliers++) {
        const struct source source = { &config, outliers != 0 };
        int64_t n;
        float *want = forwards(&dev, &source, DT_F32, (struct dit_matmul){ 0 }, &n);
        float *got = forwards(&dev, &source, DT_BF16, (struct dit_matmul){ 0 }, &n);
        double unit;

        printf("%d layers of %d, %s: relative L2 and cosine at times %g, %g, %g; of all\n",
               config.layers, (int)config.dim, outliers ? "with outliers" : "no outliers",
               (double)times[0], (double)times[1], (double)times[2]);
        unit = compare("bf16", got, want, n, 0);
        for (size_t i = 0; i < COUNT(kept) && 2 * kept[i] < config.layers; i++) {
            char what[64];

            free(got);
            got = forwards(&dev, &source, DT_BF16, (struct dit_matmul){ true, kept[i] }, &n);
            snprintf(what, sizeof(what), "fp8, %d + %d blocks in bf16", kept[i], kept[i]);
            compare(what, got, want, n, unit);
        }
        free(got);
        free(want);
    }
    device_close(&dev);
    return 0;
}
