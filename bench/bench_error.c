/* bench_error [14B|1.3B|small [LAYERS [cpu]]]
 *
 * What a transformer's velocity v loses: the relative L2 distance and the cosine of v to that of
 * fp32, at three noise levels, for
 *   - bf16
 *   - bf16 with the factors of some products rounded to 8 bits in several ways
 *   - --attention 8bit
 *   - --matmul fp8 with several --matmul_bf16_blocks
 * The widths are real (but for `small`), the latent is small and the weights are random; without
 * and with outliers: every 64th channel of the norms' scales is 20 times as large, as trained
 * models have them. */
#include "bench/round8.h"
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

/* ---- products with rounded factors ---- */

/* The products of a block, in the order in which it computes them. */
enum {
    V = 1,
    K = 2,
    Q = 4,
    O = 8,
    TEXT_Q = 16,
    TEXT_O = 32,
    UP = 64,
    DOWN = 128,
    SELF = V | K | Q | O,
    TEXT = TEXT_Q | TEXT_O,
    FFN = UP | DOWN,
    ALL = SELF | TEXT | FFN
};

struct policy {
    const char *what;
    unsigned products; // whose factors are rounded
    int kept;          // blocks at each end in which none are
    enum round8_kind a, w;
};

static const struct policy policies[] = {
    { "e4m3", ALL, 0, ROUND8_E4M3, ROUND8_E4M3 },
    { "e4m3, activations only", ALL, 0, ROUND8_E4M3, ROUND8_NONE },
    { "e4m3, weights only", ALL, 0, ROUND8_NONE, ROUND8_E4M3 },
    { "e4m3, feed forward", FFN, 0, ROUND8_E4M3, ROUND8_E4M3 },
    { "e4m3, first of it", UP, 0, ROUND8_E4M3, ROUND8_E4M3 },
    { "e4m3, second of it", DOWN, 0, ROUND8_E4M3, ROUND8_E4M3 },
    { "e4m3, self attention", SELF, 0, ROUND8_E4M3, ROUND8_E4M3 },
    { "e4m3, its q and k", Q | K, 0, ROUND8_E4M3, ROUND8_E4M3 },
    { "e4m3, its v and o", V | O, 0, ROUND8_E4M3, ROUND8_E4M3 },
    { "e4m3, cross attention", TEXT, 0, ROUND8_E4M3, ROUND8_E4M3 },
    { "e4m3, 3 + 3 blocks in bf16", ALL, 3, ROUND8_E4M3, ROUND8_E4M3 },
    { "e4m3, 10 + 10 in bf16", ALL, 10, ROUND8_E4M3, ROUND8_E4M3 },
    { "e4m3, 14 + 14 in bf16", ALL, 14, ROUND8_E4M3, ROUND8_E4M3 },
    { "e4m3, feed forward, 10 + 10", FFN, 10, ROUND8_E4M3, ROUND8_E4M3 },
    { "e4m3, q and k, 3 + 3", Q | K, 3, ROUND8_E4M3, ROUND8_E4M3 },
    { "activations twice", ALL, 0, ROUND8_E4M3_TWICE, ROUND8_E4M3 },
    { "both twice", ALL, 0, ROUND8_E4M3_TWICE, ROUND8_E4M3_TWICE },
    { "int8", ALL, 0, ROUND8_INT8, ROUND8_INT8 },
    { "int8 by 128", ALL, 0, ROUND8_INT8_128, ROUND8_INT8_128 },
    { "int8 turned", ALL, 0, ROUND8_TURNED, ROUND8_TURNED },
    { "int8 turned, 3 + 3", ALL, 3, ROUND8_TURNED, ROUND8_TURNED },
    { "int8 turned by 128", ALL, 0, ROUND8_TURNED_128, ROUND8_TURNED_128 },
    { "int8 turned by 128, 3 + 3", ALL, 3, ROUND8_TURNED_128, ROUND8_TURNED_128 },
    { "int8 turned, a by 128", ALL, 0, ROUND8_TURNED_128, ROUND8_TURNED },
};

static struct {
    struct table table; // with the functions below
    const struct table *real;
    const struct policy *policy; // NULL: nothing is rounded
    const struct dit_config *config;
    int64_t rows;
    int calls; // of products of blocks in this forward
    void *a, *w;
} rounding;

/* The factors of a product of a block, rounded as the policy says. */
static status round_factors(struct device *dev, struct tensor *a, struct tensor *w)
{
    const struct policy *p = rounding.policy;
    const int64_t dim = rounding.config->dim;
    const struct tensor x = *a, y = *w;

    if (x.dim[0] != rounding.rows || y.dim[0] < dim || y.dim[1] < dim)
        return ST_OK;

    const int call = rounding.calls++, layer = call / 8;

    if (p == NULL || (p->products >> call % 8 & 1) == 0 || layer < p->kept ||
        layer >= rounding.config->layers - p->kept)
        return ST_OK;
    if (p->a != ROUND8_NONE) {
        *a = tensor_dims(rounding.a, x.dtype, 2, x.dim);
        TRY(round8(dev, *a, x, p->a));
    }
    if (p->w == ROUND8_NONE)
        return ST_OK;
    *w = tensor_dims(rounding.w, y.dtype, 2, y.dim);
    return round8(dev, *w, y, p->w);
}

static status rounded_gemm(struct device *dev, struct tensor out, struct tensor a, struct tensor w,
                           struct tensor bias, enum act act)
{
    TRY(round_factors(dev, &a, &w));
    return rounding.real->gemm(dev, out, a, w, bias, act);
}

static status rounded_gemm_add(struct device *dev, struct tensor sum, struct tensor a,
                               struct tensor w, struct tensor bias)
{
    TRY(round_factors(dev, &a, &w));
    return rounding.real->gemm_add(dev, sum, a, w, bias);
}

static void rounding_open(struct device *dev, const struct dit_config *config, int64_t rows)
{
    rounding.real = dev->table;
    rounding.table = *dev->table;
    rounding.table.gemm = rounded_gemm;
    rounding.table.gemm_add = rounded_gemm_add;
    rounding.config = config;
    rounding.rows = rows;
    need(device_alloc(dev, &rounding.a, (size_t)(rows * config->ffn_dim) * 2));
    need(device_alloc(dev, &rounding.w, (size_t)(config->dim * config->ffn_dim) * 2));
    dev->table = &rounding.table;
}

static void rounding_close(struct device *dev)
{
    dev->table = rounding.real;
    device_free(dev, rounding.a, (size_t)(rounding.rows * rounding.config->ffn_dim) * 2);
    device_free(dev, rounding.w, (size_t)(rounding.config->dim * rounding.config->ffn_dim) * 2);
}

/* ---- forwards ---- */

#define FRAMES 3
#define ROWS 15
#define COLS 26
#define TOKENS (FRAMES * ROWS * COLS)

struct model {
    struct device *dev;
    struct world world;
    struct mesh mesh;
    struct arena weights, run, step;
    struct dit dit;
    struct dit_run r;
    struct tensor x, v;
    int64_t n; // values of v
};

/* An upper bound. */
static size_t weight_bytes(const struct dit_config *c, enum dtype cdt)
{
    const int64_t block = 9 * c->dim * c->dim + 2 * c->dim * c->ffn_dim;
    const int64_t others = 12 * c->dim * c->dim + 2 * c->dim * c->text_dim;

    return (size_t)(c->layers * block) * dtype_size(cdt) + (size_t)others * 4 + ((size_t)1 << 30);
}

static void model_open(struct model *m, struct device *dev, const struct source *s, enum dtype cdt,
                       struct dit_matmul matmul)
{
    const int64_t row = 4 * s->config->in_dim, dims[] = { 100, s->config->text_dim };
    const struct weight_source source = { .read = read_values, .payload = (void *)s };
    struct conditioning text = { 0 };
    float *data, *in = malloc((size_t)(TOKENS * row) * sizeof(float));

    *m = (struct model){ .dev = dev, .n = (int64_t)TOKENS * 4 * s->config->out_dim };
    world_describe(&m->world, 0, 1, 1);
    need(mesh_open(&m->mesh, &m->world, dev, (struct mesh_shape){ 1, 1, 1 }));
    need(arena_init(&m->weights, dev, "weights", weight_bytes(s->config, cdt)));
    need(arena_init(&m->run, dev, "run", (size_t)2 << 30));
    need(arena_init(&m->step, dev, "step", (size_t)2 << 30));
    need(dit_open(&m->dit, s->config, &m->mesh, dev, &m->weights, cdt, matmul,
                  (struct tensors_place){ 0 }, source));
    need(dit_complete(&m->dit));
    for (int i = 0; i < 2; i++) {
        need(conditioning_add(&text, i ? CONDITION_UNCOND : CONDITION_COND, 2, dims, &data));
        fill(data, dims[0] * dims[1], i ? "uncond" : "cond", 0.2F);
    }
    need(dit_begin(&m->r, &m->dit, &m->run, &m->step,
                   &(struct dit_input){ .f = FRAMES,
                                        .h = ROWS,
                                        .w = COLS,
                                        .steps = STEPS,
                                        .timestep = times,
                                        .last_step = STEPS - 1,
                                        .branches = 1,
                                        .conditioning = &text }));
    need(arena_take(&m->run, &m->x, DT_F32, (int64_t)TOKENS, row));
    need(arena_take(&m->run, &m->v, DT_F32, (int64_t)TOKENS, 4 * s->config->out_dim));
    fill(in, TOKENS * row, "latent", 1);
    need(device_upload(dev, m->x, in));
    need(device_wait(dev));
    conditioning_done(&text);
    free(in);
}

static void model_close(struct model *m)
{
    dit_close(&m->dit);
    arena_done(&m->weights);
    arena_done(&m->run);
    arena_done(&m->step);
    mesh_close(&m->mesh);
    world_close(&m->world);
}

/* v of STEPS forwards, [STEPS][n]. */
static float *forwards(struct model *m)
{
    float *out = malloc((size_t)(STEPS * m->n) * sizeof(float));

    for (int i = 0; i < STEPS; i++) {
        rounding.calls = 0;
        need(dit_forward(&m->r, &m->step, i, 0, m->v, m->x));
        need(device_download(m->dev, out + i * m->n, m->v));
        need(device_wait(m->dev));
    }
    return out;
}

/* The same of a model that is opened for them. */
static float *one_model(struct device *dev, const struct source *s, enum dtype cdt,
                        struct dit_matmul matmul)
{
    struct model m;
    float *out;

    model_open(&m, dev, s, cdt, matmul);
    out = forwards(&m);
    model_close(&m);
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

static void measure(struct device *dev, const struct source *s)
{
    static const int kept[] = { 0, 3 };
    float *want = one_model(dev, s, DT_F32, (struct dit_matmul){ 0 }), *got;
    const int layers = s->config->layers;
    struct model m;
    double unit;

    model_open(&m, dev, s, DT_BF16, (struct dit_matmul){ 0 });
    got = forwards(&m);
    printf("%d layers of %d, %s: relative L2 and cosine at times %g, %g, %g; of all\n", layers,
           (int)s->config->dim, s->outliers ? "with outliers" : "no outliers", (double)times[0],
           (double)times[1], (double)times[2]);
    unit = compare("bf16", got, want, m.n, 0);
    free(got);
    rounding_open(dev, s->config, TOKENS);
    for (size_t i = 0; i < COUNT(policies); i++) {
        if (2 * policies[i].kept >= layers)
            continue;
        rounding.policy = &policies[i];
        got = forwards(&m);
        compare(policies[i].what, got, want, m.n, unit);
        free(got);
    }
    rounding_close(dev);
    for (int exact = 0; exact <= 2; exact += 2) {
        char what[64];

        m.r.self_attention = (struct self_attention){ .end_step = STEPS,
                                                      .first_block = exact,
                                                      .end_block = layers - exact };
        got = forwards(&m);
        snprintf(what, sizeof(what), "--attention 8bit, %d + %d exact", exact, exact);
        compare(what, got, want, m.n, unit);
        free(got);
    }
    model_close(&m);
    for (size_t i = 0; i < COUNT(kept) && 2 * kept[i] < layers; i++) {
        char what[64];

        got = one_model(dev, s, DT_BF16, (struct dit_matmul){ true, kept[i] });
        snprintf(what, sizeof(what), "--matmul fp8, %d + %d in bf16", kept[i], kept[i]);
        compare(what, got, want, m.n, unit);
        free(got);
    }
    free(want);
}

int main(int argc, char **argv)
{
    struct dit_config config = { .in_dim = 16,
                                 .out_dim = 16,
                                 .freq_dim = 256,
                                 .text_len = 512,
                                 .text_dim = 4096,
                                 .eps = 1e-6F };
    const bool large = argc > 1 && strcmp(argv[1], "14B") == 0;
    const bool small = argc > 1 && strcmp(argv[1], "small") == 0;
    const bool cpu = argc > 3 && strcmp(argv[3], "cpu") == 0;
    struct table table;
    struct device dev;

    setvbuf(stdout, NULL, _IOLBF, 0);
    config.dim = large ? 5120 : small ? 512 : 1536;
    config.ffn_dim = large ? 13824 : small ? 2048 : 8960;
    config.heads = (int)config.dim / 128;
    config.layers = argc > 2 ? atoi(argv[2]) : large ? 40 : 30;
    if (cpu) {
        table_cpu(&table);
        need(device_open_cpu(&dev, 2, &table, table.workspace));
    } else {
        table_cuda(&table);
        need(device_open_cuda(&dev, 0, &table, table.workspace));
    }
    for (int outliers = 0; outliers < 2; outliers++)
        measure(&dev, &(struct source){ &config, outliers != 0 });
    device_close(&dev);
    return 0;
}
