/* Decoding, and what is tried when the memory for it cannot be allocated: first what does not
 * change the frames, then what changes them the least. A finished latent is the work of hours. */
#include "model/pipeline/pipeline.h"
#include "runtime/alive.h"

#include <stdlib.h>

#define TILE_LEAST 8 // latent rows or columns of a tile; smaller ones are mostly overlap

static status load_vae(struct pipeline *p, enum dtype dtype, size_t bytes)
{
    struct checkpoint *c = p->checkpoint;

    if (p->vae_ready && p->vae.dtype == dtype)
        return ST_OK;
    if (p->vae_ready)
        vae_close(&p->vae);
    p->vae_ready = false;
    arena_done(&p->vae_weights);
    TRY(checkpoint_part(c, &part_vae));
    TRY(arena_init(&p->vae_weights, p->dev, "vae", bytes));
    TRY(vae_open(&p->vae, model_vae(&p->plan.model), &p->mesh.all, p->dev, &p->vae_weights, dtype,
                 false, true, checkpoint_source(c, &part_vae)));
    p->vae_ready = true;
    return ST_OK;
}

/* Copies [C, T, H, W] to [T, H, W, C], of `all` frames T frames from `skip` on. */
static void channels_last(float *out, const float *in, struct latent_shape s, int skip, int64_t all)
{
    const int64_t pixels = s.t * s.h * s.w, before = skip * s.h * s.w, channel = all * s.h * s.w;

    for (int64_t c = 0; c < s.c; c++)
        for (int64_t i = 0; i < pixels; i++)
            out[i * s.c + c] = in[c * channel + before + i];
}

/* The sizes of the decoding alone, on one rank. */
static status decode_sizes(const struct plan_input *in, int rank, struct plan_stage *sizes)
{
    struct plan_input decode = *in;
    struct plan_rank one;

    decode.first_step = decode.steps;
    TRY(plan_rank(&decode, rank, &one));
    *sizes = *plan_stage(&one, STAGE_DECODE);
    return ST_OK;
}

/* Decodes as `in` says. latent: [C, T, H, W], of which prepended and appended frames are not
 * decoded. */
static status decode(struct pipeline *p, const struct plan_input *in, const float *latent,
                     struct frame_sink sink)
{
    const struct latent_shape s = plan_decoded(in);
    struct plan_stage sizes = { 0 };
    struct arena scratch = { 0 };
    float *thwc = malloc((size_t)latent_count(s) * sizeof(float));
    bool finite = true;
    status st = ST_OK;

    if (thwc == NULL)
        st = fail(ST_MEMORY, "cannot allocate host memory for a latent of %lld values",
                  (long long)latent_count(s));
    else
        channels_last(thwc, latent, s, in->prepended, in->latent.t);
    if (st == ST_OK)
        st = decode_sizes(in, p->world->rank, &sizes);
    if (st == ST_OK)
        st = load_vae(p, in->vae_dtype, sizes.weights);
    if (st == ST_OK)
        st = arena_init(&scratch, p->dev, "decode", sizes.scratch);
    TRY_OUT(agree(p->world, st));
    p->vae.frame_by_frame = in->frame_by_frame;
    sink.ready = pipeline_ready;
    sink.ready_payload = p;
    TRY_OUT(vae_decode(&p->vae, &scratch, thwc, s.t, s.h, s.w, in->tiling, sink,
                       sink.pixels != NULL || !sink.keeps_pixels ? sink.pixels : thwc));
    TRY_OUT(vae_finite(&p->vae, &finite));
    st = agree(p->world, finite ? ST_OK : ST_FORMAT);
    p->must_abort = false; // all ranks have this status
out:
    arena_done(&scratch);
    free(thwc);
    return st;
}

/* ---- ways that need less memory, the least harmful first ---- */

static bool free_transformer(struct pipeline *p, struct plan_input *in)
{
    const bool loaded = p->dit_weights.base != NULL; // on all ranks; the image encoder is on rank 0

    p->plan.keep_models = p->plan.keep_images = false; // also for the next requests
    pipeline_close_clip(p);
    pipeline_offload(p);
    return loaded;
}

static bool frame_by_frame(struct pipeline *p, struct plan_input *in)
{
    const bool change = !in->frame_by_frame && in->latent.t > 1;

    in->frame_by_frame = true;
    return change;
}

static bool in_tf32(struct pipeline *p, struct plan_input *in)
{
    const bool change = in->gpu && in->vae_dtype == DT_F32;

    in->vae_dtype = change ? DT_F16 : in->vae_dtype;
    return change;
}

static bool in_bf16(struct pipeline *p, struct plan_input *in)
{
    const bool change = in->vae_dtype != DT_BF16;

    in->vae_dtype = DT_BF16;
    return change;
}

/* The default tiles of --tiled, or tiles of half the size. */
static bool in_tiles(struct pipeline *p, struct plan_input *in)
{
    struct vae_tiling *t = &in->tiling;

    do {
        if (t->size_h == 0)
            *t = (struct vae_tiling){ 30, 52, 15, 26 };
        else
            *t = (struct vae_tiling){ t->size_h / 2, t->size_w / 2, (t->stride_h + 1) / 2,
                                      (t->stride_w + 1) / 2 };
    } while (t->size_h >= in->latent.h && t->size_w >= in->latent.w);
    return t->size_h >= TILE_LEAST && t->size_w >= TILE_LEAST;
}

/* PSNR of 17 frames of 480*272 by the small checkpoint: in bf16 55 dB, in tiles of 30 x 52 61 dB,
 * of 15 x 26 51 dB. */
static const struct {
    bool (*change)(struct pipeline *p, struct plan_input *in); // false: this way is none here
    bool exact;                                                // the frames are the same
    const char *what;                                          // is done; if not exact, its price
} ways[] = {
    { free_transformer, true, "the transformer is freed, and loaded again for the next request" },
    { frame_by_frame, true, "the last layers decode frame by frame" },
    { in_tf32, false, "changes pixels by the rounding that is PyTorch's default on GPUs" },
    { in_bf16, false, "changes pixels slightly" },
    { in_tiles, false, "changes pixels slightly and takes about four times as long" },
    { in_tiles, false, "changes pixels slightly and takes about four times as long" },
};

/* What is done, and its price. */
static void way_text(char *text, size_t size, const struct plan_input *in, size_t way)
{
    const struct vae_tiling t = in->tiling;
    char precision[40] = "", tiles[80] = "";

    if (in->vae_dtype != DT_F32)
        snprintf(precision, sizeof(precision), " --vae_precision %s",
                 vae_precision_name(in->vae_dtype));
    if (t.size_h > 0)
        snprintf(tiles, sizeof(tiles), " --tiled --tile_size %d,%d --tile_stride %d,%d",
                 (int)t.size_h, (int)t.size_w, (int)t.stride_h, (int)t.stride_w);
    if (ways[way].exact)
        snprintf(text, size, "%s", ways[way].what);
    else
        snprintf(text, size, "decoding as with%s%s instead, which %s", precision, tiles,
                 ways[way].what);
}

status pipeline_decode(struct pipeline *p, struct latent_shape shape, int skip, int drop,
                       const float *latent, struct vae_tiling tiling, struct frame_sink sink,
                       struct decode_callback less)
{
    struct plan_input in = p->plan;
    char text[200];
    status st;

    in.nccl = p->mesh.direct == NULL;
    in.latent = shape;
    in.prepended = skip;
    in.appended = drop;
    in.chain = (struct plan_chain){ 0 };
    in.decode_pixels = sink.keeps_pixels;
    in.tiling = tiling;
    alive_at("decoding", -1);
    st = decode(p, &in, latent, sink);
    for (size_t i = 0; i < COUNT(ways) && st == ST_MEMORY && !p->must_abort; i++) {
        if (!ways[i].change(p, &in))
            continue;
        way_text(text, sizeof(text), &in, i);
        TRY(agree(p->world, less.call(less.payload, text, ways[i].exact)));
        st = decode(p, &in, latent, sink);
    }
    return st;
}
