#include "model/pipeline/condition.h"

#include "model/media/frame.h"
#include "model/pipeline/pipeline.h"

#include <stdlib.h>
#include <string.h>

status size_as_given(const struct task_inputs *in, int size[2])
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

status size_of_image(const struct task_inputs *in, int size[2])
{
    const struct image image = in->image[INPUT_image];

    return image.w > 0 ? frame_size_area(size, image.w, image.h, area(size))
                       : size_as_given(in, size);
}

status size_of_ti2v(const struct task_inputs *in, int size[2])
{
    const struct image image = in->image[INPUT_image];

    return image.w > 0 ? frame_size_grid(size, image.w, image.h, area(size), 32)
                       : size_as_given(in, size);
}

status condition_text(struct pipeline *p, struct plan_input *plan, const struct task_inputs *in,
                      struct conditioning *c)
{
    static const char *const names[] = { CONDITION_COND, CONDITION_UNCOND };
    const char *const prompts[] = { in->prompt, in->negative_prompt };
    const int64_t width = model_dit(&plan->model)->text_dim;
    status st = ST_OK;

    if (conditioning_find(c, names[0]).ndim != 0)
        return ST_OK; // from --text
    if (p != NULL)
        TRY(pipeline_text(p, 2, prompts));
    for (int i = 0; i < 2; i++) {
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

#define MASK_CHANNELS 4 // one for each frame of a latent frame

/* A clip of an image, and zeros after it. */
static status first_only(void *payload, int64_t index, const float **pixels)
{
    *pixels = index == 0 ? payload : NULL;
    return ST_OK;
}

/* latent [C, T, H, W], on every rank: a clip of `frames` frames that begins with the image, which
 * `fit` resizes to the size of the video. Collective. */
static status encode_image(struct pipeline *p, const struct plan_input *plan, float *latent,
                           const struct image *image, int64_t frames,
                           status (*fit)(float *out, int w, int h, const struct image *image))
{
    const int64_t stride = model_vae(&plan->model)->stride;
    const int w = (int)(plan->latent.w * stride), h = (int)(plan->latent.h * stride);
    float *pixels = malloc((size_t)w * (size_t)h * 3 * sizeof(float));
    const struct frame_source source = {
        .get = first_only, .payload = pixels, .frames = frames, .h = h, .w = w
    };
    status st = ST_OK;

    if (pixels == NULL)
        st = fail(ST_MEMORY, "cannot allocate host memory for an image of %d x %d", w, h);
    if (st == ST_OK)
        st = fit(pixels, w, h, image);
    TRY_OUT(agree(p->world, st));
    TRY_OUT(pipeline_encode(p, source, latent));
out:
    free(pixels);
    return st;
}

static status fit_all(float *out, int w, int h, const struct image *image)
{
    return resize_torch(out, w, h, image, (struct window){ 0, 0, image->w, image->h });
}

status condition_image(struct pipeline *p, struct plan_input *plan, const struct task_inputs *in,
                       struct conditioning *c)
{
    const struct latent_shape s = plan->latent;
    const int64_t frame = s.h * s.w, channel = s.t * frame;
    const int64_t dims[] = { MASK_CHANNELS + s.c, s.t, s.h, s.w };
    float *data;

    plan->encode_frames = 1 + (s.t - 1) * model_vae(&plan->model)->stride_t;
    if (p == NULL) {
        conditioning_add_shape(c, CONDITION_CHANNELS, 4, dims);
        return condition_text(p, plan, in, c);
    }
    TRY(agree(p->world, conditioning_add(c, CONDITION_CHANNELS, 4, dims, &data)));
    for (int64_t i = 0; i < MASK_CHANNELS * channel; i++)
        data[i] = i % channel < frame;
    TRY(encode_image(p, plan, data + MASK_CHANNELS * channel, &in->image[INPUT_image],
                     plan->encode_frames, fit_all));
    return condition_text(p, plan, in, c);
}

status condition_ti2v(struct pipeline *p, struct plan_input *plan, const struct task_inputs *in,
                      struct conditioning *c)
{
    const struct latent_shape s = plan->latent;
    const int64_t dims[] = { s.c, 1, s.h, s.w };
    float *data;

    plan->encode_frames = in->image[INPUT_image].w > 0;
    if (plan->encode_frames > 0 && p == NULL)
        conditioning_add_shape(c, CONDITION_CLEAN, 4, dims);
    if (plan->encode_frames > 0 && p != NULL) {
        TRY(agree(p->world, conditioning_add(c, CONDITION_CLEAN, 4, dims, &data)));
        TRY(encode_image(p, plan, data, &in->image[INPUT_image], 1, frame_fill));
    }
    return condition_text(p, plan, in, c);
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
