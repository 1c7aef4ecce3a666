#include "model/pipeline/plan.h"

#include "kernels/table.h"
#include "model/text/umt5.h"

#include <stdlib.h>

static void tally(struct plan_stage *s, const struct device *dev, const struct mesh *m)
{
    const struct group *groups[] = { &m->all, &m->cfg_group, &m->ring_group, &m->ulysses_group };

    s->flops = dev->flops - s->flops;
    double sent = 0, messages = 0;
    for (size_t i = 0; i < COUNT(groups); i++) {
        sent += groups[i]->sent;
        messages += groups[i]->messages;
    }
    s->sent = sent - s->sent;
    s->messages = messages - s->messages;
}

/* A stage begins: remember the counters, so that tally() leaves the differences. */
static void start(struct plan_stage *s, const struct device *dev, const struct mesh *m)
{
    *s = (struct plan_stage){ 0 };
    tally(s, dev, m);
}

static status nothing(void *payload, const char *name, int64_t first, int64_t count, enum dtype dt,
                      void *dst)
{
    return ST_OK;
}

static status no_frames(void *payload, const uint8_t *rgb, int64_t count, int64_t h, int64_t w)
{
    return ST_OK;
}

static const struct weight_source no_source = { .read = nothing };

static status plan_text(const struct plan_input *in, struct device *dev, struct mesh *m,
                        struct plan_stage *stage)
{
    struct arena a = { 0 };
    int *length = calloc((size_t)in->prompts, sizeof(*length));
    status st = ST_OK;

    if (length == NULL)
        return fail(ST_MEMORY, "no host memory for %d prompts", in->prompts);
    for (int i = 0; i < in->prompts; i++)
        length[i] = in->text_rows;
    start(stage, dev, m);
    TRY_OUT(arena_init(&a, dev, "text", 0));
    TRY_OUT(umt5_encode(&in->config.t5, dev, &a, in->cdt, no_source, in->t5_stored,
                        in->t5_fsdp ? &m->all : NULL, in->prompts, NULL, length, NULL));
    tally(stage, dev, m);
    stage->scratch = a.peak;
out:
    arena_done(&a);
    free(length);
    return st;
}

static status plan_denoise(const struct plan_input *in, struct device *dev, struct mesh *m,
                           struct plan_rank *out)
{
    struct arena weights = { 0 }, run = { 0 }, scratch = { 0 };
    struct dit dit = { 0 };
    struct denoise d = { 0 };
    struct denoise_state state = { 0 };
    struct denoise_input input = { .shape = in->latent,
                                   .guidance = 5,
                                   .guided = in->guided,
                                   .text = { { in->text_rows, NULL }, { in->text_rows, NULL } } };
    status st;

    TRY_OUT(schedule_init(&input.schedule, SOLVER_UNIPC, in->steps, 5));
    TRY_OUT(arena_init(&weights, dev, "transformer", 0));
    TRY_OUT(arena_init(&run, dev, "run", 0));
    TRY_OUT(arena_init(&scratch, dev, "step", 0));
    TRY_OUT(dit_open(&dit, &in->config.dit, m, dev, &weights, in->cdt, in->fsdp, no_source));
    TRY_OUT(dit_complete(&dit));
    start(&out->load, dev, m);
    TRY_OUT(denoise_begin(&d, &dit, &run, &scratch, &input));
    tally(&out->load, dev, m);
    start(&out->step, dev, m);
    TRY_OUT(denoise_start(&d, NULL));
    TRY_OUT(denoise_step(&d)); // the first one also makes the text's keys and values
    if (in->steps > 1) {
        start(&out->step, dev, m);
        TRY_OUT(denoise_step(&d));
    }
    tally(&out->step, dev, m);
    TRY_OUT(denoise_save(&d, &state));
    out->step.weights = weights.peak;
    out->step.run = run.peak;
    out->step.scratch = scratch.peak;
out:
    denoise_end(&d);
    dit_close(&dit);
    arena_done(&scratch);
    arena_done(&run);
    arena_done(&weights);
    schedule_done(&input.schedule);
    return st;
}

static status plan_decode(const struct plan_input *in, struct device *dev, struct mesh *m,
                          struct plan_stage *stage)
{
    const struct latent_shape s = in->latent;
    struct arena weights = { 0 }, scratch = { 0 };
    struct vae vae = { 0 };
    status st;

    TRY_OUT(arena_init(&weights, dev, "vae", 0));
    TRY_OUT(arena_init(&scratch, dev, "decode", 0));
    TRY_OUT(vae_open(&vae, &in->config.vae, &m->all, dev, &weights, in->vae_dtype, false, true,
                     no_source));
    start(stage, dev, m);
    TRY_OUT(vae_decode(&vae, &scratch, NULL, s.t, s.h, s.w, in->tiling,
                       (struct frame_sink){ no_frames, NULL }, NULL));
    tally(stage, dev, m);
    stage->weights = weights.peak;
    stage->scratch = scratch.peak;
out:
    vae_close(&vae);
    arena_done(&scratch);
    arena_done(&weights);
    return st;
}

/* Host memory that grows with the request: what pipeline.c and denoise.c allocate beside arenas. */
static size_t host_bytes(const struct plan_input *in, int rank)
{
    const size_t latent = (size_t)latent_count(in->latent) * sizeof(float);
    const size_t frame =
        (size_t)(in->latent.h * in->config.vae.stride * in->latent.w * in->config.vae.stride * 3);
    const int64_t frames = 1 + (in->latent.t - 1) * in->config.vae.stride_t;
    size_t bytes = 7 * latent; // noise, latent, its tokens, and the state for the run file

    bytes += (size_t)in->prompts * (size_t)in->text_rows * (size_t)in->config.dit.text_dim *
             sizeof(float);
    bytes += in->gpu ? loader_bytes(in->threads) : 4 << 20; // weights on their way in
    bytes += in->gpu ? DEVICE_CUDA_HOST : 0;
    if (rank == 0) // on their way into the file, and what x264 keeps of the last 80
        bytes += (16 + (size_t)(frames < 80 ? frames : 80) * 5 / 4) * frame;
    return bytes;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

status plan_rank(const struct plan_input *in, int rank, struct plan_rank *out)
{
    struct device dev = { 0 };
    struct world world;
    struct mesh mesh = { 0 };
    size_t text, step, decode;
    status st;

    *out = (struct plan_rank){ .workspace = in->table->workspace };
    if (in->latent.h % 2 != 0 || in->latent.w % 2 != 0)
        return fail(ST_USAGE,
                    "a latent of %lld x %lld has no 2 x 2 cells; sizes in pixels must be "
                    "multiples of %lld",
                    (long long)in->latent.w, (long long)in->latent.h,
                    (long long)(2 * in->config.vae.stride));
    world_describe(&world, rank, in->ranks, in->ranks_per_node);
    TRY_OUT(device_open_plan(&dev, &table_plan, 0));
    TRY_OUT(mesh_open(&mesh, &world, &dev, in->mesh));
    if ((rank == 0 || in->t5_fsdp) && in->prompts > 0)
        TRY_OUT(plan_text(in, &dev, &mesh, &out->text));
    TRY_OUT(plan_denoise(in, &dev, &mesh, out));
    if (in->decode)
        TRY_OUT(plan_decode(in, &dev, &mesh, &out->decode));
    text = in->t5_cpu ? 0 : out->text.scratch;
    step = out->step.weights + out->step.run + out->step.scratch;
    decode = out->decode.weights + out->decode.scratch;
    if (in->keep_models) // both models stay; the other stage's scratch does not
        out->device =
            larger(text, out->step.weights + out->decode.weights +
                             larger(out->step.run + out->step.scratch, out->decode.scratch));
    else
        out->device = larger(text, larger(step, decode));
    out->device += out->workspace;
    out->beside = in->gpu ? DEVICE_CUDA_BESIDE : 0;
    out->host = host_bytes(in, rank) + (in->t5_cpu ? out->text.scratch : 0);
out:
    mesh_close(&mesh);
    device_close(&dev);
    return st;
}

static void cover_stage(struct plan_stage *all, const struct plan_stage *one)
{
    all->weights = larger(all->weights, one->weights);
    all->run = larger(all->run, one->run);
    all->scratch = larger(all->scratch, one->scratch);
    all->flops = one->flops > all->flops ? one->flops : all->flops;
    all->sent = one->sent > all->sent ? one->sent : all->sent;
    all->messages = one->messages > all->messages ? one->messages : all->messages;
}

void plan_cover(struct plan_rank *all, const struct plan_rank *one)
{
    cover_stage(&all->text, &one->text);
    cover_stage(&all->load, &one->load);
    cover_stage(&all->step, &one->step);
    cover_stage(&all->decode, &one->decode);
    all->workspace = larger(all->workspace, one->workspace);
    all->device = larger(all->device, one->device);
    all->beside = larger(all->beside, one->beside);
    all->host = larger(all->host, one->host);
}
