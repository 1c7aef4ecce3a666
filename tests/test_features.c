/* Inputs of the transformer other than text, on any number of ranks: hooks of a feature, tokens
 * before and after the video's, concatenated channels, known frames at time 0, two experts. Each is
 * compared with an equivalent run on one rank without it, and must be bitwise equal.
 *
 *     test_features (alone or under mpirun) */
#include "kernels/table.h"
#include "model/pipeline/denoise.h"
#include "model/transformer/dit_internal.h"
#include "tests/dit_model.h"
#include "tests/ranks.h"

#define STEPS 3
#define ROWS 3 // of text

static const struct dit_config base = { .heads = 6,
                                        .dim = 72,
                                        .ffn_dim = 96,
                                        .layers = 3,
                                        .in_dim = 12,
                                        .out_dim = 12,
                                        .text_len = 8,
                                        .text_dim = 16,
                                        .freq_dim = 16,
                                        .eps = 1e-6f };
static const float times[STEPS] = { 937, 500, 208 };

static void need(status st)
{
    if (st != ST_OK) { // other ranks may be inside a collective: end the job
        printf("%s\n", status_line());
        abort();
    }
}

/* ---- a feature for tests: counts its hooks, and adds a frame of tokens ---- */

static struct {
    int begin, prepare, patch, cross, block;
    int64_t frames_before, frames_after; // number of frames of tokens that it adds: 0 or 1 each
    const float *tokens;                 // their values [h * w, 4 * in_dim]
} probe;

/* The added frame is the first or last frame of a video that is one frame longer: the positions of
 * the latent's frames change accordingly. */
static void probe_extend(struct segments *s, const struct dit_input *in)
{
    const int64_t frame = in->h * in->w, added = probe.frames_before + probe.frames_after;
    struct token_grid grid = { in->f + added, in->h, in->w, 0 };

    for (int i = 0; i < s->count; i++) {
        s->segment[i].grid.f = grid.f;
        s->segment[i].grid.first += probe.frames_before * frame;
    }
    if (probe.frames_before > 0)
        segments_prepend(s, (struct segment){ .tokens = frame, .grid = grid, .time = TIME_STEP });
    grid.first = in->f * frame;
    if (probe.frames_after > 0)
        segments_append(s, (struct segment){ .tokens = frame, .grid = grid, .time = TIME_STEP });
}

static status probe_begin(struct dit_run *r, struct tensor *data, const struct dit_input *in,
                          struct arena *a, struct arena *step)
{
    probe.begin++;
    if (probe.tokens == NULL)
        return ST_OK;
    TRY(arena_take(a, &data[0], DT_F32, in->h * in->w, 4 * r->m->config.in_dim));
    return device_upload(r->m->dev, data[0], probe.tokens);
}

static status probe_prepare(struct dit_run *r, struct tensor *data, struct arena *step)
{
    probe.prepare++;
    return ST_OK;
}

/* Writes the patch embedding of the added tokens that this rank has. */
static status probe_after_patch(struct block_ctx *ctx, const struct tensor *data)
{
    const struct spans *spans = &ctx->r->spans;
    struct dit *m = ctx->r->m;
    struct dit_root root;
    int64_t at;

    probe.patch++;
    TRY(weights_acquire(dit_weights(m, STACK_ROOT), 0, -1, &root));
    for (int i = 0; i < spans->count; i++) {
        const struct span *s = &spans->span[i];

        if (s->latent)
            continue;
        at = s->grid.first % (s->grid.h * s->grid.w);
        TRY(op_gemm(m->dev, tensor_slice(ctx->patch, 0, s->first, s->count),
                    tensor_slice(data[0], 0, at, s->count), root.patch.w, root.patch.b, ACT_NONE));
    }
    return ST_OK;
}

static status probe_cross(struct block_ctx *ctx, const struct tensor *data, int layer,
                          struct tensor q)
{
    CHECK(q.dim[0] == ctx->r->s_loc && layer >= 0 && layer < base.layers, "layer %d", layer);
    probe.cross++;
    return ST_OK;
}

static status probe_block(struct block_ctx *ctx, const struct tensor *data, int layer)
{
    probe.block++;
    return ST_OK;
}

static const struct feature_hooks probe_hooks = { .extend = probe_extend,
                                                  .begin = probe_begin,
                                                  .prepare = probe_prepare,
                                                  .after_patch = probe_after_patch,
                                                  .cross_attention = probe_cross,
                                                  .after_block = probe_block };
static const struct feature feature_probe = { .name = "probe", .hooks = &probe_hooks };

/* ---- one rank's model and run ---- */

struct fixture {
    struct device dev;
    struct world world;
    struct mesh mesh;
    struct arena weights, run, step;
    struct dit_config config;
    struct dit dit[EXPERTS_MAX];
    struct conditioning conditioning;
};

/* Weights of a second model: half of those of dit_read. */
static status read_half(void *payload, const struct weight_spec *spec, const char *name,
                        int64_t first, int64_t count, void *dst)
{
    TRY(dit_read(payload, spec, name, first, count, dst));
    for (int64_t i = 0; i < count; i++)
        ((float *)dst)[i] *= 0.5f;
    return ST_OK;
}

static bool sharded; // weights of fixtures on several ranks
static bool ring;    // the sequence of such fixtures, instead of Ulysses

/* w: the job's ranks, or NULL for a run on one rank. */
static void open_fixture(struct fixture *x, struct world *w, const struct dit_config *config)
{
    const int size = w != NULL ? w->size : 1;
    const struct mesh_shape shape = { 1, ring ? size : 1, ring ? 1 : size };
    const struct tensors_place place = { .fsdp = sharded && w != NULL && w->size > 1 };

    *x = (struct fixture){ .config = *config };
    need(device_open_cpu(&x->dev, 1, &table_ref, table_ref.workspace));
    world_describe(&x->world, 0, 1, 1);
    need(mesh_open(&x->mesh, w != NULL ? w : &x->world, &x->dev, shape));
    need(arena_init(&x->weights, &x->dev, "weights", (size_t)4 << 20));
    need(arena_init(&x->run, &x->dev, "run", (size_t)4 << 20));
    need(arena_init(&x->step, &x->dev, "step", (size_t)4 << 20));
    need(dit_open(&x->dit[0], &x->config, &x->mesh, &x->dev, &x->weights, DT_F32,
                  (struct dit_matmul){ 0 }, place, dit_source(&x->config)));
    need(dit_complete(&x->dit[0]));
    need(dit_text(&x->conditioning, ROWS, config->text_dim));
}

static void close_fixture(struct fixture *x)
{
    for (int i = 0; i < EXPERTS_MAX; i++)
        dit_close(&x->dit[i]);
    conditioning_done(&x->conditioning);
    arena_done(&x->weights);
    arena_done(&x->run);
    arena_done(&x->step);
    mesh_close(&x->mesh);
    world_close(&x->world);
    device_close(&x->dev);
}

/* Adds an array of pseudo-random values to the conditioning. */
static void add_values(struct fixture *x, const char *name, const char *values, int64_t c,
                       int64_t t, int64_t h, int64_t w)
{
    float *data;

    need(conditioning_add(&x->conditioning, name, 4, (const int64_t[]){ c, t, h, w }, &data));
    dit_fill(data, c * t * h * w, values, 2);
}

/* The velocities of this rank's tokens at one step, [rows, 4 * out_dim] malloc'ed; tokens: of the
 * whole latent [f * h * w, 4 * channels]. */
static float *forward(struct fixture *x, int64_t f, int64_t h, int64_t w, const float *tokens,
                      int64_t channels, float timestep, int64_t *first, int64_t *rows)
{
    const float one[] = { timestep };
    struct dit_run r;
    struct tensor in, v;
    float *out;

    need(dit_begin(&r, &x->dit[0], &x->run, &x->step,
                   &(struct dit_input){ .f = f,
                                        .h = h,
                                        .w = w,
                                        .steps = 1,
                                        .timestep = one,
                                        .branches = 1,
                                        .conditioning = &x->conditioning }));
    *first = r.spans.latent_first;
    *rows = r.spans.latent_rows;
    need(arena_take(&x->run, &in, DT_F32, *rows, 4 * channels));
    need(arena_take(&x->run, &v, DT_F32, *rows, 4 * x->config.out_dim));
    need(device_upload(&x->dev, in, tokens + *first * 4 * channels));
    need(dit_forward(&r, &x->step, 0, 0, v, in));
    out = malloc(tensor_bytes(v) + 1);
    need(device_download(&x->dev, out, v));
    need(device_wait(&x->dev));
    CHECK(x->step.used == 0, "%zu bytes of scratch were not released", x->step.used);
    return out;
}

static void check_same(const char *what, const float *got, const float *expected, int64_t n,
                       bool same)
{
    const bool equal = memcmp(got, expected, (size_t)n * sizeof(float)) == 0;

    CHECK(n == 0 || equal == same, "%s: %s, distance %.3g", what,
          equal ? "bitwise equal" : "not bitwise equal", check_distance(got, expected, n));
}

/* ---- the checks ---- */

enum { F = 3, H = 2, W = 5 };

static float *make_tokens(int64_t count, const char *name)
{
    float *tokens = malloc((size_t)count * sizeof(float));

    dit_fill(tokens, count, name, 2);
    return tokens;
}

/* All hooks are called, and hooks that do nothing do not change the result. */
static void check_hooks(struct world *w)
{
    float *tokens = make_tokens(F * H * W * 4 * base.in_dim, "x");
    struct dit_config config = base;
    struct fixture plain, hooked;
    int64_t first, rows, all;
    float *expected, *got;

    memset(&probe, 0, sizeof(probe));
    dit_add_feature(&config, &feature_probe);
    open_fixture(&plain, NULL, &base);
    open_fixture(&hooked, w, &config);
    expected = forward(&plain, F, H, W, tokens, base.in_dim, times[0], &first, &all);
    got = forward(&hooked, F, H, W, tokens, base.in_dim, times[0], &first, &rows);
    check_same("hooks that do nothing", got, expected + first * 4 * base.out_dim,
               rows * 4 * base.out_dim, true);
    CHECK(probe.begin == 1 && probe.prepare == 1 && probe.patch == 1 &&
              probe.cross == base.layers && probe.block == base.layers,
          "begin %d, prepare %d, patch %d, cross %d, block %d", probe.begin, probe.prepare,
          probe.patch, probe.cross, probe.block);
    free(expected);
    free(got);
    free(tokens);
    close_fixture(&hooked);
    close_fixture(&plain);
}

/* If a feature adds the first or the last frame of a video as tokens, the other frames have the
 * same result as in the whole video. */
static void check_extra_tokens(struct world *w, bool before)
{
    const int64_t frame = H * W, row = 4 * base.in_dim;
    float *tokens = make_tokens(F * frame * row, "x");
    const float *kept = before ? tokens + frame * row : tokens;
    struct dit_config config = base;
    struct fixture plain, extended;
    int64_t first, rows, all;
    float *expected, *got;

    memset(&probe, 0, sizeof(probe));
    probe.frames_before = before;
    probe.frames_after = !before;
    probe.tokens = before ? tokens : tokens + (F - 1) * frame * row;
    dit_add_feature(&config, &feature_probe);
    open_fixture(&plain, NULL, &base);
    open_fixture(&extended, w, &config);
    expected = forward(&plain, F, H, W, tokens, base.in_dim, times[0], &first, &all);
    got = forward(&extended, F - 1, H, W, kept, base.in_dim, times[0], &first, &rows);
    check_same(before ? "tokens before" : "tokens after", got,
               expected + ((before ? frame : 0) + first) * row, rows * row, true);
    free(expected);
    free(got);
    free(tokens);
    close_fixture(&extended);
    close_fixture(&plain);
}

/* A feature of the transformer that reads an array of 16 columns or channels, on these ranks with
 * sharded weights as on one rank; the array matters. */
static void check_feature(struct world *w, const struct feature *feature, int64_t width,
                          const char *array, int64_t c, int64_t t, int64_t h, int64_t columns)
{
    const int64_t row = 4 * base.in_dim;
    float *tokens = make_tokens(F * H * W * row, "x");
    struct dit_config config = base;
    float *velocity[4];
    int64_t first = 0, rows = 0;

    dit_add_feature(&config, feature)->width[0] = width;
    sharded = true;
    for (int i = 0; i < 4; i++) { // one rank, other values, these ranks, as a ring
        struct fixture x;

        ring = i == 3;
        open_fixture(&x, i < 2 ? NULL : w, &config);
        if (h == 0) {
            float *data;

            need(conditioning_add(&x.conditioning, array, 2, (const int64_t[]){ c, t }, &data));
            dit_fill(data, c * t, i == 1 ? "others" : array, 2);
        } else {
            add_values(&x, array, i == 1 ? "others" : array, c, t, h, columns);
        }
        velocity[i] = forward(&x, F, H, W, tokens, base.in_dim, times[0], &first, &rows);
        close_fixture(&x);
    }
    sharded = ring = false;
    check_near(feature->name, velocity[3], velocity[0] + first * row, rows * row, 1e-5);
    check_same(feature->name, velocity[2], velocity[0] + first * row, rows * row, true);
    CHECK(check_distance(velocity[1], velocity[0], F * H * W * row) > 1e-2, "%s does not matter",
          array);
    for (int i = 0; i < 4; i++)
        free(velocity[i]);
    free(tokens);
}

/* A latent with concatenated channels has the same result as a latent that has all channels. */
static void check_channels(struct world *w)
{
    enum { LATENT = 5 }; // channels of the latent
    const int64_t n = F * H * W, all = base.in_dim, others = all - LATENT;
    float *latent = make_tokens(n * 4 * all, "x"), *some = malloc((size_t)n * 4 * LATENT * 4);
    float *tokens = malloc((size_t)(n * 4 * all) * 4), *channels, *expected, *got;
    struct fixture plain, x;
    int64_t first, rows, count;

    open_fixture(&plain, NULL, &base);
    open_fixture(&x, w, &base);
    tokens_from_latent(tokens, latent, all, F, 2 * H, 2 * W);
    tokens_from_latent(some, latent, LATENT, F, 2 * H, 2 * W);
    need(conditioning_add(&x.conditioning, CONDITION_CHANNELS, 4,
                          (const int64_t[]){ others, F, 2 * H, 2 * W }, &channels));
    memcpy(channels, latent + LATENT * n * 4, (size_t)(others * n * 4) * sizeof(float));
    expected = forward(&plain, F, H, W, tokens, all, times[0], &first, &count);
    got = forward(&x, F, H, W, some, LATENT, times[0], &first, &rows);
    check_same("concatenated channels", got, expected + first * 4 * base.out_dim,
               rows * 4 * base.out_dim, true);
    free(expected);
    free(got);
    free(tokens);
    free(latent);
    free(some);
    close_fixture(&x);
    close_fixture(&plain);
}

/* Known frames have time 0. The result equals a run at time 0 if all frames are known, or if the
 * step's time is 0; otherwise it differs from the runs at time 0 and at the step's time. */
static void check_known_frames(struct world *w)
{
    const int64_t row = 4 * base.in_dim;
    float *tokens = make_tokens(F * H * W * row, "x");
    struct fixture plain;
    int64_t first, rows, all;
    float *zero, *later;

    open_fixture(&plain, NULL, &base);
    zero = forward(&plain, F, H, W, tokens, base.in_dim, 0, &first, &all);
    later = forward(&plain, F, H, W, tokens, base.in_dim, times[0], &first, &all);
    for (int known = 1; known <= F; known++) {
        for (int at_zero = 0; at_zero < 2; at_zero++) {
            const bool as_zero = at_zero || known == F;
            struct fixture x;
            float *got;

            open_fixture(&x, w, &base);
            add_values(&x, CONDITION_CLEAN, "known", base.out_dim, known, 2 * H, 2 * W);
            got = forward(&x, F, H, W, tokens, base.in_dim, at_zero ? 0 : times[0], &first, &rows);
            check_same("known frames, at time 0", got, zero + first * row, rows * row, as_zero);
            check_same("known frames, at another time", got, later + first * row, rows * row,
                       false);
            free(got);
            close_fixture(&x);
        }
    }
    free(zero);
    free(later);
    free(tokens);
    close_fixture(&plain);
}

enum { BY_HIGH, BY_LOW, BY_BOTH, BY_TURNS }; // which experts; BY_TURNS: one at a time
static float low_guidance = 3;

/* The final latent [C, F, 2H, 2W], malloc'ed, of a generation with guidance. */
static float *generate(struct world *w, int by, float boundary, int known)
{
    const struct latent_shape shape = { base.out_dim, F, 2 * H, 2 * W };
    float *latent = make_tokens(latent_count(shape), "noise");
    struct schedule schedule = { 0 };
    struct denoise d = { 0 };
    struct fixture x;
    struct dit *experts[EXPERTS_MAX];
    struct denoise_input in = { .shape = shape, .guidance.scale = { 5, low_guidance } };

    open_fixture(&x, w, &base);
    need(dit_open(&x.dit[1], &x.config, &x.mesh, &x.dev, &x.weights, DT_F32,
                  (struct dit_matmul){ 0 }, (struct tensors_place){ 0 },
                  (struct weight_source){ .read = read_half, .payload = &x.config }));
    need(dit_complete(&x.dit[1]));
    if (known > 0)
        add_values(&x, CONDITION_CLEAN, "known", base.out_dim, known, 2 * H, 2 * W);
    need(schedule_init(&schedule, SOLVER_UNIPC, 6, 5));
    in.schedule = schedule;
    in.low_from = schedule_below(&schedule, boundary);
    in.conditioning = &x.conditioning;
    experts[0] = &x.dit[by == BY_LOW ? 1 : 0];
    experts[1] = by == BY_TURNS ? NULL : &x.dit[1];
    if (by == BY_LOW)
        in.guidance.scale[0] = in.guidance.scale[1];
    need(denoise_begin(&d, experts, by == BY_BOTH || by == BY_TURNS ? 2 : 1, &x.run, &x.step, &in));
    need(denoise_start(&d, latent));
    while (d.solver.step < schedule.steps) {
        if (by == BY_TURNS && d.solver.step == in.low_from) {
            CHECK(denoise_expert(&d) == 1, "expert %d", denoise_expert(&d));
            need(denoise_switch(&d, 1, &x.dit[1]));
        }
        need(denoise_step(&d));
    }
    need(denoise_latent(&d, latent));
    denoise_end(&d);
    schedule_done(&schedule);
    close_fixture(&x);
    return latent;
}

static void check_experts(struct world *w)
{
    const int64_t n = base.out_dim * F * 4 * H * W;
    float *high = generate(NULL, BY_HIGH, 0, 0), *low = generate(NULL, BY_LOW, 0, 0);
    float *mixed = generate(NULL, BY_BOTH, 800, 0), *got;

    got = generate(w, BY_BOTH, 0, 0);
    check_same("all steps by the first expert", got, high, n, true);
    free(got);
    got = generate(w, BY_BOTH, 1001, 0);
    check_same("all steps by the second expert", got, low, n, true);
    free(got);
    check_same("two experts against the first only", mixed, high, n, false);
    check_same("two experts against the second only", mixed, low, n, false);
    got = generate(w, BY_BOTH, 800, 0);
    check_same("two experts on these ranks", got, mixed, n, true);
    free(got);
    got = generate(w, BY_TURNS, 800, 0);
    check_same("two experts, one at a time", got, mixed, n, true);
    free(got);
    free(mixed);
    low_guidance = 1; // of the second expert only the cond branch
    mixed = generate(NULL, BY_BOTH, 800, 0);
    got = generate(w, BY_BOTH, 800, 0);
    check_same("only the first expert is guided", got, mixed, n, true);
    low_guidance = 3;
    free(got);
    free(high);
    free(low);
    free(mixed);
}

/* Known frames keep their values; the other frames are generated. */
static void check_clean(struct world *w)
{
    const int64_t frame = 4 * H * W;
    float *known = make_tokens(base.out_dim * 2 * frame, "known");
    float *alone = generate(NULL, BY_HIGH, 0, 2), *got = generate(w, BY_HIGH, 0, 2);

    check_same("known frames, these ranks", got, alone, base.out_dim * F * frame, true);
    for (int64_t c = 0; c < base.out_dim; c++) {
        check_same("a known frame", got + c * F * frame, known + c * 2 * frame, 2 * frame, true);
        check_same("a frame that is not known", got + (c * F + 1) * frame,
                   got + (c * F + 2) * frame, frame, false);
    }
    free(known);
    free(alone);
    free(got);
}

/* The spans of all ranks together have every token of the segments once, in order. */
static void check_spans(void)
{
    for (int parts = 1; parts <= 40; parts++) {
        struct segments s;
        int64_t latent = 0, tokens = 0;

        segments_of_latent(&s, 3, 2, 5, 1);
        segments_prepend(&s, (struct segment){ .tokens = 7, .grid = { 1, 1, 7, 0 } });
        segments_append(&s, (struct segment){ .tokens = 4, .grid = { 2, 2, 4, 8 } });
        for (int part = 0; part < parts; part++) {
            struct spans spans;
            int64_t row = 0;

            spans_of(&spans, &s, parts, part);
            CHECK(spans.latent_first == latent, "%d of %d: latent %lld, expected %lld", part, parts,
                  (long long)spans.latent_first, (long long)latent);
            for (int i = 0; i < spans.count; i++) {
                CHECK(spans.span[i].first == row && spans.span[i].count > 0,
                      "%d of %d: span %d does not follow the one before", part, parts, i);
                row += spans.span[i].count;
            }
            latent += spans.latent_rows;
            tokens += row;
        }
        CHECK(latent == 30 && tokens == 41, "%d parts: %lld of the latent, %lld in total", parts,
              (long long)latent, (long long)tokens);
    }
}

int main(int argc, char **argv)
{
    struct world w;

    need(world_open(&w, &argc, &argv));
    check_spans();
    check_hooks(&w);
    check_extra_tokens(&w, true);
    check_extra_tokens(&w, false);
    check_feature(&w, &feature_reference, base.out_dim, CONDITION_REFERENCE, base.out_dim, 1, 2 * H,
                  2 * W);
    check_feature(&w, &feature_camera, 24 * 2 * 2, CONDITION_CAMERA, 4 * F - 3, 16, 0, 0);
    check_channels(&w);
    check_known_frames(&w);
    check_experts(&w);
    check_clean(&w);
    return ranks_end(&w, "features");
}
