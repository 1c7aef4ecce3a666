#include "model/pipeline/plan.h"

#include "kernels/rates.h"
#include "kernels/table.h"
#include "model/checkpoint/readahead.h"
#include "model/text/umt5.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Host memory of every rank, without use for a time: pages of code that is called for the first
 * time, what malloc keeps, stacks of threads. */
#define HOST_FIXED ((size_t)5 << 20)

const struct part *const expert_parts[EXPERTS_MAX] = { &part_dit, &part_dit_low };

/* Subtracts the counters in *s, which start_stage has stored, from the current ones. */
static void end_stage(struct plan_stage *s, const struct device *dev, const struct mesh *m)
{
    const struct group *groups[MESH_GROUPS];
    const int count = mesh_groups(m, groups);

    s->flops = dev->flops - s->flops;
    s->seconds = dev->seconds - s->seconds;
    s->waited = dev->waited - s->waited;
    s->streamed = dev->streamed - s->streamed;
    double sent = 0, across = 0, messages = 0;
    for (int i = 0; i < count; i++) {
        sent += groups[i]->sent;
        across += groups[i]->sent_across;
        messages += groups[i]->messages;
    }
    s->sent = sent - s->sent;
    s->sent_across = across - s->sent_across;
    s->messages = messages - s->messages;
}

/* Stores the current counters in *s, so that end_stage computes what the stage added. */
static void start_stage(struct plan_stage *s, const struct device *dev, const struct mesh *m)
{
    *s = (struct plan_stage){ .name = s->name };
    end_stage(s, dev, m);
}

/* Weights are not read on the plan device. */
static status read_nothing(void *payload, const struct weight_spec *spec, const char *name,
                           int64_t first, int64_t count, void *dst)
{
    return ST_OK;
}

static status no_frames(void *payload, const uint8_t *rgb, int64_t count, int64_t h, int64_t w)
{
    return ST_OK;
}

static const struct weight_source no_source = { .read = read_nothing };

static struct plan_stage *add_stage(struct plan_rank *p, const char *name)
{
    struct plan_stage *s = &p->stage[p->count++];

    assert(p->count <= PLAN_STAGES_MAX);
    *s = (struct plan_stage){ .name = name };
    return s;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static void cover_stage(struct plan_stage *all, const struct plan_stage *one)
{
    all->weights = larger(all->weights, one->weights);
    all->run = larger(all->run, one->run);
    all->scratch = larger(all->scratch, one->scratch);
    all->host = larger(all->host, one->host);
    all->flops = one->flops > all->flops ? one->flops : all->flops;
    all->streamed = one->streamed > all->streamed ? one->streamed : all->streamed;
    all->seconds = one->seconds > all->seconds ? one->seconds : all->seconds;
    all->waited = one->waited > all->waited ? one->waited : all->waited;
    all->sent = one->sent > all->sent ? one->sent : all->sent;
    all->sent_across = one->sent_across > all->sent_across ? one->sent_across : all->sent_across;
    all->messages = one->messages > all->messages ? one->messages : all->messages;
}

static status plan_text(const struct plan_input *in, struct device *dev, struct mesh *m,
                        struct plan_rank *out)
{
    struct plan_stage *stage = add_stage(out, STAGE_TEXT);
    struct arena a = { 0 };
    int *length = calloc((size_t)in->prompts, sizeof(*length));
    status st = ST_OK;

    if (length == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for %d prompts", in->prompts);
    for (int i = 0; i < in->prompts; i++)
        length[i] = in->text_rows;
    start_stage(stage, dev, m);
    TRY_OUT(arena_init(&a, dev, "text", 0));
    TRY_OUT(umt5_encode(model_t5(&in->model), dev, &a, in->cdt, no_source, in->t5_stored,
                        in->t5_fsdp ? &m->all : NULL, in->prompts, NULL, length, NULL));
    end_stage(stage, dev, m);
    stage->scratch = a.peak;
out:
    arena_done(&a);
    free(length);
    return st;
}

static bool is_eight(const struct plan_input *in, int step)
{
    return step >= in->self_attention.first_step && step < in->self_attention.end_step;
}

/* Of the `steps` steps of an expert from `first` on, one of each kind, after one of the kind with
 * the most forwards, which also computes the text's keys and values. A kind's seconds are the mean
 * of its steps with 8-bit attention and those without. */
static status plan_steps(struct denoise *d, struct plan_stage *out, const struct plan_input *in,
                         int first, int steps, struct device *dev, struct mesh *m)
{
    bool prepared = false;

    for (int kind = GUIDE_BOTH; kind >= GUIDE_ZERO; kind--) {
        struct plan_stage all = { .name = out->name };
        double seconds = 0;
        int count = 0;

        for (int eight = 0; eight < 2; eight++) {
            struct plan_stage one = { .name = out->name };
            int step = 0, of_these = 0;

            for (int i = first + steps - 1; i >= first; i--)
                if (plan_guide(in, i) == (enum guide)kind && is_eight(in, i) == (eight == 1)) {
                    step = i;
                    of_these++;
                }
            if (of_these == 0)
                continue;
            for (int i = prepared || steps == 1; i < 2; i++) {
                d->solver.step = step;
                start_stage(&one, dev, m);
                TRY(denoise_step(d));
            }
            end_stage(&one, dev, m);
            cover_stage(&all, &one);
            seconds += one.seconds * of_these;
            count += of_these;
            prepared = true;
        }
        if (count == 0)
            continue;
        all.seconds = seconds / count;
        cover_stage(out, &all);
    }
    return ST_OK;
}

struct tensors_place plan_place(const struct plan_input *in, const struct dit_config *config,
                                struct host_memory *host)
{
    return (struct tensors_place){ in->fsdp,       in->offload, in->resident,
                                   config->layers, host,        in->as_stored };
}

/* A source that knows in which form the file has an expert's tensors. */
static struct weight_source forms_of(const struct plan_input *in, int expert)
{
    const struct weight_source *s = &in->model.source[model_index(expert_parts[expert])];

    return (struct weight_source){ .read = read_nothing, .form = s->form, .payload = s->payload };
}

/* Opens an expert. */
static status plan_expert(struct dit *dit, const struct plan_input *in, int expert,
                          struct device *dev, struct mesh *m, struct arena *weights,
                          struct host_memory *host)
{
    const struct dit_config *config = model_config(&in->model, expert_parts[expert]);

    TRY(dit_open(dit, config, m, dev, weights, in->cdt, in->matmul, plan_place(in, config, host),
                 forms_of(in, expert)));
    return dit_complete(dit);
}

/* Host memory for the second expert, of this rank. */
static status plan_ahead(const struct plan_input *in, const struct mesh *m, size_t *bytes)
{
    const struct weight_source forms = forms_of(in, 1);
    struct tensor_list list = { 0 };
    status st;

    dit_tensors(&list, model_config(&in->model, expert_parts[1]), in->cdt, in->matmul);
    st = tensors_status(&list);
    *bytes = readahead_bytes(&list, m->all.size, m->all.rank, in->as_stored ? &forms : NULL);
    tensors_done(&list);
    return st;
}

static status plan_images(const struct plan_input *in, struct device *dev, struct mesh *m,
                          struct plan_rank *out)
{
    const struct clip_config *clip = model_clip(&in->model);
    struct plan_stage *stage = add_stage(out, STAGE_IMAGE);
    struct arena weights = { 0 }, a = { 0 };
    struct clip_weights w = { 0 };
    status st;

    start_stage(stage, dev, m);
    TRY_OUT(arena_init(&weights, dev, "image encoder", 0));
    TRY_OUT(arena_init(&a, dev, "image", 0));
    TRY_OUT(clip_open(&w, clip, in->keep_images ? &weights : &a, no_source, in->keep_images));
    TRY_OUT(clip_encode(clip, dev, &a, &w, in->images, NULL, NULL));
    end_stage(stage, dev, m);
    stage->weights = weights.peak;
    stage->scratch = a.peak;
    stage->host = (size_t)(in->images * clip_patches_count(clip)) * sizeof(float) * 2;
out:
    clip_close(&w);
    arena_done(&a);
    arena_done(&weights);
    return st;
}

static status plan_audio(const struct plan_input *in, struct device *dev, struct mesh *m,
                         struct plan_rank *out)
{
    const struct wav2vec2_config *config = model_wav2vec2(&in->model);
    struct plan_stage *stage = add_stage(out, STAGE_AUDIO);
    struct arena a = { 0 };
    status st;

    start_stage(stage, dev, m);
    TRY_OUT(arena_init(&a, dev, "audio", 0));
    TRY_OUT(wav2vec2_encode(config, dev, &a, no_source, NULL, in->sound_samples,
                            (struct wav2vec2_sink){ 0 }));
    end_stage(stage, dev, m);
    stage->scratch = a.peak;
    stage->host = ((size_t)in->sound_samples * 3 + // decoded, resampled
                   (size_t)(wav2vec2_rows(config, in->sound_samples) * config->dim)) *
                  sizeof(float);
out:
    arena_done(&a);
    return st;
}

static status plan_encode(const struct plan_input *in, struct device *dev, struct mesh *m,
                          struct plan_rank *out)
{
    struct plan_stage *stage = add_stage(out, STAGE_ENCODE);
    const int64_t stride = model_vae(&in->model)->stride;
    struct frame_source source = { .frames = in->encode_frames,
                                   .h = in->latent.h * stride,
                                   .w = in->latent.w * stride };
    struct arena weights = { 0 }, scratch = { 0 };
    struct vae vae = { 0 };
    status st;

    TRY_OUT(arena_init(&weights, dev, "vae encoder", 0));
    TRY_OUT(arena_init(&scratch, dev, "encode", 0));
    TRY_OUT(vae_open(&vae, model_vae(&in->model), &m->all, dev, &weights, in->vae_dtype, true,
                     false, no_source));
    start_stage(stage, dev, m);
    for (int i = 0; i < in->clips; i++) {
        source.frames = in->clip_frames[i];
        TRY_OUT(vae_encode(&vae, &scratch, NULL, source, in->encode_tiling));
    }
    end_stage(stage, dev, m);
    stage->weights = weights.peak;
    stage->scratch = scratch.peak;
    stage->host = (size_t)(source.h * source.w * 3) * sizeof(float) * 10; // an image, 2 chunks
out:
    vae_close(&vae);
    arena_done(&scratch);
    arena_done(&weights);
    return st;
}

static status plan_denoise(const struct plan_input *in, struct device *dev, struct mesh *m,
                           struct plan_rank *out)
{
    struct plan_stage *begin = add_stage(out, STAGE_BEGIN), *step = add_stage(out, STAGE_STEP);
    struct arena weights = { 0 }, run = { 0 }, scratch = { 0 };
    struct dit dit[EXPERTS_MAX] = { { .stacks = 0 } }, *open[EXPERTS_MAX] = { NULL };
    const int count[EXPERTS_MAX] = { plan_expert_steps(in, 0), plan_expert_steps(in, 1) };
    const bool one_by_one = plan_has_two(in) && in->experts != EXPERTS_BOTH;
    struct host_memory host;
    struct denoise d = { 0 };
    struct denoise_state state = { 0 };
    struct denoise_input input = { .shape = in->latent,
                                   .guidance = in->guidance,
                                   .low_from = in->low_from,
                                   .self_attention = in->self_attention,
                                   .conditioning = &in->conditioning,
                                   .cache = in->cache,
                                   .windows = in->windows };
    const int experts = plan_experts(in);
    status st;

    TRY_OUT(schedule_init(&input.schedule, in->solver, in->steps, 5));
    TRY_OUT(host_memory_open(&host, NULL, dev, 0, false));
    TRY_OUT(arena_init(&weights, dev, "transformer", 0));
    TRY_OUT(arena_init(&run, dev, "run", 0));
    TRY_OUT(arena_init(&scratch, dev, "step", 0));
    for (int i = 0; i < experts; i++) {
        if (count[i] == 0 || (one_by_one && i > 0))
            continue;
        TRY_OUT(plan_expert(&dit[i], in, i, dev, m, &weights, &host));
        open[i] = &dit[i];
    }
    start_stage(begin, dev, m);
    TRY_OUT(denoise_begin(&d, open, experts, &run, &scratch, &input));
    end_stage(begin, dev, m);
    TRY_OUT(denoise_start(&d, NULL));
    for (int i = 0, first = in->first_step; i < experts; first += count[i++]) {
        if (count[i] > 0 && open[i] == NULL) {
            dit_close(&dit[0]);
            arena_release(&weights, 0);
            host_memory_release(&host, 0);
            TRY_OUT(plan_expert(&dit[i], in, i, dev, m, &weights, &host));
            TRY_OUT(denoise_switch(&d, i, &dit[i]));
        }
        if (count[i] > 0)
            TRY_OUT(plan_steps(&d, step, in, first, count[i], dev, m));
    }
    TRY_OUT(denoise_save(&d, &state));
    if (one_by_one && in->experts == EXPERTS_AHEAD && in->offload != OFFLOAD_FILE)
        TRY_OUT(plan_ahead(in, m, &out->ahead));
    out->weights = host.peak;
    step->host = out->ahead;
    step->weights = weights.peak;
    step->run = run.peak;
    step->scratch = scratch.peak;
out:
    denoise_end(&d);
    for (int i = 0; i < EXPERTS_MAX; i++)
        dit_close(&dit[i]);
    arena_done(&scratch);
    arena_done(&run);
    arena_done(&weights);
    schedule_done(&input.schedule);
    return st;
}

static status plan_decode(const struct plan_input *in, struct device *dev, struct mesh *m,
                          struct plan_rank *out)
{
    static float none; // no pixels are stored on the plan device
    struct plan_stage *stage = add_stage(out, STAGE_DECODE);
    const struct latent_shape s = plan_decoded(in);
    struct arena weights = { 0 }, scratch = { 0 };
    struct vae vae = { 0 };
    status st;

    TRY_OUT(arena_init(&weights, dev, "vae", 0));
    TRY_OUT(arena_init(&scratch, dev, "decode", 0));
    TRY_OUT(vae_open(&vae, model_vae(&in->model), &m->all, dev, &weights, in->vae_dtype, false,
                     true, no_source));
    vae.frame_by_frame = in->frame_by_frame;
    start_stage(stage, dev, m);
    TRY_OUT(vae_decode(&vae, &scratch, NULL, s.t, s.h, s.w, in->tiling,
                       (struct frame_sink){ .put = no_frames },
                       in->decode_pixels || in->chain.clips > 1 ? &none : NULL));
    end_stage(stage, dev, m);
    stage->weights = weights.peak;
    stage->scratch = scratch.peak;
out:
    vae_close(&vae);
    arena_done(&scratch);
    arena_done(&weights);
    return st;
}

/* ---- the stages ---- */

static bool denoises(const struct plan_input *in, int rank)
{
    return in->first_step < in->steps;
}

static bool encodes_text(const struct plan_input *in, int rank)
{
    return (rank == 0 || in->t5_fsdp) && in->prompts > 0 && denoises(in, rank);
}

static bool encodes_images(const struct plan_input *in, int rank)
{
    return rank == 0 && in->images > 0 && denoises(in, rank);
}

static bool encodes_audio(const struct plan_input *in, int rank)
{
    return rank == 0 && in->sound_samples > 0 && denoises(in, rank);
}

static bool encodes_frames(const struct plan_input *in, int rank)
{
    return in->encode_frames > 0 && (denoises(in, rank) || plan_chained(in)); // motion frames
}

static bool decodes(const struct plan_input *in, int rank)
{
    return in->decode;
}

/* The stages in the order of the run. The function of a row adds one or more of them. */
static const struct {
    bool (*applies)(const struct plan_input *in, int rank);
    status (*run)(const struct plan_input *in, struct device *dev, struct mesh *m,
                  struct plan_rank *out);
} stages[] = {
    { encodes_audio, plan_audio }, { encodes_images, plan_images }, { encodes_frames, plan_encode },
    { encodes_text, plan_text },   { denoises, plan_denoise },      { decodes, plan_decode },
};

const struct plan_stage *plan_stage(const struct plan_rank *p, const char *name)
{
    static const struct plan_stage none;

    for (int i = 0; i < p->count; i++)
        if (strcmp(p->stage[i].name, name) == 0)
            return &p->stage[i];
    return &none;
}

/* Host memory of the video while it is decoded: code of FFmpeg's libraries (which is loaded before,
 * too) and x264's 16 threads, and for each pixel, with borders of 32, the queue and the frames that
 * x264 keeps. Measured with FFmpeg 5.1, of 64*64 to 1280*720 pixels and 5 to 81 frames: 0.8 to 1.2
 * of it. */
#define FFMPEG_BYTES ((size_t)11 << 20)

static size_t encoder_bytes(int64_t w, int64_t h, int64_t frames)
{
    return (size_t)((w + 64) * (h + 64)) * (20 + 5 * (size_t)(frames < 44 ? frames : 44));
}

/* GPU memory in which LoRAs are merged while weights are loaded. */
static size_t merge_bytes(const struct plan_input *in)
{
    size_t most = 0;

    for (int i = 0; i < MODEL_PART_COUNT; i++)
        most = larger(most, lora_device_bytes(in->model.lora[i]));
    return most;
}

/* Host memory for LoRAs. For a GPU the loader has a thread for each core. On a CPU the main thread
 * reads weights, and of two experts half of the cores read ahead. */
static size_t merge_host_bytes(const struct plan_input *in)
{
    const int threads = in->gpu ? in->threads : 1 + (plan_experts(in) - 1) * in->threads / 2;
    const size_t range = (size_t)(in->gpu ? 2 : 8) << 20; // of the loader; of readahead.c
    size_t bytes = 0;

    for (int i = 0; i < MODEL_PART_COUNT; i++)
        bytes += lora_host_bytes(in->model.lora[i], threads, range);
    return bytes;
}

/* Host memory for what a step cache measures. */
static size_t plan_cache_bytes(const struct plan_input *in)
{
    const struct latent_shape s = in->latent;

    return cache_host_bytes(&in->cache, s.t * (s.h / 2) * (s.w / 2));
}

/* Host memory for the frames of clips that are continued: those of one in f32, and the last ones.
 */
static size_t chain_bytes(const struct plan_input *in, int64_t frames)
{
    const int64_t stride = model_vae(&in->model)->stride;
    const size_t frame =
        (size_t)(in->latent.w * in->latent.h * stride * stride * 3) * sizeof(float);

    return (plan_chained(in) ? AUDIO_MOTION_FRAMES * frame : 0) +
           (in->chain.clips > 1 ? (size_t)frames * frame : 0);
}

/* Host memory that a run allocates outside arenas, in pipeline.c, denoise.c and for the video: in
 * all stages, and in addition in some. */
static size_t host_bytes(const struct plan_input *in, int rank, struct plan_rank *out)
{
    const struct vae_config *vae = model_vae(&in->model);
    const size_t latent = (size_t)latent_count(in->latent) * sizeof(float);
    const int64_t frames = 1 + (plan_decoded(in).t - 1) * vae->stride_t;
    size_t texts = 0;
    size_t bytes = HOST_FIXED + 7 * latent; // noise, latent, its tokens, and the state to be saved
    const int difference = guidance_keeps(&in->guidance);
    const int anchors = in->cache.kind != CACHE_OFF ? CACHE_BRANCHES : 0;

    bytes += (size_t)difference * latent;
    for (int i = 0; i < in->conditioning.count; i++)
        texts += tensor_bytes(in->conditioning.array[i].value);
    if (in->solver == SOLVER_RENOISE)
        bytes += latent;
    bytes += (size_t)anchors * latent + plan_cache_bytes(in);
    bytes += texts + (size_t)in->prompts * (size_t)in->text_rows *
                         (size_t)model_dit(&in->model)->text_dim * sizeof(float);
    bytes += in->gpu ? loader_bytes(in->threads) + DEVICE_CUDA_HOST : 0;
    bytes += merge_host_bytes(in);
    bytes += rank == 0 ? FFMPEG_BYTES : 0;
    bytes += out->weights - out->shared;
    for (int i = 0; i < out->count && rank == 0; i++) {
        struct plan_stage *s = &out->stage[i];

        if (strcmp(s->name, STAGE_DECODE) == 0)
            s->host =
                encoder_bytes(in->latent.w * vae->stride, in->latent.h * vae->stride, frames) +
                chain_bytes(in, frames);
        else if (strcmp(s->name, STAGE_STEP) == 0 && in->saves) // the run file, made in memory
            s->host += (size_t)(5 + difference + anchors) * latent + texts;
    }
    return bytes;
}

/* The maximum of device memory that is allocated at one time. With keep_models the weights of all
 * stages stay allocated, but not during the text stage, which runs before they are loaded. On a CPU
 * a stage's host memory counts too, and the buffer through which weights are read. */
static size_t device_bytes(const struct plan_input *in, const struct plan_rank *p)
{
    size_t kept = 0, most = 0;

    for (int i = 0; i < p->count && in->keep_models; i++)
        kept += p->stage[i].weights;
    for (int i = 0; i < p->count; i++) {
        const struct plan_stage *s = &p->stage[i];
        const bool text = strcmp(s->name, STAGE_TEXT) == 0; // before the transformer is loaded
        const size_t weights = text || !in->keep_models ? s->weights : kept;

        if (text && in->t5_cpu)
            continue;
        most = larger(most, weights + s->run + s->scratch + (in->gpu ? 0 : s->host));
        if (in->gpu && strcmp(s->name, STAGE_STEP) == 0) { // weights are loaded before, or later
            const bool later = plan_has_two(in) && in->experts == EXPERTS_LATER;

            most = larger(most, weights + merge_bytes(in) + (later ? s->run + s->scratch : 0));
        }
        if (!in->gpu)
            most = larger(most, weights + WEIGHTS_STAGING_BYTES);
    }
    return most;
}

struct latent_shape latent_of_video(const struct vae_config *vae, int w, int h, int frames)
{
    return (struct latent_shape){ vae->z, 1 + (frames - 1) / vae->stride_t, h / vae->stride,
                                  w / vae->stride };
}

/* GPU memory of the groups that NCCL connects. */
static size_t nccl_bytes(const struct mesh *m)
{
    const struct group *groups[MESH_GROUPS];
    const int count = mesh_groups(m, groups);
    size_t bytes = 0;

    for (int i = 0; i < count; i++)
        if (groups[i]->size > 1 && !groups[i]->direct)
            bytes += bytes == 0 ? DEVICE_NCCL_FIRST : DEVICE_NCCL_MORE;
    return bytes;
}

status plan_rank(const struct plan_input *in, int rank, struct plan_rank *out)
{
    struct device dev = { 0 };
    struct world world;
    struct mesh mesh = { 0 };
    size_t most_host = 0, used;
    status st;

    *out = (struct plan_rank){ .workspace = in->table->workspace };
    if (in->latent.h % 2 != 0 || in->latent.w % 2 != 0)
        return fail(ST_USAGE,
                    "a latent of %lld x %lld does not divide into cells of 2 x 2: --size must have "
                    "multiples of %lld",
                    (long long)in->latent.w, (long long)in->latent.h,
                    (long long)(2 * model_vae(&in->model)->stride));
    world_describe(&world, rank, in->ranks, in->ranks_per_node);
    world.direct = in->gpu && !in->nccl;
    TRY_OUT(device_open_plan(&dev, &table_plan, 0));
    dev.rates = in->rates;
    TRY_OUT(mesh_open(&mesh, &world, &dev, in->mesh));
    if (in->joined.cfg != 0)
        TRY_OUT(mesh_join(&mesh, &dev, in->joined));
    for (size_t i = 0; i < COUNT(stages); i++)
        if (stages[i].applies(in, rank))
            TRY_OUT(stages[i].run(in, &dev, &mesh, out));
    for (int i = 0; i < out->count && in->rates != NULL; i++)
        out->stage[i].seconds *= rates_slowest(in->rates, in->ranks);
    for (int i = 0; i < out->count && in->rates != NULL && in->offload == OFFLOAD_HOST; i++)
        if (strcmp(out->stage[i].name, STAGE_STEP) == 0)
            out->stage[i].seconds =
                fmax(out->stage[i].seconds, out->stage[i].streamed / in->rates->upload);
    if (world.local_size > 1 && !in->fsdp)
        out->shared = out->weights;
    out->host = host_bytes(in, rank, out);
    out->device = device_bytes(in, out);
    used = table_cpu_used(in->threads, dev.packed, dev.head);
    out->device += in->gpu ? out->workspace : used;
    out->cuda = in->gpu ? DEVICE_CUDA_BESIDE + nccl_bytes(&mesh) : 0;
    for (int i = 0; i < out->count && in->gpu; i++)
        most_host = larger(most_host, out->stage[i].host);
    out->host += most_host + (in->t5_cpu ? plan_stage(out, STAGE_TEXT)->scratch + used : 0);
out:
    mesh_close(&mesh);
    device_close(&dev);
    return st;
}

void plan_cover(struct plan_rank *all, const struct plan_rank *one)
{
    for (int i = 0; i < one->count; i++) {
        int k = 0;

        while (k < all->count && strcmp(all->stage[k].name, one->stage[i].name) != 0)
            k++;
        if (k == all->count)
            add_stage(all, one->stage[i].name);
        cover_stage(&all->stage[k], &one->stage[i]);
    }
    all->workspace = larger(all->workspace, one->workspace);
    all->device = larger(all->device, one->device);
    all->cuda = larger(all->cuda, one->cuda);
    all->host = larger(all->host, one->host);
    all->ahead = larger(all->ahead, one->ahead);
    all->weights = larger(all->weights, one->weights);
    all->shared = larger(all->shared, one->shared);
}
