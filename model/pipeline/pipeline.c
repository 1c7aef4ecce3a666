#include "model/pipeline/pipeline.h"

#include "kernels/table.h"
#include "model/text/umt5.h"
#include "runtime/alive.h"
#include "runtime/clock.h"
#include "runtime/stop.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* FLOP/s of a GPU that is slow but well. */
#define FLOPS_SLOW 100e12

status pipeline_open(struct pipeline *p, struct world *world, struct device *dev,
                     struct checkpoint *checkpoint, struct tokenizer *tokenizer,
                     const struct plan_input *plans, int count)
{
    status st;

    *p = (struct pipeline){ .world = world,
                            .dev = dev,
                            .checkpoint = checkpoint,
                            .tokenizer = tokenizer,
                            .plan = plans[0],
                            .experts = plan_experts(&plans[0]) };
    TRY(agree(world, mesh_open(&p->mesh, world, dev, plans[0].mesh)));
    for (int i = 0; i < count && p->mesh.joined == NULL; i++)
        if (plans[i].joined.cfg != 0)
            TRY(agree(world, mesh_join(&p->mesh, dev, plans[i].joined)));
    st = ST_OK;
    for (int i = 0; i < count && st == ST_OK; i++) {
        struct plan_input in = plans[i];
        struct plan_rank one;

        in.nccl = p->mesh.direct == NULL;
        st = plan_rank(&in, world->rank, &one);
        if (st == ST_OK)
            plan_cover(&p->sizes, &one);
        for (int e = 0; e < EXPERTS_MAX; e++)
            p->uses[e] |= plan_expert_steps(&in, e) > 0;
    }
    TRY(agree(world, st));
    return agree(world, host_memory_open(&p->host, world, dev, p->sizes.weights, !p->plan.fsdp));
}

static void close_expert(struct pipeline *p, int expert)
{
    dit_close(&p->dit[expert]);
    p->loaded[expert] = p->complete[expert] = false;
}

static void close_dit(struct pipeline *p)
{
    for (int i = 0; i < EXPERTS_MAX; i++)
        close_expert(p, i);
    arena_done(&p->dit_weights);
    host_memory_release(&p->host, 0);
}

void pipeline_close(struct pipeline *p)
{
    if (p->vae_ready)
        vae_close(&p->vae);
    close_dit(p);
    host_memory_close(&p->host);
    pipeline_close_clip(p);
    arena_done(&p->vae_weights);
    mesh_close(&p->mesh);
    for (int i = 0; i < p->text_count; i++) {
        free(p->texts[i].prompt);
        free(p->texts[i].rows.data);
    }
    free(p->texts);
    *p = (struct pipeline){ 0 };
}

/* ---- the transformer: one, or two experts ---- */

static bool holds_both(const struct pipeline *p)
{
    return p->experts == 2 && p->plan.experts == EXPERTS_BOTH;
}

static status open_expert(struct pipeline *p, int expert)
{
    const struct part *part = expert_parts[expert];
    const struct dit_config *config = model_config(&p->plan.model, part);

    TRY(checkpoint_part(p->checkpoint, part));
    TRY(dit_open(&p->dit[expert], config, &p->mesh, p->dev, &p->dit_weights, p->plan.cdt,
                 p->plan.matmul, plan_place(&p->plan, config, &p->host),
                 p->ahead != NULL ? readahead_source(p->ahead)
                                  : checkpoint_source(p->checkpoint, part)));
    p->loaded[expert] = true;
    return ST_OK;
}

/* Starts to read the second expert, if the first computes steps before it and only one is held. */
static status read_ahead(struct pipeline *p, const struct denoise *d)
{
    const struct part *part = expert_parts[1];
    const int threads = p->plan.threads / 2;
    struct tensor_list list = { 0 };
    status st;

    if (p->plan.experts != EXPERTS_AHEAD || p->plan.offload == OFFLOAD_FILE || p->experts < 2 ||
        p->loaded[1] || d->in.low_from == d->in.schedule.steps)
        return ST_OK;
    TRY_OUT(checkpoint_part(p->checkpoint, part));
    dit_tensors(&list, model_config(&p->plan.model, part), p->plan.cdt, p->plan.matmul);
    TRY_OUT(readahead_start(&p->ahead, &list, p->world->size, p->world->rank,
                            checkpoint_source(p->checkpoint, part), p->plan.as_stored,
                            threads > 1 ? threads : 1));
out:
    tensors_done(&list);
    return st;
}

/* Frees what was read ahead, when the device has it. */
static void end_ahead(struct pipeline *p)
{
    if (p->ahead != NULL && p->dev->loader != NULL)
        loader_finish(p->dev->loader);
    readahead_stop(p->ahead);
    p->ahead = NULL;
}

/* Loads the expert; if both are held, also the other one where a request uses it. */
static status load_expert(struct pipeline *p, int expert)
{
    if (p->loaded[expert])
        return ST_OK;
    TRY(stop_check());
    alive_at("loading", -1);
    if (p->dit_weights.base == NULL)
        TRY(arena_init(&p->dit_weights, p->dev, "transformer",
                       plan_stage(&p->sizes, STAGE_STEP)->weights));
    for (int i = 0; i < p->experts && !holds_both(p); i++)
        close_expert(p, i);
    if (!holds_both(p)) {
        arena_release(&p->dit_weights, 0);
        host_memory_release(&p->host, 0);
    }
    for (int i = 0; i < p->experts; i++)
        if (i == expert || (holds_both(p) && p->uses[i] && !p->loaded[i]))
            TRY(open_expert(p, i));
    return ST_OK;
}

/* The expert with which a request starts. */
static int first_expert(const struct plan_input *plan)
{
    return plan_expert_steps(plan, 0) > 0 ? 0 : 1;
}

static status load_dit(struct pipeline *p)
{
    return p->loaded[0] || p->loaded[1] ? ST_OK : load_expert(p, first_expert(&p->plan));
}

/* Agrees on the status `st` of loading, then all-gathers the transformers' weights. Collective. */
static status complete_dit(struct pipeline *p, status st)
{
    const bool must_abort = p->must_abort;

    TRY(agree(p->world, st));
    p->must_abort = true;
    for (int i = 0; i < p->experts; i++) {
        if (p->loaded[i] && !p->complete[i] && (p->ahead == NULL || p->world->size > 1))
            TRY(dit_complete(&p->dit[i])); // alone, weights from memory come while it computes
        p->complete[i] = p->loaded[i];
    }
    p->must_abort = must_abort;
    return ST_OK;
}

status pipeline_load(struct pipeline *p)
{
    return complete_dit(p, load_dit(p));
}

/* ---- text ---- */

status pipeline_tokenizer(struct tokenizer **t, struct checkpoint *c)
{
    const struct t5_config *t5;
    const char *from = NULL;
    char *bytes = NULL;
    size_t size = 0;
    status st;

    *t = NULL;
    TRY_OUT(checkpoint_tokenizer(c, &bytes, &size, &from));
    TRY_OUT(tokenizer_open(t, bytes, size, from));
    t5 = checkpoint_config(c, &part_t5);
    if (t5 != NULL && tokenizer_pieces(*t) > t5->vocab)
        st = fail(ST_FORMAT,
                  "%s: the tokenizer has %lld pieces, but the text encoder a vocabulary of %lld: "
                  "they are from different models; use the tokenizer of this model",
                  from, (long long)tokenizer_pieces(*t), (long long)t5->vocab);
out:
    free(bytes);
    if (st != ST_OK) {
        tokenizer_close(*t);
        *t = NULL;
    }
    return st;
}

struct text_entry *pipeline_find_text(const struct pipeline *p, const char *prompt)
{
    for (int i = 0; i < p->text_count; i++)
        if (strcmp(p->texts[i].prompt, prompt) == 0)
            return &p->texts[i];
    return NULL;
}

struct tensor pipeline_text_rows(const struct pipeline *p, const char *prompt)
{
    const struct text_entry *e = pipeline_find_text(p, prompt);

    assert(e != NULL);
    return e->rows;
}

/* Prompts that are being encoded: their tokens, and the encoder's output. */
struct texts {
    int count;
    const char **prompt; // borrowed
    int *length, **ids;  // number of tokens, token ids
    float **rows;        // [length, text_dim]; keep_texts moves them to the pipeline
};

static void texts_done(struct texts *t)
{
    for (int i = 0; t->ids != NULL && i < t->count; i++)
        free(t->ids[i]);
    for (int i = 0; t->rows != NULL && i < t->count; i++)
        free(t->rows[i]);
    free(t->prompt);
    free(t->ids);
    free(t->length);
    free(t->rows);
    *t = (struct texts){ 0 };
}

/* Selects the prompts that are not encoded yet, each text once, and allocates their tokens. */
static status choose_texts(struct pipeline *p, struct texts *t, int count,
                           const char *const *prompts)
{
    const size_t n = (size_t)count, max = (size_t)model_dit(&p->plan.model)->text_len;

    *t = (struct texts){ .prompt = calloc(n, sizeof(*t->prompt)),
                         .length = calloc(n, sizeof(*t->length)),
                         .ids = calloc(n, sizeof(*t->ids)),
                         .rows = calloc(n, sizeof(*t->rows)) };
    if (t->prompt == NULL || t->length == NULL || t->ids == NULL || t->rows == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for %d prompts", count);
    for (int i = 0; i < count; i++) {
        int k = 0;

        while (k < t->count && strcmp(t->prompt[k], prompts[i]) != 0)
            k++;
        if (k < t->count || pipeline_find_text(p, prompts[i]) != NULL)
            continue;
        t->prompt[t->count] = prompts[i];
        t->ids[t->count] = calloc(max, sizeof(int));
        if (t->ids[t->count++] == NULL)
            return fail(ST_MEMORY, "cannot allocate host memory for %zu tokens", max);
    }
    return ST_OK;
}

/* Opens the text encoder on every rank that calls it; tokenizes on rank 0. */
static status tokenize(struct pipeline *p, struct texts *t)
{
    const int max = (int)model_dit(&p->plan.model)->text_len;

    alive_at("text encoding", -1);
    TRY(checkpoint_part(p->checkpoint, &part_t5));
    for (int i = 0; i < t->count && p->world->rank == 0; i++)
        TRY(tokenizer_encode(p->tokenizer, t->prompt[i], max, t->ids[i], &t->length[i]));
    return ST_OK;
}

/* Allocates the encoder's output. t->length must be set. */
static status allocate_rows(struct pipeline *p, struct texts *t)
{
    const size_t row = (size_t)model_dit(&p->plan.model)->text_dim * sizeof(float);

    for (int i = 0; i < t->count; i++) {
        t->rows[i] = malloc((size_t)t->length[i] * row);
        if (t->rows[i] == NULL)
            return fail(ST_MEMORY, "cannot allocate %zu bytes of host memory for %d rows of text",
                        (size_t)t->length[i] * row, t->length[i]);
    }
    return ST_OK;
}

/* Runs the text encoder, on the device or with --t5_cpu on the host's cores. With `g` it is sharded
 * over that group, and the call is collective. */
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
    TRY_OUT(arena_init(&a, dev, "text", plan_stage(&p->sizes, STAGE_TEXT)->scratch));
    TRY_OUT(umt5_encode(model_t5(&p->plan.model), dev, &a, p->plan.cdt,
                        checkpoint_source(c, &part_t5), p->plan.t5_stored, g, t->count,
                        (const int *const *)t->ids, t->length, t->rows));
    TRY_OUT(device_wait(dev));
out:
    arena_done(&a);
    device_close(&host);
    return st;
}

/* Completes the transformer after the texts. If the job is asked to stop while it is being loaded,
 * the texts are kept, and the next pipeline_load ends the run. Collective. */
static status complete_after_texts(struct pipeline *p, status loaded)
{
    const status st = complete_dit(p, loaded);

    return st == ST_PREEMPTED ? ST_OK : st;
}

/* Rank 0 encodes while the other ranks load the transformer; then it broadcasts the result. */
static status encode_alone(struct pipeline *p, struct texts *t)
{
    const size_t row = (size_t)model_dit(&p->plan.model)->text_dim * sizeof(float);
    const bool encodes = p->world->rank == 0;
    status st = ST_OK, loaded = ST_OK;

    if (encodes)
        st = tokenize(p, t);
    if (encodes && st == ST_OK)
        st = allocate_rows(p, t);
    if (encodes && st == ST_OK)
        st = encode(p, t, NULL);
    if (st == ST_OK)
        loaded = load_dit(p);
    TRY(agree(p->world, st));
    world_broadcast(p->world, t->length, (size_t)t->count * sizeof(int), 0);
    TRY(agree(p->world, encodes ? ST_OK : allocate_rows(p, t)));
    for (int i = 0; i < t->count; i++)
        world_broadcast(p->world, t->rows[i], (size_t)t->length[i] * row, 0);
    return complete_after_texts(p, loaded);
}

/* All ranks encode the tokens of rank 0, with the encoder's weights sharded over them. */
static status encode_together(struct pipeline *p, struct texts *t)
{
    const size_t most = (size_t)model_dit(&p->plan.model)->text_len * sizeof(int);

    TRY(agree(p->world, tokenize(p, t)));
    world_broadcast(p->world, t->length, (size_t)t->count * sizeof(int), 0);
    for (int i = 0; i < t->count; i++)
        world_broadcast(p->world, t->ids[i], most, 0);
    TRY(agree(p->world, allocate_rows(p, t)));
    p->must_abort = true;
    TRY(encode(p, t, &p->mesh.all));
    p->must_abort = false;
    return complete_after_texts(p, load_dit(p));
}

status pipeline_finite(const float *values, int64_t count, const char *encoder)
{
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(values[i]))
            return fail(ST_FORMAT,
                        "the %s gives values that are not finite: its weights are damaged",
                        encoder);
    return ST_OK;
}

/* Moves the results to the pipeline's entries. Local. */
static status keep_texts(struct pipeline *p, struct texts *t)
{
    const int64_t width = model_dit(&p->plan.model)->text_dim;
    const size_t count = (size_t)(p->text_count + t->count);
    struct text_entry *more = realloc(p->texts, (count + 1) * sizeof(*more));

    if (more == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for %zu texts", count);
    p->texts = more;
    for (int i = 0; i < t->count; i++) {
        TRY(pipeline_finite(t->rows[i], t->length[i] * width, "text encoder"));

        struct text_entry e = { strdup(t->prompt[i]),
                                tensor_of(t->rows[i], DT_F32, t->length[i], width) };

        if (e.prompt == NULL)
            return fail(ST_MEMORY, "cannot allocate %zu bytes of host memory for a prompt",
                        strlen(t->prompt[i]) + 1);
        t->rows[i] = NULL;
        p->texts[p->text_count++] = e;
    }
    return ST_OK;
}

status pipeline_text(struct pipeline *p, int count, const char *const *prompts)
{
    const bool together = p->plan.t5_fsdp && p->world->size > 1;
    struct texts t = { 0 };
    status st;

    TRY_OUT(agree(p->world, choose_texts(p, &t, count, prompts)));
    if (t.count == 0)
        goto out;
    TRY_OUT(together ? encode_together(p, &t) : encode_alone(p, &t));
    TRY_OUT(agree(p->world, keep_texts(p, &t)));
out:
    texts_done(&t);
    return st;
}

/* ---- the stages of a run ---- */

/* ST_FORMAT on all ranks if a rank has called fail() because its values are not finite. */
static status agree_finite(struct pipeline *p, bool finite)
{
    const status st = agree(p->world, finite ? ST_OK : ST_FORMAT);

    p->must_abort &= st == ST_OK;
    return st;
}

/* Replaces the expert in memory by that of the next step. Collective. */
static status switch_expert(struct pipeline *p, struct denoise *d, struct step_callback callback)
{
    const int expert = denoise_expert(d);
    const double start_s = clock_seconds();
    double wait_s;

    alive_at("loading", -1);
    world_expect(p->world, 0);
    p->must_abort = false;
    TRY(agree(p->world, p->ahead != NULL ? readahead_wait(p->ahead, p->dev) : ST_OK));
    wait_s = clock_seconds() - start_s;
    TRY(complete_dit(p, load_expert(p, expert)));
    TRY(agree(p->world, denoise_switch(d, expert, &p->dit[expert])));
    p->must_abort = true;
    if (callback.switched != NULL)
        callback.switched(callback.payload, d->solver.step, wait_s, clock_seconds() - start_s);
    return ST_OK;
}

status pipeline_denoise(struct pipeline *p, const struct denoise_input *in, const float *noise,
                        const struct denoise_state *state, struct step_callback callback,
                        float *latent)
{
    const struct plan_stage *sizes = plan_stage(&p->sizes, STAGE_STEP);
    struct arena run = { 0 }, scratch = { 0 };
    struct dit *experts[EXPERTS_MAX] = { NULL };
    const int first_step = state != NULL ? (int)state->step : 0;
    struct denoise d = { 0 };
    double longest_s = sizes->flops / FLOPS_SLOW; // of a wait for the device
    bool finite = true;
    status st;

    TRY(complete_dit(p, load_expert(p, p->experts == 2 && first_step >= in->low_from ? 1 : 0)));
    for (int i = 0; i < p->experts; i++)
        experts[i] = p->loaded[i] ? &p->dit[i] : NULL;
    st = arena_init(&run, p->dev, "run", sizes->run);
    if (st == ST_OK)
        st = arena_init(&scratch, p->dev, "step", sizes->scratch);
    if (st == ST_OK)
        st = denoise_begin(&d, experts, p->experts, &run, &scratch, in);
    if (st == ST_OK)
        st = read_ahead(p, &d);
    if (st == ST_OK)
        st = state != NULL ? denoise_restore(&d, state) : denoise_start(&d, noise);
    TRY_OUT(agree(p->world, st));
    p->must_abort = true;
    while (d.solver.step < in->schedule.steps) {
        int64_t stops;
        double start_s;

        if (!p->loaded[denoise_expert(&d)])
            st = switch_expert(p, &d, callback);
        if (st == ST_PREEMPTED) // while it was waiting: the state is saved as after a step
            st = callback.call(callback.payload, &d, d.solver.step, in->schedule.steps);
        TRY_OUT(st);
        alive_at("sampling", d.solver.step + 1);
        world_expect(p->world, longest_s);
        TRY_OUT(denoise_feed(&d));
        stops = p->dev->stops;
        TRY_OUT(denoise_step(&d));
        // a step only queues work; it does not synchronize
        assert(p->dev->stops == stops || in->cache.kind == CACHE_FIRST_BLOCK);
        start_s = clock_seconds();
        TRY_OUT(denoise_finite(&d, &finite));
        longest_s = fmax(longest_s, clock_seconds() - start_s);
        TRY_OUT(agree_finite(p, finite));
        if (p->loaded[1])
            end_ahead(p);
        st = callback.call(callback.payload, &d, d.solver.step, in->schedule.steps);
        p->must_abort = st != ST_PREEMPTED; // all ranks stop
        if (st != ST_OK)
            goto out;
    }
    TRY_OUT(denoise_latent(&d, latent));
    p->must_abort = false;
out:
    world_expect(p->world, 0);
    end_ahead(p);
    denoise_end(&d);
    arena_done(&scratch);
    arena_done(&run);
    return st;
}

status pipeline_ready(void *payload, status st)
{
    struct pipeline *p = payload;

    st = agree(p->world, st);
    p->must_abort = st == ST_OK;
    return st;
}

void pipeline_offload(struct pipeline *p)
{
    if (!p->plan.keep_models)
        close_dit(p);
}
