#include "model/vae/vae_internal.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

#define WIDTH_MAX 65536 // so that sizes of tensors fit 64 bits
#define BLOCKS_MAX 64
#define CHUNK 4 // frames of a chunk; the first chunk is a single frame

static bool is_width(int64_t base)
{
    return base >= 2 && base % 2 == 0 && base <= WIDTH_MAX; // the decoder halves it
}

static status check_config(const struct vae_config *c)
{
    if (c->stride_t != 4 || c->stride != 8 * c->patch || c->patch < 1 || c->patch > 2)
        return fail(ST_FORMAT,
                    "a VAE with time stride %lld, spatial stride %lld and patch size %lld is not "
                    "supported; Wan2.1 has 4, 8 and 1, Wan2.2 has 4, 16 and 2",
                    (long long)c->stride_t, (long long)c->stride, (long long)c->patch);
    if (c->z < 1 || c->z > VAE_CHANNELS_MAX || !is_width(c->base) || !is_width(c->decoder_base) ||
        c->res_blocks < 1 || c->res_blocks > BLOCKS_MAX)
        return fail(
            ST_FORMAT,
            "a VAE of widths %lld and %lld with %d blocks per level and %lld latent "
            "channels is not supported; Wan2.1 has 96, 96, 2 and 16, Wan2.2 160, 256, 2 and "
            "48",
            (long long)c->base, (long long)c->decoder_base, c->res_blocks, (long long)c->z);
    for (int i = 0; i < c->z; i++)
        if (!(c->std[i] > 0))
            return fail(ST_FORMAT, "standard deviation %g of latent channel %d is not positive",
                        (double)c->std[i], i);
    return ST_OK;
}

/* latent = (mu - mean) * inv and mu = latent / inv + mean, where inv is 1 / std rounded to f32. */
static status open_scales(struct vae *v, struct arena *a)
{
    const int64_t z = v->config.z;
    float scale[2][VAE_CHANNELS_MAX], shift[2][VAE_CHANNELS_MAX];

    for (int i = 0; i < z; i++) {
        const float mean = v->config.mean[i], inv = 1 / v->config.std[i];

        scale[0][i] = 1 / inv, shift[0][i] = mean;
        scale[1][i] = inv, shift[1][i] = -mean * inv;
    }
    for (int i = 0; i < 2; i++) {
        TRY(arena_take(a, &v->scale[i], DT_F32, z));
        TRY(arena_take(a, &v->shift[i], DT_F32, z));
        TRY(device_upload(v->dev, v->scale[i], scale[i]));
        TRY(device_upload(v->dev, v->shift[i], shift[i]));
    }
    return ST_OK;
}

/* Gives the weights of the encoder's first convolution zeros for the channels of its input that
 * are zeros. */
static status pad_first(struct vae *v, struct arena *a)
{
    const int64_t in = v->encoder->layer[0].out;
    struct linear *l = &v->encoder->layer[1].conv1;
    const struct tensor w = l->w;

    if (w.dim[4] == in)
        return ST_OK;
    TRY(arena_take(a, &l->w, w.dtype, w.dim[0], w.dim[1], w.dim[2], w.dim[3], in));
    TRY(device_zero(v->dev, l->w));
    return op_copy(v->dev, tensor_slice(l->w, 4, 0, w.dim[4]), w);
}

/* *exponent: that of the power of two which scales sqrt(C) * max |gamma| to [2^14, 2^15). `host`
 * has room for gamma. */
static status find_exponent(struct vae *v, int *exponent, struct tensor gamma, float *host)
{
    const int64_t c = tensor_count(gamma);
    float most = 0;

    *exponent = 0;
    if (gamma.data == NULL || v->dev->kind == DEVICE_PLAN)
        return ST_OK;
    TRY(device_download(v->dev, host, gamma));
    TRY(device_wait(v->dev));
    for (int64_t i = 0; i < c; i++)
        most = fmaxf(most, fabsf(host[i]));
    most *= sqrtf((float)c);
    if (most > 0 && most < INFINITY)
        *exponent = most < 0x1p-40f ? 54 : 14 - ilogbf(most);
    return ST_OK;
}

static status find_exponents(struct vae *v)
{
    const int64_t base = v->config.base, decoder = v->config.decoder_base;
    float *host = calloc((size_t)(4 * (base > decoder ? base : decoder)), sizeof(float));
    status st = ST_OK;

    if (host == NULL)
        st = fail(ST_MEMORY, "no host memory for a norm's weights");
    for (int half = 0; half < 2 && st == ST_OK; half++)
        for (int i = 0; i < v->nets[half].layers && st == ST_OK; i++) {
            struct layer *l = &v->nets[half].layer[i];

            st = find_exponent(v, &l->exponent1, l->norm1, host);
            if (st == ST_OK)
                st = find_exponent(v, &l->exponent2, l->norm2, host);
        }
    free(host);
    return st;
}

status vae_open(struct vae *v, const struct vae_config *config, struct group *g, struct device *dev,
                struct arena *a, enum dtype dtype, bool encoder, bool decoder,
                struct weight_source source)
{
    struct tensor_list list = { 0 };
    status st;

    *v = (struct vae){ .config = *config, .dev = dev, .group = g, .factors = dtype };
    v->dtype = dtype == DT_F16 ? DT_F32 : dtype;
    TRY_OUT(check_config(config));
    v->layers = calloc((size_t)vae_layers_max(config), sizeof(v->layers[0]));
    v->nets = calloc(2, sizeof(v->nets[0]));
    if (v->layers == NULL || v->nets == NULL)
        TRY_OUT(fail(ST_MEMORY, "no host memory for the VAE's layers"));
    vae_build(&list, config, v->dtype, encoder, decoder, v->layers, v->nets);
    TRY_OUT(tensors_status(&list));
    v->encoder = encoder ? &v->nets[0] : NULL;
    v->decoder = decoder ? &v->nets[1] : NULL;
    TRY_OUT(tensors_open(&v->weights, &list, &list.stacks[0], a, NULL, (struct tensors_place){ 0 },
                         source));
    TRY_OUT(weights_acquire(&v->weights, 0, -1, v->layers));
    if (encoder)
        TRY_OUT(pad_first(v, a));
    if (v->factors == DT_F16)
        TRY_OUT(find_exponents(v));
    TRY_OUT(open_scales(v, a));
    TRY_OUT(arena_take(a, &v->mark, DT_F32, 1));
out:
    tensors_done(&list);
    if (st != ST_OK)
        vae_close(v);
    return st;
}

void vae_close(struct vae *v)
{
    weights_close(&v->weights);
    free(v->nets);
    free(v->layers);
    *v = (struct vae){ 0 };
}

enum dtype vae_precision(int choice)
{
    return choice == VAE_BF16 ? DT_BF16 : choice == VAE_TF32 ? DT_F16 : DT_F32;
}

const char *vae_precision_name(enum dtype dtype)
{
    return dtype == DT_BF16 ? "bf16" : dtype == DT_F16 ? "tf32" : "fp32";
}

/* ---- windows ---- */

/* Copies rows [row, row + rows) of frames [first, first + count) of a host video [F, h, w, C] to x
 * [count, rows, w, C]. */
static status upload_rows(struct device *dev, struct tensor x, const float *video, int64_t h,
                          int64_t first, int64_t row)
{
    const int64_t line = x.dim[2] * x.dim[3];

    for (int64_t i = 0; i < x.dim[0]; i++)
        TRY(device_upload(dev, tensor_at(x, i), video + ((first + i) * h + row) * line));
    return ST_OK;
}

status vae_decode_window(struct vae *v, struct arena *a, const float *latent, int64_t t, int64_t h,
                         int64_t w, struct vae_window window, struct vae_output output)
{
    const struct linear *point = &v->decoder->point->conv1;
    const int64_t z = v->config.z;
    const size_t mark = a->used;
    struct vae_pass pass = { 0 };
    struct rows rows;
    struct tensor uploaded, scaled, x, out;
    status st = ST_OK;

    rows_split(&rows, v->group, window.rows);
    if (rows.count == 0)
        return ST_OK;
    TRY_OUT(arena_take(a, &uploaded, DT_F32, t, rows.count, w, z));
    TRY_OUT(arena_take(a, &scaled, DT_F32, 1, rows.count, window.cols, z));
    TRY_OUT(rows_take(&rows, a, &x, v->dtype, 1, rows.count, window.cols, z));
    TRY_OUT(vae_pass_open(&pass, v, v->decoder, a, rows, 1, 1, window.cols, t));
    TRY_OUT(upload_rows(v->dev, uploaded, latent, h, 0, window.row + rows.first));
    for (int64_t i = 0; i < t; i++) {
        const struct tensor frame = tensor_slice(uploaded, 0, i, 1);

        TRY_OUT(op_channel_affine(v->dev, scaled, tensor_slice(frame, 2, window.col, window.cols),
                                  v->scale[0], v->shift[0]));
        TRY_OUT(op_gemm(v->dev, tensor_reshape(x, rows.count * window.cols, z),
                        tensor_reshape(scaled, rows.count * window.cols, z), point->w, point->b,
                        ACT_NONE));
        TRY_OUT(vae_pass_run(&pass, &out, x));
        for (int64_t f = 0; f < out.dim[0]; f++)
            TRY_OUT(op_find_nonfinite(v->dev, v->mark, tensor_at(out, f), 1));
        TRY_OUT(output.put(output.payload, &rows, i == 0 ? 0 : 1 + CHUNK * (i - 1), out));
    }
out:
    vae_pass_close(&pass, mark);
    arena_release(a, mark);
    return st;
}

status vae_encode_window(struct vae *v, struct arena *a, struct frame_source source,
                         struct vae_window window, struct vae_output output)
{
    const struct linear *point = &v->encoder->point->conv1;
    const int64_t z = v->config.z, px = v->config.stride;
    const int64_t t = 1 + (source.frames - 1) / CHUNK, chunk = t > 1 ? CHUNK : 1;
    const size_t mark = a->used;
    struct frame_input frames = { 0 };
    struct vae_pass pass = { 0 };
    struct rows rows;
    struct tensor x, out, mu;
    status st = ST_OK;

    rows_split(&rows, v->group, window.rows);
    if (rows.count > 0) {
        st = frame_input_open(&frames, v->dev, a, source, chunk, (window.row + rows.first) * px,
                              rows.count * px);
        if (st == ST_OK)
            st = arena_take(a, &mu, DT_F32, 1, rows.count, window.cols, z);
        if (st == ST_OK)
            st = vae_pass_open(&pass, v, v->encoder, a, rows, chunk, px, window.cols * px, t);
    }
    TRY_OUT(frame_source_ready(&source, st));
    for (int64_t i = 0; i < t; i++) {
        if (rows.count == 0) {
            TRY_OUT(frame_input_pass(&source, v->dev, i == 0 ? 0 : 1 + CHUNK * (i - 1),
                                     i == 0 ? 1 : CHUNK));
            continue;
        }
        TRY_OUT(frame_input_next(&frames, &x, i == 0 ? 1 : CHUNK));
        TRY_OUT(vae_pass_run(&pass, &out, tensor_slice(x, 2, window.col * px, window.cols * px)));
        TRY_OUT(frame_input_free(&frames));

        // the encoder gives mean and log variance; the latent is the mean, the first z outputs
        TRY_OUT(op_gemm(v->dev, tensor_reshape(mu, rows.count * window.cols, z),
                        tensor_reshape(out, rows.count * window.cols, 2 * z),
                        tensor_slice(point->w, 0, 0, z), tensor_slice(point->b, 0, 0, z),
                        ACT_NONE));
        TRY_OUT(op_channel_affine(v->dev, mu, mu, v->scale[1], v->shift[1]));
        TRY_OUT(output.put(output.payload, &rows, i, mu));
    }
out:
    frame_input_close(&frames);
    vae_pass_close(&pass, mark);
    arena_release(a, mark);
    return st;
}

status vae_gather(struct tensor *whole, const struct rows *rows, struct arena *a, struct tensor x,
                  int64_t scale)
{
    struct transfer t = { 0 };

    if (rows->ranks == 1) {
        *whole = x;
        return ST_OK;
    }
    *whole = (struct tensor){ 0 };
    if (rows->group->rank == 0)
        TRY(arena_take(a, whole, x.dtype, x.dim[0], rows->total * scale, x.dim[2], x.dim[3]));
    TRY(rows_gather(rows, &t, *whole, x, scale, 0));
    return transfer_wait(&t);
}

/* ---- whole images ---- */

static bool covers(struct vae_tiling tiling, int64_t h, int64_t w)
{
    return (tiling.size_h == 0 && tiling.size_w == 0) || (tiling.size_h >= h && tiling.size_w >= w);
}

static status check_size(int64_t frames, int64_t h, int64_t w, struct vae_tiling g)
{
    if (frames < 1 || h < 1 || w < 1)
        return fail(ST_USAGE,
                    "a video of %lld frames of %lld x %lld latent rows and columns is empty",
                    (long long)frames, (long long)h, (long long)w);
    if (!covers(g, h, w) &&
        (g.stride_h < 1 || g.stride_w < 1 || g.size_h < g.stride_h || g.size_w < g.stride_w))
        return fail(
            ST_USAGE,
            "VAE tiles of %lld x %lld with stride %lld x %lld leave gaps; the stride must be "
            "between 1 and the size",
            (long long)g.size_h, (long long)g.size_w, (long long)g.stride_h, (long long)g.stride_w);
    return ST_OK;
}

/* The frames of a chunk are gathered on rank 0 while the next chunk is computed. */
struct decode_ctx {
    struct vae *v;
    struct arena *a;
    float *pixels;              // NULL: not needed as f32
    struct frame_output frames; // rank 0
    struct tensor rgb;          // other ranks: their rows of a chunk's frames, u8
    struct transfer gather;     // of the frames of the previous chunk
    int64_t count;              // of those frames; 0: none
    float add;                  // see op_to_u8
    int64_t done, total;        // chunks that were passed on, and all
};

/* Passes the frames of the previous chunk on. */
static status end_chunk(struct decode_ctx *d)
{
    const int64_t count = d->count;

    d->count = 0;
    TRY(transfer_wait(&d->gather));
    if (count == 0 || d->v->group->rank != 0)
        return ST_OK;
    TRY(frame_output_put(&d->frames, count));
    frame_sink_progress(&d->frames.sink, ++d->done, d->total);
    return ST_OK;
}

static status download_pixels(struct decode_ctx *d, const struct rows *rows, int64_t first,
                              struct tensor x)
{
    const size_t mark = d->a->used;
    struct tensor whole;
    status st;

    TRY_OUT(vae_gather(&whole, rows, d->a, x, d->v->config.stride));
    if (d->v->group->rank == 0)
        TRY_OUT(device_download(
            d->v->dev, d->pixels + first * whole.dim[1] * whole.dim[2] * whole.dim[3], whole));
out:
    arena_release(d->a, mark);
    return st;
}

static status put_decoded(void *payload, const struct rows *rows, int64_t first, struct tensor x)
{
    struct decode_ctx *d = payload;
    const int64_t n = x.dim[0], px = d->v->config.stride;
    struct tensor whole = { 0 }, rgb;

    TRY(end_chunk(d));
    if (d->v->group->rank == 0) {
        whole = frame_output_next(&d->frames, n);
        rgb = tensor_slice(whole, 1, rows->first * px, rows->count * px);
    } else {
        rgb = tensor_slice(d->rgb, 0, 0, n);
    }
    TRY(op_to_u8(d->v->dev, rgb, x, d->add));
    if (d->pixels != NULL)
        TRY(download_pixels(d, rows, first, x));
    if (rows->ranks > 1)
        TRY(rows_gather(rows, &d->gather, whole, rgb, px, 0));
    d->count = n;
    return ST_OK;
}

status vae_decode(struct vae *v, struct arena *a, const float *latent, int64_t t, int64_t h,
                  int64_t w, struct vae_tiling tiling, struct frame_sink sink, float *pixels)
{
    struct decode_ctx d = {
        .v = v, .a = a, .pixels = pixels, .add = frame_sink_add(&sink), .total = t
    };
    const int64_t px = v->config.stride;
    const size_t mark = a->used;
    struct rows rows;
    status st;

    assert(v->decoder != NULL);
    TRY(check_size(t, h, w, tiling));
    if (!covers(tiling, h, w))
        return vae_decode_tiles(v, a, latent, t, h, w, tiling, sink, pixels);
    rows_split(&rows, v->group, h);
    st = device_zero(v->dev, v->mark);
    if (st == ST_OK && v->group->rank == 0)
        st = frame_output_open(&d.frames, v->dev, a, sink, CHUNK, h * px, w * px);
    else if (st == ST_OK && rows.count > 0)
        st = arena_take(a, &d.rgb, DT_U8, CHUNK, rows.count * px, w * px, 3);
    TRY_OUT(frame_sink_ready(&sink, st));
    TRY_OUT(vae_decode_window(v, a, latent, t, h, w, (struct vae_window){ 0, 0, h, w },
                              (struct vae_output){ put_decoded, &d }));
    TRY_OUT(end_chunk(&d));
    st = frame_output_finish(&d.frames);
out:
    frame_output_close(&d.frames);
    arena_release(a, mark);
    return st;
}

status vae_finite(struct vae *v, bool *finite)
{
    float mark = 0;

    TRY(device_download(v->dev, &mark, v->mark));
    TRY(device_wait(v->dev));
    *finite = mark == 0;
    if (mark != 0)
        fail(ST_FORMAT,
             "the VAE decodes to values that are not finite: its weights are damaged, or "
             "their values are too large for --vae_precision bf16");
    return ST_OK;
}

struct encode_ctx {
    struct vae *v;
    const struct frame_source *source;
    int64_t done, total;  // chunks
    struct tensor frames; // [t, h, w, z]
};

/* This rank's rows of all frames. */
static struct tensor own_rows(const struct encode_ctx *e, const struct rows *rows)
{
    return tensor_slice(e->frames, 1, rows->first, rows->count);
}

static status put_encoded(void *payload, const struct rows *rows, int64_t first, struct tensor x)
{
    struct encode_ctx *e = payload;

    TRY(op_copy(e->v->dev, tensor_slice(own_rows(e, rows), 0, first, 1), x));
    frame_source_progress(e->source, ++e->done, e->total);
    return ST_OK;
}

/* Gathers the frames on rank 0, and broadcasts them, as some ranks may have no rows. */
static status gather_frames(struct encode_ctx *e, const struct rows *rows)
{
    struct group *g = e->v->group;
    struct transfer t = { 0 };

    if (rows->ranks > 1 && rows->count > 0)
        TRY(rows_gather(rows, &t, e->frames, own_rows(e, rows), 1, 0));
    TRY(transfer_wait(&t));
    if (g->size > 1)
        TRY(group_broadcast(g, &t, e->frames.data, tensor_bytes(e->frames), 0));
    return transfer_wait(&t);
}

status vae_encode(struct vae *v, struct arena *a, float *latent, struct frame_source source,
                  struct vae_tiling tiling)
{
    const int64_t px = v->config.stride, t = 1 + (source.frames - 1) / CHUNK, z = v->config.z;
    const int64_t h = source.h / px, w = source.w / px;
    struct encode_ctx e = { .v = v, .source = &source, .total = t };
    const size_t mark = a->used;
    struct rows rows;
    status st;

    assert(v->encoder != NULL);
    if (source.h % px != 0 || source.w % px != 0)
        return fail(
            ST_USAGE,
            "images of %lld x %lld: width and height must be multiples of %lld; resize them first",
            (long long)source.w, (long long)source.h, (long long)px);
    TRY(check_size(source.frames, h, w, tiling));
    if (!covers(tiling, h, w))
        return vae_encode_tiles(v, a, latent, source, tiling);
    rows_split(&rows, v->group, h);
    TRY_OUT(arena_take(a, &e.frames, DT_F32, t, h, w, z));
    TRY_OUT(vae_encode_window(v, a, source, (struct vae_window){ 0, 0, h, w },
                              (struct vae_output){ put_encoded, &e }));
    TRY_OUT(gather_frames(&e, &rows));
    TRY_OUT(device_download(v->dev, latent, e.frames));
    TRY_OUT(device_wait(v->dev));
out:
    arena_release(a, mark);
    return st;
}
