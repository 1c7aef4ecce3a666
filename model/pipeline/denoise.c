#include "model/pipeline/denoise.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The expert that computes a step. */
static int expert_at(const struct denoise *d, int step)
{
    return d->experts == 2 && step >= d->in.low_from ? 1 : 0;
}

int denoise_expert(const struct denoise *d)
{
    const int last = d->in.schedule.steps - 1;

    return expert_at(d, d->solver.step < last ? d->solver.step : last);
}

/* The last step that an expert computes; -1 if it computes none. */
static int last_step(const struct denoise *d, int expert)
{
    int step = d->in.schedule.steps - 1;

    while (step >= 0 && expert_at(d, step) != expert)
        step--;
    return step;
}

/* Uploads this rank's tokens of the known frames. */
static status upload_clean(struct denoise *d, struct arena *a, struct tensor frames)
{
    const struct latent_shape s = d->in.shape;
    const struct spans *spans = &d->spans;
    const int64_t tokens = frames.dim[1] * (s.h / 2) * (s.w / 2), row = 4 * s.c;
    const int64_t rest = tokens - spans->latent_first; // known tokens from this rank's first on
    const int64_t rows = rest < 0 ? 0 : rest < spans->latent_rows ? rest : spans->latent_rows;
    float *all = NULL;
    status st;

    if (frames.dim[0] != s.c || frames.dim[2] != s.h || frames.dim[3] != s.w)
        return fail(ST_USAGE, "'clean' is %s; the latent has %lld channels of %lld x %lld",
                    tensor_text(frames), (long long)s.c, (long long)s.h, (long long)s.w);
    TRY_OUT(arena_take(a, &d->clean, DT_F32, rows, row));
    if (frames.data == NULL || rows == 0) // a plan, or no known frame on this rank
        goto out;
    all = malloc(tensor_bytes(frames));
    if (all == NULL) {
        st = fail(ST_MEMORY, "cannot allocate %zu bytes of host memory for %lld known frames",
                  tensor_bytes(frames), (long long)frames.dim[1]);
        goto out;
    }
    tokens_from_latent(all, frames.data, s.c, frames.dim[1], s.h, s.w);
    TRY_OUT(device_upload(d->dev, d->clean, all + spans->latent_first * row));
out:
    free(all);
    return st;
}

/* Whether both branches are combined in the steps of an expert. */
static bool is_guided(const struct denoise_input *in, int expert)
{
    return in->guided && in->guidance[expert] != 1; // at 1 v = u + (c - u) = c
}

/* What an expert gets of the run. With ranks for both branches, each computes its own, also where
 * they are not combined. */
static struct dit_input input_of(const struct denoise *d, int expert)
{
    const struct denoise_input *in = &d->in;
    const bool split = d->mesh->size.cfg == 2;

    return (struct dit_input){ .f = in->shape.t,
                               .h = in->shape.h / 2,
                               .w = in->shape.w / 2,
                               .steps = in->schedule.steps,
                               .timestep = in->schedule.timestep,
                               .last_step = last_step(d, expert),
                               .branches = !split && is_guided(in, expert) ? 2 : 1,
                               .first_branch = split ? d->mesh->cfg : 0,
                               .conditioning = in->conditioning };
}

static status begin_expert(struct denoise *d, int expert, struct dit *dit)
{
    const struct dit_input input = input_of(d, expert);

    TRY(dit_begin(&d->run[expert], dit, d->a, d->scratch, &input));
    if (d->in.check_blocks)
        d->run[expert].mark = d->mark;
    return ST_OK;
}

status denoise_begin(struct denoise *d, struct dit *const *dit, int experts, struct arena *a,
                     struct arena *scratch, const struct denoise_input *in)
{
    const struct dit *any = dit[0] != NULL ? dit[0] : dit[1];
    const struct tensor clean = conditioning_find(in->conditioning, CONDITION_CLEAN);
    struct dit_input input;
    int64_t rows;

    assert(experts >= 1 && experts <= EXPERTS_MAX && any != NULL);
    *d = (struct denoise){ .in = *in,
                           .dev = any->dev,
                           .mesh = any->mesh,
                           .a = a,
                           .scratch = scratch,
                           .experts = experts };
    assert(in->guided || d->mesh->size.cfg == 1);
    input = input_of(d, 0);
    TRY(dit_spans(any, &input, &d->segments, &d->spans));
    rows = d->spans.latent_rows;
    TRY(arena_take(a, &d->x, DT_F32, rows, 4 * in->shape.c));
    TRY(arena_take(a, &d->v, DT_F32, in->guided ? 2 : 1, rows, 4 * in->shape.c));
    TRY(arena_take(a, &d->mark, DT_F32, 1));
    TRY(device_zero(d->dev, d->mark));
    if (clean.ndim != 0)
        TRY(upload_clean(d, a, clean));
    TRY(solver_init(&d->solver, &d->in.schedule, a, rows, 4 * in->shape.c));
    if (d->solver.noise.ndim != 0 && in->noise != NULL) {
        d->drawn = malloc((size_t)latent_count(in->shape) * sizeof(float));
        if (d->drawn == NULL)
            return fail(ST_MEMORY, "cannot allocate host memory for a latent of %lld values",
                        (long long)latent_count(in->shape));
    }
    d->begun = a->used;
    for (int i = 0; i < experts; i++)
        if (dit[i] != NULL)
            TRY(begin_expert(d, i, dit[i]));
    return ST_OK;
}

status denoise_switch(struct denoise *d, int expert, struct dit *dit)
{
    memset(d->run, 0, sizeof(d->run));
    arena_release(d->a, d->begun);
    return begin_expert(d, expert, dit);
}

void denoise_end(struct denoise *d)
{
    free(d->drawn);
    *d = (struct denoise){ 0 };
}

/* Uploads this rank's tokens of a whole latent in host memory; latent NULL (a plan): nothing. */
static status scatter(struct denoise *d, struct tensor dst, const float *latent)
{
    const struct latent_shape s = d->in.shape;
    const int64_t row = 4 * s.c;
    status st = ST_OK;
    float *tokens;

    if (latent == NULL)
        return ST_OK;
    tokens = malloc((size_t)latent_count(s) * sizeof(float));
    if (tokens == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for a latent of %lld values",
                    (long long)latent_count(s));
    tokens_from_latent(tokens, latent, s.c, s.t, s.h, s.w);
    TRY_OUT(device_upload(d->dev, dst, tokens + d->spans.latent_first * row));
out:
    free(tokens);
    return st;
}

/* All-gathers the tokens of src from all ranks, and copies the whole latent to host memory on every
 * rank where `latent` is not NULL. */
static status gather(struct denoise *d, float *latent, struct tensor src)
{
    const struct latent_shape s = d->in.shape;
    const int64_t tokens = s.t * (s.h / 2) * (s.w / 2);
    const int ranks = d->mesh->all.size, seq = mesh_seq_size(d->mesh);
    const size_t mark = d->scratch->used;
    const size_t row_bytes = (size_t)(4 * s.c) * sizeof(float);
    struct transfer t = { 0 };
    struct tensor whole;
    float *all = NULL;
    size_t *offset = malloc(((size_t)ranks + 1) * sizeof(size_t));
    status st;

    if (offset == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for the offsets of %d ranks", ranks);
    for (int r = 0; r <= ranks; r++) { // ranks of the second CFG branch have the same tokens: none
        struct spans spans = { .latent_first = tokens };

        if (r < seq)
            spans_of(&spans, &d->segments, seq, r);
        offset[r] = (size_t)spans.latent_first * row_bytes;
    }
    TRY_OUT(arena_take(d->scratch, &whole, DT_F32, tokens, 4 * s.c));
    TRY_OUT(group_all_gather(&d->mesh->all, &t, whole.data, offset, src.data));
    TRY_OUT(transfer_wait(&t));
    if (latent == NULL)
        goto out;
    all = malloc(tensor_bytes(whole));
    if (all == NULL) {
        st = fail(ST_MEMORY, "cannot allocate %zu bytes of host memory for %lld tokens",
                  tensor_bytes(whole), (long long)tokens);
        goto out;
    }
    TRY_OUT(device_download(d->dev, all, whole));
    TRY_OUT(device_wait(d->dev));
    latent_from_tokens(latent, all, s.c, s.t, s.h, s.w);
out:
    free(all);
    free(offset);
    arena_release(d->scratch, mark);
    return st;
}

/* Sets the known frames of x to their values. */
static status restore_clean(struct denoise *d)
{
    return d->clean.ndim == 0
               ? ST_OK
               : op_copy(d->dev, tensor_slice(d->x, 0, 0, d->clean.dim[0]), d->clean);
}

/* Sets the generator to what it is after the first noise and the noise of `step` steps. */
static void start_noise(struct denoise *d, int step)
{
    d->drawn_for = -1;
    if (d->drawn == NULL)
        return;
    d->noise = *d->in.noise;
    noise_skip(&d->noise, latent_count(d->in.shape), 1 + step);
}

/* Draws the noise that the next step adds, if it adds some: a whole latent on every rank, so that
 * the numbers do not depend on the ranks. */
static void draw_noise(struct denoise *d)
{
    const int step = d->solver.step;

    if (d->drawn == NULL || step + 1 >= d->in.schedule.steps || d->drawn_for == step)
        return;
    noise_draw(&d->noise, d->drawn, latent_count(d->in.shape));
    d->drawn_for = step;
}

status denoise_feed(struct denoise *d)
{
    draw_noise(d);
    return d->drawn_for == d->solver.step ? scatter(d, d->solver.noise, d->drawn) : ST_OK;
}

status denoise_start(struct denoise *d, const float *noise)
{
    d->solver.step = 0;
    start_noise(d, 0);
    TRY(scatter(d, d->x, noise));
    return restore_clean(d);
}

/* The solver's history in the order of denoise_state. */
static struct tensor history(const struct denoise *d, int i)
{
    return i < 2 ? d->solver.m[i] : d->solver.last;
}

status denoise_restore(struct denoise *d, const struct denoise_state *state)
{
    d->solver.step = (int)state->step;
    d->solver.order = (int)state->order;
    start_noise(d, d->solver.step);
    for (int i = 0; i < SOLVER_STATE; i++)
        if (state->used[i] && history(d, i).data != NULL)
            TRY(scatter(d, history(d, i), state->history[i]));
    return scatter(d, d->x, state->latents);
}

status denoise_step(struct denoise *d)
{
    const struct tensor none = { 0 };
    const int step = d->solver.step, expert = expert_at(d, step);
    struct dit_run *run = &d->run[expert];
    struct mesh *mesh = d->mesh;

    assert(run->m != NULL);
    if (mesh->size.cfg == 2) { // computes this rank's branch, then all-gathers both
        const size_t bytes = tensor_bytes(d->x), offset[3] = { 0, bytes, 2 * bytes };
        struct tensor local = tensor_at(d->v, mesh->cfg);
        struct transfer t = { 0 };

        TRY(dit_forward(run, d->scratch, step, 0, local, d->x));
        TRY(group_all_gather(&mesh->cfg_group, &t, d->v.data, offset, local.data));
        TRY(transfer_wait(&t));
    } else {
        for (int branch = 0; branch < run->branches; branch++)
            TRY(dit_forward(run, d->scratch, step, branch, tensor_at(d->v, branch), d->x));
    }
    TRY(solver_step(&d->solver, d->dev, d->x, tensor_at(d->v, 0),
                    is_guided(&d->in, expert) ? tensor_at(d->v, 1) : none, d->in.guidance[expert]));
    TRY(restore_clean(d));
    TRY(op_find_nonfinite(d->dev, d->mark, d->x, DIT_MARK_NONE));
    draw_noise(d); // of the step after this one, while a GPU computes
    return ST_OK;
}

status denoise_finite(struct denoise *d, bool *finite)
{
    char block[48] = "--check_finite names the first block";
    float mark = 0;

    TRY(device_download(d->dev, &mark, d->mark));
    TRY(device_wait(d->dev));
    *finite = mark == 0;
    if (mark != 0 && mark != DIT_MARK_NONE)
        snprintf(block, sizeof(block), "first after block %d", (int)mark - 1);
    if (mark != 0)
        fail(ST_FORMAT,
             "step %d: the latent has values that are not finite (%s): the weights are damaged, or "
             "their values are too large for --precision bf16",
             d->solver.step, block);
    return ST_OK;
}

status denoise_latent(struct denoise *d, float *latent)
{
    return gather(d, latent, d->x);
}

status denoise_save(struct denoise *d, struct denoise_state *state)
{
    state->step = d->solver.step;
    state->order = d->solver.order;
    for (int i = 0; i < SOLVER_STATE; i++) {
        state->used[i] = history(d, i).data != NULL;
        if (state->used[i])
            TRY(gather(d, state->history[i], history(d, i)));
    }
    return gather(d, state->latents, d->x);
}
