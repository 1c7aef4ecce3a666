/* Transformer, VAE and text encoder of a generation, with random weights. */
#include "launch/bench/bench.h"

#include "model/text/umt5.h"

#include <stdlib.h>
#include <string.h>

#define TRACE_SPANS 16384
#define TRACE_ROWS 256

/* ---- time by op ---- */

/* Prints the trace as a table on rank 0 and adds its rows to the results. */
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
            if (r->lane == LANE_COMMUNICATION)
                printf("  %.3f ms of waiting, %.0f%% hidden", r->waited * 1e3,
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
        const enum ceiling against = r->lane == LANE_COMMUNICATION ? CEILING_LINK
                                     : r->flops > 0                ? CEILING_GEMM
                                                                   : CEILING_COPY;

        TRY(bench_add_trace_row(b, test, r, against));
    }
    return ST_OK;
}

/* One traced run of `call`. */
static status traced(struct bench *b, const char *test, status (*call)(void *payload),
                     void *payload)
{
    struct trace t = { 0 };
    status st;

    TRY_OUT(trace_open(&t, &b->dev, TRACE_SPANS, model_dit(&b->plan.model)->text_len));
    trace_groups(&t, &b->mesh);
    TRY_OUT(device_wait(&b->dev));
    world_barrier(b->world);
    TRY_OUT(trace_start(&t));
    TRY_OUT(call(payload));
    TRY_OUT(trace_stop(&t));
    TRY_OUT(add_breakdown(b, test, &t));
    if (b->options->trace != NULL) {
        st = trace_write(&t, b->world, b->options->trace);
        b->must_abort = st == ST_OK; // all ranks have its status
    }
out:
    trace_close(&t);
    return st;
}

/* ---- the transformer ---- */

static status open_weights(void *payload)
{
    struct forward *f = payload;
    struct bench *b = f->b;

    TRY(dit_open(&f->dit, model_dit(&b->plan.model), &b->mesh, &b->dev, &f->weights, b->cdt,
                 b->plan.matmul, plan_place(&b->plan, model_dit(&b->plan.model), &f->host),
                 bench_source(b)));
    return dit_complete(&f->dit);
}

/* Random values in the shapes of the plan. */
static status fill_conditioning(struct forward *f)
{
    const struct conditioning *planned = &f->b->plan.conditioning;

    for (int i = 0; i < planned->count; i++) {
        const struct tensor t = planned->array[i].value;
        float *data;

        TRY(conditioning_add(&f->conditioning, planned->array[i].name, t.ndim, t.dim, &data));
        for (int64_t k = 0; k < tensor_count(t); k++)
            data[k] = 0.1f * f->b->values[k % BENCH_VALUES];
    }
    return ST_OK;
}

status forward_open(struct forward *f, struct bench *b)
{
    const struct plan_stage *sizes = plan_stage(&b->sizes, STAGE_STEP);
    const int64_t latent = latent_count(b->plan.latent);
    struct denoise_input in = { .shape = b->plan.latent,
                                .guidance = b->plan.guidance,
                                .self_attention = b->plan.self_attention };
    struct dit *dit = &f->dit;

    *f = (struct forward){ .b = b };
    b->dev.held_peak = b->dev.held;
    if (b->options->vram_limit > 0)
        b->dev.limit =
            (size_t)(b->options->vram_limit * 1e9) - (b->plan.gpu ? DEVICE_CUDA_BESIDE : 0);
    TRY(arena_init(&f->weights, &b->dev, "transformer", sizes->weights));
    TRY(arena_init(&f->run, &b->dev, "run", sizes->run));
    TRY(arena_init(&f->scratch, &b->dev, "step", sizes->scratch));
    TRY(host_memory_open(&f->host, b->world, &b->dev, b->sizes.weights, !b->plan.fsdp));
    TRY(bench_run_together(b, open_weights, f, &f->load_s));
    TRY(fill_conditioning(f));
    f->noise = malloc((size_t)latent * sizeof(float));
    if (f->noise == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for the noise");
    for (int64_t i = 0; i < latent; i++)
        f->noise[i] = b->values[i % BENCH_VALUES];
    TRY(schedule_init(&f->schedule, SOLVER_UNIPC, b->plan.steps, 5));
    in.schedule = f->schedule;
    in.conditioning = &f->conditioning;
    TRY(denoise_begin(&f->d, &dit, 1, &f->run, &f->scratch, &in));
    return denoise_start(&f->d, f->noise);
}

void forward_close(struct forward *f)
{
    denoise_end(&f->d);
    dit_close(&f->dit);
    schedule_done(&f->schedule);
    arena_done(&f->scratch);
    arena_done(&f->run);
    arena_done(&f->weights);
    host_memory_close(&f->host);
    if (f->b != NULL)
        f->b->dev.limit = 0;
    conditioning_done(&f->conditioning);
    free(f->noise);
}

status call_forward(void *payload)
{
    struct forward *f = payload;

    return dit_forward(&f->d.run[0], &f->scratch, 0, 0, tensor_at(f->d.v, 0), f->d.x);
}

/* Repeats the first step. */
status call_step(void *payload)
{
    struct forward *f = payload;

    f->d.solver.step = 0;
    return denoise_step(&f->d);
}

static void print_memory(const struct bench *b)
{
    const struct plan_stage *s = plan_stage(&b->sizes, STAGE_STEP);
    size_t total = 0, available = 0;

    if (b->world->rank != 0)
        return;
    printf("memory  planned %.2f GB: weights %.2f, run %.2f, step %.2f, and workspace; peak "
           "%.2f GB\n",
           (double)(s->weights + s->run + s->scratch + b->sizes.workspace) / 1e9,
           (double)s->weights / 1e9, (double)s->run / 1e9, (double)s->scratch / 1e9,
           (double)b->dev.held_peak / 1e9);
    if (b->dev.kind == DEVICE_CUDA && device_cuda_memory(b->dev.index, &total, &available) == ST_OK)
        printf("memory  in use on the GPU, with CUDA and its libraries: %.2f GB, planned %.2f GB\n",
               (double)(total - available) / 1e9,
               (double)(s->weights + s->run + s->scratch + b->sizes.workspace + b->sizes.cuda) /
                   1e9);
}

static status run_transformer(struct bench *b, const char *test, status (*call)(void *payload),
                              const char *what)
{
    struct forward f;
    status st;

    TRY_OUT(forward_open(&f, b));
    TRY_OUT(bench_add(b, "load", "the transformer's weights, from random values", 1, &f.load_s, 0,
                      (double)f.weights.used, CEILING_HOST));
    TRY_OUT(call(&f)); // the first run fills caches that later runs use
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
    return run_transformer(b, "dit", call_forward, "a forward, one CFG branch");
}

/* ---- the VAE ---- */

static const char *precision_name(const struct bench *b)
{
    return vae_precision_name(b->plan.vae_dtype);
}

static status take_frames(void *payload, const uint8_t *rgb, int64_t count, int64_t h, int64_t w)
{
    uint64_t *hash = payload;

    for (int64_t i = 0; hash != NULL && i < count * h * w * 3; i++)
        *hash = (*hash ^ rgb[i]) * 1099511628211u;
    return ST_OK;
}

status call_decode(void *payload)
{
    struct decoding *d = payload;
    const struct latent_shape s = d->b->plan.latent;

    return vae_decode(&d->vae, &d->scratch, d->latent, s.t, s.h, s.w, (struct vae_tiling){ 0 },
                      (struct frame_sink){ .put = take_frames, .payload = d->hash }, NULL);
}

status decoding_open(struct decoding *d, struct bench *b)
{
    const struct plan_stage *sizes = plan_stage(&b->sizes, STAGE_DECODE);
    const int64_t latent = latent_count(b->plan.latent);

    *d = (struct decoding){ .b = b, .latent = malloc((size_t)latent * sizeof(float)) };
    if (d->latent == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for a latent");
    for (int64_t i = 0; i < latent; i++)
        d->latent[i] = b->values[i % BENCH_VALUES];
    b->dev.held_peak = b->dev.held;
    TRY(arena_init(&d->weights, &b->dev, "vae", sizes->weights));
    TRY(arena_init(&d->scratch, &b->dev, "decode", sizes->scratch));
    return vae_open(&d->vae, model_vae(&b->plan.model), &b->mesh.all, &b->dev, &d->weights,
                    b->plan.vae_dtype, false, true, bench_source(b));
}

void decoding_close(struct decoding *d)
{
    vae_close(&d->vae);
    arena_done(&d->scratch);
    arena_done(&d->weights);
    free(d->latent);
}

status bench_vae(struct bench *b)
{
    struct decoding d;
    status st;

    TRY_OUT(decoding_open(&d, b));
    TRY_OUT(bench_time(b, "vae", (struct bench_work){ call_decode, &d, -1, 0, CEILING_GEMM, false },
                       "decode %d frames of %d*%d, %s", b->options->frame_num, b->options->size[0],
                       b->options->size[1], precision_name(b)));
    TRY_OUT(traced(b, "vae", call_decode, &d));
out:
    decoding_close(&d);
    return st;
}

#define FRAME_SHIFT 96 // values between the beginnings of two frames, so that they differ

static status give_frame(void *payload, int64_t index, const float **pixels)
{
    const struct encoding *e = payload;

    *pixels = index > 0 && e->first_only ? NULL : e->pixels + index * FRAME_SHIFT;
    return ST_OK;
}

status call_encode(void *payload)
{
    struct encoding *e = payload;

    return vae_encode(&e->vae, &e->scratch, e->latent, e->source, (struct vae_tiling){ 0 });
}

status encoding_open(struct encoding *e, struct bench *b, int64_t frames)
{
    const struct plan_stage *sizes = plan_stage(&b->sizes, STAGE_ENCODE);
    const struct vae_config *config = model_vae(&b->plan.model);
    const int64_t h = b->plan.latent.h * config->stride, w = b->plan.latent.w * config->stride;
    const int64_t values = h * w * 3 + frames * FRAME_SHIFT;

    *e = (struct encoding){ .b = b };
    e->source =
        (struct frame_source){ .get = give_frame, .payload = e, .frames = frames, .h = h, .w = w };
    e->pixels = malloc((size_t)values * sizeof(float));
    e->latent = malloc((size_t)latent_count(b->plan.latent) * sizeof(float));
    if (e->pixels == NULL || e->latent == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for a frame");
    for (int64_t i = 0; i < values; i++)
        e->pixels[i] = 0.3f * b->values[i % BENCH_VALUES];
    b->dev.held_peak = b->dev.held;
    TRY(arena_init(&e->weights, &b->dev, "vae encoder", sizes->weights));
    TRY(arena_init(&e->scratch, &b->dev, "encode", sizes->scratch));
    return vae_open(&e->vae, config, &b->mesh.all, &b->dev, &e->weights, b->plan.vae_dtype, true,
                    false, bench_source(b));
}

void encoding_close(struct encoding *e)
{
    vae_close(&e->vae);
    arena_done(&e->scratch);
    arena_done(&e->weights);
    free(e->pixels);
    free(e->latent);
}

/* A clip of random frames; or an image, which a clip of zeros follows. */
static status time_encode(struct bench *b, const char *test, const char *what, int64_t frames,
                          bool first_only)
{
    struct encoding e;
    status st;

    TRY_OUT(encoding_open(&e, b, frames));
    e.first_only = first_only;
    TRY_OUT(bench_time(b, test, (struct bench_work){ call_encode, &e, -1, 0, CEILING_GEMM, false },
                       "%s %lld frames of %d*%d, %s", what, (long long)frames, b->options->size[0],
                       b->options->size[1], precision_name(b)));
    TRY_OUT(traced(b, test, call_encode, &e));
out:
    encoding_close(&e);
    return st;
}

status bench_vae_encode(struct bench *b)
{
    return time_encode(b, "vae_encode", "encode", b->plan.encode_frames, false);
}

/* ---- the text encoder ---- */

struct text_run {
    struct bench *b;
    struct arena a;
    int *ids, length;
    float *out;
};

static status call_text(void *payload)
{
    struct text_run *e = payload;
    const int *const ids[] = { e->ids };
    float *const out[] = { e->out };

    return umt5_encode(model_t5(&e->b->plan.model), &e->b->dev, &e->a, e->b->cdt,
                       bench_source(e->b), e->b->plan.t5_stored, NULL, 1, ids, &e->length, out);
}

/* On rank 0, as in a generation; the other ranks wait. */
status bench_text(struct bench *b)
{
    const struct t5_config *c = model_t5(&b->plan.model);
    struct text_run e = { .b = b, .length = b->plan.text_rows };
    double seconds = 0, flops = 0;
    status st = ST_OK;

    if (b->world->rank != 0)
        return bench_add(b, "text", "", 1, &seconds, 0, 0, CEILING_NONE);
    e.ids = calloc((size_t)e.length, sizeof(*e.ids));
    e.out = calloc((size_t)e.length * (size_t)c->dim, sizeof(*e.out));
    if (e.ids == NULL || e.out == NULL)
        TRY_OUT(fail(ST_MEMORY, "cannot allocate host memory for %d tokens", e.length));
    for (int i = 0; i < e.length; i++)
        e.ids[i] = (int)((int64_t)i * 7919 % c->vocab);
    TRY_OUT(arena_init(&e.a, &b->dev, "text", plan_stage(&b->sizes, STAGE_TEXT)->scratch));
    flops = b->dev.flops;
    TRY_OUT(bench_run(b, call_text, &e, &seconds));
    flops = b->dev.flops - flops;
    TRY_OUT(bench_add(b, "text", "the encoder, its blocks streamed from host memory", 1, &seconds,
                      flops, 0, CEILING_GEMM));
out:
    arena_done(&e.a);
    free(e.ids);
    free(e.out);
    return st;
}

/* ---- the image encoder ---- */

struct clip_run {
    struct bench *b;
    struct arena a;
    float *patches, *out;
};

static status call_clip(void *payload)
{
    struct clip_run *e = payload;
    const struct clip_config *c = model_clip(&e->b->plan.model);
    struct clip_weights w;
    status st;

    TRY_OUT(clip_open(&w, c, &e->a, bench_source(e->b), false));
    TRY_OUT(clip_encode(c, &e->b->dev, &e->a, &w, e->b->plan.images, e->patches, e->out));
out:
    clip_close(&w);
    arena_release(&e->a, 0);
    return st;
}

/* On rank 0, as in a generation; the other ranks wait. */
status bench_clip(struct bench *b)
{
    const struct clip_config *c = model_clip(&b->plan.model);
    const int64_t images = b->plan.images, values = images * (c ? clip_patches_count(c) : 0);
    struct clip_run e = { .b = b };
    double seconds = 0, flops = 0;
    status st = ST_OK;

    if (images == 0)
        return fail(ST_USAGE, "bench clip: task %s has no image encoder; use --model i2v-14B",
                    b->task->name);
    if (b->world->rank != 0)
        return bench_add(b, "clip", "", 1, &seconds, 0, 0, CEILING_NONE);
    e.patches = malloc((size_t)values * sizeof(*e.patches));
    e.out = malloc((size_t)(images * clip_tokens(c) * c->dim) * sizeof(*e.out));
    if (e.patches == NULL || e.out == NULL)
        TRY_OUT(fail(ST_MEMORY, "cannot allocate host memory for %lld images", (long long)images));
    for (int64_t i = 0; i < values; i++)
        e.patches[i] = b->values[i % BENCH_VALUES];
    TRY_OUT(arena_init(&e.a, &b->dev, "image", plan_stage(&b->sizes, STAGE_IMAGE)->scratch));
    flops = b->dev.flops;
    TRY_OUT(bench_run(b, call_clip, &e, &seconds));
    flops = b->dev.flops - flops;
    TRY_OUT(bench_add(b, "clip", "the image encoder, its blocks streamed from host memory", 1,
                      &seconds, flops, 0, CEILING_GEMM));
out:
    arena_done(&e.a);
    free(e.patches);
    free(e.out);
    return st;
}

/* ---- a generation ---- */

/* Median of the last row of `test`; 0 when there is none. */
static double last_median(const struct bench *b, const char *test)
{
    double seconds = 0;

    for (int i = 0; i < b->count; i++)
        if (strcmp(b->rows[i].test, test) == 0)
            seconds = b->rows[i].median_s;
    return seconds;
}

/* Times one step, and estimates the time of a video of the task's steps from it. */
status bench_whole(struct bench *b)
{
    const bool image = b->image_frames > 0;
    const bool clip = (b->task->required & TASK_CLIPS) != 0;
    const int steps = b->options->few != NULL ? b->options->few->steps : b->task->steps;
    const int texts = b->options->few != NULL ? 1 : 2; // with guidance both branches
    char name[72];
    double seconds;

    if (last_median(b, "text") == 0)
        TRY(bench_text(b));
    if (last_median(b, "clip") == 0 && b->plan.images > 0)
        TRY(bench_clip(b));
    TRY(run_transformer(b, "whole", call_step,
                        b->options->few != NULL ? "a step" : "a guided step"));
    seconds = steps * last_median(b, "whole");
    if (image)
        TRY(time_encode(b, "image", clip ? "encode a clip," : "encode an image, first of",
                        b->image_frames, !clip));
    if (last_median(b, "vae") == 0)
        TRY(bench_vae(b));
    seconds += texts * last_median(b, "text") + last_median(b, "clip") + last_median(b, "vae");
    if (image)
        seconds += b->image_clips * last_median(b, "image");
    snprintf(name, sizeof(name), "a video: %s%s, %d %s, decoding",
             clip    ? "a clip, "
             : image ? "an image, "
                     : "",
             texts == 1 ? "a text" : "two texts", steps,
             b->options->few != NULL ? "steps without guidance" : "guided steps");
    return bench_add(b, "whole", name, 1, &seconds, 0, 0, CEILING_NONE);
}
