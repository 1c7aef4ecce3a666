/* Overlapping tiles: each passes through the whole network separately. The results are added with
 * weights that decrease linearly towards tile edges inside the image.
 *
 * The sum of all tiles' weights at each pixel is computed first, and the weights are divided by it:
 * the sum of tiles needs no normalization at the end.
 * Source: DiffSynth-Studio diffsynth/models/wan_video_vae.py, tiled_decode and tiled_encode. */
#include "model/vae/vae_internal.h"

#include <stdlib.h>

/* Tiles along one axis: starts at 0, stride, ... until one reaches the end. */
static int64_t tile_count(int64_t total, int64_t size, int64_t stride)
{
    return total <= size ? 1 : 1 + (total - size + stride - 1) / stride;
}

struct blend {
    struct vae *v;
    struct arena *a;
    struct vae_tiling tiling;
    int64_t h, w;           // of the image, in latent rows and columns
    int64_t scale;          // rows of the result per latent row: 8 for pixels, 1 for latents
    struct tensor sum;      // rank 0: [F, h * scale, w * scale, C] f32
    struct tensor gate;     // rank 0: [rows, cols * C] f32, the weights of the current tile
    float *total;           // rank 0: [h * scale, w * scale], the sum of all tiles' weights
    float *weight;          // rank 0: the same in host memory
    struct vae_window tile; // the current tile
    int64_t done, chunks;   // chunks of all tiles: that were added, and all
    void (*progress)(void *payload, int64_t done, int64_t total); // NULL: none
    void *payload;
};

static struct vae_window tile_at(const struct blend *b, int64_t index)
{
    const struct vae_tiling *g = &b->tiling;
    const int64_t across = tile_count(b->w, g->size_w, g->stride_w);
    const int64_t row = index / across * g->stride_h, col = index % across * g->stride_w;

    return (struct vae_window){
        .row = row,
        .col = col,
        .rows = g->size_h < b->h - row ? g->size_h : b->h - row,
        .cols = g->size_w < b->w - col ? g->size_w : b->w - col,
    };
}

static int64_t total_tiles(const struct blend *b)
{
    return tile_count(b->h, b->tiling.size_h, b->tiling.stride_h) *
           tile_count(b->w, b->tiling.size_w, b->tiling.stride_w);
}

/* The weight of element i of n along one axis: linear over `border` elements at an edge that is
 * inside the image. Where both ramps overlap, that of the end is used. */
static float ramp(int64_t i, int64_t n, int64_t border, bool start_inside, bool end_inside)
{
    if (end_inside && n - i <= border)
        return (float)(n - i) / (float)border;
    if (start_inside && i < border)
        return (float)(i + 1) / (float)border;
    return 1;
}

static float weight_at(const struct blend *b, struct vae_window t, int64_t row, int64_t col)
{
    const struct vae_tiling *g = &b->tiling;
    const float down = ramp(row, t.rows * b->scale, (g->size_h - g->stride_h) * b->scale, t.row > 0,
                            t.row + t.rows < b->h);
    const float across = ramp(col, t.cols * b->scale, (g->size_w - g->stride_w) * b->scale,
                              t.col > 0, t.col + t.cols < b->w);

    return down < across ? down : across;
}

/* The element of b->total for element (row, col) of a tile. */
static float *total_at(const struct blend *b, struct vae_window t, int64_t row, int64_t col)
{
    return b->total + (t.row * b->scale + row) * b->w * b->scale + t.col * b->scale + col;
}

/* Allocates the sum of `frames` frames of c channels: on rank 0, set to zero, with the weights; on
 * other ranks only if `all_ranks`. */
static status blend_open(struct blend *b, int64_t frames, int64_t c, bool all_ranks)
{
    const int64_t rows = b->h * b->scale, cols = b->w * b->scale;
    const struct vae_window first = tile_at(b, 0); // no other is larger

    if (all_ranks || b->v->group->rank == 0)
        TRY(arena_take(b->a, &b->sum, DT_F32, frames, rows, cols, c));
    if (b->v->group->rank != 0)
        return ST_OK;
    TRY(device_zero(b->v->dev, b->sum));
    TRY(arena_take(b->a, &b->gate, DT_F32, first.rows * b->scale, first.cols * b->scale * c));
    b->total = calloc((size_t)(rows * cols), sizeof(b->total[0]));
    b->weight = malloc(tensor_bytes(b->gate));
    if (b->total == NULL || b->weight == NULL)
        return fail(ST_MEMORY, "no host memory for the weights of tiles of %lld x %lld",
                    (long long)cols, (long long)rows);
    for (int64_t i = 0; i < total_tiles(b); i++) {
        const struct vae_window t = tile_at(b, i);

        for (int64_t r = 0; r < t.rows * b->scale; r++)
            for (int64_t k = 0; k < t.cols * b->scale; k++)
                *total_at(b, t, r, k) += weight_at(b, t, r, k);
    }
    return ST_OK;
}

static void blend_close(struct blend *b)
{
    free(b->total);
    free(b->weight);
}

/* Makes tile `index` the current one: computes and uploads its weights. */
static status set_tile(struct blend *b, int64_t index)
{
    const struct vae_window t = b->tile = tile_at(b, index);

    if (b->v->group->rank != 0)
        return ST_OK;

    const int64_t rows = t.rows * b->scale, cols = t.cols * b->scale, c = b->sum.dim[3];
    float *out = b->weight;

    b->gate = tensor_of(b->gate.data, DT_F32, rows, cols * c);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t k = 0; k < cols; k++) {
            const float weight = weight_at(b, t, r, k) / *total_at(b, t, r, k);

            for (int64_t i = 0; i < c; i++)
                *out++ = weight;
        }
    return device_upload(b->v->dev, b->gate, b->weight);
}

/* Columns [col, col + cols) of one row of all frames of x: [T, cols * C], strided. */
static struct tensor row_view(struct tensor x, int64_t row, int64_t col, int64_t cols)
{
    x = tensor_slice(tensor_slice(x, 1, row, 1), 2, col, cols);
    x.ndim = 2;
    x.dim[1] = cols * x.dim[3];
    x.stride[1] = 1;
    return x;
}

/* vae_output callback: adds a chunk of the current tile to the sum. */
static status blend_chunk(void *payload, const struct rows *rows, int64_t first, struct tensor x)
{
    struct blend *b = payload;
    const struct vae_window t = b->tile;
    const size_t mark = b->a->used;
    struct tensor whole;
    status st;

    TRY_OUT(vae_gather(&whole, rows, b->a, x, b->scale));
    if (b->v->group->rank != 0)
        goto out;

    const struct tensor sum = tensor_slice(b->sum, 0, first, whole.dim[0]);

    for (int64_t r = 0; r < t.rows * b->scale; r++) {
        const struct tensor to =
            row_view(sum, t.row * b->scale + r, t.col * b->scale, t.cols * b->scale);

        TRY_OUT(op_gate_add(b->v->dev, to, to, row_view(whole, r, 0, t.cols * b->scale),
                            tensor_at(b->gate, r)));
    }
    b->done++;
    if (b->progress != NULL)
        b->progress(b->payload, b->done, b->chunks);
out:
    arena_release(b->a, mark);
    return st;
}

status vae_decode_tiles(struct vae *v, struct arena *a, const float *latent, int64_t t, int64_t h,
                        int64_t w, struct vae_tiling tiling, struct frame_sink sink, float *pixels)
{
    const int64_t frames = v->config.stride_t * (t - 1) + 1, chunk = v->config.stride_t;
    struct blend b = {
        .v = v, .a = a, .tiling = tiling, .h = h, .w = w, .scale = v->config.stride
    };
    const size_t mark = a->used;
    struct frame_output output = { 0 };
    status st;

    b.progress = sink.progress;
    b.payload = sink.payload;
    b.chunks = t * total_tiles(&b);
    st = device_zero(v->dev, v->mark);
    if (st == ST_OK)
        st = blend_open(&b, frames, 3, false);
    if (st == ST_OK && v->group->rank == 0)
        st = frame_output_open(&output, v->dev, a, sink, chunk, b.sum.dim[1], b.sum.dim[2]);
    TRY_OUT(frame_sink_ready(&sink, st));
    for (int64_t i = 0; i < total_tiles(&b); i++) {
        TRY_OUT(set_tile(&b, i));
        TRY_OUT(vae_decode_window(v, a, latent, t, h, w, b.tile,
                                  (struct vae_output){ blend_chunk, &b }));
    }
    if (v->group->rank != 0)
        goto out;

    for (int64_t i = 0, n; i < frames; i += n) {
        n = i == 0 ? 1 : chunk;
        TRY_OUT(op_to_u8(v->dev, frame_output_next(&output, n), tensor_slice(b.sum, 0, i, n),
                         frame_sink_add(&sink)));
        TRY_OUT(frame_output_put(&output, n));
    }
    if (pixels != NULL)
        TRY_OUT(device_download(v->dev, pixels, b.sum));
    st = frame_output_finish(&output);
out:
    frame_output_close(&output);
    blend_close(&b);
    arena_release(a, mark);
    return st;
}

status vae_encode_tiles(struct vae *v, struct arena *a, float *latent, struct frame_source source,
                        struct vae_tiling tiling)
{
    const int64_t px = v->config.stride, t = 1 + (source.frames - 1) / v->config.stride_t;
    struct blend b = {
        .v = v, .a = a, .tiling = tiling, .h = source.h / px, .w = source.w / px, .scale = 1
    };
    struct transfer transfer = { 0 };
    const size_t mark = a->used;
    status st;

    b.progress = source.progress;
    b.payload = source.payload;
    b.chunks = t * total_tiles(&b);
    TRY_OUT(frame_source_ready(&source, blend_open(&b, t, v->config.z, true)));
    for (int64_t i = 0; i < total_tiles(&b); i++) {
        TRY_OUT(set_tile(&b, i));
        TRY_OUT(vae_encode_window(v, a, source, b.tile, (struct vae_output){ blend_chunk, &b }));
    }
    if (v->group->size > 1)
        TRY_OUT(group_broadcast(v->group, &transfer, b.sum.data, tensor_bytes(b.sum), 0));
    TRY_OUT(transfer_wait(&transfer));
    TRY_OUT(device_download(v->dev, latent, b.sum));
    TRY_OUT(device_wait(v->dev));
out:
    blend_close(&b);
    arena_release(a, mark);
    return st;
}
