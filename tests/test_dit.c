/* The transformer on one rank against the official one: forwards, whole generations, bf16; and the
 * plan device's memory and operation counts against those of the run. And a time per frame, as in
 * TI2V.
 *
 *     test_dit GOLDEN [cuda] */
#include "kernels/table.h"
#include "model/sampling/schedule.h"
#include "model/transformer/features.h"
#include "tests/check.h"
#include "tests/dit_model.h"
#include "tests/golden.h"
#include "tests/levels.h"

/* The same as CASES in golden/make_dit.py. */
static const struct dit_case {
    const char *name;
    struct dit_config config;
    int64_t t, h, w; // of the latent
    int64_t text_rows;
} cases[] = {
    { "a",
      { .heads = 12,
        .dim = 72,
        .ffn_dim = 200,
        .layers = 3,
        .in_dim = 16,
        .out_dim = 16,
        .text_len = 24,
        .text_dim = 40,
        .freq_dim = 32,
        .eps = 1e-6f },
      3,
      6,
      10,
      7 },
    { "b",
      { .heads = 40,
        .dim = 320,
        .ffn_dim = 256,
        .layers = 2,
        .in_dim = 8,
        .out_dim = 8,
        .text_len = 16,
        .text_dim = 24,
        .freq_dim = 64,
        .eps = 1e-6f },
      2,
      10,
      6,
      16 },
    { "c",
      { .heads = 5,
        .dim = 50,
        .ffn_dim = 64,
        .layers = 2,
        .in_dim = 12,
        .out_dim = 4,
        .text_len = 10,
        .text_dim = 16,
        .freq_dim = 16,
        .eps = 1e-6f },
      1,
      2,
      14,
      1 },
};

/* VACE, of golden/make_vace.py: every second block has one of VACE beside it. */
static const struct dit_case vace_case = { "vace",
                                           { .heads = 12,
                                             .dim = 72,
                                             .ffn_dim = 200,
                                             .layers = 5,
                                             .in_dim = 16,
                                             .out_dim = 16,
                                             .text_len = 24,
                                             .text_dim = 40,
                                             .freq_dim = 32,
                                             .eps = 1e-6f,
                                             .use = { { &feature_vace, 3, { 24 } } } },
                                           3,
                                           6,
                                           10,
                                           7 };

#define MEMORY ((size_t)16 << 20)

static struct dit_matmul matmul; // of the fixtures

/* One rank with a loaded model and a run of it. */
struct fixture {
    const struct dit_case *c;
    struct device dev;
    struct world world;
    struct mesh mesh;
    struct arena weights, run, step;
    struct dit_config config;
    struct dit dit;
    struct dit_run r;
    struct conditioning text;
    int64_t tokens;
};

static status add_control(struct conditioning *text, const struct dit_case *c)
{
    const int64_t dims[] = { c->config.use[0].width[0], c->t, c->h, c->w }, one[] = { 1 };
    float *control, *scale;

    TRY(conditioning_add(text, CONDITION_VACE, 4, dims, &control));
    dit_fill(control, dims[0] * c->t * c->h * c->w, "vace", 1);
    TRY(conditioning_add(text, CONDITION_VACE_SCALE, 1, one, &scale));
    *scale = 0.5f;
    return ST_OK;
}

/* `plan`: on the plan device. known: the first frames, whose time is 0. */
static void fixture_open_known(struct fixture *b, const struct dit_case *c,
                               const struct table *table, enum dtype cdt, bool plan, int steps,
                               const float *timestep, int64_t known)
{
    const int64_t clean[] = { c->config.out_dim, known, c->h, c->w };
    float *values;

    *b = (struct fixture){ .c = c, .config = c->config, .tokens = c->t * c->h / 2 * c->w / 2 };
    golden_need(plan ? device_open_plan(&b->dev, &table_plan, table->workspace)
                     : levels_device(&b->dev, 0, table));
    world_describe(&b->world, 0, 1, 1);
    golden_need(mesh_open(&b->mesh, &b->world, &b->dev, (struct mesh_shape){ 1, 1, 1 }));
    golden_need(arena_init(&b->weights, &b->dev, "weights", MEMORY));
    golden_need(arena_init(&b->run, &b->dev, "run", MEMORY));
    golden_need(arena_init(&b->step, &b->dev, "step", MEMORY));
    golden_need(dit_open(&b->dit, &b->config, &b->mesh, &b->dev, &b->weights, cdt, matmul,
                         (struct tensors_place){ 0 }, dit_source(&b->config)));
    golden_need(dit_text(&b->text, c->text_rows, b->config.text_dim));
    if (c->config.use[0].feature == &feature_vace)
        golden_need(add_control(&b->text, c));
    if (known > 0)
        golden_need(conditioning_add(&b->text, CONDITION_CLEAN, 4, clean, &values));
    golden_need(dit_begin(&b->r, &b->dit, &b->run, &b->step,
                          &(struct dit_input){ .f = c->t,
                                               .h = c->h / 2,
                                               .w = c->w / 2,
                                               .steps = steps,
                                               .timestep = timestep,
                                               .last_step = steps - 1,
                                               .last_branch = 1,
                                               .branches = 2,
                                               .conditioning = &b->text }));
}

static void fixture_open(struct fixture *b, const struct dit_case *c, const struct table *table,
                         enum dtype cdt, bool plan, int steps, const float *timestep)
{
    fixture_open_known(b, c, table, cdt, plan, steps, timestep, 0);
}

static void fixture_close(struct fixture *b)
{
    conditioning_done(&b->text);
    dit_close(&b->dit);
    arena_done(&b->weights);
    arena_done(&b->run);
    arena_done(&b->step);
    mesh_close(&b->mesh);
    world_close(&b->world);
    device_close(&b->dev);
}

static const float times[] = { 999, 501, 36 };

static float *start_tokens(const struct fixture *b)
{
    const struct dit_case *c = b->c;
    const int64_t n = b->tokens * 4 * b->config.in_dim;
    float *latent = malloc((size_t)n * sizeof(float)), *tokens = malloc((size_t)n * sizeof(float));

    dit_fill(latent, n, "latent", 2);
    tokens_from_latent(tokens, latent, b->config.in_dim, c->t, c->h, c->w);
    free(latent);
    return tokens;
}

/* Downloads the tokens and converts them to a latent. */
static void read_latent(struct fixture *b, float *latent, struct tensor x, int64_t channels)
{
    float *tokens = malloc(tensor_bytes(x));

    golden_need(device_download(&b->dev, tokens, x));
    golden_need(device_wait(&b->dev));
    latent_from_tokens(latent, tokens, channels, b->c->t, b->c->h, b->c->w);
    free(tokens);
}

/* Forwards at three times in one run: the first also computes the text's keys and values. */
static void check_forward(struct golden *g, const struct dit_case *c, const struct table *table,
                          enum dtype cdt)
{
    struct fixture b;

    fixture_open(&b, c, table, cdt, false, COUNT(times), times);

    const int64_t n = b.tokens * 4 * b.config.out_dim;
    float *tokens = start_tokens(&b), *latent = malloc((size_t)n * sizeof(float));
    struct tensor x = { 0 }, v = { 0 };

    golden_need(arena_take(&b.run, &x, DT_F32, b.tokens, 4 * b.config.in_dim));
    golden_need(arena_take(&b.run, &v, DT_F32, b.tokens, 4 * b.config.out_dim));
    golden_need(device_upload(&b.dev, x, tokens));
    for (int i = 0; i < (int)COUNT(times); i++) {
        float *full = golden_f32(g, NULL, "v.%s.%g", c->name, times[i]);
        float *half = golden_f32(g, NULL, "half.%s.%g", c->name, times[i]);
        char what[80];

        snprintf(what, sizeof(what), "%s, %s, forward %s at %g", table->name, dtype_name(cdt),
                 c->name, times[i]);
        golden_need(dit_forward(&b.r, &b.step, i, 0, v, x));
        read_latent(&b, latent, v, b.config.out_dim);
        if (matmul.fp8) {
            const double ours = check_distance(latent, full, n);

            CHECK(ours > 1e-3 && ours < 0.1, "%s in fp8: %.3g from fp32", what, ours);
            printf("%s in fp8, %d blocks kept: %.2g from fp32\n", what, 2 * matmul.kept, ours);
        } else if (cdt == DT_F32) {
            check_near(what, latent, full, n, levels_tolerance(2e-5));
            printf("%s: %.2g from the official one\n", what, check_distance(latent, full, n));
        } else {
            const double ours = check_distance(latent, half, n);
            const double theirs = check_distance(half, full, n);

            // A GPU sums in another order, and skips the rounding between two fused ops. There the
            // error against fp32 must be about that of the official bf16.
            CHECK(ours < (levels_cuda ? 1.5 : 1) * theirs,
                  "%s: %.3g from the official bf16, which is %.3g from fp32", what, ours, theirs);
            CHECK(!levels_cuda || check_distance(latent, full, n) < 1.2 * theirs,
                  "%s: %.3g from fp32, the official bf16 is %.3g", what,
                  check_distance(latent, full, n), theirs);
            printf("%s: %.2g from the official bf16, which is %.2g from fp32, as ours is %.2g\n",
                   what, ours, theirs, check_distance(latent, full, n));
        }
        free(full);
        free(half);
    }
    CHECK(b.step.used == 0, "%zu bytes of scratch were not released", b.step.used);
    free(latent);
    free(tokens);
    fixture_close(&b);
}

/* The first frames at time 0, the others at the step's, against the official Wan2.2. */
static void check_times(struct golden *g, const struct table *table)
{
    const struct dit_case *c = &cases[0];

    for (int known = 1; known <= 2; known++) {
        struct fixture b;

        fixture_open_known(&b, c, table, DT_F32, false, COUNT(times), times, known);

        const int64_t n = b.tokens * 4 * b.config.out_dim;
        float *tokens = start_tokens(&b), *latent = malloc((size_t)n * sizeof(float));
        struct tensor x = { 0 }, v = { 0 };

        golden_need(arena_take(&b.run, &x, DT_F32, b.tokens, 4 * b.config.in_dim));
        golden_need(arena_take(&b.run, &v, DT_F32, b.tokens, 4 * b.config.out_dim));
        golden_need(device_upload(&b.dev, x, tokens));
        for (int i = 0; i < (int)COUNT(times); i++) {
            float *want = golden_f32(g, NULL, "segments.%d.%g", known, times[i]);
            char what[80];

            snprintf(what, sizeof(what), "%s, %d known frames, time %g", table->name, known,
                     times[i]);
            golden_need(dit_forward(&b.r, &b.step, i, 0, v, x));
            read_latent(&b, latent, v, b.config.out_dim);
            check_near(what, latent, want, n, levels_tolerance(2e-5));
            printf("%s: %.2g from the official one\n", what, check_distance(latent, want, n));
            free(want);
        }
        free(latent);
        free(tokens);
        fixture_close(&b);
    }
}

/* Ten steps with guidance. */
static void check_generation(struct golden *g, const struct table *table, enum solver_kind kind)
{
    const struct dit_case *c = &cases[0];
    struct schedule schedule;
    struct solver solver;
    struct fixture b;

    golden_need(schedule_init(&schedule, kind, 10, 5));
    fixture_open(&b, c, table, DT_F32, false, schedule.steps, schedule.timestep);

    const int64_t n = b.tokens * 4 * b.config.in_dim;
    float *tokens = start_tokens(&b), *latent = malloc((size_t)n * sizeof(float));
    float *expected = golden_f32(g, NULL, "final.%s", solver_name(kind));
    struct tensor x = { 0 }, v[2] = { { 0 }, { 0 } };
    char what[80];

    golden_need(arena_take(&b.run, &x, DT_F32, b.tokens, 4 * b.config.in_dim));
    golden_need(arena_take(&b.run, &v[0], DT_F32, b.tokens, 4 * b.config.in_dim));
    golden_need(arena_take(&b.run, &v[1], DT_F32, b.tokens, 4 * b.config.in_dim));
    golden_need(solver_init(&solver, &schedule, &b.run, x.dim[0], x.dim[1]));
    golden_need(device_upload(&b.dev, x, tokens));
    for (int i = 0; i < schedule.steps; i++) {
        for (int branch = 0; branch < 2; branch++)
            golden_need(dit_forward(&b.r, &b.step, i, branch, v[branch], x));
        golden_need(solver_step(&solver, &b.dev, x, v[0], v[1], 5));
    }
    read_latent(&b, latent, x, b.config.in_dim);
    snprintf(what, sizeof(what), "%s, 10 steps of %s", table->name, solver_name(kind));
    check_near(what, latent, expected, n, 2e-4);
    printf("%s: final latent %.2g from the official one\n", what,
           check_distance(latent, expected, n));
    free(expected);
    free(latent);
    free(tokens);
    fixture_close(&b);
    schedule_done(&schedule);
}

/* Peak memory and operation counts of the plan device equal those of the run. */
static void check_plan(const struct table *table, const struct dit_case *c, enum dtype cdt)
{
    struct fixture b[2];

    for (int plan = 0; plan < 2; plan++) {
        struct tensor x = { 0 }, v = { 0 };

        fixture_open(&b[plan], c, table, cdt, plan, COUNT(times), times);
        golden_need(arena_take(&b[plan].run, &x, DT_F32, b->tokens, 4 * b->config.in_dim));
        golden_need(arena_take(&b[plan].run, &v, DT_F32, b->tokens, 4 * b->config.out_dim));
        if (!plan)
            golden_need(device_zero(&b[plan].dev, x));
        for (int branch = 0; branch < 2; branch++)
            golden_need(dit_forward(&b[plan].r, &b[plan].step, 0, branch, v, x));
    }
    CHECK(b[0].weights.peak == b[1].weights.peak, "%s: weights %zu, planned %zu", c->name,
          b[0].weights.peak, b[1].weights.peak);
    CHECK(b[0].run.peak == b[1].run.peak, "%s: run %zu, planned %zu", c->name, b[0].run.peak,
          b[1].run.peak);
    CHECK(b[0].step.peak == b[1].step.peak, "%s: step %zu, planned %zu", c->name, b[0].step.peak,
          b[1].step.peak);
    CHECK(b[0].dev.flops == b[1].dev.flops && b[0].dev.flops > 0, "%s: %g operations, planned %g",
          c->name, b[0].dev.flops, b[1].dev.flops);
    fixture_close(&b[0]);
    fixture_close(&b[1]);
}

/* All blocks in fp8; those at the ends in the compute type; so many of these that none is left. */
static void check_fp8(struct golden *g, const struct table *table)
{
    for (int kept = 0; kept < 2; kept++) {
        matmul = (struct dit_matmul){ .fp8 = true, .kept = kept };
        check_forward(g, &cases[0], table, DT_BF16);
        check_plan(table, &cases[0], DT_BF16);
    }
    matmul = (struct dit_matmul){ .fp8 = true, .kept = 2 };
    check_plan(table, &cases[0], DT_BF16);
    matmul = (struct dit_matmul){ 0 };
}

static void check_refusals(const struct table *table)
{
    struct fixture b;
    struct dit_run r;
    struct dit_config config = cases[0].config;
    struct dit m;
    struct arena none = { 0 };
    struct conditioning text = { 0 };

    dit_add_feature(&config, &feature_animate);
    CHECK(dit_open(&m, &config, NULL, NULL, &none, DT_F32, (struct dit_matmul){ 0 },
                   (struct tensors_place){ 0 }, dit_source(&config)) == ST_FORMAT &&
              strstr(status_line(), "Animate") != NULL,
          "an Animate model: %s", status_line());
    config = cases[0].config;
    config.heads = 7;
    CHECK(dit_open(&m, &config, NULL, NULL, &none, DT_F32, (struct dit_matmul){ 0 },
                   (struct tensors_place){ 0 }, dit_source(&config)) == ST_FORMAT,
          "7 heads of 72 channels");
    fixture_open(&b, &cases[2], table, DT_F32, false, 1, times);
    golden_need(dit_text(&text, 1, b.config.text_dim + 1));
    CHECK(dit_begin(&r, &b.dit, &b.run, &b.step,
                    &(struct dit_input){ .f = 1,
                                         .h = 1,
                                         .w = 1,
                                         .steps = 1,
                                         .timestep = times,
                                         .branches = 1,
                                         .conditioning = &text }) == ST_USAGE,
          "text of another width");
    conditioning_done(&text);
    fixture_close(&b);
}

int main(int argc, char **argv)
{
    struct table tables[LEVELS];
    struct golden g, wan22, vace;

    levels_open(tables, &argc, argv);
    if (argc < 2)
        return 1;
    g = golden_open(argv[1], "dit.safetensors");
    wan22 = golden_open(argv[1], "segments.safetensors");
    vace = golden_open(argv[1], "vace.safetensors");
    for (size_t t = 0; t < COUNT(tables); t++) {
        for (size_t i = 0; i < COUNT(cases); i++) {
            check_forward(&g, &cases[i], &tables[t], DT_F32);
            check_forward(&g, &cases[i], &tables[t], DT_BF16);
            check_plan(&tables[t], &cases[i], DT_F32);
            check_plan(&tables[t], &cases[i], DT_BF16);
        }
        check_fp8(&g, &tables[t]);
        check_forward(&vace, &vace_case, &tables[t], DT_F32);
        check_forward(&vace, &vace_case, &tables[t], DT_BF16);
        check_plan(&tables[t], &vace_case, DT_BF16);
        check_times(&wan22, &tables[t]);
        check_generation(&g, &tables[t], SOLVER_UNIPC);
        check_generation(&g, &tables[t], SOLVER_DPMPP);
        check_generation(&g, &tables[t], SOLVER_EULER);
    }
    check_refusals(&tables[0]);
    golden_close(&g);
    golden_close(&wan22);
    golden_close(&vace);
    return check_end("dit");
}
