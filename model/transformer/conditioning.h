/* conditioning.h - all inputs of the transformer except the noise and the time, as named arrays. A
 * task's function fills it, the transformer and its features read it, and the run file stores it.
 *
 *     name          shape               meaning
 *     text/cond     [rows, text_dim]    the text encoder's output for the prompt
 *     text/uncond   [rows, text_dim]    the same for the negative prompt
 *     channels      [c, T, H, W]        concatenated to the latent's channels, after them
 *     clean         [C, n, H, W]        the first n latent frames, which are known: they keep these
 *                                       values, and their tokens have time 0
 *     image         [rows, width]       the image encoder's output, of one image after the other
 *     subject       [C, n, H, W]        the last n latent frames, which have no noise: reference
 *                                       images, and zeros in the branch without them (Phantom)
 *     video         [C, T, H, W]        video to video: the encoded clip, of which the first latent
 * is made; the transformer does not read it
 *     vace          [c, T, H, W]        the control of VACE: of the latent's frames
 *     vace_scale    [1]                 by which its hints are multiplied
 *     reference     [C, 1, H, W]        the latent of a reference image: tokens before the video's,
 *                                       of S2V after them
 *     time_mod      [6 C]               added to the modulation of all blocks, at all times
 *     camera        [F, 16]             the camera of each frame of the video (media/camera.h)
 *     audio         [4 T, width]        S2V: the audio encoder's rows for the frames of a clip
 *     motion        [C, 19, H, W]       the frames before the clip; none before the first
 *     pose          [c, T, H, W]        the poses that are followed
 *
 * A feature may read more arrays, with names that it defines (features.h): an addend to the patch
 * embedding, tokens before or after the video's, hints per block. All arrays are f32, contiguous,
 * in host memory, and the same on every rank; for plans they have shapes and no data. All functions
 * are local. */
#ifndef MODEL_TRANSFORMER_CONDITIONING_H
#define MODEL_TRANSFORMER_CONDITIONING_H

#include "runtime/status.h"
#include "runtime/tensor.h"

#define CONDITION_COND "text/cond"
#define CONDITION_UNCOND "text/uncond"
#define CONDITION_CHANNELS "channels"
#define CONDITION_CLEAN "clean"
#define CONDITION_IMAGE "image"
#define CONDITION_VIDEO "video"
#define CONDITION_VACE "vace"
#define CONDITION_VACE_SCALE "vace_scale"
#define CONDITION_REFERENCE "reference"
#define CONDITION_CAMERA "camera"
#define CONDITION_TIME_MOD "time_mod"

#define CONDITION_SUBJECT "subject"

#define CONDITION_AUDIO "audio"
#define CONDITION_MOTION "motion"
#define CONDITION_POSE "pose"

#define AUDIO_MOTION_FRAMES 73  // before a clip
#define AUDIO_MOTION_LATENTS 19 // their latent frames

#define CONDITIONS_MAX 16
#define CONDITION_NAME_BYTES 32

struct condition {
    char name[CONDITION_NAME_BYTES];
    struct tensor value; // data: malloc'ed, owned by the conditioning; NULL for plans
};

struct conditioning {
    int count;
    struct condition array[CONDITIONS_MAX];
};

/* Adds an array of this shape. *data: its memory, which the caller fills. ST_MEMORY. */
status conditioning_add(struct conditioning *c, const char *name, int ndim, const int64_t *dim,
                        float **data);

/* Adds a shape without data, for plans. */
void conditioning_add_shape(struct conditioning *c, const char *name, int ndim, const int64_t *dim);

/* The array of this name, or a zeroed tensor (ndim 0) if there is none. */
struct tensor conditioning_find(const struct conditioning *c, const char *name);

void conditioning_done(struct conditioning *c); // frees the arrays; accepts zeroed values

#endif
