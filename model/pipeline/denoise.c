#include "model/pipeline/denoise.h"

#include "model/pipeline/denoise_internal.h"

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

enum guide denoise_guide(const struct denoise *d, int step)
{
    return guidance_at(&d->in.guidance, d->experts == 2 ? d->in.low_from : d->in.schedule.steps,
                       step);
}

/* Whether a step needs so many branches; expert -1: of any expert. */
static bool needs(const struct denoise *d, int expert, int branches)
{
    for (int i = 0; i < d->in.schedule.steps; i++)
        if ((expert < 0 || expert_at(d, i) == expert) &&
            guide_forwards(denoise_guide(d, i)) == branches)
            return true;
    return false;
}

/* The last step in which an expert computes; -1: none. */
static int last_step(const struct denoise *d, int expert)
{
    int step = d->in.schedule.steps - 1;

    while (step >= 0 && (expert_at(d, step) != expert || denoise_guide(d, step) == GUIDE_ZERO))
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

/* Uploads this rank's tokens of the reference images, which are the last frames. */
static status upload_subject(struct denoise *d, struct arena *a, struct tensor frames)
{
    const struct latent_shape s = d->in.shape;
    const struct spans *spans = &d->spans;
    const int64_t tokens = frames.dim[1] * (s.h / 2) * (s.w / 2), row = 4 * s.c;
    const int64_t first = denoise_tokens(d) - tokens; // of the images
    const int64_t end = spans->latent_first + spans->latent_rows;
    const int64_t from = first > spans->latent_first ? first : spans->latent_first;
    const int64_t rows = end > from ? end - from : 0;
    float *all = NULL;
    status st;

    if (frames.dim[0] != s.c || frames.dim[1] >= s.t || frames.dim[2] != s.h ||
        frames.dim[3] != s.w)
        return fail(ST_USAGE, "'subject' is %s; the latent has %lld channels of %lld x %lld",
                    tensor_text(frames), (long long)s.c, (long long)s.h, (long long)s.w);
    TRY_OUT(arena_take(a, &d->third, DT_F32, spans->latent_rows, row));
    TRY_OUT(arena_take(a, &d->subject, DT_F32, rows, row));
    if (frames.data == NULL || rows == 0) // a plan, or no such frame on this rank
        goto out;
    all = malloc(tensor_bytes(frames));
    if (all == NULL) {
        st = fail(ST_MEMORY, "cannot allocate %zu bytes of host memory for %lld images",
                  tensor_bytes(frames), (long long)frames.dim[1]);
        goto out;
    }
    tokens_from_latent(all, frames.data, s.c, frames.dim[1], s.h, s.w);
    TRY_OUT(device_upload(d->dev, d->subject, all + (from - first) * row));
out:
    free(all);
    return st;
}

/* What an expert gets of the run. With ranks for both branches, each computes its own, also where
 * they are not combined, unless all ranks share the sequence then: `joined`. */
struct dit_input denoise_input_of(const struct denoise *d, int expert, bool joined)
{
    const struct denoise_input *in = &d->in;
    const bool split = d->mesh->size.cfg == 2;
    const int last = last_step(d, expert);
    const bool ends = last >= 0 && denoise_guide(d, last) == GUIDE_BOTH;

    return (struct dit_input){ .mesh = joined ? d->mesh->joined : d->mesh,
                               .f = d->windowed ? in->windows.frames : in->shape.t,
                               .h = in->shape.h / 2,
                               .w = in->shape.w / 2,
                               .steps = in->schedule.steps,
                               .timestep = in->schedule.timestep,
                               .last_step = d->mesh->joined == NULL || joined != ends ? last : -1,
                               .last_branch = !split && ends ? 1 : 0,
                               .branches = !split && needs(d, expert, 2) ? 2 : 1,
                               .first_branch = split && !joined ? d->mesh->cfg : 0,
                               .self_attention = in->self_attention,
                               .conditioning = d->windowed ? &d->cut[0] : in->conditioning };
}

static status begin_expert(struct denoise *d, int expert, struct dit *dit)
{
    const struct dit_input input = denoise_input_of(d, expert, false),
                           joined = denoise_input_of(d, expert, true);
    const bool joins = d->mesh->joined != NULL;

    if (!joins || needs(d, expert, 2))
        TRY(dit_begin(&d->run[expert], dit, d->a, d->scratch, &input));
    if (joins && needs(d, expert, 1))
        TRY(dit_begin(&d->joined[expert], dit, d->a, d->scratch, &joined));
    if (d->in.check_blocks)
        d->run[expert].mark = d->joined[expert].mark = d->mark;
    TRY(cache_begin_expert(d, expert));
    return d->windowed ? windows_begin_expert(d, expert) : ST_OK;
}

status denoise_begin(struct denoise *d, struct dit *const *dit, int experts, struct arena *a,
                     struct arena *scratch, const struct denoise_input *in)
{
    const struct dit *any = dit[0] != NULL ? dit[0] : dit[1];
    const struct tensor clean = conditioning_find(in->conditioning, CONDITION_CLEAN);
    const struct tensor subject = conditioning_find(in->conditioning, CONDITION_SUBJECT);
    struct dit_input input;
    int64_t rows;

    assert(experts >= 1 && experts <= EXPERTS_MAX && any != NULL);
    *d = (struct denoise){ .in = *in,
                           .dev = any->dev,
                           .mesh = any->mesh,
                           .a = a,
                           .scratch = scratch,
                           .experts = experts };
    TRY(windows_begin(d));
    input = denoise_input_of(d, 0, false);
    input.first_branch = 0; // a text that all runs have
    input.branches = 1;
    if (d->windowed) {
        input.f = in->shape.t;
        input.conditioning = in->conditioning;
    }
    TRY(dit_spans(any, &input, &d->segments, &d->spans));
    if (d->windowed)
        d->spans = (struct spans){ .latent_rows = denoise_tokens(d) };
    rows = d->spans.latent_rows;
    TRY(arena_take(a, &d->x, DT_F32, rows, 4 * in->shape.c));
    d->combined = d->windowed && !guidance_keeps(&in->guidance);
    if (!d->combined)
        TRY(arena_take(a, &d->v, DT_F32, d->mesh->size.cfg == 2 || needs(d, -1, 2) ? 2 : 1, rows,
                       4 * in->shape.c));
    if (guidance_keeps(&in->guidance))
        TRY(arena_take(a, &d->difference, DT_F32, rows, 4 * in->shape.c));
    TRY(arena_take(a, &d->mark, DT_F32, 1));
    TRY(device_zero(d->dev, d->mark));
    if (clean.ndim != 0)
        TRY(upload_clean(d, a, clean));
    if (subject.ndim != 0)
        TRY(upload_subject(d, a, subject));
    TRY(solver_init(&d->solver, &d->in.schedule, a, rows, 4 * in->shape.c));
    if (d->solver.noise.ndim != 0 && in->noise != NULL) {
        d->drawn = malloc((size_t)latent_count(in->shape) * sizeof(float));
        if (d->drawn == NULL)
            return fail(ST_MEMORY, "cannot allocate host memory for a latent of %lld values",
                        (long long)latent_count(in->shape));
    }
    TRY(cache_begin(d, any->config.dim));
    if (d->windowed)
        TRY(windows_take(d));
    d->begun = a->used;
    for (int i = 0; i < experts; i++)
        if (dit[i] != NULL)
            TRY(begin_expert(d, i, dit[i]));
    return ST_OK;
}

status denoise_switch(struct denoise *d, int expert, struct dit *dit)
{
    memset(d->run, 0, sizeof(d->run));
    memset(d->joined, 0, sizeof(d->joined));
    memset(d->views, 0, sizeof(d->views));
    memset(d->joined_views, 0, sizeof(d->joined_views));
    arena_release(d->a, d->begun);
    return begin_expert(d, expert, dit);
}

void denoise_end(struct denoise *d)
{
    free(d->drawn);
    cache_end(d);
    *d = (struct denoise){ 0 };
}

status denoise_scatter(struct denoise *d, struct tensor dst, const float *latent)
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

int64_t denoise_tokens(const struct denoise *d)
{
    const struct latent_shape s = d->in.shape;

    return s.t * (s.h / 2) * (s.w / 2);
}

status denoise_gather_rows(struct denoise *d, const struct mesh *mesh, struct tensor whole,
                           struct tensor src)
{
    const int64_t tokens = whole.dim[0];
    const int ranks = d->mesh->all.size, seq = mesh_seq_size(mesh);
    const size_t row_bytes = (size_t)whole.dim[1] * sizeof(float);
    struct transfer t = { 0 };
    size_t *offset;
    status st;

    if (d->windowed) // each rank has all
        return op_copy(d->dev, whole, src);
    offset = malloc(((size_t)ranks + 1) * sizeof(size_t));
    if (offset == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for the offsets of %d ranks", ranks);
    for (int r = 0; r <= ranks; r++) { // ranks of the second CFG branch have the same tokens: none
        struct spans spans = { .latent_first = tokens };

        if (r < seq)
            spans_of(&spans, &d->segments, seq, r);
        offset[r] = (size_t)spans.latent_first * row_bytes;
    }
    TRY_OUT(group_all_gather(&d->mesh->all, &t, whole.data, offset, src.data));
    TRY_OUT(transfer_wait(&t));
out:
    free(offset);
    return st;
}

status denoise_gather(struct denoise *d, float *latent, struct tensor src)
{
    const struct latent_shape s = d->in.shape;
    const int64_t tokens = denoise_tokens(d);
    const size_t mark = d->scratch->used;
    struct tensor whole;
    float *all = NULL;
    status st;

    TRY_OUT(arena_take(d->scratch, &whole, DT_F32, tokens, 4 * s.c));
    TRY_OUT(denoise_gather_rows(d, d->mesh, whole, src));
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
    arena_release(d->scratch, mark);
    return st;
}

/* This rank's tokens of the reference images, which are its last. */
static struct tensor subject_of(const struct denoise *d)
{
    const int64_t rows = d->subject.dim[0];

    return tensor_slice(d->x, 0, d->x.dim[0] - rows, rows);
}

/* Sets the known frames of x, at its start and at its end, to their values. */
static status restore_clean(struct denoise *d)
{
    if (d->clean.ndim != 0)
        TRY(op_copy(d->dev, tensor_slice(d->x, 0, 0, d->clean.dim[0]), d->clean));
    return d->subject.ndim != 0 ? op_copy(d->dev, subject_of(d), d->subject) : ST_OK;
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
    return d->drawn_for == d->solver.step ? denoise_scatter(d, d->solver.noise, d->drawn) : ST_OK;
}

status denoise_start(struct denoise *d, const float *noise)
{
    d->solver.step = 0;
    start_noise(d, 0);
    TRY(denoise_scatter(d, d->x, noise));
    return restore_clean(d);
}

/* The arrays in the order of denoise_state. */
static struct tensor history(const struct denoise *d, int i)
{
    return i < 2 ? d->solver.m[i] : i < SOLVER_STATE ? d->solver.last : d->difference;
}

/* Whether the next step uses one of them. */
static bool uses_history(const struct denoise *d, int i)
{
    if (i == SOLVER_STATE)
        return d->solver.step < d->in.schedule.steps &&
               denoise_guide(d, d->solver.step) == GUIDE_GATE;
    return history(d, i).data != NULL;
}

status denoise_restore(struct denoise *d, const struct denoise_state *state)
{
    d->solver.step = (int)state->step;
    d->solver.order = (int)state->order;
    start_noise(d, d->solver.step);
    for (int i = 0; i < DENOISE_HISTORY; i++)
        if (state->used[i] && history(d, i).data != NULL)
            TRY(denoise_scatter(d, history(d, i), state->history[i]));
    TRY(cache_restore(d, state));
    return denoise_scatter(d, d->x, state->latents);
}

/* The only branch of a step on all ranks, which share the sequence: the tokens of x and v move
 * between both meshes. */
static status joined_branch(struct denoise *d, int step, struct tensor x)
{
    struct dit_run *run = &d->joined[expert_at(d, step)];
    const struct spans *spans = &run->spans;
    const size_t mark = d->scratch->used;
    struct tensor whole = { 0 }, v = { 0 };
    status st;

    assert(run->m != NULL);
    TRY_OUT(arena_take(d->scratch, &whole, DT_F32, denoise_tokens(d), x.dim[1]));
    TRY_OUT(arena_take(d->scratch, &v, DT_F32, spans->latent_rows, x.dim[1]));
    TRY_OUT(denoise_gather_rows(d, d->mesh, whole, x));
    TRY_OUT(cache_forward(d, run, step, 0, v,
                          tensor_slice(whole, 0, spans->latent_first, spans->latent_rows)));
    TRY_OUT(denoise_gather_rows(d, run->mesh, whole, v));
    TRY_OUT(op_copy(d->dev, tensor_at(d->v, 0),
                    tensor_slice(whole, 0, d->spans.latent_first, d->spans.latent_rows)));
out:
    arena_release(d->scratch, mark);
    return st;
}

struct dit_run *denoise_run(struct denoise *d, int step)
{
    const bool joins = d->mesh->joined != NULL && guide_forwards(denoise_guide(d, step)) == 1;

    return &(joins ? d->joined : d->run)[expert_at(d, step)];
}

status denoise_branches(struct denoise *d, const int *step, const struct tensor *x)
{
    const size_t bytes = tensor_bytes(d->x), offset[3] = { 0, bytes, 2 * bytes };
    const int forwards = guide_forwards(denoise_guide(d, step[0])), cfg = d->mesh->cfg;
    struct dit_run *run = denoise_run(d, step[0]);
    struct transfer t = { 0 };

    if (run->mesh != d->mesh)
        return joined_branch(d, step[0], x[0]);
    assert(run->m != NULL);
    if (d->mesh->size.cfg == 2) { // computes this rank's branch, then all-gathers both
        TRY(cache_forward(d, run, step[cfg], 0, tensor_at(d->v, cfg), x[cfg]));
        TRY(group_all_gather(&d->mesh->cfg_group, &t, d->v.data, offset,
                             tensor_at(d->v, cfg).data));
        return transfer_wait(&t);
    }
    for (int i = 0; i < forwards; i++)
        TRY(cache_forward(d, run, step[i], i, tensor_at(d->v, i), x[i]));
    return ST_OK;
}

/* The same where the last frames are reference images: with them, and for the third branch with
 * zeros in their place. */
static status subject_branches(struct denoise *d, const int *step, const struct tensor *x)
{
    TRY(denoise_branches(d, step, x));
    if (denoise_guide(d, step[0]) != GUIDE_BOTH)
        return ST_OK;
    TRY(device_zero(d->dev, subject_of(d)));
    TRY(dit_forward(denoise_run(d, step[0]), d->scratch, step[0], 1, d->third, d->x));
    return restore_clean(d);
}

/* The velocities of the branches that the step needs, in d->v. */
static status branches(struct denoise *d)
{
    const int step[CACHE_BRANCHES] = { d->solver.step, d->solver.step };
    const struct tensor x[CACHE_BRANCHES] = { d->x, d->x };

    if (d->windowed)
        return windows_branches(d, step[0]);
    if (d->subject.ndim != 0)
        return subject_branches(d, step, x);
    TRY(cache_start_step(d, step[0]));
    if (!d->cache.predicted)
        TRY(denoise_branches(d, step, x));
    return cache_end_velocity(d, step[0]);
}

/* difference = c - s u, with s of the whole latent: each rank sums the dots of all tokens. */
static status subtract_projection(struct denoise *d, struct tensor c, struct tensor u)
{
    const size_t mark = d->scratch->used;
    struct tensor rows = { 0 }, all = { 0 };
    status st;

    TRY_OUT(arena_take(d->scratch, &rows, DT_F32, c.dim[0], 2));
    TRY_OUT(arena_take(d->scratch, &all, DT_F32, denoise_tokens(d), 2));
    TRY_OUT(op_row_dots(d->dev, rows, c, u));
    TRY_OUT(denoise_gather_rows(d, d->mesh, all, rows));
    TRY_OUT(op_subtract_projection(d->dev, d->difference, c, u, all));
out:
    arena_release(d->scratch, mark);
    return st;
}

/* Makes of the branches' velocities what the solver gets: c, and with plain guidance u. */
static status guide_velocity(struct denoise *d, enum guide guide, float scale, struct tensor *u)
{
    const struct tensor c = tensor_at(d->v, 0);
    const bool star = d->in.guidance.zero_star;

    *u = guide == GUIDE_BOTH && !d->combined ? tensor_at(d->v, 1) : (struct tensor){ 0 };
    if (guide == GUIDE_ZERO)
        return device_zero(d->dev, c);
    if (d->combined)
        return ST_OK;
    if (guide == GUIDE_BOTH && d->subject.ndim != 0) {
        const float image = d->in.guidance.image;
        const float coef[3] = { scale, image - scale, 1 - image };

        TRY(op_lincomb(d->dev, c, 3, coef, (struct tensor[]){ c, *u, d->third }));
        *u = (struct tensor){ 0 };
        return ST_OK;
    }
    if (guide == GUIDE_BOTH && star)
        TRY(subtract_projection(d, c, *u));
    else if (guide == GUIDE_BOTH && d->difference.ndim != 0)
        TRY(op_lincomb(d->dev, d->difference, 2, (float[]){ 1, -1 }, (struct tensor[]){ c, *u }));
    if (guide == GUIDE_COND || (guide == GUIDE_BOTH && !star))
        return ST_OK;
    *u = (struct tensor){ 0 };
    return op_lincomb(d->dev, c, 2, (float[]){ 1, scale - 1 },
                      (struct tensor[]){ c, d->difference });
}

status denoise_step(struct denoise *d)
{
    const int step = d->solver.step;
    const enum guide guide = denoise_guide(d, step);
    const float scale = d->in.guidance.scale[expert_at(d, step)];
    struct tensor u;

    if (d->combined)
        d->v = tensor_reshape(d->solver.next, 1, d->x.dim[0], d->x.dim[1]);
    if (guide != GUIDE_ZERO)
        TRY(branches(d));
    TRY(guide_velocity(d, guide, scale, &u));
    TRY(solver_step(&d->solver, d->dev, d->x, tensor_at(d->v, 0), u, scale));
    TRY(restore_clean(d));
    TRY(cache_end_step(d));
    TRY(op_find_nonfinite(d->dev, d->mark, d->x, DIT_MARK_NONE));
    draw_noise(d); // of the step after this one, while a GPU computes
    return ST_OK;
}

status denoise_finite(struct denoise *d, bool *finite)
{
    char block[48] = "--check_finite names the first block";
    float mark = 0;

    TRY(device_download(d->dev, &mark, d->mark));
    TRY(cache_read(d));
    TRY(device_wait(d->dev));
    TRY(cache_decide(d));
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
    return denoise_gather(d, latent, d->x);
}

status denoise_save(struct denoise *d, struct denoise_state *state)
{
    state->step = d->solver.step;
    state->order = d->solver.order;
    for (int i = 0; i < DENOISE_HISTORY; i++) {
        state->used[i] = uses_history(d, i);
        if (state->used[i])
            TRY(denoise_gather(d, state->history[i], history(d, i)));
    }
    TRY(cache_save(d, state));
    return denoise_gather(d, state->latents, d->x);
}
