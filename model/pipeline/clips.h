/* clips.h - a video in clips, each of which continues the frames of the one before (S2V).
 *
 *     clip 0   [ reference     | latent ]   decoded: the latent's frames but the first 3
 *     clip n   [ motion frames | latent ]   decoded: the latent's frames
 *
 * The motion frames are the last 73 frames so far, encoded.
 *
 * With --start_from_ref clip 0 has motion frames too: grey ones, and six of the reference image.
 *
 * Source: Wan2.2 wan/speech2video.py, WanS2V.generate. */
#ifndef MODEL_PIPELINE_CLIPS_H
#define MODEL_PIPELINE_CLIPS_H

#include "model/pipeline/pipeline.h"

#define CLIP_DROPPED 3 // frames of clip 0, unless it starts from the reference image

struct clip_chain {
    struct pipeline *pipeline; // borrowed, as are plan and conditioning
    const struct plan_input *plan;
    struct conditioning *all; // of all clips; its motion frames are those of the next clip
    float *tail;              // rank 0: [AUDIO_MOTION_FRAMES, h, w, 3], the last frames so far
    struct frame_sink sink;   // rank 0, while a clip is decoded: for its frames
    int64_t skip;             // frames that it does not get
};

/* Begins with clip 0. `reference` [h, w, 3]: the image, NULL unless the video starts from it;
 * borrowed until this returns. Collective, as the others. ST_MEMORY, and errors of encoding. */
status clips_open(struct clip_chain *c, struct pipeline *p, const struct plan_input *plan,
                  struct conditioning *all, const float *reference);
void clips_close(struct clip_chain *c); // local; accepts zeroed values

/* The conditioning of clip `index`: views of the whole, which must not be freed. Local. */
void clips_conditioning(struct conditioning *view, const struct clip_chain *c, int index);

/* Decodes clip `index`, whose latent [C, T, H, W] this is, and passes its frames to the sink; then
 * encodes the motion frames of the next one, if there is one. */
status clips_decode(struct clip_chain *c, int index, const float *latent, struct vae_tiling tiling,
                    struct frame_sink sink, struct decode_callback less);

#endif
