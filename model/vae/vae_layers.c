/* What the layers compute. Source: Wan2.1 wan/modules/vae.py and Wan2.2 wan/modules/vae2_2.py, the
 * classes of the same names, with the feature caches that their forward passes keep between chunks.
 *
 * Every activation [T, h, W, C] is this rank's rows, in memory that also holds a halo row above and
 * below (parallel/halo.h). A causal convolution pads its chunk in front with the last two frames of
 * the layer's previous input, or zeros before the first chunk. These frames are kept in a cache
 * slot, with their halo rows. */
#include "model/vae/vae_internal.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

#define ALIGN 256 // of tensors

static const struct tensor none;

static size_t align_up(size_t bytes)
{
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

/* ---- memory between the layers ---- */

/* A tensor in the buffer that does not hold the current activation. */
static struct tensor spare_buffer(const struct vae_pass *p, enum dtype dt, int64_t t, int64_t h,
                                  int64_t w, int64_t c)
{
    const struct tensor buffer = p->buffer[!p->current];

    assert(rows_bytes(&p->rows, dt, t, h, w, c) <= tensor_bytes(buffer));
    return rows_view(&p->rows, buffer.data, dt, t, h, w, c);
}

/* [T, h, W, C] as a matrix [T h W, C]. */
static struct tensor flatten(struct tensor x)
{
    return tensor_reshape(x, tensor_count(x) / x.dim[x.ndim - 1], x.dim[x.ndim - 1]);
}

/* A convolution of one pixel, or along time. */
static struct conv conv_of_pixel(const struct vae_pass *p)
{
    return (struct conv){ .stride_t = 1, .stride = 1, .tf32 = p->v->factors == DT_F16 };
}

/* out = x w^T + bias + residual for each pixel: a 1x1x1 convolution; w: a matrix [out, in]. x is
 * times 2^exponent. */
static status conv1x1(struct vae_pass *p, struct tensor out, struct tensor x, int exponent,
                      struct tensor w, struct tensor bias, struct tensor residual)
{
    struct conv conv = conv_of_pixel(p);

    conv.exponent = exponent;
    return op_conv3d(p->v->dev, out, x, none, tensor_reshape(w, w.dim[0], 1, 1, 1, w.dim[1]), bias,
                     residual, conv);
}

/* Stores the last frames of (past, x) in a cache slot for the next chunk. past: the slot's tensor,
 * or `none` if it holds no frames yet. */
static status keep_past(struct vae_pass *p, int slot, struct tensor past, struct tensor x)
{
    const struct tensor cache = p->slot[slot];
    const int64_t n = cache.dim[0], t = x.dim[0] < n ? x.dim[0] : n;

    if (p->last)
        return ST_OK;
    assert(n <= 2);
    if (t < n && past.data == NULL)
        TRY(device_zero(p->v->dev, tensor_slice(cache, 0, 0, n - t)));
    else if (t < n)
        TRY(op_copy(p->v->dev, tensor_slice(cache, 0, 0, n - t), tensor_slice(past, 0, t, n - t)));
    return op_copy(p->v->dev, tensor_slice(cache, 0, n - t, t),
                   tensor_slice(x, 0, x.dim[0] - t, t));
}

/* ---- halo rows ---- */

/* out = conv(past, x) + residual, over x with its halo rows, which this fetches: on GPUs while the
 * pixels that do not read them are computed. Collective over the ranks that hold rows. */
static status halo_conv(struct vae_pass *p, struct tensor out, struct tensor x, bool above,
                        struct tensor past, struct linear l, struct tensor residual,
                        struct conv conv)
{
    struct transfer t = { 0 };

    TRY(rows_halo_exchange(&p->rows, &t, x, above));
    TRY(rows_halo_arrivals(&p->rows, &t, above, &conv.first_row, &conv.last_row));
    TRY(op_conv3d(p->v->dev, out, rows_with_halo(&p->rows, x, above), past, l.w, l.b, residual,
                  conv));
    return transfer_wait(&t);
}

/* A 3x3 convolution over rows with halo rows; zero padding only at the edges of the image. */
static struct conv conv3x3(const struct vae_pass *p)
{
    return (struct conv){ .stride_t = 1,
                          .stride = 1,
                          .top = 1 - halo_above(&p->rows),
                          .bottom = 1 - halo_below(&p->rows),
                          .left = 1,
                          .right = 1,
                          .tf32 = p->v->factors == DT_F16 };
}

/* ---- causal convolutions 3x3x3 ---- */

/* out = conv(past, x) + residual. x and past are times 2^exponent. */
static status causal_conv(struct vae_pass *p, struct tensor out, struct tensor x, int exponent,
                          struct tensor past, struct linear l, struct tensor residual)
{
    struct conv conv = conv3x3(p);

    conv.front = 2;
    conv.exponent = exponent;
    return halo_conv(p, out, x, true, past, l, residual, conv);
}

/* Some frames of normed_conv, whose norm is stored in `normed`, after the frames `past`. */
static status some_frames(struct vae_pass *p, struct tensor out, struct tensor normed,
                          struct tensor past, struct tensor x, const struct layer *l, int conv,
                          struct tensor from)
{
    const int exponent = conv == 0 ? l->exponent1 : l->exponent2;

    TRY(op_channel_norm(p->v->dev, normed, x, conv == 0 ? l->norm1 : l->norm2, ACT_SILU, exponent));
    if (conv == 0)
        return causal_conv(p, out, normed, exponent, past, l->conv1, none);
    if (l->in != l->out)
        TRY(conv1x1(p, out, from, 0, l->shortcut.w, l->shortcut.b, none));
    return causal_conv(p, out, normed, exponent, past, l->conv2, out);
}

/* out = conv(silu(norm(x))) of a layer's first norm and convolution; of its second (conv 1) also
 * + out, or, if in != out, + shortcut(from); then out may be x.
 *
 * The norm of a chunk's last two frames is what the next chunk needs. On one rank, those of a chunk
 * of four are computed after the others and written to the cache at once, instead of copied. */
static status normed_conv(struct vae_pass *p, struct tensor out, struct tensor x,
                          const struct layer *l, int conv, struct tensor from)
{
    const struct tensor cache = p->slot[l->slot + conv], past = p->chunk > 0 ? cache : none;
    const int64_t n = x.dim[0];
    const bool halves = n == 4 && p->rows.ranks == 1 && p->chunk > 0;
    const int64_t count = halves ? 2 : n;
    const size_t mark = p->a->used;
    struct tensor normed;
    status st;

    TRY_OUT(rows_take(&p->rows, p->a, &normed, p->v->factors, count, x.dim[1], x.dim[2], x.dim[3]));
    TRY_OUT(some_frames(p, tensor_slice(out, 0, 0, count), normed, past,
                        tensor_slice(x, 0, 0, count), l, conv, tensor_slice(from, 0, 0, count)));
    if (halves)
        TRY_OUT(some_frames(p, tensor_slice(out, 0, 2, 2), cache, normed, tensor_slice(x, 0, 2, 2),
                            l, conv, tensor_slice(from, 0, 2, 2)));
    else
        TRY_OUT(keep_past(p, l->slot + conv, past, rows_with_halo(&p->rows, normed, true)));
out:
    arena_release(p->a, mark);
    return st;
}

static status first_conv(struct vae_pass *p, const struct layer *l, struct tensor *x)
{
    const struct tensor out = spare_buffer(p, p->v->dtype, x->dim[0], x->dim[1], x->dim[2], l->out);

    const struct tensor past = p->chunk > 0 ? p->slot[l->slot] : none;

    TRY(causal_conv(p, out, *x, 0, past, l->conv1, none));
    TRY(keep_past(p, l->slot, past, rows_with_halo(&p->rows, *x, true)));
    p->current = !p->current;
    *x = out;
    return ST_OK;
}

/* x = shortcut(x) + conv(silu(norm(conv(silu(norm(x)))))); the shortcut is a 1x1x1 convolution if
 * the channel counts differ, else the identity. */
static status residual_block(struct vae_pass *p, const struct layer *l, struct tensor *x)
{
    const struct tensor hidden =
        spare_buffer(p, p->v->dtype, x->dim[0], x->dim[1], x->dim[2], l->out);

    TRY(normed_conv(p, hidden, *x, l, 0, *x));
    if (l->in == l->out)
        return normed_conv(p, *x, hidden, l, 1, *x);
    TRY(normed_conv(p, hidden, hidden, l, 1, *x)); // each frame's norm is taken before its sum
    p->current = !p->current;
    *x = hidden;
    return ST_OK;
}

/* x = conv(silu(norm(x))), in f32 for any v->dtype, as it has only a few channels. */
static status head(struct vae_pass *p, const struct layer *l, struct tensor *x)
{
    const struct tensor out = spare_buffer(p, DT_F32, x->dim[0], x->dim[1], x->dim[2], l->out);

    TRY(normed_conv(p, out, *x, l, 0, *x));
    p->current = !p->current;
    *x = out;
    return ST_OK;
}

/* ---- attention over the whole image ---- */

/* x += proj(attention(norm(x))): one head; q of this rank's rows, k and v of all rows, which are
 * gathered while q is computed. */
static status attention_block(struct vae_pass *p, const struct layer *l, struct tensor *x)
{
    struct device *dev = p->v->dev;
    const int64_t h = x->dim[1], cols = x->dim[2], c = l->in, scale = h / p->rows.count;
    const struct tensor normed = spare_buffer(p, p->v->factors, 1, h, cols, c);
    const struct tensor mixed = spare_buffer(p, p->v->dtype, 1, h, cols, c); // in the same memory
    const size_t mark = p->a->used;
    struct transfer gather = { 0 };
    struct tensor q, all;
    status st;

    assert(x->dim[0] == 1); // at the coarsest scale a chunk is one frame
    TRY_OUT(op_channel_norm(dev, normed, *x, l->norm1, ACT_NONE, l->exponent1));
    TRY_OUT(arena_take(p->a, &q, p->v->dtype, 1, h, cols, c));
    TRY_OUT(arena_take(p->a, &all, p->v->dtype, 1, p->rows.total * scale, cols, 2 * c));

    const struct tensor kv = tensor_slice(all, 1, p->rows.first * scale, h);

    TRY_OUT(conv1x1(p, kv, normed, l->exponent1, tensor_slice(l->qkv.w, 0, c, 2 * c),
                    tensor_slice(l->qkv.b, 0, c, 2 * c), none));
    if (p->rows.ranks > 1)
        TRY_OUT(rows_gather(&p->rows, &gather, all, kv, scale, -1));
    TRY_OUT(conv1x1(p, q, normed, l->exponent1, tensor_slice(l->qkv.w, 0, 0, c),
                    tensor_slice(l->qkv.b, 0, 0, c), none));
    TRY_OUT(transfer_wait(&gather));

    const struct tensor heads = tensor_split(flatten(all), 1, c); // [S, 2, C]
    const struct tensor q1 = tensor_split(flatten(q), 1, c);      // [S, 1, C]

    TRY_OUT(op_attention(dev, tensor_reshape(tensor_at(mixed, 0), h * cols, 1, c), none, q1,
                         tensor_slice(heads, 1, 0, 1), tensor_slice(heads, 1, 1, 1),
                         (float)(1 / sqrt((double)c))));
    TRY_OUT(conv1x1(p, *x, mixed, 0, l->proj.w, l->proj.b, *x));
out:
    arena_release(p->a, mark);
    return st;
}

/* ---- downsampling and upsampling ---- */

/* Halves rows and columns, by a convolution of stride 2 padded on the right and below. With l->time
 * also halves the frames, except in the first chunk: its single frame stays, and is cached. */
static status downsample(struct vae_pass *p, const struct layer *l, struct tensor *x)
{
    struct device *dev = p->v->dev;
    const int64_t t = x->dim[0], h = x->dim[1], cols = x->dim[2];
    const bool time = l->time && p->chunk > 0;
    const size_t mark = p->a->used;
    struct tensor out = spare_buffer(p, p->v->dtype, time ? t / 2 : t, h / 2, cols / 2, l->out);
    const struct tensor past = time ? p->slot[l->slot] : none;
    struct conv conv = conv3x3(p), along_time = conv_of_pixel(p);
    struct tensor spatial = out;
    status st;

    conv.stride = 2;
    conv.top = conv.left = 0;
    along_time.stride_t = 2;
    along_time.front = 1;
    if (time)
        TRY_OUT(arena_take(p->a, &spatial, p->v->dtype, t, h / 2, cols / 2, l->out));
    TRY_OUT(halo_conv(p, spatial, *x, false, none, l->conv1, none, conv));
    if (time)
        TRY_OUT(
            op_conv3d(dev, out, spatial, past, l->time_conv.w, l->time_conv.b, none, along_time));
    if (l->time)
        TRY_OUT(keep_past(p, l->slot, past, spatial));
    p->current = !p->current;
    *x = out;
out:
    arena_release(p->a, mark);
    return st;
}

/* Doubles the frames: a convolution along time computes 2C channels, of which the first C are the
 * earlier frame. frames: [2T, h, W, C], rows may be strided. Not called for the first chunk; for
 * the second there is no past. */
static status double_frames(struct vae_pass *p, const struct layer *l, struct tensor frames,
                            struct tensor x)
{
    struct device *dev = p->v->dev;
    const struct tensor halves =
        tensor_permute(tensor_split(frames, 0, 2), (const int[]){ 1, 0, 2, 3, 4 });
    const struct tensor past = p->chunk > 1 ? p->slot[l->slot] : none;
    const int64_t c = l->in;
    struct conv conv = conv_of_pixel(p);

    conv.front = 2;
    for (int i = 0; i < 2; i++)
        TRY(op_conv3d(dev, tensor_at(halves, i), x, past, tensor_slice(l->time_conv.w, 0, i * c, c),
                      tensor_slice(l->time_conv.b, 0, i * c, c), none, conv));
    return keep_past(p, l->slot, past, x);
}

/* Doubles rows and columns (nearest neighbour), then a convolution. With l->time first doubles the
 * frames, except in the first chunk. */
static status upsample(struct vae_pass *p, const struct layer *l, struct tensor *x)
{
    const bool time = l->time && p->chunk > 0;
    const int64_t t = time ? 2 * x->dim[0] : x->dim[0], h = x->dim[1], cols = x->dim[2];
    const struct tensor out = spare_buffer(p, p->v->dtype, t, 2 * h, 2 * cols, l->out);
    const size_t mark = p->a->used;
    struct conv conv = conv3x3(p);
    struct tensor frames = *x;
    status st;

    conv.upsample2x = true;
    if (time) {
        TRY_OUT(rows_take(&p->rows, p->a, &frames, p->v->dtype, t, h, cols, l->in));
        TRY_OUT(double_frames(p, l, frames, *x));
    }
    TRY_OUT(halo_conv(p, out, frames, true, none, l->conv1, none, conv));
    p->current = !p->current;
    *x = out;
out:
    arena_release(p->a, mark);
    return st;
}

/* ---- patches of pixels ---- */

/* A frame [h, W, C] of pixels, and one [h / s, W / s, >= C s s] of patches, both as [h / s, W / s,
 * C, s, s] with the columns of a patch before its rows. */
static struct tensor of_pixels(struct tensor frame, int64_t s)
{
    return tensor_permute(tensor_split(tensor_split(frame, 0, s), 2, s),
                          (const int[]){ 0, 2, 4, 3, 1 });
}

static struct tensor of_patches(struct tensor frame, int64_t colours, int64_t s)
{
    return tensor_split(tensor_split(tensor_slice(frame, 2, 0, colours * s * s), 2, s * s), 3, s);
}

static status join_pixels(struct vae_pass *p, const struct layer *l, struct tensor *x)
{
    const struct tensor out =
        spare_buffer(p, p->v->dtype, x->dim[0], x->dim[1] / l->scale, x->dim[2] / l->scale, l->out);

    if (l->out > l->in * l->scale * l->scale)
        TRY(device_zero(p->v->dev, rows_with_halo(&p->rows, out, true)));
    for (int64_t i = 0; i < x->dim[0]; i++)
        TRY(op_copy(p->v->dev, of_patches(tensor_at(out, i), l->in, l->scale),
                    of_pixels(tensor_at(*x, i), l->scale)));
    p->current = !p->current;
    *x = out;
    return ST_OK;
}

static status split_patches(struct vae_pass *p, const struct layer *l, struct tensor *x)
{
    const struct tensor out =
        spare_buffer(p, DT_F32, x->dim[0], x->dim[1] * l->scale, x->dim[2] * l->scale, l->out);

    for (int64_t i = 0; i < x->dim[0]; i++)
        TRY(op_copy(p->v->dev, of_pixels(tensor_at(out, i), l->scale),
                    of_patches(tensor_at(*x, i), l->out, l->scale)));
    p->current = !p->current;
    *x = out;
    return ST_OK;
}

/* ---- shortcuts around levels ---- */

/* The memory of what is kept is taken until the join. In the first chunk a pair of frames is one
 * frame: average_down and repeat_up then leave the pair's first frame out. */
static status fork_level(struct vae_pass *p, const struct layer *l, struct tensor *x)
{
    const int64_t frames = l->time && p->chunk > 0 ? x->dim[0] / 2 : x->dim[0];

    p->mark = p->a->used;
    TRY(arena_take(p->a, &p->kept, p->v->dtype, frames, x->dim[1] / l->scale, x->dim[2] / l->scale,
                   l->out));
    return op_average_down(p->v->dev, p->kept, *x, l->time ? 2 : 1);
}

static status join_level(struct vae_pass *p, const struct layer *l, struct tensor *x)
{
    TRY(op_repeat_up(p->v->dev, *x, *x, p->kept, l->time ? 2 : 1));
    arena_release(p->a, p->mark);
    return ST_OK;
}

/* ---- the pass ---- */

/* Changes dim [T, h, W, C] from a layer's input to its output. */
static void layer_dims(const struct layer *l, bool first, int64_t *dim)
{
    const bool time = l->time && !first;

    if (l->kind == LAYER_FORK || l->kind == LAYER_JOIN)
        return;
    if (l->kind == LAYER_DOWN || l->kind == LAYER_PATCHES) {
        dim[0] /= time ? 2 : 1;
        dim[1] /= l->scale, dim[2] /= l->scale;
    } else {
        dim[0] *= time ? 2 : 1;
        dim[1] *= l->scale, dim[2] *= l->scale;
    }
    dim[3] = l->out;
}

/* Allocates the cache slot of a causal convolution: two frames with halo rows. */
static status alloc_slot(struct vae_pass *p, struct tensor *slot, enum dtype dt, const int64_t *in,
                         int64_t c)
{
    struct tensor rows;

    TRY(rows_take(&p->rows, p->a, &rows, dt, 2, in[1], in[2], c));
    *slot = rows_with_halo(&p->rows, rows, true);
    return ST_OK;
}

static status alloc_slots(struct vae_pass *p, const struct layer *l, const int64_t *in,
                          const int64_t *out)
{
    const enum dtype dt = p->v->dtype, factors = p->v->factors;
    struct tensor *slot = &p->slot[l->slot];

    if (l->kind == LAYER_CONV || l->kind == LAYER_HEAD || l->kind == LAYER_RESIDUAL)
        TRY(alloc_slot(p, &slot[0], l->kind == LAYER_CONV ? dt : factors, in, l->in));
    if (l->kind == LAYER_RESIDUAL)
        TRY(alloc_slot(p, &slot[1], factors, in, l->out));
    if (l->kind == LAYER_UP && l->time)
        TRY(arena_take(p->a, &slot[0], dt, 2, in[1], in[2], l->in));
    if (l->kind == LAYER_DOWN && l->time)
        TRY(arena_take(p->a, &slot[0], dt, 1, out[1], out[2], l->out));
    return ST_OK;
}

/* The layer after the last one that doubles the frames; -1 if all layers take whole chunks. */
static int find_split(const struct vae_pass *p)
{
    int split = -1;

    for (int i = 0; i < p->net->layers && p->v->frame_by_frame && p->chunks > 1; i++) {
        const struct layer *l = &p->net->layer[i];

        if ((l->kind == LAYER_UP || l->kind == LAYER_JOIN) && l->time)
            split = i + 1;
    }
    return split;
}

status vae_pass_open(struct vae_pass *p, struct vae *v, const struct vae_net *net, struct arena *a,
                     struct rows rows, int64_t frames, int64_t scale, int64_t cols, int64_t chunks)
{
    int64_t dim[4] = { frames, rows.count * scale, cols, net->layer[0].in };
    size_t bytes = 0;

    *p = (struct vae_pass){ .v = v, .net = net, .a = a, .rows = rows, .chunks = chunks };
    p->split = find_split(p);
    p->slot = calloc((size_t)net->slots, sizeof(p->slot[0]));
    if (p->slot == NULL)
        return fail(ST_MEMORY, "no host memory for %d cache slots", net->slots);
    for (int i = 0; i < net->layers; i++) {
        const struct layer *l = &net->layer[i];
        const int64_t in[4] = { dim[0], dim[1], dim[2], dim[3] };
        const enum dtype dt = l->kind == LAYER_HEAD || l->kind == LAYER_PIXELS ? DT_F32 : v->dtype;
        const bool one = p->split >= 0 && i >= p->split;
        size_t need;

        layer_dims(l, chunks == 1, dim);
        if (chunks > 1) // no cache for a single chunk
            TRY(alloc_slots(p, l, in, dim));
        need = rows_bytes(&p->rows, dt, one ? 1 : dim[0], dim[1], dim[2], dim[3]);
        need = one ? 2 * align_up(need) : need; // both buffers of a frame, in one of a chunk
        bytes = need > bytes ? need : bytes;
    }
    if (p->split >= 0)
        TRY(arena_take(a, &p->result, DT_F32, dim[0], dim[1], dim[2], dim[3]));
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

/* Runs layers [first, end) on *x. */
static status run_layers(struct vae_pass *p, int first, int end, struct tensor *x)
{
    static status (*const run[])(struct vae_pass *, const struct layer *, struct tensor *) = {
        [LAYER_PATCHES] = join_pixels,
        [LAYER_PIXELS] = split_patches,
        [LAYER_FORK] = fork_level,
        [LAYER_JOIN] = join_level,
        [LAYER_CONV] = first_conv,
        [LAYER_RESIDUAL] = residual_block,
        [LAYER_ATTENTION] = attention_block,
        [LAYER_DOWN] = downsample,
        [LAYER_UP] = upsample,
        [LAYER_HEAD] = head,
    };

    for (int i = first; i < end; i++)
        TRY(run[p->net->layer[i].kind](p, &p->net->layer[i], x));
    return ST_OK;
}

/* Runs the layers from p->split on for each frame of x, which keeps its buffer: both halves of the
 * other one are the frame's buffers. *out: p->result. */
static status run_frames(struct vae_pass *p, struct tensor *out, struct tensor x)
{
    const struct tensor chunk[2] = { p->buffer[0], p->buffer[1] }, spare = chunk[!p->current];
    const int64_t half = tensor_bytes(spare) / 2 / ALIGN * ALIGN;
    const int current = p->current;
    const bool last = p->last;
    status st = ST_OK;

    p->buffer[0] = tensor_slice(spare, 0, 0, half);
    p->buffer[1] = tensor_slice(spare, 0, half, half);
    for (int64_t i = 0; i < x.dim[0]; i++) {
        struct tensor frame = tensor_slice(x, 0, i, 1);

        p->last = last && i + 1 == x.dim[0];
        p->current = 1; // x is in neither
        TRY_OUT(run_layers(p, p->split, p->net->layers, &frame));
        TRY_OUT(op_copy(p->v->dev, tensor_slice(p->result, 0, i, 1), frame));
    }
    *out = tensor_slice(p->result, 0, 0, x.dim[0]);
out:
    p->buffer[0] = chunk[0];
    p->buffer[1] = chunk[1];
    p->current = current;
    return st;
}

status vae_pass_run(struct vae_pass *p, struct tensor *out, struct tensor x)
{
    const int whole = p->split >= 0 ? p->split : p->net->layers;

    p->last = p->chunk + 1 == p->chunks;
    TRY(run_layers(p, 0, whole, &x));
    if (p->split >= 0)
        TRY(run_frames(p, &x, x));
    p->chunk++;
    *out = x;
    return ST_OK;
}
