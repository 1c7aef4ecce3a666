/* The conditioning of VACE: a control of 16 + 16 + 64 channels for 16 of the latent,
 *
 *     [ references | frames of the latent           ]
 *     [ latent     | latent of what the mask keeps  ]
 *     [ 0          | latent of what it gives free   ]
 *     [ 0          | mask, a channel for each pixel ]
 *
 * Pixels of the clip that the other part has are 0, which is grey.
 * Source: Wan2.1 wan/vace.py, prepare_source to vace_latent; by DiffSynth's names of the inputs
 * DiffSynth-Studio diffsynth/pipelines/wan_video.py, WanVideoUnit_VACE: the mask has all levels. */
#include "model/media/frame.h"
#include "model/media/vace.h"
#include "model/pipeline/condition.h"
#include "model/pipeline/pipeline.h"
#include "runtime/half.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

bool vace_is_diffsynth(const char *const *input)
{
    for (int i = 0; i < INPUT_COUNT; i++)
        if ((TASK_VACE_DIFFSYNTH >> i & 1) != 0 && input[i] != NULL)
            return true;
    return false;
}

static void reverse(float *values, int64_t count)
{
    for (int64_t i = 0; i < count / 2; i++) {
        const float v = values[i];

        values[i] = values[count - 1 - i];
        values[count - 1 - i] = v;
    }
}

void vace_turn_noise(float *noise, struct latent_shape s, int references)
{
    const int64_t frame = s.h * s.w, all = s.t * frame, first = references * frame;

    for (int64_t c = 0; c < s.c; c++, noise += all) {
        reverse(noise, all);
        reverse(noise, first);
        reverse(noise + first, all - first);
    }
}

status size_of_vace(const struct task_inputs *in, int size[2], int *frames)
{
    const struct clip_input *video = &in->clip[INPUT_src_video], *mask = &in->clip[INPUT_src_mask];
    const int others = 2 + (in->input[INPUT_input_video] != NULL); // clips, beside the references
    const bool official = in->input[INPUT_src_video] != NULL || in->input[INPUT_src_mask] != NULL ||
                          in->input[INPUT_src_ref_images] != NULL;

    if (official && vace_is_diffsynth(in->input))
        return fail(ST_USAGE, "--src_video, --src_mask and --src_ref_images are the official "
                              "program's names, and --vace_video, --vace_video_mask and "
                              "--vace_reference_image DiffSynth's, which prepares them in another "
                              "way: use those of one program");
    if (in->references + others > PLAN_CLIPS_MAX)
        return fail(ST_USAGE, "%d reference images: this version takes at most %d", in->references,
                    PLAN_CLIPS_MAX - others);
    if (in->input[INPUT_src_mask] != NULL && in->input[INPUT_src_video] == NULL)
        return fail(ST_USAGE, "--src_mask needs --src_video, the clip of which it is the mask");
    if (in->input[INPUT_src_video] != NULL && in->input[INPUT_input_video] != NULL)
        return fail(ST_USAGE, "--input_video is for a video of --size and --frame_num, and "
                              "--src_video has its own of both: remove one of them");
    if (mask->w > 0 && video->frames != mask->frames)
        return fail(ST_USAGE,
                    "--src_mask has %lld frames and --src_video %lld; cut the longer one, so that "
                    "each frame has its mask",
                    (long long)mask->frames, (long long)video->frames);
    TRY(size_as_given(in, size, frames));
    return video->w > 0 ? vace_size(size, frames, video->w, video->h, video->frames,
                                    (int64_t)size[0] * size[1])
                        : ST_OK;
}

/* The frames of the video, on rank 0. */
struct material {
    int w, h, frames;
    bool diffsynth, bf16; // prepared as DiffSynth does; rounded as it does in bf16
    uint8_t *rgb;         // [frames, h, w, 3]; NULL: grey
    uint8_t *mask;        // [frames, h, w, mask_channels]; NULL: all white
    int mask_channels;
};

static void material_done(struct material *m)
{
    free(m->rgb);
    free(m->mask);
}

static const struct clip_input *video_of(const struct task_inputs *in)
{
    return &in->clip[vace_is_diffsynth(in->input) ? INPUT_vace_video : INPUT_src_video];
}

static const struct clip_input *mask_of(const struct task_inputs *in)
{
    return &in->clip[vace_is_diffsynth(in->input) ? INPUT_vace_video_mask : INPUT_src_mask];
}

/* A frame of a clip as DiffSynth's VideoData gives it to the pipeline. */
static status fit_diffsynth(struct image *out, int w, int h, const struct image *frame)
{
    struct window part;
    struct image cut = { 0 };
    status st;

    TRY_OUT(frame_cover(&part, w, h, frame));
    TRY_OUT(image_crop(&cut, frame, part.x, part.y, part.w, part.h));
    TRY_OUT(resize_pil(out, &cut, w, h, PIL_BICUBIC));
out:
    image_done(&cut);
    return st;
}

/* Reads the frames `index` of a clip at the size of the video: the first `channels` of each pixel.
 */
static status read_frames(uint8_t *to, const struct material *m, const struct clip_input *clip,
                          const int64_t *index, int channels)
{
    const size_t pixels = (size_t)m->w * (size_t)m->h;
    struct image frame = { 0 }, fitted = { 0 };
    status st = ST_OK;

    for (int i = 0; i < m->frames && st == ST_OK; i++, to += pixels * (size_t)channels) {
        if (i > 0 && index[i] == index[i - 1]) {
            memcpy(to, to - pixels * (size_t)channels, pixels * (size_t)channels);
            continue;
        }
        TRY_OUT(clip->read(clip->payload, index[i], &frame));
        TRY_OUT(m->diffsynth ? fit_diffsynth(&fitted, m->w, m->h, &frame)
                             : vace_frame(&fitted, m->w, m->h, &frame));
        for (size_t p = 0; p < pixels; p++)
            memcpy(to + p * (size_t)channels, fitted.rgb + 3 * p, (size_t)channels);
        image_done(&frame);
        image_done(&fitted);
    }
out:
    image_done(&frame);
    image_done(&fitted);
    return st;
}

static status read_material(struct material *m, const struct task_inputs *in)
{
    const struct clip_input *video = video_of(in), *mask = mask_of(in);
    const size_t pixels = (size_t)m->frames * (size_t)m->w * (size_t)m->h;
    int64_t *index = malloc((size_t)m->frames * sizeof(*index));
    status st = ST_OK;

    m->rgb = video->w > 0 ? malloc(3 * pixels) : NULL;
    m->mask_channels = m->diffsynth ? 3 : 1;
    m->mask = mask->w > 0 ? malloc((size_t)m->mask_channels * pixels) : NULL;
    if (index == NULL || (video->w > 0 && m->rgb == NULL) || (mask->w > 0 && m->mask == NULL))
        TRY_OUT(fail(ST_MEMORY, "cannot allocate host memory for %d frames of %d x %d", m->frames,
                     m->w, m->h));
    for (int i = 0; i < m->frames; i++)
        index[i] = i;
    if (!m->diffsynth && video->w > 0)
        vace_sample(index, m->frames, video->time, video->frames);
    if (video->w > 0)
        TRY_OUT(read_frames(m->rgb, m, video, index, 3));
    if (mask->w > 0)
        TRY_OUT(read_frames(m->mask, m, mask, index, m->mask_channels));
out:
    free(index);
    return st;
}

/* Frames for the encoder, which all ranks get from rank 0. */
struct masked {
    struct world *world;
    const struct material *material;
    bool free;     // what the mask gives free, not what it keeps
    bool zero;     // all of it is 0
    float *pixels; // of one frame
};

static float rounded(const struct material *m, float v)
{
    return m->bf16 ? bf16_round(v) : v;
}

/* The value of the mask in a channel of pixel i of all. */
static float mask_at(const struct material *m, size_t i, size_t channel)
{
    const size_t channels = (size_t)m->mask_channels;
    uint8_t v;

    if (m->mask == NULL)
        return 1;
    v = m->mask[channels * i + (channels > 1 ? channel : 0)];
    return m->diffsynth ? rounded(m, (float)v * (float)(1.0 / 255)) : vace_mask(v);
}

static float pixel(const struct masked *p, size_t i, size_t channel)
{
    const struct material *m = p->material;
    const uint8_t v = m->rgb[3 * i + channel];
    const float mask = mask_at(m, i, channel);

    if (!m->diffsynth)
        return (mask > 0.5f) == p->free ? vace_unit(v) : 0;
    return rounded(m, rounded(m, rounded(m, (float)v * (float)(2.0 / 255)) - 1) *
                          (p->free ? mask : rounded(m, 1 - mask)));
}

static void make_frame(const struct masked *p, int64_t index)
{
    const size_t pixels = (size_t)p->material->w * (size_t)p->material->h;

    for (size_t i = 0; i < 3 * pixels; i++)
        p->pixels[i] = pixel(p, (size_t)index * pixels + i / 3, i % 3);
}

static status next_frame(void *payload, int64_t index, const float **pixels)
{
    const struct masked *p = payload;

    if (p->zero)
        return ST_OK;
    if (p->world->rank == 0)
        make_frame(p, index);
    world_broadcast(p->world, p->pixels,
                    (size_t)p->material->w * (size_t)p->material->h * 3 * sizeof(float), 0);
    *pixels = p->pixels;
    return ST_OK;
}

static status reference_frame(void *payload, int64_t index, const float **pixels)
{
    *pixels = payload;
    return ST_OK;
}

/* Copies channels [C, n, H, W] to frames `at` .. at + n of [C, T, H, W]. */
static void put_latent(float *to, struct latent_shape s, int64_t at, const float *from, int64_t n)
{
    const int64_t frame = s.h * s.w;

    for (int64_t c = 0; c < s.c; c++)
        memcpy(to + (c * s.t + at) * frame, from + c * n * frame,
               (size_t)(n * frame) * sizeof(float));
}

/* The mask's channels: of frame t the mask at the middle of its frames. On rank 0. */
static void put_mask(float *to, struct latent_shape s, int references, const struct material *m)
{
    const int64_t h = s.h, w = s.w, edge = m->h / h, frames = s.t - references;
    const float scale = (float)m->frames / (float)frames; // as PyTorch's nearest-exact

    for (int64_t c = 0; c < edge * edge; c++)
        for (int64_t t = 0; t < frames; t++) {
            float *out = to + (c * s.t + references + t) * h * w;
            int64_t from = (int64_t)floorf(((float)t + 0.5f) * scale);

            from = from < m->frames ? from : m->frames - 1;
            for (int64_t y = 0; y < h; y++)
                for (int64_t x = 0; x < w; x++) {
                    const int64_t row = y * edge + c / edge, column = x * edge + c % edge;

                    out[y * w + x] = mask_at(m, (size_t)((from * m->h + row) * m->w + column), 0);
                }
        }
}

/* Encodes the two parts of the material and the references into `control`. */
static status encode_control(struct pipeline *p, float *control, struct latent_shape s,
                             const struct task_inputs *in, const struct material *m)
{
    const int64_t frames = s.t - in->references, frame = s.h * s.w, all = s.c * s.t * frame;
    const int clips = video_of(in)->w > 0 ? 2 : 1, count = clips + in->references;
    const size_t pixels = (size_t)m->w * (size_t)m->h * 3;
    float *shown = malloc(pixels * sizeof(float));
    float **latents = calloc((size_t)count, sizeof(*latents));
    float **references = calloc((size_t)in->references + 1, sizeof(*references));
    struct frame_source *sources = calloc((size_t)count, sizeof(*sources));
    struct masked parts[2];
    status st = ST_OK;

    if (shown == NULL || latents == NULL || references == NULL || sources == NULL)
        st = fail(ST_MEMORY, "cannot allocate host memory for a frame of %d x %d", m->w, m->h);
    for (int i = 0; i < count && st == ST_OK; i++) {
        const bool is_clip = i < clips;

        latents[i] = malloc((size_t)(s.c * (is_clip ? frames : 1) * frame) * sizeof(float));
        if (!is_clip)
            references[i - clips] = malloc(pixels * sizeof(float));
        if (latents[i] == NULL || (!is_clip && references[i - clips] == NULL))
            st = fail(ST_MEMORY, "cannot allocate host memory for a frame of %d x %d", m->w, m->h);
        else if (!is_clip)
            st = m->diffsynth
                     ? frame_stretch(references[i - clips], m->w, m->h, &in->reference[i - clips],
                                     m->bf16)
                     : vace_reference(references[i - clips], m->w, m->h, &in->reference[i - clips]);
        if (is_clip)
            parts[i] = (struct masked){ p->world, m, i == 1, clips == 1, shown };
        sources[i] =
            (struct frame_source){ .get = is_clip ? next_frame : reference_frame,
                                   .payload = is_clip ? (void *)&parts[i] : references[i - clips],
                                   .frames = is_clip ? m->frames : 1,
                                   .h = m->h,
                                   .w = m->w };
    }
    TRY_OUT(agree(p->world, st));
    TRY_OUT(pipeline_encode_all(p, count, sources, latents));
    for (int i = 0; i < 2; i++)
        put_latent(control + i * all, s, in->references, latents[clips == 2 ? i : 0], frames);
    for (int i = 0; i < in->references; i++)
        put_latent(control, s, i, latents[clips + i], 1);
out:
    for (int i = 0; i < count && latents != NULL; i++)
        free(latents[i]);
    for (int i = 0; i < in->references && references != NULL; i++)
        free(references[i]);
    free(shown);
    free(latents);
    free(references);
    free(sources);
    return st;
}

status condition_vace(struct pipeline *p, struct plan_input *plan, const struct task_inputs *in,
                      struct conditioning *c)
{
    const struct latent_shape s = plan->latent;
    const struct vae_config *vae = model_vae(&plan->model);
    const int64_t mask = vae->stride * vae->stride, frames = s.t - in->references;
    const int64_t dims[] = { 2 * s.c + mask, s.t, s.h, s.w }, one[] = { 1 };
    struct material m = { .w = (int)(s.w * vae->stride),
                          .h = (int)(s.h * vae->stride),
                          .frames = (int)(1 + (frames - 1) * vae->stride_t),
                          .diffsynth = vace_is_diffsynth(in->input),
                          .bf16 = plan->vae_dtype == DT_BF16 };
    float *control = NULL, *scale = NULL;
    status st = ST_OK;

    if (p == NULL) {
        for (int i = 0; i < (video_of(in)->w > 0 ? 2 : 1); i++)
            plan_add_clip(plan, m.frames);
        for (int i = 0; i < in->references; i++)
            plan_add_clip(plan, 1);
        conditioning_add_shape(c, CONDITION_VACE, 4, dims);
        conditioning_add_shape(c, CONDITION_VACE_SCALE, 1, one);
        return condition_text(p, plan, in, c);
    }
    st = conditioning_add(c, CONDITION_VACE, 4, dims, &control);
    if (st == ST_OK)
        st = conditioning_add(c, CONDITION_VACE_SCALE, 1, one, &scale);
    if (st == ST_OK && p->world->rank == 0)
        st = read_material(&m, in);
    TRY_OUT(agree(p->world, st));
    *scale = (float)in->vace_scale;
    memset(control, 0, (size_t)(dims[0] * s.t * s.h * s.w) * sizeof(float));
    TRY_OUT(encode_control(p, control, s, in, &m));
    if (p->world->rank == 0)
        put_mask(control + 2 * latent_count(s), s, in->references, &m);
    for (int64_t i = 0; i < mask; i++)
        world_broadcast(p->world, control + 2 * latent_count(s) + i * s.t * s.h * s.w,
                        (size_t)(s.t * s.h * s.w) * sizeof(float), 0);
    st = condition_text(p, plan, in, c);
out:
    material_done(&m);
    return st;
}
