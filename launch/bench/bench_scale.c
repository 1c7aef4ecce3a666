/* The transformer and the VAE's decoder and encoder on 1, 2, 4, ... of the job's ranks: time,
 * efficiency, memory, the plan's estimate, and whether the result has the bits of one rank. The
 * other ranks wait. One rank is timed first and last, as GPUs get slower when they get warm. */
#include "kernels/rates.h"
#include "launch/bench/bench.h"
#include "runtime/clock.h"

#include <stdlib.h>
#include <string.h>

#define CONFIGS_MAX 256

struct config {
    int ranks;
    struct mesh_shape mesh; // of the transformer
    bool fsdp;
};

struct configs {
    int count, heads;
    struct config list[CONFIGS_MAX];
};

static void add(struct configs *c, int ranks, bool fsdp, struct mesh_shape mesh)
{
    if (mesh.ulysses <= c->heads && c->count < CONFIGS_MAX)
        c->list[c->count++] = (struct config){ ranks, mesh, fsdp };
}

/* The meshes of `ranks` ranks; on all ranks of the job with sharded weights too. */
static void add_meshes(struct configs *c, int ranks, bool all)
{
    for (int fsdp = 0; fsdp <= all; fsdp++) {
        add(c, ranks, fsdp, (struct mesh_shape){ 1, 1, ranks });
        add(c, ranks, fsdp, (struct mesh_shape){ 1, ranks, 1 });
        if (ranks % 2 == 0 && ranks > 2)
            add(c, ranks, fsdp, (struct mesh_shape){ 1, 2, ranks / 2 });
        if (ranks % 2 == 0)
            add(c, ranks, fsdp, (struct mesh_shape){ 2, 1, ranks / 2 });
        if (ranks % 2 == 0 && ranks > 2)
            add(c, ranks, fsdp, (struct mesh_shape){ 2, ranks / 2, 1 });
        if (ranks % 8 == 0)
            add(c, ranks, fsdp, (struct mesh_shape){ 2, 2, ranks / 4 });
    }
}

/* "4 ranks, cfg 2 x ulysses 2, sharded: step" */
static const char *config_text(char *text, size_t size, int ranks, struct mesh_shape m, bool fsdp)
{
    const int value[] = { m.cfg, m.ring, m.ulysses };
    static const char *const name[] = { "cfg", "ring", "ulysses" };
    size_t n = (size_t)snprintf(text, size, "%d rank%s", ranks, ranks == 1 ? "" : "s");
    const char *separator = ", ";

    for (size_t i = 0; i < COUNT(value); i++) {
        if (value[i] == 1)
            continue;
        n += (size_t)snprintf(text + n, size - n, "%s%s %d", separator, name[i], value[i]);
        separator = " x ";
    }
    snprintf(text + n, size - n, "%s%s", fsdp ? ", sharded" : "", m.cfg == 2 ? ": step" : "");
    return text;
}

/* ---- bits of a result ---- */

/* Sum of a hash of each row, so that ranks can add theirs. */
static uint64_t hash_rows(const float *v, int64_t first, int64_t rows, int64_t row)
{
    uint64_t sum = 0;

    for (int64_t i = 0; i < rows; i++) {
        uint64_t h = 14695981039346656037u + (uint64_t)(first + i);

        for (int64_t j = 0; j < row; j++) {
            uint32_t bits;

            memcpy(&bits, &v[i * row + j], 4);
            h = (h ^ bits) * 1099511628211u;
        }
        sum += h ^ h >> 29;
    }
    return sum;
}

/* The velocity of the CFG branch cond, of which each rank with cfg 0 has some rows. */
static status hash_velocity(const struct forward *f, uint64_t *hash)
{
    const struct tensor v = tensor_at(f->d.v, 0);
    const int64_t first = f->d.run[0].spans.latent_first;
    float *host;
    status st = ST_OK;

    *hash = 0;
    if (f->b->mesh.cfg != 0)
        return ST_OK;
    host = malloc(tensor_bytes(v) + 1);
    if (host == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for a result");
    TRY_OUT(device_download(&f->b->dev, host, v));
    TRY_OUT(device_wait(&f->b->dev));
    *hash = hash_rows(host, first, v.dim[0], v.dim[1]);
out:
    free(host);
    return st;
}

/* ---- one configuration ---- */

/* Of the ranks of one configuration. */
struct outcome {
    double peak, planned, plan_s;
    uint64_t hash;
};

/* A forward of one CFG branch; with cfg 2 a guided step, which computes both. */
static status measure_transformer(struct bench *b, const char *name, struct outcome *o)
{
    const bool step = b->plan.mesh.cfg == 2;
    status (*const call)(void *payload) = step ? call_step : call_forward;
    struct forward f;
    status st;

    TRY_OUT(forward_open(&f, b));
    TRY_OUT(call(&f));
    TRY_OUT(hash_velocity(&f, &o->hash));
    TRY_OUT(bench_time(b, "scale", (struct bench_work){ call, &f, -1, 0, CEILING_GEMM, true }, "%s",
                       name));
    o->plan_s =
        plan_stage(&b->sizes, STAGE_STEP)->seconds / (step ? 1 : 2); // the plan's steps are guided
out:
    forward_close(&f);
    return st;
}

static status measure_vae(struct bench *b, const char *name, struct outcome *o)
{
    struct decoding d;
    status st;

    TRY_OUT(decoding_open(&d, b));
    d.hash = &o->hash;
    TRY_OUT(call_decode(&d));
    d.hash = NULL;
    TRY_OUT(bench_time(b, "scale_vae",
                       (struct bench_work){ call_decode, &d, -1, 0, CEILING_GEMM, true }, "%s",
                       name));
    o->plan_s = plan_stage(&b->sizes, STAGE_DECODE)->seconds;
out:
    decoding_close(&d);
    return st;
}

/* Every rank has the whole latent, so only rank 0 hashes it. */
static status measure_encoder(struct bench *b, const char *name, struct outcome *o)
{
    const struct latent_shape s = b->plan.latent;
    struct encoding e;
    status st;

    TRY_OUT(encoding_open(&e, b, b->plan.encode_frames));
    TRY_OUT(call_encode(&e));
    if (b->world->rank == 0)
        o->hash = hash_rows(e.latent, 0, s.t * s.h * s.w, s.c);
    TRY_OUT(bench_time(b, "scale_encode",
                       (struct bench_work){ call_encode, &e, -1, 0, CEILING_GEMM, true }, "%s",
                       name));
    o->plan_s = plan_stage(&b->sizes, STAGE_ENCODE)->seconds;
out:
    encoding_close(&e);
    return st;
}

/* What is measured. */
struct subject {
    const char *test, *stage;
    status (*measure)(struct bench *b, const char *name, struct outcome *o);
};

static const struct subject transformer = { "scale", STAGE_STEP, measure_transformer };
static const struct subject decoder = { "scale_vae", STAGE_DECODE, measure_vae };
static const struct subject encoder = { "scale_encode", STAGE_ENCODE, measure_encoder };

static size_t planned_bytes(const struct bench *b, const struct subject *what)
{
    const struct plan_stage *s = plan_stage(&b->sizes, what->stage);

    return s->weights + s->run + s->scratch + b->sizes.workspace;
}

/* Whether that is free on the GPUs of all these ranks. */
static status fits(struct bench *b, size_t bytes, bool *yes)
{
    size_t total = 0, available = SIZE_MAX;

    if (b->dev.kind == DEVICE_CUDA)
        TRY(device_cuda_memory(b->dev.index, &total, &available));
    *yes = world_sum(b->world, bytes - b->sizes.workspace > available) == 0;
    return ST_OK;
}

/* Combines what the ranks found, on rank 0. */
static status gather(struct world *w, struct outcome *o)
{
    struct outcome *all = calloc((size_t)w->size, sizeof(*all));

    if (all == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory");
    world_gather(w, o, sizeof(*o), all);
    for (int i = 1; i < w->size && w->rank == 0; i++) {
        all[0].peak = all[i].peak > all[0].peak ? all[i].peak : all[0].peak;
        all[0].planned = all[i].planned > all[0].planned ? all[i].planned : all[0].planned;
        all[0].plan_s = all[i].plan_s > all[0].plan_s ? all[i].plan_s : all[0].plan_s;
        all[0].hash += all[i].hash;
    }
    if (w->rank == 0)
        *o = all[0];
    free(all);
    return ST_OK;
}

/* On the ranks of b->world, whose mesh is open. Adds a row, unless the memory is too small. */
static status measure_here(struct bench *b, const struct config *c, const struct subject *what,
                           double began_s)
{
    const struct bench_row *first = NULL;
    struct outcome o = { .planned = (double)planned_bytes(b, what) };
    struct bench_row *row;
    char name[64];
    bool yes;

    config_text(name, sizeof(name), c->ranks, c->mesh, c->fsdp);
    TRY(fits(b, planned_bytes(b, what), &yes));
    if (!yes) {
        if (b->world->rank == 0)
            printf("%-12s %s skipped: needs %.1f GB\n", what->test, name, o.planned / 1e9);
        return ST_OK;
    }
    TRY(what->measure(b, name, &o));
    o.peak = (double)b->dev.held_peak;
    TRY(gather(b->world, &o));
    row = &b->rows[b->count - 1];
    for (int i = 0; i < b->count && first == NULL; i++)
        if (strcmp(b->rows[i].test, what->test) == 0)
            first = &b->rows[i];
    row->scaling = (struct bench_scaling){ .ranks = c->ranks,
                                           .mesh = c->mesh,
                                           .fsdp = c->fsdp,
                                           .work = c->mesh.cfg,
                                           .plan_s = o.plan_s,
                                           .peak = o.peak,
                                           .planned = o.planned,
                                           .hash = o.hash,
                                           .same_bits = o.hash == first->scaling.hash,
                                           .took_s = clock_seconds() - began_s };
    if (row == first)
        row->scaling.same_bits = true;
    return ST_OK;
}

/* One configuration, on the first ranks of the job. A failure ends the job, as the other ranks
 * wait. */
static status measure_config(struct bench *b, const struct config *c, const struct subject *what)
{
    const struct mesh_shape m = c->mesh, line = { 1, c->ranks, 1 };
    const struct plan_input plan = b->plan;
    const struct plan_rank sizes = b->sizes;
    const double began_s = clock_seconds();
    struct world *all = b->world, part;

    b->must_abort = false; // all ranks have this status
    TRY(agree(all, world_split(&part, all, c->ranks)));
    b->must_abort = true;
    if (part.size > 0) {
        b->world = &part;
        b->plan.mesh = m.cfg * m.ring * m.ulysses == c->ranks ? m : line; // the VAE uses no mesh
        b->plan.fsdp = c->fsdp;
        b->plan.guided = true;
        b->plan.guidance.scale[0] = b->plan.guidance.scale[1] = 5;
        b->plan.ranks = part.size;
        b->plan.ranks_per_node = part.local_size;
        TRY(mesh_open(&b->mesh, &part, &b->dev, b->plan.mesh));
        b->plan.nccl = b->mesh.direct == NULL;
        TRY(plan_rank(&b->plan, part.rank, &b->sizes));
        TRY(measure_here(b, c, what, began_s));
        mesh_close(&b->mesh);
        b->world = all;
        b->plan = plan;
        b->sizes = sizes;
    }
    world_join(&part);
    world_barrier(all);
    return ST_OK;
}

/* ---- all configurations ---- */

/* Computes the efficiencies and prints the table, on rank 0. */
static void report(struct bench *b, const struct subject *what)
{
    double one = 0;
    int times = 0;

    for (int i = 0; i < b->count; i++)
        if (strcmp(b->rows[i].test, what->test) == 0 && b->rows[i].scaling.ranks == 1) {
            one += b->rows[i].median_s;
            times++;
        }
    printf("\n%-50s %9s %6s %9s %6s %6s %8s  %-6s %6s\n", what->test, "seconds", "eff.", "plan", "",
           "GB", "planned", "bits", "took");
    for (int i = 0; i < b->count; i++) {
        const struct bench_row *r = &b->rows[i];
        struct bench_scaling *s = &b->rows[i].scaling;
        char name[64];

        if (strcmp(r->test, what->test) != 0)
            continue;
        s->efficiency = times > 0 ? one / times * s->work / (s->ranks * r->median_s) : 0;
        printf("%-50s %9.4f %5.1f%% %9.4f %+5.1f%% %6.2f %8.2f  %-6s %5.1fs\n",
               config_text(name, sizeof(name), s->ranks, s->mesh, s->fsdp), r->median_s,
               100 * s->efficiency, s->plan_s, 100 * (s->plan_s / r->median_s - 1), s->peak / 1e9,
               s->planned / 1e9, s->same_bits ? "equal" : "differ", s->took_s);
    }
    printf("\n");
    fflush(stdout);
}

/* The rates of this device, or of one like it with the product measured before. */
static status choose_rates(const struct bench *b, struct rates *r)
{
    const bool gpu = b->dev.kind == DEVICE_CUDA;
    char name[256] = "";

    if (gpu)
        TRY(device_cuda_name(b->dev.index, name, sizeof(name)));
    *r = rates_of_gpu(name) != NULL ? *rates_of_gpu(name)
                                    : rates_scaled(gpu, NULL, b->ceilings[CEILING_GEMM]);
    return ST_OK;
}

static status measure_all(struct bench *b, const struct subject *what, const struct configs *c)
{
    struct rates rates;

    TRY(choose_rates(b, &rates));
    b->plan.rates = &rates;
    mesh_close(&b->mesh);
    for (int i = 0; i < c->count; i++)
        TRY(measure_config(b, &c->list[i], what));
    TRY(mesh_open(&b->mesh, b->world, &b->dev, b->plan.mesh));
    b->plan.rates = NULL;
    if (b->world->rank == 0)
        report(b, what);
    return ST_OK;
}

/* Twice as many as `ranks`, at most all; 0 after all. */
static int next_ranks(const struct bench *b, int ranks)
{
    return ranks == b->world->size ? 0 : 2 * ranks < b->world->size ? 2 * ranks : b->world->size;
}

status bench_scale(struct bench *b)
{
    struct configs c = { .heads = model_dit(&b->plan.model)->heads };
    const struct mesh_shape one = { 1, 1, 1 };

    add(&c, 1, false, one);
    for (int ranks = next_ranks(b, 1); ranks > 0; ranks = next_ranks(b, ranks))
        add_meshes(&c, ranks, ranks == b->world->size);
    add(&c, 1, false, one);
    return measure_all(b, &transformer, &c);
}

static status scale_vae(struct bench *b, const struct subject *what)
{
    const struct mesh_shape one = { 1, 1, 1 };
    struct configs c = { .heads = 1 };

    for (int ranks = 1; ranks > 0; ranks = next_ranks(b, ranks))
        add(&c, ranks, false, one);
    add(&c, 1, false, one);
    return measure_all(b, what, &c);
}

status bench_scale_vae(struct bench *b)
{
    return scale_vae(b, &decoder);
}

status bench_scale_encode(struct bench *b)
{
    return scale_vae(b, &encoder);
}
