#include "model/pipeline/pipeline.h"

#include "kernels/table.h"
#include "model/text/tokenizer.h"
#include "model/text/umt5.h"

#include <assert.h>
#include <stdlib.h>

status pipeline_open(struct pipeline *p, struct world *world, struct device *dev,
                     struct checkpoint *checkpoint, const struct plan_input *plans, int count)
{
    status st = ST_OK;

    *p =
        (struct pipeline){ .world = world, .dev = dev, .checkpoint = checkpoint, .plan = plans[0] };
    for (int i = 0; i < count && st == ST_OK; i++) {
        struct plan_rank one;

        st = plan_rank(&plans[i], world->rank, &one);
        if (st == ST_OK)
            plan_cover(&p->sizes, &one);
    }
    TRY(agree(world, st));
    return mesh_open(&p->mesh, world, dev, plans[0].mesh);
}

void pipeline_close(struct pipeline *p)
{
    if (p->vae_ready)
        vae_close(&p->vae);
    if (p->dit_ready)
        dit_close(&p->dit);
    arena_done(&p->vae_weights);
    arena_done(&p->dit_weights);
    mesh_close(&p->mesh);
    *p = (struct pipeline){ 0 };
}

static status load_dit(struct pipeline *p)
{
    struct checkpoint *c = p->checkpoint;

    if (p->dit_ready)
        return ST_OK;
    TRY(checkpoint_part(c, PART_DIT));
    TRY(arena_init(&p->dit_weights, p->dev, "transformer", p->sizes.step.weights));
    TRY(dit_open(&p->dit, &c->config.dit, &p->mesh, p->dev, &p->dit_weights, p->plan.cdt,
                 p->plan.fsdp, checkpoint_source(c, PART_DIT)));
    p->dit_ready = true;
    return ST_OK;
}

/* Collective: load_dit was done on every rank, with status st on this one. */
static status complete_dit(struct pipeline *p, status st)
{
    TRY(agree(p->world, st));
    if (p->dit_whole)
        return ST_OK;
    p->in_step = true;
    TRY(dit_complete(&p->dit));
    p->in_step = false;
    p->dit_whole = true;
    return ST_OK;
}

status pipeline_load(struct pipeline *p)
{
    return complete_dit(p, load_dit(p));
}

/* Prompts as tokens, and the rows that the encoder makes of them. */
struct texts {
    int count;
    int *length, **ids;
    float **rows;
};

static void texts_done(struct texts *t)
{
    for (int i = 0; t->ids != NULL && i < t->count; i++)
        free(t->ids[i]);
    free(t->ids);
    free(t->length);
    free(t->rows); // the rows themselves are the caller's
    *t = (struct texts){ 0 };
}

/* Room for every prompt's tokens, and on rank 0 the tokens. */
static status read_prompts(struct pipeline *p, struct texts *t, int count,
                           const char *const *prompts)
{
    const int max = (int)p->plan.config.dit.text_len;
    struct checkpoint *c = p->checkpoint;
    struct tokenizer *tokenizer = NULL;
    status st = ST_OK;

    *t = (struct texts){ .count = count,
                         .length = calloc((size_t)count, sizeof(int)),
                         .ids = calloc((size_t)count, sizeof(int *)),
                         .rows = calloc((size_t)count, sizeof(float *)) };
    if (t->length == NULL || t->ids == NULL || t->rows == NULL)
        return fail(ST_MEMORY, "no host memory for %d prompts", count);
    TRY_OUT(checkpoint_part(c, PART_T5));
    if (p->world->rank == 0)
        TRY_OUT(tokenizer_open(&tokenizer, c->tokenizer));
    for (int i = 0; i < count; i++) {
        t->ids[i] = calloc((size_t)max, sizeof(int));
        if (t->ids[i] == NULL) {
            st = fail(ST_MEMORY, "no host memory for %d tokens", max);
            goto out;
        }
        if (tokenizer != NULL)
            TRY_OUT(tokenizer_encode(tokenizer, prompts[i], max, t->ids[i], &t->length[i]));
    }
out:
    tokenizer_close(tokenizer);
    return st;
}

/* Memory for the rows, whose lengths are known. */
static status take_rows(struct pipeline *p, struct texts *t, struct text_rows *out)
{
    for (int i = 0; i < t->count; i++) {
        t->rows[i] = malloc((size_t)t->length[i] * (size_t)p->plan.config.t5.dim * sizeof(float));
        if (t->rows[i] == NULL)
            return fail(ST_MEMORY, "no host memory for %d text rows", t->length[i]);
        out[i] = (struct text_rows){ t->length[i], t->rows[i] };
    }
    return ST_OK;
}

/* The rows of tokens that are here, on the device or with --t5_cpu on the host's cores. */
static status encode(struct pipeline *p, struct texts *t, struct group *g)
{
    struct checkpoint *c = p->checkpoint;
    struct device host = { 0 }, *dev = p->dev;
    struct table table;
    struct arena a = { 0 };
    status st;

    if (p->plan.t5_cpu && dev->kind != DEVICE_CPU) {
        table_cpu(&table);
        dev = &host;
        TRY_OUT(device_open_cpu(&host, p->plan.threads, &table, table.workspace));
    }
    TRY_OUT(arena_init(&a, dev, "text", p->sizes.text.scratch));
    TRY_OUT(umt5_encode(&c->config.t5, dev, &a, p->plan.cdt, checkpoint_source(c, PART_T5),
                        p->plan.t5_stored, g, t->count, (const int *const *)t->ids, t->length,
                        t->rows));
    TRY_OUT(device_wait(dev));
out:
    arena_done(&a);
    device_close(&host);
    return st;
}

/* Rank 0 encodes, the others get its rows later. */
static status text_alone(struct pipeline *p, int count, const char *const *prompts,
                         struct text_rows *out)
{
    struct texts t = { 0 };
    status st = ST_OK;

    if (p->world->rank == 0) {
        st = read_prompts(p, &t, count, prompts);
        if (st == ST_OK)
            st = take_rows(p, &t, out);
        if (st == ST_OK)
            st = encode(p, &t, NULL);
        texts_done(&t);
    }
    return st;
}

/* All ranks encode rank 0's tokens, with weights that are spread over them. */
static status text_together(struct pipeline *p, int count, const char *const *prompts,
                            struct text_rows *out)
{
    const size_t most = (size_t)p->plan.config.dit.text_len * sizeof(int);
    struct texts t = { 0 };
    status st;

    TRY_OUT(agree(p->world, read_prompts(p, &t, count, prompts)));
    world_broadcast(p->world, t.length, (size_t)count * sizeof(int), 0);
    for (int i = 0; i < count; i++)
        world_broadcast(p->world, t.ids[i], most, 0);
    TRY_OUT(agree(p->world, take_rows(p, &t, out)));
    p->in_step = true;
    TRY_OUT(encode(p, &t, &p->mesh.all));
    p->in_step = false;
out:
    texts_done(&t);
    return st;
}

/* Rank 0's rows to everybody. */
static status share_rows(struct pipeline *p, int count, struct text_rows *out)
{
    const size_t width = (size_t)p->plan.config.dit.text_dim * sizeof(float);
    struct world *w = p->world;
    status st = ST_OK;

    for (int i = 0; i < count; i++) {
        world_broadcast(w, &out[i].rows, sizeof(out[i].rows), 0);
        if (w->rank != 0) {
            out[i].data = malloc((size_t)out[i].rows * width);
            if (out[i].data == NULL)
                st = fail(ST_MEMORY, "no host memory for %lld text rows", (long long)out[i].rows);
        }
    }
    TRY(agree(w, st));
    for (int i = 0; i < count; i++)
        world_broadcast(w, out[i].data, (size_t)out[i].rows * width, 0);
    return ST_OK;
}

status pipeline_text(struct pipeline *p, int count, const char *const *prompts,
                     struct text_rows *out)
{
    const bool together = p->plan.t5_fsdp && p->world->size > 1;
    status st;

    for (int i = 0; i < count; i++)
        out[i] = (struct text_rows){ 0 };
    if (together) {
        TRY(text_together(p, count, prompts, out));
        return pipeline_load(p);
    }
    st = text_alone(p, count, prompts, out);
    if (st == ST_OK)
        st = load_dit(p);
    TRY(complete_dit(p, st));
    return share_rows(p, count, out);
}

status pipeline_denoise(struct pipeline *p, const struct denoise_input *in, const float *noise,
                        const struct denoise_state *state, struct step_watch watch, float *latent)
{
    struct arena run = { 0 }, scratch = { 0 };
    struct denoise d = { 0 };
    status st;

    TRY(pipeline_load(p));
    st = arena_init(&run, p->dev, "run", p->sizes.step.run);
    if (st == ST_OK)
        st = arena_init(&scratch, p->dev, "step", p->sizes.step.scratch);
    if (st == ST_OK)
        st = denoise_begin(&d, &p->dit, &run, &scratch, in);
    if (st == ST_OK)
        st = state != NULL ? denoise_restore(&d, state) : denoise_start(&d, noise);
    TRY_OUT(agree(p->world, st));
    p->in_step = true;
    while (d.solver.step < in->schedule.steps) {
        const int64_t stops = p->dev->stops;

        TRY_OUT(denoise_step(&d));
        assert(p->dev->stops == stops); // a step only queues
        TRY_OUT(watch.step(watch.payload, &d, d.solver.step, in->schedule.steps));
    }
    TRY_OUT(denoise_latent(&d, latent));
    p->in_step = false;
out:
    denoise_end(&d);
    arena_done(&scratch);
    arena_done(&run);
    return st;
}

void pipeline_offload(struct pipeline *p)
{
    if (p->plan.keep_models || !p->dit_ready)
        return;
    dit_close(&p->dit);
    arena_done(&p->dit_weights);
    p->dit_ready = p->dit_whole = false;
}

static status load_vae(struct pipeline *p)
{
    struct checkpoint *c = p->checkpoint;

    if (p->vae_ready)
        return ST_OK;
    TRY(checkpoint_part(c, PART_VAE));
    TRY(arena_init(&p->vae_weights, p->dev, "vae", p->sizes.decode.weights));
    TRY(vae_open(&p->vae, &c->config.vae, &p->mesh.all, p->dev, &p->vae_weights, p->plan.vae_dtype,
                 false, true, checkpoint_source(c, PART_VAE)));
    p->vae_ready = true;
    return ST_OK;
}

/* [c, t, h, w] to [t, h, w, c]. */
static void channels_last(float *out, const float *in, struct latent_shape s)
{
    const int64_t pixels = s.t * s.h * s.w;

    for (int64_t c = 0; c < s.c; c++)
        for (int64_t i = 0; i < pixels; i++)
            out[i * s.c + c] = in[c * pixels + i];
}

status pipeline_decode(struct pipeline *p, struct latent_shape shape, const float *latent,
                       struct vae_tiling tiling, struct frame_sink sink)
{
    struct arena scratch = { 0 };
    float *last = malloc((size_t)latent_count(shape) * sizeof(float));
    status st = ST_OK;

    if (last == NULL)
        st = fail(ST_MEMORY, "no host memory for a latent of %lld values",
                  (long long)latent_count(shape));
    else
        channels_last(last, latent, shape);
    if (st == ST_OK)
        st = load_vae(p);
    if (st == ST_OK)
        st = arena_init(&scratch, p->dev, "decode", p->sizes.decode.scratch);
    TRY_OUT(agree(p->world, st));
    p->in_step = true;
    TRY_OUT(vae_decode(&p->vae, &scratch, last, shape.t, shape.h, shape.w, tiling, sink, NULL));
    p->in_step = false;
out:
    arena_done(&scratch);
    free(last);
    return st;
}
