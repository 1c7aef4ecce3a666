/* What the layers compute. Source: Wan2.1 wan/modules/vae.py, the classes of the same names, with
 * the caches that their forward passes keep between chunks.
 *
 * Every picture [T, h, W, C] lies in memory with room for a row of each neighbour above and below
 * (parallel/halo.h). Before a causal convolution's chunk come the two frames that its layer saw
 * last, zeros before the first chunk: they are kept in a slot of the cache, seam rows included. */
#include "model/vae/vae_internal.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

static const struct tensor none;

/* ---- memory between the layers ---- */

/* The buffer that does not hold the current picture, as one. */
static struct tensor other(const struct vae_pass *p, enum dtype dt, int64_t t, int64_t h, int64_t w,
                           int64_t c)
{
    const struct tensor buffer = p->buffer[!p->at];

    assert(rows_bytes(&p->rows, dt, t, h, w, c) <= tensor_bytes(buffer));
    return rows_in(&p->rows, buffer.data, dt, t, h, w, c);
}

/* Pixels as rows of a matrix. */
static struct tensor flat(struct tensor x)
{
    return tensor_reshape(x, tensor_count(x) / x.dim[x.ndim - 1], x.dim[x.ndim - 1]);
}

/* out = x w^T + bias + residual, pixel by pixel; w: a matrix [out, in], bias. */
static status mix(struct vae_pass *p, struct tensor out, struct tensor x, struct tensor w,
                  struct tensor bias, struct tensor residual)
{
    return op_conv3d(p->v->dev, out, x, none, tensor_reshape(w, w.dim[0], 1, 1, 1, w.dim[1]), bias,
                     residual, (struct conv){ .stride_t = 1, .stride = 1 });
}

/* Keeps the last frames of past and x for the next chunk. past: what the slot has, or none. */
static status keep_past(struct vae_pass *p, int slot, struct tensor past, struct tensor x)
{
    const struct tensor kept = p->slot[slot];
    const int64_t n = kept.dim[0], t = x.dim[0] < n ? x.dim[0] : n;

    if (p->chunk + 1 == p->chunks)
        return ST_OK;
    assert(n <= 2);
    if (t < n && past.data == NULL)
        TRY(device_zero(p->v->dev, tensor_slice(kept, 0, 0, n - t)));
    else if (t < n)
        TRY(op_copy(p->v->dev, tensor_slice(kept, 0, 0, n - t), tensor_slice(past, 0, t, n - t)));
    return op_copy(p->v->dev, tensor_slice(kept, 0, n - t, t), tensor_slice(x, 0, x.dim[0] - t, t));
}

/* ---- rows of the neighbours ---- */

/* Brings the seam rows of x. */
static status bring_seams(struct vae_pass *p, struct tensor x, bool above)
{
    struct transfer t = { 0 };

    TRY(rows_halo(&p->rows, &t, x, above));
    return transfer_wait(&t);
}

/* A window of 3x3 over rows and their seams, with zeros where the picture ends. */
static struct conv over_seams(const struct vae_pass *p)
{
    return (struct conv){ .stride_t = 1,
                          .stride = 1,
                          .top = 1 - rows_above(&p->rows),
                          .bottom = 1 - rows_below(&p->rows),
                          .left = 1,
                          .right = 1 };
}

/* ---- causal convolutions 3x3x3 ---- */

/* out = conv(past and x) + residual, once x's seams have come; w: kernel, bias. */
static status causal_conv(struct vae_pass *p, struct tensor out, struct tensor x, int slot,
                          const struct tensor *w, struct tensor residual)
{
    const struct tensor past = p->chunk > 0 ? p->slot[slot] : none;
    const struct tensor around = rows_around(&p->rows, x, true);
    struct conv conv = over_seams(p);

    conv.front = 2;
    TRY(bring_seams(p, x, true));
    TRY(op_conv3d(p->v->dev, out, around, past, w[0], w[1], residual, conv));
    return keep_past(p, slot, past, around);
}

/* out = conv(silu(norm(x))) + residual; w: gamma, kernel, bias. out may be x. */
static status normed_conv(struct vae_pass *p, struct tensor out, struct tensor x, int slot,
                          const struct tensor *w, struct tensor residual)
{
    const size_t mark = p->a->used;
    struct tensor normed;
    status st;

    TRY_OUT(
        rows_take(&p->rows, p->a, &normed, p->v->dtype, x.dim[0], x.dim[1], x.dim[2], x.dim[3]));
    TRY_OUT(op_channel_norm(p->v->dev, normed, x, w[0], ACT_SILU));
    TRY_OUT(causal_conv(p, out, normed, slot, &w[1], residual));
out:
    arena_release(p->a, mark);
    return st;
}

static status first_conv(struct vae_pass *p, const struct layer *l, struct tensor *x)
{
    const struct tensor out = other(p, p->v->dtype, x->dim[0], x->dim[1], x->dim[2], l->out);

    TRY(causal_conv(p, out, *x, l->slot, &p->v->tensors[l->tensor], none));
    p->at = !p->at;
    *x = out;
    return ST_OK;
}

/* x + conv(silu(norm(conv(silu(norm(x)))))), the x in front through the shortcut where the widths
 * differ. */
static status residual_block(struct vae_pass *p, const struct layer *l, struct tensor *x)
{
    struct device *dev = p->v->dev;
    const struct tensor *w = &p->v->tensors[l->tensor];
    const struct tensor hidden = other(p, p->v->dtype, x->dim[0], x->dim[1], x->dim[2], l->out);
    const size_t mark = p->a->used;
    struct tensor normed;
    status st;

    TRY_OUT(normed_conv(p, hidden, *x, l->slot, w, none));
    TRY_OUT(
        rows_take(&p->rows, p->a, &normed, p->v->dtype, x->dim[0], x->dim[1], x->dim[2], l->out));
    TRY_OUT(op_channel_norm(dev, normed, hidden, w[3], ACT_SILU));
    if (l->in != l->out) { // hidden is done with: its place takes the shortcut
        TRY_OUT(mix(p, hidden, *x, w[6], w[7], none));
        p->at = !p->at;
        *x = hidden;
    }
    TRY_OUT(causal_conv(p, *x, normed, l->slot + 1, &w[4], *x));
out:
    arena_release(p->a, mark);
    return st;
}

/* f32 whatever the pass computes in: what follows is at most a few channels wide. */
static status head(struct vae_pass *p, const struct layer *l, struct tensor *x)
{
    const struct tensor out = other(p, DT_F32, x->dim[0], x->dim[1], x->dim[2], l->out);

    TRY(normed_conv(p, out, *x, l->slot, &p->v->tensors[l->tensor], none));
    p->at = !p->at;
    *x = out;
    return ST_OK;
}

/* ---- attention over the whole picture ---- */

/* x += proj(attention(norm(x))): one head, the queries of own rows, keys and values of all. */
static status attention_block(struct vae_pass *p, const struct layer *l, struct tensor *x)
{
    struct device *dev = p->v->dev;
    const struct tensor *w = &p->v->tensors[l->tensor];
    const int64_t h = x->dim[1], cols = x->dim[2], c = l->in, scale = h / p->rows.count;
    const struct tensor normed = other(p, p->v->dtype, 1, h, cols, c);
    const size_t mark = p->a->used;
    struct tensor q, kv, all;
    status st;

    assert(x->dim[0] == 1); // of the coarsest scale a chunk has one frame
    TRY_OUT(op_channel_norm(dev, normed, *x, w[0], ACT_NONE));
    TRY_OUT(arena_take(p->a, &q, p->v->dtype, 1, h, cols, c));
    TRY_OUT(arena_take(p->a, &kv, p->v->dtype, 1, h, cols, 2 * c));
    TRY_OUT(mix(p, q, normed, tensor_slice(w[1], 0, 0, c), tensor_slice(w[2], 0, 0, c), none));
    TRY_OUT(
        mix(p, kv, normed, tensor_slice(w[1], 0, c, 2 * c), tensor_slice(w[2], 0, c, 2 * c), none));
    all = kv;
    if (p->rows.ranks > 1) {
        TRY_OUT(arena_take(p->a, &all, p->v->dtype, 1, p->rows.total * scale, cols, 2 * c));
        TRY_OUT(rows_gather(&p->rows, all, kv, scale, -1));
    }

    const struct tensor heads = tensor_split(flat(all), 1, c); // [S, 2, C]
    const struct tensor q1 = tensor_split(flat(q), 1, c);      // [S, 1, C]

    TRY_OUT(op_attention(dev, q1, none, q1, tensor_slice(heads, 1, 0, 1),
                         tensor_slice(heads, 1, 1, 1), (float)(1 / sqrt((double)c))));
    TRY_OUT(mix(p, *x, q, w[3], w[4], *x));
out:
    arena_release(p->a, mark);
    return st;
}

/* ---- changes of scale ---- */

/* Half the rows and columns, by a convolution of stride 2 that looks to the right and down. With
 * time also half the frames, but for the first chunk, whose one frame only becomes the past. */
static status down(struct vae_pass *p, const struct layer *l, struct tensor *x)
{
    struct device *dev = p->v->dev;
    const struct tensor *w = &p->v->tensors[l->tensor];
    const int64_t t = x->dim[0], h = x->dim[1], cols = x->dim[2];
    const bool time = l->time && p->chunk > 0;
    const size_t mark = p->a->used;
    struct tensor out = other(p, p->v->dtype, time ? t / 2 : t, h / 2, cols / 2, l->out);
    const struct tensor past = time ? p->slot[l->slot] : none;
    struct conv conv = over_seams(p);
    struct tensor spatial = out;
    status st;

    conv.stride = 2;
    conv.top = conv.left = 0;
    if (time)
        TRY_OUT(arena_take(p->a, &spatial, p->v->dtype, t, h / 2, cols / 2, l->out));
    TRY_OUT(bring_seams(p, *x, false));
    TRY_OUT(
        op_conv3d(dev, spatial, rows_around(&p->rows, *x, false), none, w[0], w[1], none, conv));
    if (time)
        TRY_OUT(op_conv3d(dev, out, spatial, past, w[2], w[3], none,
                          (struct conv){ .stride_t = 2, .stride = 1, .front = 1 }));
    if (l->time)
        TRY_OUT(keep_past(p, l->slot, past, spatial));
    p->at = !p->at;
    *x = out;
out:
    arena_release(p->a, mark);
    return st;
}

/* Twice the frames: a convolution along time makes 2C channels of C, the first half of which is
 * the earlier frame. frames [2T, h, W, C], rows may be strided. The first chunk does not come here,
 * and the second finds no past. */
static status double_frames(struct vae_pass *p, const struct layer *l, struct tensor frames,
                            struct tensor x)
{
    struct device *dev = p->v->dev;
    const struct tensor *w = &p->v->tensors[l->tensor];
    const struct tensor halves =
        tensor_permute(tensor_split(frames, 0, 2), (const int[]){ 1, 0, 2, 3, 4 });
    const struct tensor past = p->chunk > 1 ? p->slot[l->slot] : none;
    const int64_t c = l->in;

    for (int i = 0; i < 2; i++)
        TRY(op_conv3d(dev, tensor_at(halves, i), x, past, tensor_slice(w[2], 0, i * c, c),
                      tensor_slice(w[3], 0, i * c, c), none,
                      (struct conv){ .stride_t = 1, .stride = 1, .front = 2 }));
    return keep_past(p, l->slot, past, x);
}

/* Twice the rows and columns, nearest, then a convolution. */
static status up(struct vae_pass *p, const struct layer *l, struct tensor *x)
{
    struct device *dev = p->v->dev;
    const struct tensor *w = &p->v->tensors[l->tensor];
    const bool time = l->time && p->chunk > 0;
    const int64_t t = time ? 2 * x->dim[0] : x->dim[0], h = x->dim[1], cols = x->dim[2];
    const struct tensor out = other(p, p->v->dtype, t, 2 * h, 2 * cols, l->out);
    const size_t mark = p->a->used;
    struct conv conv = over_seams(p);
    struct tensor frames = *x;
    status st;

    conv.twice = true;
    if (time) {
        TRY_OUT(rows_take(&p->rows, p->a, &frames, p->v->dtype, t, h, cols, l->in));
        TRY_OUT(double_frames(p, l, frames, *x));
    }
    TRY_OUT(bring_seams(p, frames, true));
    TRY_OUT(op_conv3d(dev, out, rows_around(&p->rows, frames, true), none, w[0], w[1], none, conv));
    p->at = !p->at;
    *x = out;
out:
    arena_release(p->a, mark);
    return st;
}

/* ---- the pass ---- */

/* dims [T, h, W, C] of a layer's input become those of its output. */
static void layer_dims(const struct layer *l, bool first, int64_t *dim)
{
    const bool time = l->time && !first;

    if (l->kind == LAYER_DOWN) {
        dim[0] /= time ? 2 : 1;
        dim[1] /= 2, dim[2] /= 2;
    } else if (l->kind == LAYER_UP) {
        dim[0] *= time ? 2 : 1;
        dim[1] *= 2, dim[2] *= 2;
    }
    dim[3] = l->out;
}

/* A slot of a causal convolution's: two frames with their seam rows. */
static status take_slot(struct vae_pass *p, struct tensor *slot, const int64_t *in, int64_t c)
{
    struct tensor own;

    TRY(rows_take(&p->rows, p->a, &own, p->v->dtype, 2, in[1], in[2], c));
    *slot = rows_around(&p->rows, own, true);
    return ST_OK;
}

static status take_slots(struct vae_pass *p, const struct layer *l, const int64_t *in,
                         const int64_t *out)
{
    const enum dtype dt = p->v->dtype;
    struct tensor *slot = &p->slot[l->slot];

    if (l->kind == LAYER_CONV || l->kind == LAYER_HEAD || l->kind == LAYER_RESIDUAL)
        TRY(take_slot(p, &slot[0], in, l->in));
    if (l->kind == LAYER_RESIDUAL)
        TRY(take_slot(p, &slot[1], in, l->out));
    if (l->kind == LAYER_UP && l->time)
        TRY(arena_take(p->a, &slot[0], dt, 2, in[1], in[2], l->in));
    if (l->kind == LAYER_DOWN && l->time)
        TRY(arena_take(p->a, &slot[0], dt, 1, out[1], out[2], l->out));
    return ST_OK;
}

status vae_pass_open(struct vae_pass *p, struct vae *v, const struct vae_net *net, struct arena *a,
                     struct rows rows, int64_t frames, int64_t scale, int64_t cols, int64_t chunks)
{
    int64_t dim[4] = { frames, rows.count * scale, cols, net->layer[0].in };
    size_t bytes = 0;

    *p = (struct vae_pass){ .v = v, .net = net, .a = a, .rows = rows, .chunks = chunks };
    p->slot = calloc((size_t)net->slots, sizeof(p->slot[0]));
    if (p->slot == NULL)
        return fail(ST_MEMORY, "no host memory for %d cache slots", net->slots);
    for (int i = 0; i < net->layers; i++) {
        const struct layer *l = &net->layer[i];
        const int64_t in[4] = { dim[0], dim[1], dim[2], dim[3] };
        const enum dtype dt = l->kind == LAYER_HEAD ? DT_F32 : v->dtype;
        size_t need;

        layer_dims(l, chunks == 1, dim);
        if (chunks > 1) // a single chunk has no future
            TRY(take_slots(p, l, in, dim));
        need = rows_bytes(&p->rows, dt, dim[0], dim[1], dim[2], dim[3]);
        bytes = need > bytes ? need : bytes;
    }
    TRY(arena_take(a, &p->buffer[0], DT_U8, (int64_t)bytes));
    return arena_take(a, &p->buffer[1], DT_U8, (int64_t)bytes);
}

void vae_pass_close(struct vae_pass *p, size_t mark)
{
    free(p->slot);
    if (p->a != NULL)
        arena_release(p->a, mark);
    *p = (struct vae_pass){ 0 };
}

status vae_pass_run(struct vae_pass *p, struct tensor *out, struct tensor x)
{
    static status (*const run[])(struct vae_pass *, const struct layer *, struct tensor *) = {
        [LAYER_CONV] = first_conv,
        [LAYER_RESIDUAL] = residual_block,
        [LAYER_ATTENTION] = attention_block,
        [LAYER_DOWN] = down,
        [LAYER_UP] = up,
        [LAYER_HEAD] = head,
    };

    for (int i = 0; i < p->net->layers; i++)
        TRY(run[p->net->layer[i].kind](p, &p->net->layer[i], &x));
    p->chunk++;
    *out = x;
    return ST_OK;
}
