/* condition.h - functions that make a task's conditioning or check its size; the rows of task.c
 * point to them. */
#ifndef MODEL_PIPELINE_CONDITION_H
#define MODEL_PIPELINE_CONDITION_H

#include "model/pipeline/denoise.h"
#include "model/pipeline/task.h"
#include "parallel/world.h"

/* ---- size rules ---- */

/* The size [width, height] in pixels as given, which must be multiples of 16. Local, as the others,
 * which leave *frames as it is unless noted. ST_USAGE. */
status size_as_given(const struct task_inputs *in, int size[2], int *frames);

/* For the image of --image, if it is given: its aspect, and about as many pixels as `size` has, in
 * multiples of 16; or, for TI2V, of 32. For FLF2V the first frame, which must be given by
 * --first_frame or --image, unless no image is given. Local. ST_USAGE. */
status size_of_image(const struct task_inputs *in, int size[2], int *frames);
status size_of_first_frame(const struct task_inputs *in, int size[2], int *frames);
status size_of_ti2v(const struct task_inputs *in, int size[2], int *frames);

/* For VACE: with --src_video its size and number of frames (vace_size), else as given. Refuses a
 * mask without a clip, or of another length. Local. ST_USAGE. */
status size_of_vace(const struct task_inputs *in, int size[2], int *frames);

/* For S2V: --size is an area that the image's aspect fits, in multiples of 64, and the frames are
 * those of the sound's clips. */
status size_of_s2v(const struct task_inputs *in, int size[2], int *frames);

/* ---- conditioning ---- */

/* Text to video: adds the text encoder's output for both prompts. p NULL: adds the planned shapes
 * only, local. Else collective; ST_MEMORY, and the errors of pipeline_text. */
status condition_text(struct pipeline *p, struct plan_input *plan, const struct task_inputs *in,
                      struct conditioning *c);

/* Image to video without CLIP: the channels are a mask of the known frames, and the latent of a
 * clip that has the image first and zeros after it. Source: Wan2.2 wan/image2video.py. */
status condition_image(struct pipeline *p, struct plan_input *plan, const struct task_inputs *in,
                       struct conditioning *c);

/* The same with the image encoder's tokens. Source: Wan2.1 wan/image2video.py. */
status condition_image_tokens(struct pipeline *p, struct plan_input *plan,
                              const struct task_inputs *in, struct conditioning *c);

/* FLF2V: the clip has the first frame first and the last frame last, and the image encoder sees
 * both. Source: Wan2.1 wan/first_last_frame2video.py. */
status condition_first_last(struct pipeline *p, struct plan_input *plan,
                            const struct task_inputs *in, struct conditioning *c);

/* Fun-InP: an image, and perhaps a last frame, which the image encoder does not see. Those of
 * Wan2.2 have no image encoder.
 * Source: DiffSynth-Studio diffsynth/pipelines/wan_video.py, the ImageEmbedder units. */
status condition_inp(struct pipeline *p, struct plan_input *plan, const struct task_inputs *in,
                     struct conditioning *c);

/* Fun Control: the channels are the latent of --control_video, then that of the start image, or
 * zeros; the image encoder sees the reference image, else the start image, else its output is
 * zeros. For a model that takes it the latent of the reference image is added. With the mask's
 * channels (Wan2.2) the start image is not used, as in DiffSynth. With in->fun_official it is as in
 * VideoX-Fun: the start image is encoded alone, or is used with the mask and the last frame, and
 * the latent of a missing reference image is zeros.
 * Source: DiffSynth-Studio diffsynth/pipelines/wan_video.py, WanVideoUnit_FunControl and
 * WanVideoUnit_FunReference; VideoX-Fun videox_fun/pipeline/pipeline_wan_fun_control.py and
 * pipeline_wan2_2_fun_control.py. */
status condition_control(struct pipeline *p, struct plan_input *plan, const struct task_inputs *in,
                         struct conditioning *c);

/* Fun Camera: the path of the camera, and an image. The channels are its latent and zeros, or
 * with a mask those of condition_image. Source: the same, WanVideoUnit_FunCameraControl. */
status condition_camera(struct pipeline *p, struct plan_input *plan, const struct task_inputs *in,
                        struct conditioning *c);

/* TI2V: with an image, its latent is the first latent frame, which stays clean.
 * Source: Wan2.2 wan/textimage2video.py. */
status condition_ti2v(struct pipeline *p, struct plan_input *plan, const struct task_inputs *in,
                      struct conditioning *c);

/* VACE: the control is the latent of what the mask keeps of the clip, that of what it gives free,
 * and the mask, 64 channels; before them the reference images.
 * Source: Wan2.1 wan/vace.py: vace_encode_frames, vace_encode_masks. */
status condition_vace(struct pipeline *p, struct plan_input *plan, const struct task_inputs *in,
                      struct conditioning *c);

/* Whether VACE's inputs have DiffSynth's names. Then they are prepared as DiffSynth does; and of
 * the noise, the last `references` frames come first. Local. Source: DiffSynth-Studio
 * diffsynth/pipelines/wan_video.py, the VACE and NoiseInitializer units. */
bool vace_is_diffsynth(const char *const *input);
void vace_turn_noise(float *noise, struct latent_shape s, int references);

/* Phantom: the reference images, at most PHANTOM_IMAGES, are the last latent frames, without noise.
 * Source: Phantom generate.py, phantom_wan/subject2video.py. */
#define PHANTOM_IMAGES 8
status size_of_phantom(const struct task_inputs *in, int size[2], int *frames);
status condition_phantom(struct pipeline *p, struct plan_input *plan, const struct task_inputs *in,
                         struct conditioning *c);

/* Video to video, with any task: adds the latent of --input_video, if that is given, of which
 * start_from_video makes the first latent. Source: DiffSynth-Studio
 * diffsynth/pipelines/wan_video.py, WanVideoUnit_InputVideoEmbedder. */
status condition_video(struct pipeline *p, struct plan_input *plan, const struct task_inputs *in,
                       struct conditioning *c);

/* With any task: adds to the modulation what the motion controller makes of --motion_bucket_id, if
 * that is given. Source: the same, model_fn_wan_video. */
status condition_speed(struct pipeline *p, struct plan_input *plan, const struct task_inputs *in,
                       struct conditioning *c);

/* latent = (1 - sigma) video + sigma noise, for the sigma of the first step. Without a video
 * nothing is done. Local. */
void start_from_video(float *latent, const float *noise, const struct conditioning *c, float sigma);

/* The task's conditioning, then what any task has. */
status condition_task(const struct task *task, struct pipeline *p, struct plan_input *plan,
                      const struct task_inputs *in, struct conditioning *c);

/* Encodes the first frames of a clip, at the size of the video: latent [C, T, H, W], on every rank,
 * of `frames` frames. `fit` makes a frame [h, w, 3] f32, on rank 0. Collective. */
typedef status fit_frame_fn(float *out, int w, int h, const struct image *image, bool bf16);
status encode_clip(struct pipeline *p, const struct plan_input *plan, float *latent, int64_t frames,
                   const struct clip_input *clip, fit_frame_fn *fit);

/* S2V: the arrays of all clips, see clips.h: the audio encoder's rows, [clips * 4 T, width], the
 * reference image, the pose video's latents [clips * C, T, H, W], and room for the motion frames.
 * Source: Wan2.2 wan/speech2video.py. */
status condition_s2v(struct pipeline *p, struct plan_input *plan, const struct task_inputs *in,
                     struct conditioning *c);
int s2v_clips(const struct task_inputs *in); // the number of clips

/* Broadcasts rank 0's conditioning; on the other ranks *c is empty before. `st`: whether rank 0 has
 * made it. Collective; all ranks return the same status. */
status conditioning_share(struct world *w, status st, struct conditioning *c);

#endif
