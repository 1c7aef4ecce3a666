/* The conditioning of S2V, of all clips at once: the reference image, the sound's rows and the pose
 * video; and the length of the video, which follows from the sound.
 * Source: Wan2.2 wan/speech2video.py. */
#include "model/audio/speech.h"
#include "model/media/frame.h"
#include "model/pipeline/clips.h"
#include "model/pipeline/condition.h"
#include "model/pipeline/pipeline.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int s2v_clips(const struct task_inputs *in)
{
    const int most = in->num_clip;
    int clips;

    if (in->sound.samples == 0) // a plan
        return most > 0 ? most : 1;
    clips = speech_clips(speech_rows(in->sound.samples), in->infer_frames);
    return most > 0 && most < clips ? most : clips;
}

status size_of_s2v(const struct task_inputs *in, int size[2], int *frames)
{
    const struct image *image = &in->image[INPUT_image];
    const double least_s = 0.05;
    double most;

    if (in->infer_frames % 4 != 0)
        return fail(ST_USAGE, "--infer_frames %d: must be a multiple of 4; try %d",
                    in->infer_frames, in->infer_frames / 4 * 4 + 4);
    if (in->sound.samples > 0 && speech_features(speech_rows(in->sound.samples)) == 0)
        return fail(ST_USAGE,
                    "--audio %s: the sound is %.3g s long, and a video needs at least %.2g s: pass "
                    "a longer one",
                    in->input[INPUT_audio], in->sound.seconds, least_s);
    *frames = s2v_clips(in) * in->infer_frames - (in->start_from_ref ? 0 : CLIP_DROPPED);
    most = ceil(in->sound.seconds * SPEECH_FPS - 1e-6); // the video ends with the sound
    if (in->sound.samples > 0 && most < *frames)
        *frames = most > 1 ? (int)most : 1;
    return frame_size_within(size, image->w > 0 ? image->w : size[0],
                             image->w > 0 ? image->h : size[1], (int64_t)size[0] * size[1]);
}

/* ---- the reference image ---- */

static status reference_frame(void *payload, int64_t index, const float **pixels)
{
    *pixels = payload;
    return ST_OK;
}

/* ---- the pose video ---- */

/* The frames of a clip of the pose video: the first one twice, as the VAE takes 4n + 1. After the
 * end of the video they are -1. */
struct poses {
    struct world *world;
    const struct clip_input *video;
    int64_t interval, first; // frames of the video per frame; the clip's first frame
    int w, h;
    float *pixels;
};

static status fit_pose(struct poses *p, int64_t index)
{
    const int64_t frame = (p->first + (index > 0 ? index - 1 : 0)) * p->interval;
    struct image image = { 0 };
    status st;

    if (frame >= p->video->frames) {
        for (int64_t i = 0; i < (int64_t)p->w * p->h * 3; i++)
            p->pixels[i] = -1;
        return ST_OK;
    }
    TRY(p->video->read(p->video->payload, frame, &image));
    st = frame_center(p->pixels, p->w, p->h, &image, true);
    image_done(&image);
    return st;
}

static status pose_frame(void *payload, int64_t index, const float **pixels)
{
    struct poses *p = payload;

    if (index != 1) // the first frame again
        TRY(agree(p->world, p->world->rank == 0 ? fit_pose(p, index) : ST_OK));
    world_broadcast(p->world, p->pixels, (size_t)p->w * (size_t)p->h * 3 * sizeof(float), 0);
    *pixels = p->pixels;
    return ST_OK;
}

/* Copies frames 1 .. n of [C, n + 1, H, W] to [C, n, H, W]. */
static void without_first(float *out, const float *in, struct latent_shape s)
{
    const int64_t frame = s.h * s.w;

    for (int64_t c = 0; c < s.c; c++)
        memcpy(out + c * s.t * frame, in + (c * (s.t + 1) + 1) * frame,
               (size_t)(s.t * frame) * sizeof(float));
}

static status encode_poses(struct pipeline *p, const struct plan_input *plan, float *out,
                           const struct clip_input *video, int clips)
{
    const struct latent_shape s = plan->latent;
    const int64_t stride = model_vae(&plan->model)->stride, frames = s.t * 4;
    struct poses poses = { .world = p->world,
                           .video = video,
                           .interval = (int64_t)fmax(1, nearbyint(video->fps / SPEECH_FPS)),
                           .w = (int)(s.w * stride),
                           .h = (int)(s.h * stride) };
    const struct frame_source source = {
        .get = pose_frame, .payload = &poses, .frames = frames + 1, .h = poses.h, .w = poses.w
    };
    float *latent = malloc((size_t)(s.c * (s.t + 1) * s.h * s.w) * sizeof(float));
    status st = ST_OK;

    poses.pixels = malloc((size_t)poses.w * (size_t)poses.h * 3 * sizeof(float));
    if (latent == NULL || poses.pixels == NULL)
        st =
            fail(ST_MEMORY, "cannot allocate host memory for a frame of %d x %d", poses.w, poses.h);
    TRY_OUT(agree(p->world, st));
    for (int i = 0; i < clips; i++) {
        poses.first = i * frames;
        TRY_OUT(pipeline_encode(p, source, latent));
        without_first(out + i * latent_count(s), latent, s);
    }
out:
    free(poses.pixels);
    free(latent);
    return st;
}

/* ---- all of it ---- */

/* Adds the shapes of one clip, and notes what is encoded. */
static void plan_s2v(struct plan_input *plan, const struct task_inputs *in, struct conditioning *c)
{
    const struct latent_shape s = plan->latent;
    const struct wav2vec2_config *audio = model_wav2vec2(&plan->model);
    const int64_t rows[] = { 4 * s.t, audio->dim }, one[] = { s.c, 1, s.h, s.w };
    const int64_t motion[] = { s.c, AUDIO_MOTION_LATENTS, s.h, s.w };
    const int64_t pose[] = { s.c, s.t, s.h, s.w };

    plan->chain =
        (struct plan_chain){ .clips = s2v_clips(in), .from_reference = in->start_from_ref };
    plan->sound_samples = in->sound.samples > 0 ? in->sound.samples : 10 * WAV2VEC2_RATE;
    plan_add_clip(plan, 1);
    conditioning_add_shape(c, CONDITION_AUDIO, 2, rows);
    conditioning_add_shape(c, CONDITION_REFERENCE, 4, one);
    if (plan_chained(plan)) {
        plan_add_clip(plan, AUDIO_MOTION_FRAMES);
        conditioning_add_shape(c, CONDITION_MOTION, 4, motion);
    }
    if (in->input[INPUT_pose_video] != NULL) {
        plan_add_clip(plan, 4 * s.t + 1);
        conditioning_add_shape(c, CONDITION_POSE, 4, pose);
    }
}

status condition_s2v(struct pipeline *p, struct plan_input *plan, const struct task_inputs *in,
                     struct conditioning *c)
{
    const struct latent_shape s = plan->latent;
    const int64_t stride = model_vae(&plan->model)->stride, clips = s2v_clips(in);
    const int w = (int)(s.w * stride), h = (int)(s.h * stride);
    const int64_t width = model_wav2vec2(&plan->model)->dim;
    const int64_t rows[] = { clips * 4 * s.t, width }, one[] = { s.c, 1, s.h, s.w };
    const int64_t motion[] = { s.c, AUDIO_MOTION_LATENTS, s.h, s.w };
    const int64_t pose[] = { clips * s.c, s.t, s.h, s.w };
    struct frame_source source = { .get = reference_frame, .frames = 1, .h = h, .w = w };
    float *frame = NULL, *audio = NULL, *reference = NULL, *before = NULL, *poses = NULL;
    status st = ST_OK;

    if (p == NULL) {
        plan_s2v(plan, in, c);
        return condition_text(p, plan, in, c);
    }
    frame = malloc((size_t)w * (size_t)h * 3 * sizeof(float));
    if (frame == NULL)
        st = fail(ST_MEMORY, "cannot allocate host memory for a frame of %d x %d", w, h);
    if (st == ST_OK)
        st = frame_center(frame, w, h, &in->image[INPUT_image], false);
    if (st == ST_OK)
        st = conditioning_add(c, CONDITION_AUDIO, 2, rows, &audio);
    if (st == ST_OK)
        st = conditioning_add(c, CONDITION_REFERENCE, 4, one, &reference);
    if (st == ST_OK && plan_chained(plan))
        st = conditioning_add(c, CONDITION_MOTION, 4, motion, &before);
    if (st == ST_OK && in->input[INPUT_pose_video] != NULL)
        st = conditioning_add(c, CONDITION_POSE, 4, pose, &poses);
    TRY_OUT(agree(p->world, st));
    if (before != NULL)
        memset(before, 0, (size_t)(s.c * AUDIO_MOTION_LATENTS * s.h * s.w) * sizeof(float));
    TRY_OUT(pipeline_audio(p, &in->sound, rows[0], audio));
    source.payload = frame;
    TRY_OUT(pipeline_encode(p, source, reference));
    if (poses != NULL)
        TRY_OUT(encode_poses(p, plan, poses, &in->clip[INPUT_pose_video], (int)clips));
    st = condition_text(p, plan, in, c);
out:
    free(frame);
    return st;
}
