#include "model/pipeline/denoise.h"

#include "parallel/split.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

status denoise_begin(struct denoise *d, struct dit *m, struct arena *a, struct arena *scratch,
                     const struct denoise_input *in)
{
    const int cfg = m->mesh->size.cfg;
    const int sides = in->guided ? 2 : 1;
    struct tensor text[2] = { { 0 } };

    assert(in->guided || cfg == 1);
    *d = (struct denoise){ .in = *in,
                           .m = m,
                           .dev = m->dev,
                           .mesh = m->mesh,
                           .scratch = scratch,
                           .local_sides = sides / cfg };
    for (int i = 0; i < d->local_sides; i++) {
        const struct text_rows *t = &in->text[cfg == 2 ? m->mesh->cfg : i];
        text[i] = tensor_of(t->data, DT_F32, t->rows, m->config.text_dim);
    }
    TRY(dit_begin(&d->run, m, a, scratch, in->shape.t, in->shape.h / 2, in->shape.w / 2,
                  in->schedule.steps, in->schedule.timestep, d->local_sides, text));
    TRY(arena_take(a, &d->x, DT_F32, d->run.s_loc, 4 * in->shape.c));
    TRY(arena_take(a, &d->v, DT_F32, sides, d->run.s_loc, 4 * in->shape.c));
    return solver_init(&d->solver, &d->in.schedule, a, d->run.s_loc, 4 * in->shape.c);
}

void denoise_end(struct denoise *d)
{
    *d = (struct denoise){ 0 };
}

/* This rank's tokens of a whole latent in host memory, onto the device; nothing where it is NULL.
 */
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
        return fail(ST_MEMORY, "no host memory for a latent of %lld values",
                    (long long)latent_count(s));
    tokens_from_latent(tokens, latent, s.c, s.t, s.h, s.w);
    TRY_OUT(device_upload(d->dev, dst, tokens + d->run.grid.first * row));
out:
    free(tokens);
    return st;
}

/* Everybody's tokens of one tensor, as a whole latent in host memory of every rank that wants it
 * (latent not NULL). */
static status gather(struct denoise *d, float *latent, struct tensor src)
{
    const struct latent_shape s = d->in.shape;
    const int ranks = d->mesh->all.size, seq = mesh_seq_size(d->mesh);
    const size_t mark = d->scratch->used;
    const size_t row_bytes = (size_t)(4 * s.c) * sizeof(float);
    struct transfer t = { 0 };
    struct tensor whole;
    float *tokens = NULL;
    size_t *offset = malloc(((size_t)ranks + 1) * sizeof(size_t));
    status st;

    if (offset == NULL)
        return fail(ST_MEMORY, "no host memory");
    for (int r = 0; r <= ranks; r++) // the other side of guidance holds the same and sends nothing
        offset[r] = (size_t)split_at(d->run.tokens, seq, r < seq ? r : seq) * row_bytes;
    TRY_OUT(arena_take(d->scratch, &whole, DT_F32, d->run.tokens, 4 * s.c));
    TRY_OUT(group_all_gather(&d->mesh->all, &t, whole.data, offset, src.data));
    TRY_OUT(transfer_wait(&t));
    if (latent == NULL)
        goto out;
    tokens = malloc(tensor_bytes(whole));
    if (tokens == NULL) {
        st = fail(ST_MEMORY, "no host memory for %lld tokens", (long long)d->run.tokens);
        goto out;
    }
    TRY_OUT(device_download(d->dev, tokens, whole));
    TRY_OUT(device_wait(d->dev));
    latent_from_tokens(latent, tokens, s.c, s.t, s.h, s.w);
out:
    free(tokens);
    free(offset);
    arena_release(d->scratch, mark);
    return st;
}

status denoise_start(struct denoise *d, const float *noise)
{
    d->solver.step = 0;
    return scatter(d, d->x, noise);
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
    for (int i = 0; i < SOLVER_STATE; i++)
        if (state->used[i] && history(d, i).data != NULL)
            TRY(scatter(d, history(d, i), state->history[i]));
    return scatter(d, d->x, state->latents);
}

status denoise_step(struct denoise *d)
{
    const struct tensor none = { 0 };
    const int step = d->solver.step;
    struct mesh *mesh = d->mesh;

    if (mesh->size.cfg == 2) { // this rank's side into its place, then everybody has both
        const size_t bytes = tensor_bytes(d->x), offset[3] = { 0, bytes, 2 * bytes };
        struct tensor mine = tensor_at(d->v, mesh->cfg);
        struct transfer t = { 0 };

        TRY(dit_forward(&d->run, d->scratch, step, 0, mine, d->x));
        TRY(group_all_gather(&mesh->cfg_group, &t, d->v.data, offset, mine.data));
        TRY(transfer_wait(&t));
    } else {
        for (int side = 0; side < d->local_sides; side++)
            TRY(dit_forward(&d->run, d->scratch, step, side, tensor_at(d->v, side), d->x));
    }
    return solver_step(&d->solver, d->dev, d->x, tensor_at(d->v, 0),
                       d->in.guided ? tensor_at(d->v, 1) : none, d->in.guidance);
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
