/* What the layers compute. Source: Wan2.1 wan/modules/vae.py, the classes of the same names, with
 * the caches that their forward passes keep between chunks.
 *
 * A causal convolution's input is a stack [2 + T, 1 + h + 1, W, C]: in front the two frames that
 * its layer saw last (zeros before the first chunk), above and below the neighbours' rows. The
 * cache is the last two frames of the stack as they stand, seam rows included. */
#include "model/vae_internal.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

static const struct tensor none;

/* ---- memory between the layers ---- */

/* The buffer that does not hold the current picture, as one. */
static struct tensor other(const struct vae_pass *p, enum dtype dt, int64_t t, int64_t h, int64_t w,
                           int64_t c)
{
    const struct tensor x = tensor_of(p->buffer[!p->at].data, dt, t, h, w, c);

    assert(tensor_bytes(x) <= tensor_bytes(p->buffer[!p->at]));
    return x;
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
    return op_conv3d(p->v->dev, out, x, tensor_reshape(w, w.dim[0], 1, 1, 1, w.dim[1]), bias,
                     residual, (struct conv){ 1, 1, 0, 0, false });
}

/* The frames before this chunk into the front of a stack. `none_yet`: there were none. */
static status load_past(struct vae_pass *p, struct tensor front, int slot, bool none_yet)
{
    if (none_yet)
        return device_zero(p->v->dev, front);
    return op_copy(p->v->dev, front, p->slot[slot]);
}

/* Keeps the last frames of a stack for the next chunk. */
static status keep_past(struct vae_pass *p, int slot, struct tensor stack)
{
    if (p->chunk + 1 == p->chunks)
        return ST_OK;

    const int64_t n = p->slot[slot].dim[0];

    return op_copy(p->v->dev, p->slot[slot], tensor_slice(stack, 0, stack.dim[0] - n, n));
}

/* ---- causal convolutions 3x3x3 ---- */

/* A stack for a chunk of x's size and c channels; *inside is where the chunk goes. */
static status stack_open(struct vae_pass *p, struct tensor *stack, struct tensor *inside,
                         struct tensor x, int64_t c)
{
    const int64_t t = x.dim[0], h = x.dim[1];

    TRY(arena_take(p->a, stack, p->v->dtype, t + 2, h + 2, x.dim[2], c));
    *inside = tensor_slice(tensor_slice(*stack, 0, 2, t), 1, 1, h);
    return ST_OK;
}

/* out = conv(stack) + residual, once the chunk's seams have come and meanwhile the past; w: kernel,
 * bias. */
static status stack_conv(struct vae_pass *p, struct tensor out, struct tensor stack, int slot,
                         const struct tensor *w, struct tensor residual)
{
    struct device *dev = p->v->dev;
    const struct tensor chunk = tensor_slice(stack, 0, 2, stack.dim[0] - 2);
    struct halo halo;

    TRY(rows_halo_start(&p->rows, &halo, dev, p->a, chunk, true));
    TRY(load_past(p, tensor_slice(stack, 0, 0, 2), slot, p->chunk == 0));
    TRY(rows_halo_finish(&p->rows, &halo, dev, p->a, chunk, true));
    TRY(keep_past(p, slot, stack));
    return op_conv3d(dev, out, stack, w[0], w[1], residual, (struct conv){ 1, 1, 1, 1, false });
}

static status first_conv(struct vae_pass *p, const struct layer *l, struct tensor *x)
{
    const struct tensor *w = &p->v->tensors[l->tensor];
    const struct tensor out = other(p, p->v->dtype, x->dim[0], x->dim[1], x->dim[2], l->out);
    const size_t mark = p->a->used;
    struct tensor stack, inside;
    status st;

    TRY_OUT(stack_open(p, &stack, &inside, *x, l->in));
    TRY_OUT(op_copy(p->v->dev, inside, *x));
    TRY_OUT(stack_conv(p, out, stack, l->slot, w, none));
    p->at = !p->at;
    *x = out;
out:
    arena_release(p->a, mark);
    return st;
}

/* x + conv(silu(norm(conv(silu(norm(x)))))), the x in front through the shortcut where the widths
 * differ. */
static status residual_block(struct vae_pass *p, const struct layer *l, struct tensor *x)
{
    struct device *dev = p->v->dev;
    const struct tensor *w = &p->v->tensors[l->tensor];
    const struct tensor hidden = other(p, p->v->dtype, x->dim[0], x->dim[1], x->dim[2], l->out);
    const size_t mark = p->a->used;
    struct tensor stack, inside;
    status st;

    TRY_OUT(stack_open(p, &stack, &inside, *x, l->in));
    TRY_OUT(op_channel_norm(dev, inside, *x, w[0], ACT_SILU));
    TRY_OUT(stack_conv(p, hidden, stack, l->slot, &w[1], none));
    arena_release(p->a, mark);

    TRY_OUT(stack_open(p, &stack, &inside, hidden, l->out));
    TRY_OUT(op_channel_norm(dev, inside, hidden, w[3], ACT_SILU));
    if (l->in != l->out) { // hidden has gone into the stack: its place takes the shortcut
        TRY_OUT(mix(p, hidden, *x, w[6], w[7], none));
        p->at = !p->at;
        *x = hidden;
    }
    TRY_OUT(stack_conv(p, *x, stack, l->slot + 1, &w[4], *x));
out:
    arena_release(p->a, mark);
    return st;
}

/* f32 whatever the pass computes in: what follows is at most a few channels wide. */
static status head(struct vae_pass *p, const struct layer *l, struct tensor *x)
{
    const struct tensor *w = &p->v->tensors[l->tensor];
    const struct tensor out = other(p, DT_F32, x->dim[0], x->dim[1], x->dim[2], l->out);
    const size_t mark = p->a->used;
    struct tensor stack, inside;
    status st;

    TRY_OUT(stack_open(p, &stack, &inside, *x, l->in));
    TRY_OUT(op_channel_norm(p->v->dev, inside, *x, w[0], ACT_SILU));
    TRY_OUT(stack_conv(p, out, stack, l->slot, &w[1], none));
    p->at = !p->at;
    *x = out;
out:
    arena_release(p->a, mark);
    return st;
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
    struct tensor frames, spatial = out, stack;
    status st;

    if (time) {
        TRY_OUT(arena_take(p->a, &frames, p->v->dtype, 1 + t, h / 2, cols / 2, l->out));
        spatial = tensor_slice(frames, 0, 1, t);
    }
    TRY_OUT(arena_take(p->a, &stack, p->v->dtype, t, h + 1, cols, l->in));
    TRY_OUT(op_copy(dev, tensor_slice(stack, 1, 0, h), *x));
    TRY_OUT(rows_halo(&p->rows, dev, p->a, stack, false));
    TRY_OUT(op_conv3d(dev, spatial, stack, w[0], w[1], none, (struct conv){ 1, 2, 0, 1, false }));
    if (time) {
        TRY_OUT(load_past(p, tensor_slice(frames, 0, 0, 1), l->slot, false));
        TRY_OUT(keep_past(p, l->slot, frames));
        TRY_OUT(op_conv3d(dev, out, frames, w[2], w[3], none, (struct conv){ 2, 1, 0, 0, false }));
    } else if (l->time) {
        TRY_OUT(keep_past(p, l->slot, out));
    }
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
    const int64_t t = x.dim[0], h = x.dim[1], cols = x.dim[2], c = l->in;
    const size_t mark = p->a->used;
    struct tensor stack;
    status st;

    TRY_OUT(arena_take(p->a, &stack, p->v->dtype, 2 + t, h, cols, c));
    TRY_OUT(load_past(p, tensor_slice(stack, 0, 0, 2), l->slot, p->chunk == 1));
    TRY_OUT(op_copy(dev, tensor_slice(stack, 0, 2, t), x));
    TRY_OUT(keep_past(p, l->slot, stack));
    for (int i = 0; i < 2; i++)
        TRY_OUT(op_conv3d(dev, tensor_at(halves, i), stack, tensor_slice(w[2], 0, i * c, c),
                          tensor_slice(w[3], 0, i * c, c), none,
                          (struct conv){ 1, 1, 0, 0, false }));
out:
    arena_release(p->a, mark);
    return st;
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
    struct tensor stack, inside;
    status st;

    TRY_OUT(arena_take(p->a, &stack, p->v->dtype, t, h + 2, cols, l->in));
    inside = tensor_slice(stack, 1, 1, h);
    if (time)
        TRY_OUT(double_frames(p, l, inside, *x));
    else
        TRY_OUT(op_copy(dev, inside, *x));
    TRY_OUT(rows_halo(&p->rows, dev, p->a, stack, true));
    TRY_OUT(op_conv3d(dev, out, stack, w[0], w[1], none, (struct conv){ 1, 1, 1, 1, true }));
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

static status take_slots(struct vae_pass *p, const struct layer *l, const int64_t *in,
                         const int64_t *out)
{
    const enum dtype dt = p->v->dtype;
    struct tensor *slot = &p->slot[l->slot];

    if (l->kind == LAYER_CONV || l->kind == LAYER_HEAD || l->kind == LAYER_RESIDUAL)
        TRY(arena_take(p->a, &slot[0], dt, 2, in[1] + 2, in[2], l->in));
    if (l->kind == LAYER_RESIDUAL)
        TRY(arena_take(p->a, &slot[1], dt, 2, in[1] + 2, in[2], l->out));
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
    int64_t bytes = 0;

    *p = (struct vae_pass){ .v = v, .net = net, .a = a, .rows = rows, .chunks = chunks };
    p->slot = calloc((size_t)net->slots, sizeof(p->slot[0]));
    if (p->slot == NULL)
        return fail(ST_MEMORY, "no host memory for %d cache slots", net->slots);
    for (int i = 0; i < net->layers; i++) {
        const struct layer *l = &net->layer[i];
        const int64_t in[4] = { dim[0], dim[1], dim[2], dim[3] };
        const size_t size = dtype_size(l->kind == LAYER_HEAD ? DT_F32 : v->dtype);

        layer_dims(l, chunks == 1, dim);
        if (chunks > 1) // a single chunk has no future
            TRY(take_slots(p, l, in, dim));
        const int64_t need = dim[0] * dim[1] * dim[2] * dim[3] * (int64_t)size;
        bytes = need > bytes ? need : bytes;
    }
    TRY(arena_take(a, &p->buffer[0], DT_U8, bytes));
    return arena_take(a, &p->buffer[1], DT_U8, bytes);
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
