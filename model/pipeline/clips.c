#include "model/pipeline/clips.h"

#include <stdlib.h>
#include <string.h>

#define REFERENCE_FRAMES 6 // at the end of the first motion frames

static int64_t pixels_of(const struct clip_chain *c)
{
    const int64_t stride = model_vae(&c->plan->model)->stride;

    return c->plan->latent.h * stride * c->plan->latent.w * stride * 3;
}

/* The array of the conditioning, which is [.., ...] for all clips. */
static float *array(const struct clip_chain *c, const char *name)
{
    return conditioning_find(c->all, name).data;
}

/* ---- the motion frames ---- */

struct tail_frames {
    const struct clip_chain *c;
    float *pixels; // one frame, on other ranks than rank 0
};

static status tail_frame(void *payload, int64_t index, const float **pixels)
{
    const struct tail_frames *t = payload;
    const int64_t count = pixels_of(t->c);
    float *frame = t->c->tail != NULL ? t->c->tail + index * count : t->pixels;

    world_broadcast(t->c->pipeline->world, frame, (size_t)count * sizeof(float), 0);
    *pixels = frame;
    return ST_OK;
}

static status encode_tail(struct clip_chain *c)
{
    const int64_t stride = model_vae(&c->plan->model)->stride;
    struct tail_frames t = { .c = c };
    const struct frame_source source = { .get = tail_frame,
                                         .payload = &t,
                                         .frames = AUDIO_MOTION_FRAMES,
                                         .h = c->plan->latent.h * stride,
                                         .w = c->plan->latent.w * stride };
    status st = ST_OK;

    if (c->tail == NULL)
        t.pixels = malloc((size_t)pixels_of(c) * sizeof(float));
    if (c->tail == NULL && t.pixels == NULL)
        st = fail(ST_MEMORY, "cannot allocate host memory for a frame");
    TRY_OUT(agree(c->pipeline->world, st));
    TRY_OUT(pipeline_encode(c->pipeline, source, array(c, CONDITION_MOTION)));
out:
    free(t.pixels);
    return st;
}

/* Appends frames [count, h, w, 3], as the decoder gives them. */
static void append(struct clip_chain *c, const float *frames, int64_t count)
{
    const int64_t n = pixels_of(c), kept = AUDIO_MOTION_FRAMES - count;
    float *to = c->tail + (kept > 0 ? kept * n : 0);

    if (kept > 0)
        memmove(c->tail, c->tail + count * n, (size_t)(kept * n) * sizeof(float));
    else
        frames -= kept * n; // only the last ones
    for (int64_t i = 0; i < (kept > 0 ? count : AUDIO_MOTION_FRAMES) * n; i++)
        to[i] = frames[i] < -1 ? -1 : frames[i] > 1 ? 1 : frames[i];
}

status clips_open(struct clip_chain *c, struct pipeline *p, const struct plan_input *plan,
                  struct conditioning *all, const float *reference)
{
    const bool first = p->world->rank == 0 && plan_chained(plan);
    status st = ST_OK;

    *c = (struct clip_chain){ .pipeline = p, .plan = plan, .all = all };
    if (first) {
        const int64_t n = pixels_of(c);

        c->tail = calloc((size_t)(AUDIO_MOTION_FRAMES * n), sizeof(float));
        if (c->tail == NULL)
            st = fail(ST_MEMORY, "cannot allocate %.2f GB of host memory for %d frames",
                      (double)(AUDIO_MOTION_FRAMES * n) * sizeof(float) / 1e9, AUDIO_MOTION_FRAMES);
        for (int i = 0; i < REFERENCE_FRAMES && st == ST_OK && reference != NULL; i++)
            memcpy(c->tail + (AUDIO_MOTION_FRAMES - 1 - i) * n, reference,
                   (size_t)n * sizeof(float));
    }
    TRY(agree(p->world, st));
    return plan->chain.from_reference ? encode_tail(c) : ST_OK;
}

void clips_close(struct clip_chain *c)
{
    free(c->tail);
    *c = (struct clip_chain){ 0 };
}

/* ---- one clip ---- */

/* Whether frames of before are part of a clip. */
static bool has_motion(const struct clip_chain *c, int index)
{
    return index > 0 || c->plan->chain.from_reference;
}

void clips_conditioning(struct conditioning *view, const struct clip_chain *c, int index)
{
    const struct latent_shape s = c->plan->latent;

    *view = (struct conditioning){ 0 };
    for (int i = 0; i < c->all->count; i++) {
        struct condition one = c->all->array[i];

        if (strcmp(one.name, CONDITION_MOTION) == 0 && !has_motion(c, index))
            continue;
        if (strcmp(one.name, CONDITION_AUDIO) == 0)
            one.value = tensor_slice(one.value, 0, index * 4 * s.t, 4 * s.t);
        else if (strcmp(one.name, CONDITION_POSE) == 0)
            one.value = tensor_slice(one.value, 0, index * s.c, s.c);
        view->array[view->count++] = one;
    }
}

/* [C, n + T, H, W]: the n latent frames of `before`, then the latent. */
static void join(float *out, const float *before, int64_t n, const float *latent,
                 struct latent_shape s)
{
    const int64_t frame = s.h * s.w;

    for (int64_t i = 0; i < s.c; i++) {
        memcpy(out, before + i * n * frame, (size_t)(n * frame) * sizeof(float));
        memcpy(out + n * frame, latent + i * s.t * frame, (size_t)(s.t * frame) * sizeof(float));
        out += (n + s.t) * frame;
    }
}

/* Callback on rank 0: passes on the frames after those that are skipped. */
static status put_frames(void *payload, const uint8_t *rgb, int64_t count, int64_t h, int64_t w)
{
    struct clip_chain *c = payload;
    const int64_t skip = c->skip < count ? c->skip : count;

    c->skip -= skip;
    return count > skip ? c->sink.put(c->sink.payload, rgb + skip * h * w * 3, count - skip, h, w)
                        : ST_OK;
}

static void progress(void *payload, int64_t done, int64_t total)
{
    const struct clip_chain *c = payload;

    frame_sink_progress(&c->sink, done, total);
}

status clips_decode(struct clip_chain *c, int index, const float *latent, struct vae_tiling tiling,
                    struct frame_sink sink, struct decode_callback less)
{
    const bool motion = has_motion(c, index), next = index + 1 < c->plan->chain.clips;
    const int64_t before = motion ? AUDIO_MOTION_LATENTS : 1, n = pixels_of(c);
    const struct latent_shape s = c->plan->latent;
    struct latent_shape whole = s;
    const int64_t frames = 1 + 4 * (before + s.t - 1), kept = 4 * s.t - (motion ? 0 : CLIP_DROPPED);
    float *joined = NULL, *pixels = NULL;
    status st = ST_OK;

    whole.t += before;
    joined = malloc((size_t)latent_count(whole) * sizeof(float));
    pixels = next && c->tail != NULL ? malloc((size_t)(frames * n) * sizeof(float)) : NULL;
    if (joined == NULL || (next && c->tail != NULL && pixels == NULL))
        st = fail(ST_MEMORY, "cannot allocate %.2f GB of host memory for %lld frames",
                  (double)(frames * n) * sizeof(float) / 1e9, (long long)frames);
    TRY_OUT(agree(c->pipeline->world, st));
    join(joined, array(c, motion ? CONDITION_MOTION : CONDITION_REFERENCE), before, latent, s);
    c->sink = sink;
    c->skip = frames - kept;
    sink.put = put_frames;
    sink.progress = progress;
    sink.payload = c;
    sink.keeps_pixels = next;
    sink.pixels = pixels;
    TRY_OUT(pipeline_decode(c->pipeline, whole, 0, 0, joined, tiling, sink, less));
    if (!next)
        goto out;
    if (c->tail != NULL)
        append(c, pixels + (frames - kept) * n, kept);
    free(pixels);
    pixels = NULL;
    TRY_OUT(encode_tail(c));
out:
    free(joined);
    free(pixels);
    return st;
}
