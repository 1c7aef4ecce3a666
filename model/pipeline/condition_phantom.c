/* Phantom: videos of the persons and things that reference images show. */
#include "model/media/frame.h"
#include "model/pipeline/condition.h"
#include "model/pipeline/pipeline.h"

#include <stdlib.h>
#include <string.h>

status size_of_phantom(const struct task_inputs *in, int size[2], int *frames)
{
    TRY(size_as_given(in, size, frames));
    return in->references <= PHANTOM_IMAGES
               ? ST_OK
               : fail(ST_USAGE,
                      "--ref_image has %d images; at most %d are used, and 1 to 4 recommended",
                      in->references, PHANTOM_IMAGES);
}

static status one_frame(void *payload, int64_t index, const float **pixels)
{
    *pixels = payload;
    return ST_OK;
}

/* What is encoded, and its latents. */
struct subjects {
    int count;
    float *frame[PHANTOM_IMAGES], *latent[PHANTOM_IMAGES];
};

static void subjects_done(struct subjects *s)
{
    for (int i = 0; i < s->count; i++) {
        free(s->frame[i]);
        free(s->latent[i]);
    }
}

static status make_frames(struct subjects *s, const struct task_inputs *in, int w, int h,
                          int64_t values)
{
    for (int i = 0; i < s->count; i++) {
        s->frame[i] = malloc((size_t)w * (size_t)h * 3 * sizeof(float));
        s->latent[i] = malloc((size_t)values * sizeof(float));
        if (s->frame[i] == NULL || s->latent[i] == NULL)
            return fail(ST_MEMORY, "cannot allocate host memory for %d images of %d x %d", s->count,
                        w, h);
        TRY(frame_letterbox(s->frame[i], w, h, &in->reference[i]));
    }
    return ST_OK;
}

static status encode_subjects(struct pipeline *p, const struct plan_input *plan, float *data,
                              const struct task_inputs *in)
{
    const int64_t stride = model_vae(&plan->model)->stride, frame = plan->latent.h * plan->latent.w;
    const int w = (int)(plan->latent.w * stride), h = (int)(plan->latent.h * stride);
    struct frame_source source[PHANTOM_IMAGES] = { { .frames = 0 } };
    struct subjects s = { .count = in->references };
    status st;

    TRY_OUT(agree(p->world, make_frames(&s, in, w, h, plan->latent.c * frame)));
    for (int i = 0; i < s.count; i++)
        source[i] = (struct frame_source){
            .get = one_frame, .payload = s.frame[i], .frames = 1, .h = h, .w = w
        };
    TRY_OUT(pipeline_encode_all(p, s.count, source, s.latent));
    for (int64_t c = 0; c < plan->latent.c; c++)
        for (int i = 0; i < s.count; i++)
            memcpy(data + (c * s.count + i) * frame, s.latent[i] + c * frame,
                   (size_t)frame * sizeof(float));
out:
    subjects_done(&s);
    return st;
}

status condition_phantom(struct pipeline *p, struct plan_input *plan, const struct task_inputs *in,
                         struct conditioning *c)
{
    const struct latent_shape s = plan->latent;
    const int64_t dims[] = { s.c, in->references, s.h, s.w };
    float *data;

    if (in->references > 0 && p == NULL) { // else a plan without images
        for (int i = 0; i < in->references; i++)
            plan_add_clip(plan, 1);
        conditioning_add_shape(c, CONDITION_SUBJECT, 4, dims);
    }
    if (in->references > 0 && p != NULL) {
        TRY(agree(p->world, conditioning_add(c, CONDITION_SUBJECT, 4, dims, &data)));
        TRY(encode_subjects(p, plan, data, in));
    }
    return condition_text(p, plan, in, c);
}
