/* Sparse self attention of the transformer on one rank against transcriptions of the public
 * programs in PyTorch: in fp32, and in bf16, where the choice of tiles may differ as well.
 *
 *     test_sparse GOLDEN [cuda] */
#include "kernels/table.h"
#include "model/transformer/features.h"
#include "tests/check.h"
#include "tests/dit_model.h"
#include "tests/golden.h"
#include "tests/levels.h"

#define MEMORY ((size_t)16 << 20)
#define CHANNELS 4
#define TEXT_ROWS 5

/* As VSA and SLA in golden/make_sparse.py. */
static const struct sparse_case {
    const char *kind, *name;
    const struct feature *feature;
    int heads, depth, layers;
    int64_t f, h, w; // tokens
    struct dit_sparsity sparsity;
} cases[] = {
    { "vsa", "a", &feature_vsa_gate, 3, 8, 2, 5, 6, 9, { .vsa = 0.75 } },
    { "vsa", "b", &feature_vsa_gate, 2, 16, 2, 4, 4, 8, { .vsa = 0.9 } },
    { "sla", "a", &feature_sla, 3, 8, 2, 5, 8, 10, { .sla_topk = 0.6 } },
    { "sla", "b", &feature_sla, 2, 16, 2, 1, 6, 10, { .sla_topk = 0.1 } },
};

static const float times[] = { 999, 501 };

struct fixture {
    struct device dev;
    struct world world;
    struct mesh mesh;
    struct arena weights, run, step;
    struct dit_config config;
    struct dit dit;
    struct dit_run r;
    struct conditioning text;
};

static void fixture_open(struct fixture *x, const struct sparse_case *c, const struct table *table,
                         enum dtype cdt)
{
    *x = (struct fixture){ .config = { .heads = c->heads,
                                       .dim = c->heads * c->depth,
                                       .ffn_dim = 64,
                                       .layers = c->layers,
                                       .in_dim = CHANNELS,
                                       .out_dim = CHANNELS,
                                       .text_len = 8,
                                       .text_dim = 16,
                                       .freq_dim = 16,
                                       .eps = 1e-6f } };
    dit_add_feature(&x->config, c->feature);
    golden_need(levels_device(&x->dev, 0, table));
    world_describe(&x->world, 0, 1, 1);
    golden_need(mesh_open(&x->mesh, &x->world, &x->dev, (struct mesh_shape){ 1, 1, 1 }));
    golden_need(arena_init(&x->weights, &x->dev, "weights", MEMORY));
    golden_need(arena_init(&x->run, &x->dev, "run", MEMORY));
    golden_need(arena_init(&x->step, &x->dev, "step", MEMORY));
    golden_need(dit_open(&x->dit, &x->config, &x->mesh, &x->dev, &x->weights, cdt,
                         (struct dit_matmul){ 0 }, (struct tensors_place){ 0 },
                         dit_source(&x->config)));
    golden_need(dit_text(&x->text, TEXT_ROWS, x->config.text_dim));
    golden_need(dit_begin(&x->r, &x->dit, &x->run, &x->step,
                          &(struct dit_input){ .f = c->f,
                                               .h = c->h,
                                               .w = c->w,
                                               .steps = COUNT(times),
                                               .timestep = times,
                                               .last_step = COUNT(times) - 1,
                                               .branches = 1,
                                               .self_attention.sparsity = c->sparsity,
                                               .conditioning = &x->text }));
}

static void fixture_close(struct fixture *x)
{
    conditioning_done(&x->text);
    dit_close(&x->dit);
    arena_done(&x->weights);
    arena_done(&x->run);
    arena_done(&x->step);
    mesh_close(&x->mesh);
    world_close(&x->world);
    device_close(&x->dev);
}

/* The largest error of the transcription in bf16 at any of the times: where scores are nearly
 * equal, another rounding chooses another tile, which costs as much. */
static double largest_error(struct golden *g, const struct sparse_case *c)
{
    double largest = 0;

    for (size_t i = 0; i < COUNT(times); i++) {
        int64_t n = 0;
        float *full = golden_f32(g, &n, "%s.%s.%g", c->kind, c->name, times[i]);
        float *half = golden_f32(g, &n, "half.%s.%s.%g", c->kind, c->name, times[i]);

        largest = fmax(largest, check_distance(half, full, n));
        free(full);
        free(half);
    }
    return largest;
}

/* Compares one forward: in fp32 with the transcription; in bf16 the error from fp32 with that of
 * the transcription in bf16. */
static void compare(struct golden *g, const struct sparse_case *c, float time, const char *what,
                    enum dtype cdt, const float *got, int64_t n)
{
    float *full = golden_f32(g, NULL, "%s.%s.%g", c->kind, c->name, time);
    float *half = golden_f32(g, NULL, "half.%s.%s.%g", c->kind, c->name, time);
    const double ours = check_distance(got, full, n);
    const double theirs = levels_cuda ? largest_error(g, c) : check_distance(half, full, n);

    if (cdt == DT_F32)
        check_near(what, got, full, n, levels_tolerance(1e-5));
    else
        CHECK(ours < 1.2 * theirs, "%s: %.3g from fp32, the transcription in bf16 is %.3g", what,
              ours, theirs);
    printf("%s: %.2g from the transcription in fp32, which in bf16 is %.2g\n", what, ours, theirs);
    free(full);
    free(half);
}

static void check_case(struct golden *g, const struct sparse_case *c, const struct table *table,
                       enum dtype cdt)
{
    const int64_t tokens = c->f * c->h * c->w, n = tokens * 4 * CHANNELS;
    float *latent = malloc((size_t)n * sizeof(float)), *rows = malloc((size_t)n * sizeof(float));
    struct tensor in = { 0 }, v = { 0 };
    struct fixture x;

    fixture_open(&x, c, table, cdt);
    golden_need(arena_take(&x.run, &in, DT_F32, tokens, 4 * CHANNELS));
    golden_need(arena_take(&x.run, &v, DT_F32, tokens, 4 * CHANNELS));
    dit_fill(latent, n, "latent", 2);
    tokens_from_latent(rows, latent, CHANNELS, c->f, 2 * c->h, 2 * c->w);
    golden_need(device_upload(&x.dev, in, rows));
    for (int i = 0; i < (int)COUNT(times); i++) {
        char what[80];

        snprintf(what, sizeof(what), "%s, %s, %s %s at %g", table->name, dtype_name(cdt), c->kind,
                 c->name, times[i]);
        golden_need(dit_forward(&x.r, &x.step, i, 0, v, in));
        golden_need(device_download(&x.dev, rows, v));
        golden_need(device_wait(&x.dev));
        latent_from_tokens(latent, rows, CHANNELS, c->f, 2 * c->h, 2 * c->w);
        compare(g, c, times[i], what, cdt, latent, n);
    }
    CHECK(x.step.used == 0, "%zu bytes of scratch were not released", x.step.used);
    free(latent);
    free(rows);
    fixture_close(&x);
}

/* The numbers of tiles of released models: of a share that is no whole number, and at its ends. */
static void check_counts(void)
{
    static const struct {
        double sparsity;
        int64_t f, h, w, tiles, kept;
    } counts[] = { { 0.9, 21, 45, 80, 1440, 144 }, { 0.9, 21, 30, 52, 624, 63 },
                   { 0.8, 21, 30, 52, 624, 125 },  { 0, 1, 5, 9, 6, 6 },
                   { 1, 1, 5, 9, 6, 1 },           { 0.5, 1, 1, 1, 1, 1 } };

    for (size_t i = 0; i < COUNT(counts); i++) {
        const struct sparse_tiles n =
            feature_vsa_gate.sparse->count((struct dit_sparsity){ .vsa = counts[i].sparsity },
                                           counts[i].f, counts[i].h, counts[i].w);

        CHECK(n.q == counts[i].tiles && n.k == counts[i].tiles && n.kept == counts[i].kept,
              "%g of %lld x %lld x %lld tokens: %lld of %lld tiles", counts[i].sparsity,
              (long long)counts[i].f, (long long)counts[i].h, (long long)counts[i].w,
              (long long)n.kept, (long long)n.k);
    }
}

int main(int argc, char **argv)
{
    struct table tables[LEVELS];
    struct golden g;

    levels_open(tables, &argc, argv);
    if (argc < 2)
        return 1;
    g = golden_open(argv[1], "sparse.safetensors");
    for (size_t t = 0; t < COUNT(tables); t++)
        for (size_t i = 0; i < COUNT(cases); i++) {
            check_case(&g, &cases[i], &tables[t], DT_F32);
            check_case(&g, &cases[i], &tables[t], DT_BF16);
        }
    check_counts();
    golden_close(&g);
    return check_end("sparse");
}
