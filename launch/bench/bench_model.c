/* Whole parts of a generation, with random weights: the transformer, the VAE, the text encoder. */
#include "launch/bench/bench.h"

#include "model/text/umt5.h"

#include <stdlib.h>
#include <string.h>

#define TRACE_ROOM 16384
#define TRACE_ROWS 256
#define STEPS 50 // of the official defaults

/* ---- where the time goes ---- */

static status add_breakdown(struct bench *b, const char *test, const struct trace *t)
{
    struct trace_row rows[TRACE_ROWS];
    const int count = trace_rows(t, rows, TRACE_ROWS);
    double ops = 0, waited = 0;

    for (int i = 0; i < count; i++) {
        ops += rows[i].lane == LANE_OPS ? rows[i].seconds : 0;
        waited += rows[i].waited;
    }
    if (b->world->rank == 0) {
        printf("\n%s on rank 0, traced: %.3f ms\n", test, t->total * 1e3);
        printf("  %-18s %-40s %6s %10s %7s %9s %9s\n", "", "", "calls", "ms", "share", "TFLOP/s",
               "GB/s");
        for (int i = 0; i < count; i++) {
            const struct trace_row *r = &rows[i];
            char rate[16] = "";

            if (r->flops > 0)
                snprintf(rate, sizeof(rate), "%.3g", r->flops / r->seconds * 1e-12);
            printf("  %-18s %-40s %6d %10.3f %6.1f%% %9s %9.0f", r->family, r->what, r->calls,
                   r->seconds * 1e3, 100 * r->seconds / t->total, rate,
                   r->bytes / r->seconds * 1e-9);
            if (r->lane == LANE_EXCHANGES)
                printf("  waited for %.3f ms, %.0f%% hidden", r->waited * 1e3,
                       100 * (1 - r->waited / r->seconds));
            printf("\n");
        }
        printf("  %-18s %-40s %6s %10.3f %6.1f%%\n", "waiting", "", "", waited * 1e3,
               100 * waited / t->total);
        printf("  %-18s %-40s %6s %10.3f %6.1f%%\n\n", "between ops", "", "",
               (t->total - ops - waited) * 1e3, 100 * (t->total - ops - waited) / t->total);
        fflush(stdout);
    }
    for (int i = 0; i < count; i++) {
        const struct trace_row *r = &rows[i];
        const enum ceiling against = r->lane == LANE_EXCHANGES ? CEILING_LINK
                                     : r->flops > 0            ? CEILING_GEMM
                                                               : CEILING_COPY;

        TRY(bench_part(b, test, r, against));
    }
    return ST_OK;
}

/* One traced run of `call`. */
static status traced(struct bench *b, const char *test, status (*call)(void *payload),
                     void *payload)
{
    struct trace t = { 0 };
    status st;

    TRY_OUT(trace_open(&t, &b->dev, TRACE_ROOM, b->plan.config.dit.text_len));
    trace_groups(&t, &b->mesh);
    TRY_OUT(device_wait(&b->dev));
    world_barrier(b->world);
    TRY_OUT(trace_start(&t));
    TRY_OUT(call(payload));
    TRY_OUT(trace_stop(&t));
    TRY_OUT(add_breakdown(b, test, &t));
    if (b->options->trace != NULL)
        TRY_OUT(trace_write(&t, b->world, b->options->trace));
out:
    trace_close(&t);
    return st;
}

/* ---- the transformer ---- */

struct forward {
    struct bench *b;
    struct dit dit;
    struct arena weights, run, scratch;
    struct schedule schedule;
    struct denoise d;
    float *text, *noise;
};

static status open_weights(void *payload)
{
    struct forward *f = payload;
    struct bench *b = f->b;

    TRY(dit_open(&f->dit, &b->plan.config.dit, &b->mesh, &b->dev, &f->weights, b->cdt, b->plan.fsdp,
                 bench_source(b)));
    return dit_complete(&f->dit);
}

static status forward_open(struct forward *f, struct bench *b)
{
    const struct dit_config *c = &b->plan.config.dit;
    const int64_t rows = c->text_len * c->text_dim, latent = latent_count(b->plan.latent);
    struct denoise_input in = { .shape = b->plan.latent, .guidance = 5, .guided = b->plan.guided };
    double seconds;

    *f = (struct forward){ .b = b };
    b->dev.held_peak = b->dev.held;
    TRY(arena_init(&f->weights, &b->dev, "transformer", b->sizes.step.weights));
    TRY(arena_init(&f->run, &b->dev, "run", b->sizes.step.run));
    TRY(arena_init(&f->scratch, &b->dev, "step", b->sizes.step.scratch));
    TRY(bench_once(b, open_weights, f, &seconds));
    TRY(bench_add(b, "load", "the transformer's weights, from random values", 1, &seconds, 0,
                  (double)b->sizes.step.weights, CEILING_HOST));
    f->text = malloc((size_t)rows * sizeof(float));
    f->noise = malloc((size_t)latent * sizeof(float));
    if (f->text == NULL || f->noise == NULL)
        return fail(ST_MEMORY, "no host memory for text and noise");
    for (int64_t i = 0; i < rows; i++)
        f->text[i] = 0.1f * b->values[i % BENCH_VALUES];
    for (int64_t i = 0; i < latent; i++)
        f->noise[i] = b->values[i % BENCH_VALUES];
    TRY(schedule_init(&f->schedule, SOLVER_UNIPC, b->plan.steps, 5));
    in.schedule = f->schedule;
    in.text[0] = in.text[1] = (struct text_rows){ c->text_len, f->text };
    TRY(denoise_begin(&f->d, &f->dit, &f->run, &f->scratch, &in));
    return denoise_start(&f->d, f->noise);
}

static void forward_close(struct forward *f)
{
    denoise_end(&f->d);
    dit_close(&f->dit);
    schedule_done(&f->schedule);
    arena_done(&f->scratch);
    arena_done(&f->run);
    arena_done(&f->weights);
    free(f->text);
    free(f->noise);
}

static status call_forward(void *payload)
{
    struct forward *f = payload;

    return dit_forward(&f->d.run, &f->scratch, 0, 0, tensor_at(f->d.v, 0), f->d.x);
}

/* The first step again and again. */
static status call_step(void *payload)
{
    struct forward *f = payload;

    f->d.solver.step = 0;
    return denoise_step(&f->d);
}

static void print_memory(const struct bench *b)
{
    const struct plan_rank *s = &b->sizes;

    if (b->world->rank == 0)
        printf("memory  planned %.2f GB for weights %.2f, run %.2f, step %.2f and workspace; held "
               "at most %.2f GB\n",
               (double)(s->step.weights + s->step.run + s->step.scratch + s->workspace) / 1e9,
               (double)s->step.weights / 1e9, (double)s->step.run / 1e9,
               (double)s->step.scratch / 1e9, (double)b->dev.held_peak / 1e9);
}

static status run_transformer(struct bench *b, const char *test, status (*call)(void *payload),
                              const char *what)
{
    struct forward f;
    status st;

    TRY_OUT(forward_open(&f, b));
    TRY_OUT(call(&f)); // makes what later ones find
    TRY_OUT(bench_time(b, test, (struct bench_work){ call, &f, -1, 0, CEILING_GEMM, true },
                       "%s, %lld tokens", what, (long long)b->tokens));
    TRY_OUT(traced(b, test, call, &f));
    print_memory(b);
out:
    forward_close(&f);
    return st;
}

status bench_dit(struct bench *b)
{
    return run_transformer(b, "dit", call_forward, "a forward, one side of guidance");
}

/* ---- the VAE ---- */

struct decoding {
    struct bench *b;
    struct vae vae;
    struct arena weights, scratch;
    float *latent;
};

static status no_frames(void *payload, const uint8_t *rgb, int64_t count, int64_t h, int64_t w)
{
    return ST_OK;
}

static status call_decode(void *payload)
{
    struct decoding *d = payload;
    const struct latent_shape s = d->b->plan.latent;

    return vae_decode(&d->vae, &d->scratch, d->latent, s.t, s.h, s.w, (struct vae_tiling){ 0 },
                      (struct frame_sink){ no_frames, NULL }, NULL);
}

status bench_vae(struct bench *b)
{
    const struct latent_shape s = b->plan.latent;
    struct decoding d = { .b = b };
    status st;

    d.latent = malloc((size_t)latent_count(s) * sizeof(float));
    if (d.latent == NULL)
        TRY_OUT(fail(ST_MEMORY, "no host memory for a latent"));
    for (int64_t i = 0; i < latent_count(s); i++)
        d.latent[i] = b->values[i % BENCH_VALUES];
    TRY_OUT(arena_init(&d.weights, &b->dev, "vae", b->sizes.decode.weights));
    TRY_OUT(arena_init(&d.scratch, &b->dev, "decode", b->sizes.decode.scratch));
    TRY_OUT(vae_open(&d.vae, &b->plan.config.vae, &b->mesh.all, &b->dev, &d.weights,
                     b->plan.vae_dtype, false, true, bench_source(b)));
    TRY_OUT(bench_time(b, "vae", (struct bench_work){ call_decode, &d, -1, 0, CEILING_GEMM, false },
                       "decode %d frames of %d*%d, %s", b->options->frame_num, b->options->size[0],
                       b->options->size[1], b->plan.vae_dtype == DT_BF16 ? "bf16" : "fp32"));
    TRY_OUT(traced(b, "vae", call_decode, &d));
out:
    vae_close(&d.vae);
    arena_done(&d.scratch);
    arena_done(&d.weights);
    free(d.latent);
    return st;
}

/* ---- the text encoder ---- */

struct encoding {
    struct bench *b;
    struct arena a;
    int *ids, length;
    float *out;
};

static status call_encode(void *payload)
{
    struct encoding *e = payload;
    const int *const ids[] = { e->ids };
    float *const out[] = { e->out };

    return umt5_encode(&e->b->plan.config.t5, &e->b->dev, &e->a, e->b->cdt, bench_source(e->b),
                       e->b->plan.t5_stored, NULL, 1, ids, &e->length, out);
}

/* On rank 0, as in a generation; the others wait. */
status bench_text(struct bench *b)
{
    const struct t5_config *c = &b->plan.config.t5;
    struct encoding e = { .b = b, .length = b->plan.text_rows };
    double seconds = 0, flops = 0;
    status st = ST_OK;

    if (b->world->rank != 0)
        return bench_add(b, "text", "", 1, &seconds, 0, 0, CEILING_NONE);
    e.ids = calloc((size_t)e.length, sizeof(*e.ids));
    e.out = calloc((size_t)e.length * (size_t)c->dim, sizeof(*e.out));
    if (e.ids == NULL || e.out == NULL)
        TRY_OUT(fail(ST_MEMORY, "no host memory for %d tokens", e.length));
    for (int i = 0; i < e.length; i++)
        e.ids[i] = (int)((int64_t)i * 7919 % c->vocab);
    TRY_OUT(arena_init(&e.a, &b->dev, "text", b->sizes.text.scratch));
    flops = b->dev.flops;
    TRY_OUT(bench_alone(b, call_encode, &e, &seconds));
    flops = b->dev.flops - flops;
    TRY_OUT(bench_add(b, "text", "the encoder, its blocks streamed from host memory", 1, &seconds,
                      flops, 0, CEILING_GEMM));
out:
    arena_done(&e.a);
    free(e.ids);
    free(e.out);
    return st;
}

/* ---- a generation ---- */

static double last_of(const struct bench *b, const char *test)
{
    double seconds = 0;

    for (int i = 0; i < b->count; i++)
        if (strcmp(b->rows[i].test, test) == 0)
            seconds = b->rows[i].median_s;
    return seconds;
}

/* A step is timed, and what a video of the official number of steps takes added up. */
status bench_whole(struct bench *b)
{
    double seconds;

    if (last_of(b, "text") == 0)
        TRY(bench_text(b));
    TRY(run_transformer(b, "whole", call_step, "a guided step"));
    seconds = STEPS * last_of(b, "whole");
    if (last_of(b, "vae") == 0)
        TRY(bench_vae(b));
    seconds += 2 * last_of(b, "text") + last_of(b, "vae");
    return bench_add(b, "whole", "a video: two texts, 50 guided steps, decoding", 1, &seconds, 0, 0,
                     CEILING_NONE);
}
