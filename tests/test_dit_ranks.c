/* The transformer on P ranks against itself on one rank, for every mesh of P ranks, with replicated
 * and with sharded weights: bitwise equal with the reference table and without ring attention, else
 * within 1e-5 (bf16: 1e-2). Includes heads and tokens that do not divide by the ranks, and fewer
 * tokens than ranks. Also the plan device's counts for each rank against those of the run. */
#include "model/transformer/features.h"
#include "parallel/split.h"
#include "tests/dit_model.h"
#include "tests/ranks_device.h"

#define STEPS 2
#define TWELVE_HEADS                                                                               \
    {                                                                                              \
        .heads = 12, .dim = 72, .ffn_dim = 96, .layers = 3, .in_dim = 8, .out_dim = 8,             \
        .text_len = 8, .text_dim = 16, .freq_dim = 16, .eps = 1e-6f                                \
    }

static const struct model {
    struct dit_config config;
    int64_t f, h, w; // tokens
    struct dit_matmul matmul;
    const struct feature *sparse; // makes attention sparse: without a ring only; or NULL
} models[] = {
    { TWELVE_HEADS, 3, 3, 5, { 0 }, NULL },
    { { .heads = 6,
        .dim = 36,
        .ffn_dim = 50,
        .layers = 2,
        .in_dim = 4,
        .out_dim = 4,
        .text_len = 5,
        .text_dim = 12,
        .freq_dim = 16,
        .eps = 1e-6f },
      1,
      1,
      7,
      { 0 },
      NULL },
    { TWELVE_HEADS, 3, 3, 5, { .fp8 = true, .kept = 1 }, NULL },
    { { .heads = 6,
        .dim = 48,
        .ffn_dim = 50,
        .layers = 3,
        .in_dim = 4,
        .out_dim = 4,
        .text_len = 5,
        .text_dim = 12,
        .freq_dim = 16,
        .eps = 1e-6f },
      2,
      5,
      9,
      { 0 },
      &feature_vsa_gate },
    { { .heads = 3,
        .dim = 48,
        .ffn_dim = 50,
        .layers = 3,
        .in_dim = 4,
        .out_dim = 4,
        .text_len = 5,
        .text_dim = 12,
        .freq_dim = 16,
        .eps = 1e-6f },
      2,
      9,
      9,
      { 0 },
      &feature_sla },
};

/* Large enough for the fast kernels of a GPU. */
static const struct model large = { { .heads = 8,
                                      .dim = 1024,
                                      .ffn_dim = 2048,
                                      .layers = 3,
                                      .in_dim = 16,
                                      .out_dim = 16,
                                      .text_len = 64,
                                      .text_dim = 16,
                                      .freq_dim = 256,
                                      .eps = 1e-6f },
                                    5,
                                    8,
                                    13,
                                    { 0 },
                                    NULL };

static struct model large_fp8; // the same with fp8

static bool on_gpus;
static const float times[STEPS] = { 937, 208 };

static void need(status st)
{
    if (st != ST_OK) { // other ranks may be inside a collective: end the job
        printf("%s\n", status_line());
        abort();
    }
}

/* What one rank did. */
struct outcome {
    float *v[STEPS][2]; // [s_loc, 4 out_dim] by step and branch; NULL for branches of other ranks
    int64_t first, count;
    size_t weights, run, step; // peaks
    double flops, sent, messages;
    double gathered, expected; // bytes sent for sharded weights, and the expected number
};

static void outcome_done(struct outcome *o)
{
    for (int i = 0; i < STEPS * 2; i++)
        free(o->v[i / 2][i % 2]);
}

/* Forwards of every step and of this rank's branches, in one run. */
static void forwards(struct outcome *o, struct dit_run *r, struct arena *run, struct arena *step,
                     int first_branch)
{
    const struct dit_config *c = &r->m->config;
    const int64_t row = 4 * c->in_dim;
    struct device *dev = r->m->dev;
    struct tensor x, v;
    float *host = malloc((size_t)(r->tokens * row) * sizeof(*host));

    need(arena_take(run, &x, DT_F32, r->s_loc, row));
    need(arena_take(run, &v, DT_F32, r->s_loc, 4 * c->out_dim));
    o->first = r->spans.latent_first;
    o->count = r->s_loc;
    for (int i = 0; i < STEPS; i++) {
        dit_fill(host, r->tokens * row, i ? "x.1" : "x.0", 2);
        need(device_upload(dev, x, host + o->first * row));
        for (int branch = 0; branch < r->branches; branch++) {
            float *out = malloc(tensor_bytes(v) + 1);

            need(dit_forward(r, step, i, branch, v, x));
            need(device_download(dev, out, v));
            need(device_wait(dev));
            o->v[i][first_branch + branch] = out;
        }
    }
    free(host);
}

/* Bytes of its shards that this rank sends to the others: the text's matrices once, those of a
 * block in every forward. With at most two blocks only once: they stay in the two buffers. */
static double expected_bytes(const struct dit_run *r)
{
    struct dit *m = r->m;
    const struct weights *text = dit_weights(m, "text");
    size_t bytes = (size_t)text->units * text->kept_bytes;

    if (text->mode != WEIGHTS_SHARDED)
        return 0;
    for (int i = 0; i < m->stacks; i++) {
        const struct weights *w = &m->stack[i].weights;
        const int times = w->units > 2 ? STEPS * r->branches : 1;

        if (strstr(m->stack[i].name, "blocks") != NULL)
            bytes += (size_t)(times * w->units) * w->kept_bytes;
    }
    return (double)((size_t)(m->mesh->all.size - 1) * bytes);
}

/* With the memory that was planned; dev: the plan device makes the plan itself. */
static struct outcome run_rank(struct world *w, const struct model *model, struct device *dev,
                               const struct outcome *planned, enum dtype cdt,
                               struct mesh_shape shape, bool fsdp)
{
    struct dit_config config = model->config;
    struct outcome o = { 0 };
    struct mesh mesh;
    struct arena weights, run, step;
    struct dit m;
    struct dit_run r;
    struct conditioning text = { 0 };

    if (model->sparse != NULL)
        dit_add_feature(&config, model->sparse);
    dev->flops = 0;
    need(mesh_open(&mesh, w, dev, shape));
    need(arena_init(&weights, dev, "weights", planned->weights));
    need(arena_init(&run, dev, "run", planned->run));
    need(arena_init(&step, dev, "step", planned->step));
    need(dit_open(&m, &config, &mesh, dev, &weights, cdt, model->matmul,
                  (struct tensors_place){ .fsdp = fsdp }, dit_source(&config)));
    need(dit_complete(&m));
    mesh.all.sent = mesh.all.messages = 0;
    need(dit_text(&text, 3, config.text_dim));
    need(dit_begin(&r, &m, &run, &step,
                   &(struct dit_input){ .f = model->f,
                                        .h = model->h,
                                        .w = model->w,
                                        .steps = STEPS,
                                        .timestep = times,
                                        .last_step = STEPS - 1,
                                        .last_branch = 2 - shape.cfg,
                                        .branches = 3 - shape.cfg,
                                        .first_branch = mesh.cfg,
                                        .self_attention.sparsity = { .vsa = 0.6, .sla_topk = 0.5 },
                                        .conditioning = &text }));
    forwards(&o, &r, &run, &step, mesh.cfg);
    o.weights = weights.peak;
    o.run = run.peak;
    o.step = step.peak;
    o.flops = dev->flops;
    o.sent = mesh.all.sent + mesh.ring_group.sent + mesh.ulysses_group.sent + mesh.seq_group.sent;
    o.messages = mesh.all.messages + mesh.ring_group.messages + mesh.ulysses_group.messages +
                 mesh.seq_group.messages;
    o.gathered = mesh.all.sent;
    o.expected = expected_bytes(&r);
    conditioning_done(&text);
    dit_close(&m);
    arena_done(&weights);
    arena_done(&run);
    arena_done(&step);
    mesh_close(&mesh);
    return o;
}

/* On the plan device. */
static struct outcome run_plan(struct world *w, const struct model *model, enum dtype cdt,
                               struct mesh_shape shape, bool fsdp)
{
    struct device plan;
    struct outcome o;

    need(device_open_plan(&plan, &table_plan, 0));
    o = run_rank(w, model, &plan, &(struct outcome){ 0 }, cdt, shape, fsdp);
    device_close(&plan);
    return o;
}

static void compare(const struct outcome *got, const struct outcome *alone, int64_t row,
                    bool same_bits, double tolerance, const char *what)
{
    for (int i = 0; i < STEPS; i++) {
        for (int branch = 0; branch < 2; branch++) {
            const float *mine = got->v[i][branch];
            const float *expected = alone->v[i][branch] + got->first * row;
            const int64_t n = got->count * row;

            if (mine == NULL)
                continue;
            if (same_bits)
                CHECK(memcmp(mine, expected, (size_t)n * sizeof(*mine)) == 0,
                      "%s: step %d, branch %d: not bitwise equal to one rank, distance %.3g", what,
                      i, branch, check_distance(mine, expected, n));
            else
                check_near(what, mine, expected, n, tolerance);
        }
    }
}

static void check_mesh(struct world *w, const struct model *model, const struct outcome *alone,
                       struct device *dev, enum dtype cdt, struct mesh_shape shape, bool fsdp)
{
    struct world described;
    struct outcome got, planned;
    char what[120];

    snprintf(what, sizeof(what), "%d heads, %s, %s%s, cfg %d, ring %d, ulysses %d%s",
             model->config.heads, dev->table->name, dtype_name(cdt),
             model->matmul.fp8 ? " and fp8" : "", shape.cfg, shape.ring, shape.ulysses,
             fsdp ? ", sharded" : "");
    world_describe(&described, w->rank, w->size, w->size);
    described.direct = on_gpus && !w->nccl;
    planned = run_plan(&described, model, cdt, shape, fsdp);
    got = run_rank(w, model, dev, &planned, cdt, shape, fsdp);
    // In bf16 the partial results of a ring by messages are rounded before they are merged.
    compare(&got, alone, 4 * model->config.out_dim,
            described.direct || (shape.ring == 1 && (on_gpus || dev->table == &table_ref)),
            model->matmul.fp8 ? 5e-2
            : cdt == DT_F32   ? 1e-5
                              : 1e-2,
            what);
    CHECK(got.weights == planned.weights && got.run == planned.run && got.step == planned.step,
          "%s: peaks %zu, %zu, %zu; planned %zu, %zu, %zu", what, got.weights, got.run, got.step,
          planned.weights, planned.run, planned.step);
    CHECK(got.flops == planned.flops, "%s: %.0f operations, planned %.0f", what, got.flops,
          planned.flops);
    CHECK(got.sent == planned.sent && got.messages == planned.messages,
          "%s: %.0f bytes in %.0f messages, planned %.0f in %.0f", what, got.sent, got.messages,
          planned.sent, planned.messages);
    CHECK(got.gathered == got.expected, "%s: %.0f bytes of weights sent, expected %.0f", what,
          got.gathered, got.expected);
    outcome_done(&got);
    outcome_done(&planned);
    world_close(&described);
}

/* What one rank gives: rank 0 computes it for all. */
static struct outcome run_alone(struct world *w, const struct model *model, struct device *dev,
                                enum dtype cdt)
{
    const struct mesh_shape shape = { 1, 1, 1 };
    const int64_t tokens = model->f * model->h * model->w;
    const size_t bytes = (size_t)(tokens * 4 * model->config.out_dim) * sizeof(float);
    struct outcome alone = { 0 };
    struct world one;

    world_describe(&one, 0, 1, 1);
    if (w->rank == 0) {
        struct outcome planned = run_plan(&one, model, cdt, shape, false);

        alone = run_rank(&one, model, dev, &planned, cdt, shape, false);
        outcome_done(&planned);
    }
    world_close(&one);
    for (int i = 0; i < STEPS * 2; i++) {
        float **v = &alone.v[i / 2][i % 2];

        if (w->rank != 0)
            *v = malloc(bytes);
        world_broadcast(w, *v, bytes, 0);
    }
    return alone;
}

static void check_model(struct world *w, const struct model *model, struct device *dev,
                        enum dtype cdt)
{
    struct outcome alone = run_alone(w, model, dev, cdt);

    for (int cfg = 1; cfg <= 2; cfg++) {
        const int rest = w->size / cfg;

        for (int ring = 1; rest * cfg == w->size && ring <= rest; ring++) {
            const struct mesh_shape shape = { cfg, ring, rest / ring };

            if (shape.ring * shape.ulysses != rest || (ring > 1 && model->sparse != NULL))
                continue;
            check_mesh(w, model, &alone, dev, cdt, shape, false);
            check_mesh(w, model, &alone, dev, cdt, shape, true);
        }
    }
    outcome_done(&alone);
}

int main(int argc, char **argv)
{
    struct table fast, plain;
    struct device devs[2];
    struct world w;

    need(world_open(&w, &argc, &argv));
    on_gpus = ranks_on_gpus(&w, &argc, argv);
    if (on_gpus) {
        table_cuda_plain(&plain);
        table_cuda(&fast);
    } else {
        table_cpu(&fast);
    }
    need(ranks_device(&devs[0], &w, on_gpus, on_gpus ? &plain : &table_ref));
    need(ranks_device(&devs[1], &w, on_gpus, &fast));
    for (size_t i = 0; i < COUNT(models); i++)
        check_model(&w, &models[i], &devs[0], models[i].matmul.fp8 ? DT_BF16 : DT_F32);
    check_model(&w, &models[0], &devs[0], DT_BF16);
    check_model(&w, &models[0], &devs[1], DT_F32);
    if (on_gpus) {
        check_model(&w, &large, &devs[1], DT_BF16);
        large_fp8 = large;
        large_fp8.matmul = models[2].matmul;
        check_model(&w, &large_fp8, &devs[1], DT_BF16);
        check_model(&w, &large, &devs[1], DT_F32);
    }
    device_close(&devs[0]);
    device_close(&devs[1]);
    return ranks_end(&w, on_gpus ? "dit on GPUs" : "dit");
}
