/* The conditioning of the tasks of Fun. */
#include "model/pipeline/condition_internal.h"
#include "model/transformer/features.h"

#include <stdlib.h>
#include <string.h>

/* Adds a latent of one frame, of an image at the size of the video; zeros without an image. */
static status add_reference(struct pipeline *p, struct plan_input *plan, struct conditioning *c,
                            const struct image *image)
{
    const struct latent_shape s = plan->latent;
    const struct known known = known_stretched(plan, image, NULL);
    const int64_t dims[] = { s.c, 1, s.h, s.w };
    float *data;

    if (p == NULL) {
        if (image->w > 0)
            plan_add_clip(plan, 1);
        conditioning_add_shape(c, CONDITION_REFERENCE, 4, dims);
        return ST_OK;
    }
    TRY(agree(p->world, conditioning_add(c, CONDITION_REFERENCE, 4, dims, &data)));
    if (image->w > 0)
        return encode_ends(p, plan, data, 1, &known);
    memset(data, 0, (size_t)(s.c * s.h * s.w) * sizeof(*data));
    return ST_OK;
}

/* latent [C, T, H, W]: the first frame is that of the image, the others are zeros. */
static status encode_first(struct pipeline *p, const struct plan_input *plan, float *latent,
                           const struct known *known)
{
    const struct latent_shape s = plan->latent;
    const int64_t frame = s.h * s.w;
    float *first = malloc((size_t)(s.c * frame) * sizeof(*first));
    status st = ST_OK;

    if (first == NULL)
        st = fail(ST_MEMORY, "cannot allocate host memory for a latent frame");
    TRY_OUT(agree(p->world, st));
    TRY_OUT(encode_ends(p, plan, first, 1, known));
    memset(latent, 0, (size_t)latent_count(s) * sizeof(*latent));
    for (int64_t i = 0; i < s.c; i++)
        memcpy(latent + i * s.t * frame, first + i * frame, (size_t)frame * sizeof(*first));
out:
    free(first);
    return st;
}

/* What the start image adds to the channels of the control: nothing, the latent of the whole video
 * that begins with it, that of the image alone, or the former after a mask. */
enum start { START_NONE, START_VIDEO, START_ALONE, START_MASKED };

static enum start start_of(const struct plan_input *plan, const struct task_inputs *in,
                           int64_t channels)
{
    if (in->image[INPUT_image].w == 0)
        return START_NONE;
    if (channels > plan->latent.c)
        return in->fun_official ? START_MASKED : START_NONE;
    return in->fun_official ? START_ALONE : START_VIDEO;
}

/* Adds the channels: the latent of the control, then those of the start image. */
static status add_control(struct pipeline *p, struct plan_input *plan, const struct task_inputs *in,
                          struct conditioning *c)
{
    const struct dit_config *dit = model_dit(&plan->model);
    const struct latent_shape s = plan->latent;
    const int64_t channel = s.t * s.h * s.w, frames = condition_frames(plan);
    const int64_t all = dit->in_dim - dit->out_dim, dims[] = { all, s.t, s.h, s.w };
    const struct known known =
        known_stretched(plan, &in->image[INPUT_image], &in->image[INPUT_last_frame]);
    const enum start start = start_of(plan, in, all - s.c);
    float *data;

    if (p == NULL) {
        plan_add_clip(plan, frames);
        if (start != START_NONE)
            plan_add_clip(plan, start == START_ALONE ? 1 : frames);
        conditioning_add_shape(c, CONDITION_CHANNELS, 4, dims);
        return ST_OK;
    }
    TRY(agree(p->world, conditioning_add(c, CONDITION_CHANNELS, 4, dims, &data)));
    TRY(encode_clip(p, plan, data, frames, &in->clip[INPUT_control_video], fit_cover));
    data += s.c * channel;
    switch (start) {
    case START_NONE:
        memset(data, 0, (size_t)((all - s.c) * channel) * sizeof(*data));
        return ST_OK;
    case START_VIDEO:
        return encode_ends(p, plan, data, frames, &known);
    case START_ALONE:
        return encode_first(p, plan, data, &known);
    case START_MASKED:
        fill_mask(data, s, &known);
        return encode_ends(p, plan, data + MASK_CHANNELS * channel, frames, &known);
    }
    return ST_OK;
}

/* Adds the image encoder's tokens, or zeros, which are not the same as none: the transformer's
 * embedding of them is not zero. */
static status add_tokens_or_zeros(struct pipeline *p, struct plan_input *plan,
                                  struct conditioning *c, const struct image *image)
{
    const struct clip_config *clip = model_clip(&plan->model);
    const int64_t dims[] = { clip_tokens(clip), clip->dim };
    float *data;

    if (image->w > 0)
        return add_stretched_tokens(p, plan, c, image);
    if (p == NULL) {
        conditioning_add_shape(c, CONDITION_IMAGE, 2, dims);
        return ST_OK;
    }
    TRY(agree(p->world, conditioning_add(c, CONDITION_IMAGE, 2, dims, &data)));
    memset(data, 0, (size_t)(dims[0] * dims[1]) * sizeof(*data));
    return ST_OK;
}

status condition_control(struct pipeline *p, struct plan_input *plan, const struct task_inputs *in,
                         struct conditioning *c)
{
    const struct dit_config *dit = model_dit(&plan->model);
    const struct image *reference = &in->image[INPUT_reference_image];
    const struct image *start = &in->image[INPUT_image];

    if (dit->image_dim > 0)
        TRY(add_tokens_or_zeros(p, plan, c, reference->w > 0 ? reference : start));
    TRY(add_control(p, plan, in, c));
    if (dit_find_feature(dit, &feature_reference) != NULL && (reference->w > 0 || in->fun_official))
        TRY(add_reference(p, plan, c, reference));
    return condition_text(p, plan, in, c);
}

/* Adds the camera of each frame. */
static status add_camera(struct pipeline *p, const struct plan_input *plan,
                         const struct task_inputs *in, struct conditioning *c)
{
    const int64_t frames = condition_frames(plan), dims[] = { frames, CAMERA_VIEW };
    const int64_t stride = model_vae(&plan->model)->stride;
    float *views;
    status st = ST_OK;

    if (p == NULL) {
        conditioning_add_shape(c, CONDITION_CAMERA, 2, dims);
        return ST_OK;
    }
    TRY(agree(p->world, conditioning_add(c, CONDITION_CAMERA, 2, dims, &views)));
    if (p->world->rank == 0)
        st = camera_views(views, &in->camera, frames, (int)(plan->latent.w * stride),
                          (int)(plan->latent.h * stride));
    TRY(agree(p->world, st));
    world_broadcast(p->world, views, (size_t)(frames * CAMERA_VIEW) * sizeof(*views), 0);
    return ST_OK;
}

status condition_camera(struct pipeline *p, struct plan_input *plan, const struct task_inputs *in,
                        struct conditioning *c)
{
    const struct dit_config *dit = model_dit(&plan->model);
    const struct latent_shape s = plan->latent;
    const struct known known = known_stretched(plan, &in->image[INPUT_image], NULL);
    const int64_t dims[] = { s.c, s.t, s.h, s.w };
    float *data;

    TRY(add_camera(p, plan, in, c));
    if (dit->image_dim > 0)
        TRY(add_stretched_tokens(p, plan, c, &in->image[INPUT_image]));
    if (dit->in_dim - dit->out_dim > s.c) {
        TRY(add_channels(p, plan, c, &known));
    } else if (p == NULL) {
        plan_add_clip(plan, 1);
        conditioning_add_shape(c, CONDITION_CHANNELS, 4, dims);
    } else {
        TRY(agree(p->world, conditioning_add(c, CONDITION_CHANNELS, 4, dims, &data)));
        TRY(encode_first(p, plan, data, &known));
    }
    return condition_text(p, plan, in, c);
}
