/* A step in windows of latent frames (../sampling/windows.h). The memory that depends on the length
 * of the video is that of latents: the transformer computes one window at a time. */
#include "model/pipeline/denoise_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static int64_t frame_tokens(const struct denoise *d)
{
    return d->in.shape.h / 2 * (d->in.shape.w / 2);
}

/* *cut = the conditioning without what is cut: `known`: with the known frames. */
static void cut_conditioning(struct conditioning *cut, const struct conditioning *c, bool known)
{
    *cut = (struct conditioning){ 0 };
    for (int i = 0; i < c->count; i++) {
        const char *name = c->array[i].name;

        if (strcmp(name, CONDITION_CHANNELS) != 0 && strcmp(name, CONDITION_VIDEO) != 0 &&
            (known || strcmp(name, CONDITION_CLEAN) != 0))
            cut->array[cut->count++] = c->array[i];
    }
}

status windows_begin(struct denoise *d)
{
    const struct conditioning *c = d->in.conditioning;
    const int64_t frames = d->in.shape.t;

    d->windowed = windows_divide(&d->in.windows, (int)frames);
    if (!d->windowed)
        return ST_OK;
    if (d->in.cache.kind != CACHE_OFF)
        return fail(ST_USAGE, "step caching is for whole videos: remove --cache, or the windows");
    for (int known = 0; known < 2; known++)
        cut_conditioning(&d->cut[1 - known], c, known == 1);
    for (int i = 0; i < d->cut[1].count; i++) {
        const struct condition *a = &d->cut[1].array[i];

        if (a->value.ndim == 4 && a->value.dim[1] >= frames)
            return fail(ST_USAGE,
                        "this version does not divide '%s' into windows: make a video of at most "
                        "%lld frames, in one window",
                        a->name, (long long)(4 * d->in.windows.frames - 3));
    }
    return ST_OK;
}

status windows_take(struct denoise *d)
{
    const struct tensor whole = conditioning_find(d->in.conditioning, CONDITION_CHANNELS);
    float *tokens;
    status st;

    if (whole.ndim == 0)
        return ST_OK;
    TRY(arena_take(d->a, &d->channels, DT_F32, denoise_tokens(d), 4, whole.dim[0]));
    if (whole.data == NULL) // a plan
        return ST_OK;
    tokens = malloc(tensor_bytes(whole));
    if (tokens == NULL)
        return fail(ST_MEMORY, "cannot allocate %zu bytes of host memory for %lld channels",
                    tensor_bytes(whole), (long long)whole.dim[0]);
    tokens_from_latent(tokens, whole.data, whole.dim[0], whole.dim[1], whole.dim[2], whole.dim[3]);
    st = device_upload(d->dev, d->channels, tokens);
    free(tokens);
    return st;
}

/* ---- views ---- */

static status add_view(struct denoise *d, struct window_views *views, const struct dit_run *run,
                       struct dit_input input, int frames, bool known)
{
    struct window_view *v = &views->view[views->count++];

    assert(views->count <= WINDOW_VIEWS);
    v->frames = frames;
    v->known = known;
    input.f = frames;
    input.conditioning = &d->cut[known ? 0 : 1];
    return dit_begin_view(&v->run, run, d->a, &input);
}

/* Views of the lengths that windows have; all steps have the same. */
static status add_views(struct denoise *d, struct window_views *views, const struct dit_run *run,
                        const struct dit_input *input)
{
    const int frames = d->in.windows.frames;
    struct windows w = { 0 };
    int last;
    status st;

    if (run->m == NULL)
        return ST_OK;
    TRY_OUT(windows_make(&w, &d->in.windows, (int)d->in.shape.t, 0));
    last = w.length[w.count - 1];
    if (d->clean.ndim != 0)
        TRY_OUT(add_view(d, views, run, *input, frames, true));
    TRY_OUT(add_view(d, views, run, *input, frames, false));
    if (last != frames)
        TRY_OUT(add_view(d, views, run, *input, last, false));
out:
    windows_done(&w);
    return st;
}

status windows_begin_expert(struct denoise *d, int expert)
{
    const struct dit_input input = denoise_input_of(d, expert, false),
                           joined = denoise_input_of(d, expert, true);

    TRY(add_views(d, &d->views[expert], &d->run[expert], &input));
    return add_views(d, &d->joined_views[expert], &d->joined[expert], &joined);
}

static struct dit_run *find_view(struct denoise *d, const struct dit_run *run, int frames,
                                 bool known)
{
    for (int e = 0; e < EXPERTS_MAX; e++) {
        struct window_views *views = run == &d->run[e]      ? &d->views[e]
                                     : run == &d->joined[e] ? &d->joined_views[e]
                                                            : NULL;

        for (int i = 0; views != NULL && i < views->count; i++)
            if (views->view[i].frames == frames && views->view[i].known == known)
                return &views->view[i].run;
    }
    assert(!"a view of this length");
    return NULL;
}

/* ---- one window ---- */

struct one_window {
    int frames;
    const int *index; // of its frames
    const double *weight;
    bool last; // of the step
};

/* Whether frame i + 1 of the window is the next one of the video, too. */
static bool is_next(const struct one_window *w, int i)
{
    return i + 1 < w->frames && w->index[i + 1] == w->index[i] + 1;
}

/* out = rows [first, first + count) of the tokens of a window, from `whole`, those of the video;
 * `start`: the frame that is taken for the window's first. `out` is a slice of `whole` if they
 * follow each other there, else from `scratch`. */
static status cut_rows(struct denoise *d, struct tensor *out, struct tensor whole,
                       const struct one_window *w, int start, int64_t first, int64_t count)
{
    const int64_t cells = frame_tokens(d);
    bool together = w->index[0] == start;

    for (int i = 0; i + 1 < w->frames; i++)
        together &= is_next(w, i);
    if (together) {
        *out = tensor_slice(whole, 0, start * cells + first, count);
        return ST_OK;
    }
    if (whole.ndim == 3)
        TRY(arena_take(d->scratch, out, DT_F32, count, whole.dim[1], whole.dim[2]));
    else
        TRY(arena_take(d->scratch, out, DT_F32, count, whole.dim[1]));
    for (int i = 0; i < w->frames; i++) {
        const int64_t at = i * cells, from = at > first ? at : first;
        const int64_t to = at + cells < first + count ? at + cells : first + count;
        const int frame = i == 0 ? start : w->index[i];

        if (from < to)
            TRY(op_copy(d->dev, tensor_slice(*out, 0, from - first, to - from),
                        tensor_slice(whole, 0, frame * cells + from - at, to - from)));
    }
    return ST_OK;
}

/* whole [parts, tokens, 4C]: a branch of a window, or both of different ranks, from this rank's
 * rows v [rows, 4C]. */
static status gather(struct denoise *d, const struct dit_run *view, struct tensor whole,
                     struct tensor v)
{
    const int ranks = d->mesh->all.size, seq = mesh_seq_size(view->mesh);
    const size_t row = (size_t)whole.dim[2] * sizeof(float);
    size_t *offset = malloc(((size_t)ranks + 1) * sizeof(size_t));
    struct transfer t = { 0 };
    status st = ST_OK;

    if (offset == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for the offsets of %d ranks", ranks);
    for (int r = 0; r < ranks; r++) {
        struct spans spans;

        spans_of(&spans, &view->segments, seq, r % seq);
        offset[r] = (size_t)(r / seq * whole.dim[1] + spans.latent_first) * row;
    }
    offset[ranks] = (size_t)(whole.dim[0] * whole.dim[1]) * row;
    TRY_OUT(group_all_gather(&d->mesh->all, &t, whole.data, offset, v.data));
    TRY_OUT(transfer_wait(&t));
out:
    free(offset);
    return st;
}

/* Adds the weighted velocities of a window, whole [tokens, 4C], times `scale`, to v of the latent.
 */
static status blend(struct denoise *d, struct tensor v, struct tensor whole,
                    const struct one_window *w, float scale)
{
    const int64_t cells = frame_tokens(d);

    for (int i = 0, end; i < w->frames; i = end) {
        const float weight = (float)w->weight[i] * scale;

        for (end = i + 1; end < w->frames && is_next(w, end - 1) && w->weight[end] == w->weight[i];)
            end++;
        const struct tensor to = tensor_slice(v, 0, w->index[i] * cells, (end - i) * cells);
        const struct tensor from = tensor_slice(whole, 0, i * cells, (end - i) * cells);

        if (w->weight[i] == 1 && scale == 1) // no other window or branch has them
            TRY(op_copy(d->dev, to, from));
        else
            TRY(op_lincomb(d->dev, to, 2, (const float[]){ 1, weight },
                           (const struct tensor[]){ to, from }));
    }
    return ST_OK;
}

/* The same for a branch. If v is the guided velocity, u + g (c - u), each branch has its share. */
static status blend_branch(struct denoise *d, int step, int branch, struct tensor whole,
                           const struct one_window *w)
{
    const enum guide guide = denoise_guide(d, step);
    const float g = d->in.guidance.scale[denoise_expert(d)];

    if (!d->combined)
        return blend(d, tensor_at(d->v, branch), whole, w, 1);
    if (guide == GUIDE_BOTH)
        return blend(d, tensor_at(d->v, 0), whole, w, branch == 0 ? g : 1 - g);
    return branch == 0 ? blend(d, tensor_at(d->v, 0), whole, w, 1) : ST_OK;
}

/* The frame whose channels a window begins with: the start image's in context windows, if the
 * channels are a mask and an image; those of a control clip are the window's own. */
static int first_channels(const struct denoise *d, const struct one_window *w)
{
    const bool image = d->channels.dim[2] == 4 + d->in.shape.c;

    return image && d->in.windows.kind != WINDOWS_SLIDING ? 0 : w->index[0];
}

static status window_forwards(struct denoise *d, int step, const struct one_window *w)
{
    struct dit_run *run = denoise_run(d, step);
    const bool known = d->clean.ndim != 0 && w->index[0] == 0;
    struct dit_run *view = find_view(d, run, w->frames, known);
    const bool split = run->mesh->size.cfg == 2;
    const int forwards = split ? 1 : guide_forwards(denoise_guide(d, step));
    const int64_t rows = view->spans.latent_rows, cols = d->x.dim[1];
    const int64_t first = view->spans.latent_first, tokens = w->frames * frame_tokens(d);
    const size_t mark = d->scratch->used;
    struct tensor x = { 0 }, v = { 0 }, whole = { 0 };
    status st;

    TRY_OUT(cut_rows(d, &x, d->x, w, w->index[0], first, rows));
    if (d->channels.ndim != 0)
        TRY_OUT(cut_rows(d, &view->channels, d->channels, w, first_channels(d, w), first, rows));
    TRY_OUT(arena_take(d->scratch, &v, DT_F32, rows, cols));
    whole = tensor_reshape(v, 1, rows, cols);
    if (d->mesh->all.size > 1)
        TRY_OUT(arena_take(d->scratch, &whole, DT_F32, split ? 2 : 1, tokens, cols));
    view->prepared = run->prepared;
    view->last_step = w->last ? run->last_step : -1;
    for (int i = 0; i < forwards; i++) {
        TRY_OUT(dit_forward(view, d->scratch, step, i, v, x));
        if (d->mesh->all.size > 1)
            TRY_OUT(gather(d, view, whole, v));
        for (int k = 0; k < (int)whole.dim[0]; k++)
            TRY_OUT(blend_branch(d, step, split ? k : i, tensor_at(whole, k), w));
    }
    run->prepared = view->prepared;
out:
    arena_release(d->scratch, mark);
    return st;
}

status windows_branches(struct denoise *d, int step)
{
    struct windows w = { 0 };
    status st;

    TRY_OUT(windows_make(&w, &d->in.windows, (int)d->in.shape.t, step));
    TRY_OUT(device_zero(d->dev, d->v));
    for (int k = 0; k < w.count; k++) {
        const size_t row = (size_t)k * (size_t)w.frames;
        const struct one_window one = { w.length[k], w.index + row, w.weight + row,
                                        k == w.count - 1 };

        TRY_OUT(window_forwards(d, step, &one));
    }
out:
    windows_done(&w);
    return st;
}
