/* condition_internal.h - what the files that make conditionings share. Functions with a pipeline
 * are collective, and do nothing but plan if that is NULL, as the functions of condition.h. */
#ifndef MODEL_PIPELINE_CONDITION_INTERNAL_H
#define MODEL_PIPELINE_CONDITION_INTERNAL_H

#include "model/pipeline/condition.h"
#include "model/pipeline/pipeline.h"

#define MASK_CHANNELS 4 // one for each frame of a latent frame

/* How a task makes a frame [h, w, 3] of a picture. */
typedef status fit_fn(float *out, int w, int h, const struct picture *picture);

/* The frames of a video that are known: the first one, and perhaps the last. */
struct known {
    int count; // 1 or 2
    struct picture picture[2];
    fit_fn *fit;
};

/* The image at the size of the video, as DiffSynth makes a frame of it, and the last one if it is
 * given, else NULL or an image without pixels. */
struct known known_stretched(const struct plan_input *plan, const struct image *first,
                             const struct image *last);

/* The number of frames of the video. */
int64_t condition_frames(const struct plan_input *plan);

/* latent [C, T, H, W], on every rank: of a clip of `frames` frames of the size of the video, of
 * which those in `known` are not zeros. p is not NULL. */
status encode_ends(struct pipeline *p, const struct plan_input *plan, float *latent, int64_t frames,
                   const struct known *known);

/* Writes the mask [MASK_CHANNELS, T, H, W] of the known frames. Local. */
void fill_mask(float *mask, struct latent_shape s, const struct known *known);

/* Adds the channels: the mask, then the latent of the clip of the known frames. */
status add_channels(struct pipeline *p, struct plan_input *plan, struct conditioning *c,
                    const struct known *known);

/* Adds the image encoder's tokens of the pictures. */
status add_tokens(struct pipeline *p, struct plan_input *plan, struct conditioning *c, int count,
                  const struct picture *pictures);

/* The same of one image at the size of the video, as DiffSynth resizes it. */
status add_stretched_tokens(struct pipeline *p, struct plan_input *plan, struct conditioning *c,
                            const struct image *image);

/* A frame of a clip as DiffSynth's VideoData gives it to the pipeline. */
fit_frame_fn fit_cover;

#endif
