/* The S2V transformer compared with the official one (golden/make_s2v.py), and on P ranks with one
 * rank, with replicated and with sharded weights: bitwise equal without a ring, else within 1e-5.
 *
 *     test_s2v GOLDEN [cuda] */
#include "model/audio/speech.h"
#include "model/transformer/feature_audio.h"
#include "tests/dit_model.h"
#include "tests/golden.h"
#include "tests/ranks_device.h"

/* The same as in golden/make_s2v.py. */
enum { T = 3, H = 8, W = 16, WIDTH = 24, DIM = 96, LAYERS = 25, TOKENS = 5 };
static const struct dit_config config = {
    .heads = 4,
    .dim = DIM,
    .ffn_dim = 160,
    .layers = 3,
    .in_dim = 16,
    .out_dim = 16,
    .text_len = 24,
    .text_dim = 40,
    .freq_dim = 32,
    .eps = 1e-6f,
    .use = { { &feature_audio, 2, { WIDTH, LAYERS, 16 }, { 0, 2 } } },
};
static const char *const cases[] = { "first", "later" };
static const float times[] = { 999, 501 };
#define MEMORY ((size_t)32 << 20)

static struct golden golden;

static void need(status st)
{
    if (st != ST_OK) { // other ranks may be inside a collective: end the job
        printf("%s\n", status_line());
        abort();
    }
}

/* ---- weights from a formula ---- */

static status read_weight(void *payload, const struct weight_spec *spec, const char *name,
                          int64_t first, int64_t count, void *dst)
{
    const char *end = strrchr(name, '.');
    const bool gain = strstr(name, "norm") != NULL && strcmp(end, ".weight") == 0;
    const bool large = strstr(name, "modulation") != NULL || strstr(name, "cond_mask") != NULL ||
                       strstr(name, "padding_tokens") != NULL ||
                       (strstr(name, "audio_injector") != NULL && strstr(name, ".o.") != NULL);
    const float scale = gain ? 0.25f : large ? 1 : 0.125f;
    const uint64_t seed = dit_seed(name);
    int64_t in = spec->file_dim[1], kernel = 1;

    for (int i = 2; i < spec->file_ndim; i++)
        kernel *= spec->file_dim[i];
    for (int64_t k = 0; k < count; k++) {
        // in memory [out, kernel, in], in the file [out, in, kernel]
        const int64_t i = first + k, row = i / (in * kernel), rest = i % (in * kernel);
        const int64_t from = spec->channels_last ? (row * in + rest % in) * kernel + rest / in : i;
        const float v = (gain ? 1 : 0) + scale * dit_value(seed, from);

        if (spec->dtype == DT_F32)
            ((float *)dst)[k] = v;
        else
            ((uint16_t *)dst)[k] = bf16_from_f32(v);
    }
    return ST_OK;
}

/* ---- inputs ---- */

static void add(struct conditioning *c, const char *name, int64_t frames, float scale)
{
    const int64_t dims[] = { 16, frames, H, W };
    float *data;

    need(conditioning_add(c, name, 4, dims, &data));
    dit_fill(data, 16 * frames * H * W, name, scale);
}

/* The mean of the states of the audio encoder, as the transformer's tensor weights them. */
static void add_audio(struct conditioning *c)
{
    const int64_t dims[] = { 4 * T, WIDTH }, n = dims[0] * dims[1];
    float *states = malloc((size_t)(LAYERS * n) * sizeof(*states)), w[LAYERS], *data;

    need(conditioning_add(c, CONDITION_AUDIO, 2, dims, &data));
    dit_fill(states, LAYERS * n, "audio", 1);
    dit_fill(w, LAYERS, "casual_audio_encoder.weights", 0.25f);
    for (int l = 0; l < LAYERS; l++)
        w[l] += 1;
    speech_weights(w, LAYERS);
    for (int64_t i = 0; i < n; i++) {
        data[i] = 0;
        for (int l = 0; l < LAYERS; l++)
            data[i] += w[l] * states[l * n + i];
    }
    free(states);
}

static void make_inputs(struct conditioning *c, bool later)
{
    need(dit_text(c, 7, config.text_dim));
    add_audio(c);
    add(c, CONDITION_REFERENCE, 1, 4);
    if (later) {
        add(c, CONDITION_MOTION, AUDIO_MOTION_LATENTS, 1);
        add(c, CONDITION_POSE, T, 1);
    }
}

/* ---- a run ---- */

struct outcome {
    float *v[2], *frame, *sound; // [rows, 64], [2 T, C], [2 T TOKENS, C]; v NULL: of another rank
    int64_t first, rows;
    size_t peak[3];
    double flops;
};

static void outcome_done(struct outcome *o)
{
    free(o->v[0]);
    free(o->v[1]);
    free(o->frame);
    free(o->sound);
}

static float *read_tensor(struct device *dev, struct tensor t)
{
    float *host = malloc(tensor_bytes(t) + 4);

    need(device_download(dev, host, t));
    need(device_wait(dev));
    return host;
}

/* Both branches of a case at its time, with a mesh over the world's ranks. */
static struct outcome run(struct world *world, struct device *dev, struct mesh_shape shape,
                          bool fsdp, enum dtype cdt, bool later)
{
    const int64_t n = 16 * T * H * W;
    struct outcome o = { .rows = 0 };
    struct conditioning c = { 0 };
    struct arena weights = { 0 }, data = { 0 }, step = { 0 };
    struct dit_config own = config;
    struct mesh mesh = { 0 };
    struct dit dit = { 0 };
    struct dit_run r;
    struct tensor x = { 0 }, v = { 0 };
    float *latent = malloc((size_t)n * sizeof(float)), *tokens = malloc((size_t)n * sizeof(float));

    make_inputs(&c, later);
    dit_fill(latent, n, "latent", 2);
    tokens_from_latent(tokens, latent, 16, T, H, W);
    need(mesh_open(&mesh, world, dev, shape));
    need(arena_init(&weights, dev, "weights", MEMORY));
    need(arena_init(&data, dev, "run", MEMORY));
    need(arena_init(&step, dev, "step", MEMORY));
    need(dit_open(&dit, &own, &mesh, dev, &weights, cdt, (struct dit_matmul){ 0 },
                  (struct tensors_place){ .fsdp = fsdp },
                  (struct weight_source){ .read = read_weight }));
    need(dit_complete(&dit));
    need(dit_begin(&r, &dit, &data, &step,
                   &(struct dit_input){ .f = T,
                                        .h = H / 2,
                                        .w = W / 2,
                                        .steps = 1,
                                        .timestep = &times[later],
                                        .last_branch = shape.cfg == 2 ? 0 : 1,
                                        .branches = shape.cfg == 2 ? 1 : 2,
                                        .first_branch = shape.cfg == 2 ? mesh.cfg : 0,
                                        .conditioning = &c }));
    o.first = r.spans.latent_first;
    o.rows = r.spans.latent_rows;
    need(arena_take(&data, &x, DT_F32, o.rows, 64));
    need(arena_take(&data, &v, DT_F32, o.rows, 64));
    if (dev->kind != DEVICE_PLAN)
        need(device_upload(dev, x, tokens + o.first * 64));
    for (int b = 0; b < r.branches; b++) {
        need(dit_forward(&r, &step, 0, b, v, x));
        if (dev->kind != DEVICE_PLAN)
            o.v[shape.cfg == 2 ? mesh.cfg : b] = read_tensor(dev, v);
    }
    CHECK(step.used == 0, "%zu bytes are not released", step.used);
    if (dev->kind != DEVICE_PLAN && cdt == DT_F32) {
        o.frame = read_tensor(dev, r.feature[0][AUDIO_FRAME]);
        o.sound = read_tensor(dev, r.feature[0][AUDIO_SOUND]);
    }
    o.peak[0] = weights.peak;
    o.peak[1] = data.peak;
    o.peak[2] = step.peak;
    o.flops = dev->flops;
    conditioning_done(&c);
    dit_close(&dit);
    mesh_close(&mesh);
    arena_done(&weights);
    arena_done(&data);
    arena_done(&step);
    free(latent);
    free(tokens);
    return o;
}

/* ---- against the official program ---- */

static void check_golden(struct device *dev, const char *name, double tolerance)
{
    const int64_t n = 16 * T * H * W;
    float *latent = malloc((size_t)n * sizeof(float));

    for (int later = 0; later < 2; later++) {
        struct world one;
        struct outcome o, half;

        world_describe(&one, 0, 1, 1);
        o = run(&one, dev, (struct mesh_shape){ 1, 1, 1 }, false, DT_F32, later);
        half = run(&one, dev, (struct mesh_shape){ 1, 1, 1 }, false, DT_BF16, later);
        for (int b = 0; b < 2; b++) {
            const char *branch = b == 0 ? "cond" : "uncond";
            float *want = golden_f32(&golden, NULL, "v.%s.%s", cases[later], branch);
            char what[80];

            snprintf(what, sizeof(what), "%s, %s, %s", name, cases[later], branch);
            latent_from_tokens(latent, o.v[b], 16, T, H, W);
            check_near(what, latent, want, n, tolerance);
            printf("%s: %.2g from the official one, in bf16 %.2g\n", what,
                   check_distance(latent, want, n), check_distance(half.v[b], o.v[b], n));
            CHECK(check_distance(half.v[b], o.v[b], n) < 0.03, "%s in bf16", what);
            free(want);
            if (!later)
                continue;
            want = golden_f32(&golden, NULL, "tokens.%s", branch);
            check_near("tokens", o.sound + b * T * TOKENS * DIM, want, T * TOKENS * DIM, tolerance);
            free(want);
            want = golden_f32(&golden, NULL, "frame.%s", branch);
            for (int64_t i = 0; i < T * DIM; i++)
                want[i] /= 1 + expf(-want[i]);
            check_near("frame", o.frame + b * T * DIM, want, T * DIM, tolerance);
            free(want);
        }
        outcome_done(&o);
        outcome_done(&half);
        world_close(&one);
    }
    free(latent);
}

/* ---- against one rank ---- */

static void check_mesh(struct world *w, struct device *dev, const struct outcome *alone,
                       struct mesh_shape shape, bool fsdp)
{
    struct world one;
    struct outcome o, planned;
    struct device plan = { 0 };
    const double before = dev->flops;

    o = run(w, dev, shape, fsdp, DT_F32, true);
    o.flops -= before;
    for (int b = 0; b < 2; b++) {
        const float *want = alone->v[b] + o.first * 64;
        const int64_t n = o.rows * 64;

        if (o.v[b] == NULL || n == 0)
            continue;
        if (shape.ring == 1)
            CHECK(memcmp(o.v[b], want, (size_t)n * sizeof(float)) == 0,
                  "cfg %d, ring %d, ulysses %d, %s, branch %d: %g", shape.cfg, shape.ring,
                  shape.ulysses, fsdp ? "sharded" : "whole", b, check_distance(o.v[b], want, n));
        else
            check_near("a ring", o.v[b], want, n, 1e-5);
    }
    need(device_open_plan(&plan, &table_plan, dev->table->workspace));
    world_describe(&one, w->rank, w->size, w->size);
    planned = run(&one, &plan, shape, fsdp, DT_F32, true);
    for (int i = 0; i < 3; i++)
        CHECK(o.peak[i] == planned.peak[i], "arena %d: %zu bytes, planned %zu", i, o.peak[i],
              planned.peak[i]);
    CHECK(o.flops == planned.flops, "%g operations, planned %g", o.flops, planned.flops);
    world_close(&one);
    device_close(&plan);
    outcome_done(&planned);
    outcome_done(&o);
}

static void check_ranks(struct world *w, struct device *dev)
{
    struct outcome alone;
    struct world one;

    world_describe(&one, 0, 1, 1);
    alone = run(&one, dev, (struct mesh_shape){ 1, 1, 1 }, false, DT_F32, true);
    world_close(&one);
    for (int cfg = 1; cfg <= 2; cfg++)
        for (int ring = 1; ring <= w->size / cfg; ring++) {
            const struct mesh_shape shape = { cfg, ring, w->size / cfg / ring };

            if (shape.cfg * shape.ring * shape.ulysses != w->size)
                continue;
            check_mesh(w, dev, &alone, shape, false);
            check_mesh(w, dev, &alone, shape, true);
        }
    outcome_done(&alone);
}

int main(int argc, char **argv)
{
    struct table fast, plain;
    struct device devs[2];
    struct world w;
    bool gpus;

    need(world_open(&w, &argc, &argv));
    gpus = ranks_on_gpus(&w, &argc, argv);
    if (argc < 2)
        return 1;
    golden = golden_open(argv[1], "s2v.safetensors");
    if (gpus) {
        table_cuda_plain(&plain);
        table_cuda(&fast);
    } else {
        table_cpu(&fast);
    }
    need(ranks_device(&devs[0], &w, gpus, gpus ? &plain : &table_ref));
    need(ranks_device(&devs[1], &w, gpus, &fast));
    if (w.size == 1) {
        check_golden(&devs[0], gpus ? "plain" : "reference", gpus ? 1e-4 : 2e-5);
        check_golden(&devs[1], gpus ? "GPU" : "CPU", gpus ? 1e-4 : 2e-5);
    }
    check_ranks(&w, &devs[1]);
    device_close(&devs[0]);
    device_close(&devs[1]);
    golden_close(&golden);
    return ranks_end(&w, "s2v");
}
