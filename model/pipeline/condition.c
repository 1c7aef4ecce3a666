#include "model/pipeline/condition_internal.h"

#include "model/media/frame.h"

#include <stdlib.h>
#include <string.h>

status size_as_given(const struct task_inputs *in, int size[2], int *frames)
{
    const int w = size[0], h = size[1];

    if (w % 16 != 0 || h % 16 != 0)
        return fail(ST_USAGE, "--size %d*%d: both must be multiples of 16; try %d*%d", w, h,
                    w / 16 * 16 + (w < 16 ? 16 : 0), h / 16 * 16 + (h < 16 ? 16 : 0));
    return ST_OK;
}

static int64_t area(const int size[2])
{
    return (int64_t)size[0] * size[1];
}

static status size_of(const struct image *image, const struct task_inputs *in, int size[2],
                      int *frames)
{
    return image->w > 0 ? frame_size_area(size, image->w, image->h, area(size))
                        : size_as_given(in, size, frames);
}

status size_of_image(const struct task_inputs *in, int size[2], int *frames)
{
    return size_of(&in->image[INPUT_image], in, size, frames);
}

/* The image of --first_frame, or of --image, as other programs name it. */
static const struct image *first_frame_of(const struct task_inputs *in)
{
    return &in->image[in->input[INPUT_first_frame] != NULL ? INPUT_first_frame : INPUT_image];
}

status size_of_first_frame(const struct task_inputs *in, int size[2], int *frames)
{
    const bool first = in->input[INPUT_first_frame] != NULL, image = in->input[INPUT_image] != NULL;

    if (first == image && (first || in->input[INPUT_last_frame] != NULL)) // else a plan
        return fail(ST_USAGE, "the task needs one of --first_frame and --image, for the first "
                              "frame");
    return size_of(first_frame_of(in), in, size, frames);
}

status size_of_ti2v(const struct task_inputs *in, int size[2], int *frames)
{
    const struct image image = in->image[INPUT_image];

    return image.w > 0 ? frame_size_grid(size, image.w, image.h, area(size), 32)
                       : size_as_given(in, size, frames);
}

status condition_text(struct pipeline *p, struct plan_input *plan, const struct task_inputs *in,
                      struct conditioning *c)
{
    static const char *const names[] = { CONDITION_COND, CONDITION_UNCOND };
    const char *const prompts[] = { in->prompt, in->negative_prompt };
    const int64_t width = model_dit(&plan->model)->text_dim;
    const int count = plan->cond_only ? 1 : 2;
    status st = ST_OK;

    if (conditioning_find(c, names[0]).ndim != 0)
        return ST_OK; // from --text
    if (p != NULL)
        TRY(pipeline_text(p, count, prompts));
    for (int i = 0; i < count; i++) {
        const int64_t planned[] = { plan->text_rows, width };
        struct tensor rows;
        float *data;

        if (p == NULL) {
            conditioning_add_shape(c, names[i], 2, planned);
            continue;
        }
        rows = pipeline_text_rows(p, prompts[i]);
        if (st == ST_OK)
            st = conditioning_add(c, names[i], rows.ndim, rows.dim, &data);
        if (st == ST_OK)
            memcpy(data, rows.data, tensor_bytes(rows));
    }
    return p != NULL ? agree(p->world, st) : ST_OK;
}

/* ---- images ---- */

static status fit_torch(float *out, int w, int h, const struct picture *p)
{
    return resize_torch(out, w, h, p->image, p->window);
}

static status fit_fill(float *out, int w, int h, const struct picture *p)
{
    return frame_fill(out, w, h, p->image);
}

static status fit_stretch(float *out, int w, int h, const struct picture *p)
{
    return frame_stretch(out, w, h, p->image, false);
}

static status fit_stretch_bf16(float *out, int w, int h, const struct picture *p)
{
    return frame_stretch(out, w, h, p->image, true);
}

static struct picture whole(const struct image *image)
{
    return (struct picture){ image, { 0, 0, image->w, image->h } };
}

struct known known_stretched(const struct plan_input *plan, const struct image *first,
                             const struct image *last)
{
    struct known known = { 1,
                           { whole(first) },
                           plan->vae_dtype == DT_BF16 ? fit_stretch_bf16 : fit_stretch };

    if (last != NULL && last->w > 0)
        known.picture[known.count++] = whole(last);
    return known;
}

int64_t condition_frames(const struct plan_input *plan)
{
    return 1 + (plan_decoded(plan).t - 1) * model_vae(&plan->model)->stride_t;
}

/* A clip that begins with one frame and may end with another; the others are zeros. */
struct ends {
    float *frame[2]; // NULL: not known
    int64_t frames;
};

static status end_frames(void *payload, int64_t index, const float **pixels)
{
    const struct ends *e = payload;

    *pixels = index == 0 ? e->frame[0] : index == e->frames - 1 ? e->frame[1] : NULL;
    return ST_OK;
}

static status fit_ends(struct ends *e, int w, int h, const struct known *known)
{
    for (int i = 0; i < known->count; i++) {
        e->frame[i] = malloc((size_t)w * (size_t)h * 3 * sizeof(float));
        if (e->frame[i] == NULL)
            return fail(ST_MEMORY, "cannot allocate host memory for an image of %d x %d", w, h);
        TRY(known->fit(e->frame[i], w, h, &known->picture[i]));
    }
    return ST_OK;
}

status encode_ends(struct pipeline *p, const struct plan_input *plan, float *latent, int64_t frames,
                   const struct known *known)
{
    const int64_t stride = model_vae(&plan->model)->stride;
    const int w = (int)(plan->latent.w * stride), h = (int)(plan->latent.h * stride);
    struct ends ends = { .frames = frames };
    const struct frame_source source = {
        .get = end_frames, .payload = &ends, .frames = frames, .h = h, .w = w
    };
    status st;

    TRY_OUT(agree(p->world, fit_ends(&ends, w, h, known)));
    TRY_OUT(pipeline_encode(p, source, latent));
out:
    free(ends.frame[0]);
    free(ends.frame[1]);
    return st;
}

void fill_mask(float *mask, struct latent_shape s, const struct known *known)
{
    const int64_t frame = s.h * s.w, channel = s.t * frame, last = MASK_CHANNELS * s.t - 1;

    for (int64_t i = 0; i < MASK_CHANNELS * channel; i++) {
        const int64_t of = i / channel, t = i % channel / frame; // latent frame 0 is one frame

        mask[i] = t == 0 || (known->count == 2 && MASK_CHANNELS * t + of == last);
    }
}

status add_channels(struct pipeline *p, struct plan_input *plan, struct conditioning *c,
                    const struct known *known)
{
    const struct latent_shape s = plan->latent;
    const int64_t dims[] = { MASK_CHANNELS + s.c, s.t, s.h, s.w };
    const int64_t frames = condition_frames(plan);
    float *data;

    if (p == NULL) {
        plan_add_clip(plan, frames);
        conditioning_add_shape(c, CONDITION_CHANNELS, 4, dims);
        return ST_OK;
    }
    TRY(agree(p->world, conditioning_add(c, CONDITION_CHANNELS, 4, dims, &data)));
    fill_mask(data, s, known);
    return encode_ends(p, plan, data + MASK_CHANNELS * s.t * s.h * s.w, frames, known);
}

status add_tokens(struct pipeline *p, struct plan_input *plan, struct conditioning *c, int count,
                  const struct picture *pictures)
{
    const struct clip_config *clip = model_clip(&plan->model);
    const int64_t dims[] = { count * clip_tokens(clip), clip->dim };
    float *data;

    plan->images = count;
    if (p == NULL) {
        conditioning_add_shape(c, CONDITION_IMAGE, 2, dims);
        return ST_OK;
    }
    TRY(agree(p->world, conditioning_add(c, CONDITION_IMAGE, 2, dims, &data)));
    return pipeline_images(p, count, pictures, data);
}

status add_stretched_tokens(struct pipeline *p, struct plan_input *plan, struct conditioning *c,
                            const struct image *image)
{
    const int64_t stride = model_vae(&plan->model)->stride;
    struct image resized = { 0 }; // what the image encoder sees, on rank 0
    struct picture picture = { 0 };
    status st = ST_OK;

    if (p != NULL && p->world->rank == 0)
        st = resize_pil(&resized, image, (int)(plan->latent.w * stride),
                        (int)(plan->latent.h * stride), PIL_BICUBIC);
    if (p != NULL)
        TRY_OUT(agree(p->world, st));
    picture = whole(&resized);
    TRY_OUT(add_tokens(p, plan, c, 1, &picture));
out:
    image_done(&resized);
    return st;
}

status condition_image(struct pipeline *p, struct plan_input *plan, const struct task_inputs *in,
                       struct conditioning *c)
{
    const struct known known = { 1, { whole(&in->image[INPUT_image]) }, fit_torch };

    TRY(add_channels(p, plan, c, &known));
    return condition_text(p, plan, in, c);
}

status condition_image_tokens(struct pipeline *p, struct plan_input *plan,
                              const struct task_inputs *in, struct conditioning *c)
{
    const struct picture image = whole(&in->image[INPUT_image]);

    TRY(add_tokens(p, plan, c, 1, &image));
    return condition_image(p, plan, in, c);
}

status condition_first_last(struct pipeline *p, struct plan_input *plan,
                            const struct task_inputs *in, struct conditioning *c)
{
    const struct image *first = first_frame_of(in), *last = &in->image[INPUT_last_frame];
    struct known known = { 2, { whole(first), whole(last) }, fit_torch };

    if (p != NULL)
        TRY(agree(p->world, frame_last_window(&known.picture[1].window, first, last)));
    TRY(add_tokens(p, plan, c, 2, known.picture));
    TRY(add_channels(p, plan, c, &known));
    return condition_text(p, plan, in, c);
}

status condition_inp(struct pipeline *p, struct plan_input *plan, const struct task_inputs *in,
                     struct conditioning *c)
{
    const struct image *first = &in->image[INPUT_image];
    const struct known known = known_stretched(plan, first, &in->image[INPUT_last_frame]);

    if (model_dit(&plan->model)->image_dim > 0)
        TRY(add_stretched_tokens(p, plan, c, first));
    TRY(add_channels(p, plan, c, &known));
    return condition_text(p, plan, in, c);
}

status condition_ti2v(struct pipeline *p, struct plan_input *plan, const struct task_inputs *in,
                      struct conditioning *c)
{
    const struct latent_shape s = plan->latent;
    const int64_t dims[] = { s.c, 1, s.h, s.w };
    const struct known known = { 1, { whole(&in->image[INPUT_image]) }, fit_fill };
    float *data;

    if (in->image[INPUT_image].w > 0 && p == NULL) {
        plan_add_clip(plan, 1);
        conditioning_add_shape(c, CONDITION_CLEAN, 4, dims);
    }
    if (in->image[INPUT_image].w > 0 && p != NULL) {
        TRY(agree(p->world, conditioning_add(c, CONDITION_CLEAN, 4, dims, &data)));
        TRY(encode_ends(p, plan, data, 1, &known));
    }
    return condition_text(p, plan, in, c);
}

/* ---- clips ---- */

/* Frames of a clip for the encoder, which all ranks get from rank 0. */
struct clip_frames {
    struct world *world;
    const struct clip_input *clip;
    fit_frame_fn *fit;
    float *pixels; // of one frame
    int w, h;
    bool bf16;
};

static status fit_clip_frame(struct clip_frames *f, int64_t index)
{
    struct image image = { 0 };
    status st;

    TRY(f->clip->read(f->clip->payload, index, &image));
    st = f->fit(f->pixels, f->w, f->h, &image, f->bf16);
    image_done(&image);
    return st;
}

static status next_clip_frame(void *payload, int64_t index, const float **pixels)
{
    struct clip_frames *f = payload;

    TRY(agree(f->world, f->world->rank == 0 ? fit_clip_frame(f, index) : ST_OK));
    world_broadcast(f->world, f->pixels, (size_t)f->w * (size_t)f->h * 3 * sizeof(float), 0);
    *pixels = f->pixels;
    return ST_OK;
}

status encode_clip(struct pipeline *p, const struct plan_input *plan, float *latent, int64_t frames,
                   const struct clip_input *clip, fit_frame_fn *fit)
{
    const int64_t stride = model_vae(&plan->model)->stride;
    struct clip_frames f = { .world = p->world,
                             .clip = clip,
                             .fit = fit,
                             .w = (int)(plan->latent.w * stride),
                             .h = (int)(plan->latent.h * stride),
                             .bf16 = plan->vae_dtype == DT_BF16 };
    const struct frame_source source = {
        .get = next_clip_frame, .payload = &f, .frames = frames, .h = f.h, .w = f.w
    };
    status st = ST_OK;

    f.pixels = malloc((size_t)f.w * (size_t)f.h * 3 * sizeof(float));
    if (f.pixels == NULL)
        st = fail(ST_MEMORY, "cannot allocate host memory for a frame of %d x %d", f.w, f.h);
    TRY_OUT(agree(p->world, st));
    TRY_OUT(pipeline_encode(p, source, latent));
out:
    free(f.pixels);
    return st;
}

status fit_cover(float *out, int w, int h, const struct image *image, bool bf16)
{
    struct window part;
    struct image cut = { 0 };
    status st;

    TRY_OUT(frame_cover(&part, w, h, image));
    TRY_OUT(image_crop(&cut, image, part.x, part.y, part.w, part.h));
    TRY_OUT(frame_stretch(out, w, h, &cut, bf16));
out:
    image_done(&cut);
    return st;
}

/* out [C, T, H, W]: the clip, then frames of zeros, in whose place Phantom's images are. */
static void before_subject(float *out, struct latent_shape s, int64_t frames, const float *clip)
{
    const int64_t frame = s.h * s.w;

    memset(out, 0, (size_t)latent_count(s) * sizeof(float));
    for (int64_t i = 0; i < s.c; i++)
        memcpy(out + i * s.t * frame, clip + i * frames * frame,
               (size_t)(frames * frame) * sizeof(float));
}

/* out [C, T, H, W]: the reference images, which VACE's control begins with, then the clip. */
static void after_references(float *out, struct latent_shape s, int references, const float *clip,
                             const float *control)
{
    const int64_t frame = s.h * s.w, before = references * frame, after = s.t * frame - before;

    for (int64_t i = 0; i < s.c; i++) {
        memcpy(out + i * (before + after), control + i * (before + after),
               (size_t)before * sizeof(float));
        memcpy(out + i * (before + after) + before, clip + i * after,
               (size_t)after * sizeof(float));
    }
}

status condition_video(struct pipeline *p, struct plan_input *plan, const struct task_inputs *in,
                       struct conditioning *c)
{
    const struct latent_shape s = plan->latent, video = plan_decoded(plan);
    const int64_t frames = condition_frames(plan);
    const int64_t dims[] = { s.c, s.t, s.h, s.w };
    float *data = NULL, *clip = NULL;
    status st;

    if (in->clip[INPUT_input_video].w == 0)
        return ST_OK;
    if (p == NULL) {
        plan_add_clip(plan, frames);
        conditioning_add_shape(c, CONDITION_VIDEO, 4, dims);
        return ST_OK;
    }
    st = conditioning_add(c, CONDITION_VIDEO, 4, dims, &data);
    clip = malloc((size_t)latent_count(video) * sizeof(float));
    if (st == ST_OK && clip == NULL)
        st = fail(ST_MEMORY, "cannot allocate host memory for a latent of %lld values",
                  (long long)latent_count(video));
    TRY_OUT(agree(p->world, st));
    TRY_OUT(encode_clip(p, plan, clip, frames, &in->clip[INPUT_input_video], fit_cover));
    if (plan->appended > 0)
        before_subject(data, s, video.t, clip);
    else
        after_references(data, s, plan->prepended, clip,
                         plan->prepended > 0 ? conditioning_find(c, CONDITION_VACE).data : clip);
out:
    free(clip);
    return st;
}

void start_from_video(float *latent, const float *noise, const struct conditioning *c, float sigma)
{
    const struct tensor video = conditioning_find(c, CONDITION_VIDEO);

    for (int64_t i = 0; video.ndim != 0 && i < tensor_count(video); i++)
        latent[i] = (1.0f - sigma) * ((const float *)video.data)[i] + sigma * noise[i];
}

status condition_task(const struct task *task, struct pipeline *p, struct plan_input *plan,
                      const struct task_inputs *in, struct conditioning *c)
{
    TRY(task->condition(p, plan, in, c));
    TRY(condition_speed(p, plan, in, c));
    return condition_video(p, plan, in, c);
}

status conditioning_share(struct world *w, status st, struct conditioning *c)
{
    struct conditioning shapes = *c;

    TRY(agree(w, st));
    world_broadcast(w, &shapes, sizeof(shapes), 0);
    for (int i = 0; i < shapes.count && w->rank != 0 && st == ST_OK; i++) {
        const struct tensor t = shapes.array[i].value;
        float *data;

        st = conditioning_add(c, shapes.array[i].name, t.ndim, t.dim, &data);
    }
    TRY(agree(w, st));
    for (int i = 0; i < c->count; i++)
        world_broadcast(w, c->array[i].value.data, tensor_bytes(c->array[i].value), 0);
    return ST_OK;
}
