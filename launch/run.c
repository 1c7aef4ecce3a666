#include "launch/run.h"

#include "launch/commands.h"
#include "launch/run_state.h"
#include "model/pipeline/condition.h"
#include "model/sampling/noise.h"
#include "runtime/clock.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static status floats(float **p, int64_t count)
{
    *p = malloc((size_t)count * sizeof(float));
    return *p != NULL ? ST_OK : fail(ST_MEMORY, "no host memory for %lld values", (long long)count);
}

/* Rank 0: the first latent, from a file or from the seed. */
static status first_latent(struct run *run, const struct runfile *from)
{
    const struct request *r = run->request;
    const struct latent_shape s = run->plan.latent;
    struct runfile file = { 0 };
    status st = ST_OK;

    if (from != NULL) {
        TRY_OUT(run_state_noise(run->noise, s, from, r->resume));
    } else if (r->noise_file != NULL) {
        TRY_OUT(runfile_read(r->noise_file, &file));
        TRY_OUT(run_state_noise(run->noise, s, &file, r->noise_file));
    } else if (r->rand_device == RAND_CUDA) {
        noise_cuda(run->noise, latent_count(s), (uint64_t)r->base_seed, r->cuda_sms);
    } else {
        noise_cpu(run->noise, latent_count(s), (uint64_t)r->base_seed);
    }
out:
    runfile_done(&file);
    return st;
}

static status open_outputs(struct run *run, struct job *j)
{
    const struct request *r = run->request;
    char *json = NULL;
    status st = ST_OK;

    if (r->save_file != NULL) {
        run->name = strdup(r->save_file);
        if (run->name == NULL)
            return fail(ST_MEMORY, "no host memory");
    } else {
        TRY(request_default_name(r, run->plan.mesh.ulysses, run->plan.mesh.ring, time(NULL),
                                 &run->name));
    }
    TRY(request_to_json(r, &json));
    TRY_OUT(video_open(&run->video, &(struct video_settings){ .path = run->name,
                                                              .width_px = r->size[0],
                                                              .height_px = r->size[1],
                                                              .frames = r->frame_num,
                                                              .fps = r->fps,
                                                              .quality = r->quality,
                                                              .metadata = json,
                                                              .contact_sheet = r->contact_sheet }));
out:
    free(json);
    return st;
}

status run_open(struct run *run, struct job *j, struct request *r, const struct plan_input *plan,
                const struct runfile *from)
{
    const int64_t count = latent_count(plan->latent);
    const size_t bytes = (size_t)count * sizeof(float);
    int resumed = from != NULL;
    status st;

    *run = (struct run){ .request = r, .plan = *plan };
    st = schedule_init(&run->schedule, (enum solver_kind)r->sample_solver, r->sample_steps,
                       r->sample_shift);
    if (st == ST_OK)
        st = floats(&run->noise, count);
    if (st == ST_OK)
        st = floats(&run->latent, count);
    if (st == ST_OK)
        st = floats(&run->state.latents, count);
    for (int i = 0; i < SOLVER_STATE && st == ST_OK; i++)
        st = floats(&run->state.history[i], count);
    if (st == ST_OK && j->world->rank == 0)
        st = first_latent(run, from);
    if (st == ST_OK && j->world->rank == 0 && from != NULL)
        st = run_state_load(&run->state, plan->latent, r->sample_steps, from, r->resume);
    if (st == ST_OK && j->world->rank == 0)
        st = open_outputs(run, j);
    TRY(agree(j->world, st));
    world_broadcast(j->world, run->noise, bytes, 0);
    world_broadcast(j->world, &resumed, sizeof(resumed), 0);
    run->resumed = resumed;
    if (resumed) {
        world_broadcast(j->world, run->state.latents, bytes, 0);
        world_broadcast(j->world, run->state.used, sizeof(run->state.used), 0);
        for (int i = 0; i < SOLVER_STATE; i++)
            if (run->state.used[i])
                world_broadcast(j->world, run->state.history[i], bytes, 0);
        world_broadcast(j->world, &run->state.step, sizeof(run->state.step), 0);
        world_broadcast(j->world, &run->state.order, sizeof(run->state.order), 0);
    }
    return ST_OK;
}

void run_close(struct run *run)
{
    video_close(run->video);
    run_frames_close(run->frames);
    schedule_done(&run->schedule);
    conditioning_done(&run->conditioning);
    free(run->noise);
    free(run->latent);
    free(run->state.latents);
    for (int i = 0; i < SOLVER_STATE; i++)
        free(run->state.history[i]);
    free(run->name);
    *run = (struct run){ 0 };
}

status run_condition(struct run *run, struct job *j, struct pipeline *p, const struct runfile *from,
                     const char *path)
{
    const struct task_inputs in = request_inputs(run->request);
    status st = ST_OK;

    if (path == NULL)
        return run->request->task->condition(p, &run->plan, &in, &run->conditioning);
    if (j->world->rank == 0)
        st = run_state_conditioning(&run->conditioning, &run->plan.conditioning, from, path);
    return conditioning_share(j->world, st, &run->conditioning);
}

struct watcher {
    struct run *run;
    struct job *job;
};

static status write_state(struct run *run, struct job *j)
{
    const struct request *r = run->request;
    struct runfile file = { 0 };
    char plan[160], *request = NULL;
    status st;

    snprintf(plan, sizeof(plan), "ranks %d: cfg %d x ring %d x ulysses %d, %s, %s", j->world->size,
             run->plan.mesh.cfg, run->plan.mesh.ring, run->plan.mesh.ulysses,
             run->plan.fsdp ? "sharded" : "replicated", run->plan.cdt == DT_BF16 ? "bf16" : "fp32");
    TRY_OUT(request_to_json(r, &request));
    TRY_OUT(run_state_save(&file, run->plan.latent, run->noise, &run->state));
    TRY_OUT(run_state_save_conditioning(&file, &run->conditioning));
    TRY_OUT(runfile_add_text(&file, "request", request));
    TRY_OUT(runfile_add_text(&file, "plan", plan));
    TRY_OUT(runfile_add_text(&file, "version", WANMPI_VERSION));
    TRY_OUT(runfile_write(r->run_file, &file));
out:
    runfile_done(&file);
    free(request);
    return st;
}

/* After a step: the bar, and the run file when it is its turn. A GPU has only been told what to do,
 * and is waited for: what is said of the time is so, and what went wrong comes out here. */
static status after_step(void *payload, struct denoise *d, int done, int steps)
{
    struct watcher *w = payload;
    const struct request *r = w->run->request;

    TRY(device_wait(&w->job->dev));
    progress_update(&w->job->progress, done);
    if (r->run_file == NULL || (done % r->save_every != 0 && done != steps))
        return ST_OK;
    TRY(denoise_save(d, &w->run->state));
    return w->job->world->rank == 0 ? write_state(w->run, w->job) : ST_OK;
}

/* Frames on rank 0: into the video, and into the run file if it keeps them. */
static status put_frames(void *payload, const uint8_t *rgb, int64_t count, int64_t h, int64_t w)
{
    struct watcher *to = payload;
    struct progress *p = &to->job->progress;

    TRY(video_put(to->run->video, rgb, count, h, w));
    if (to->run->frames != NULL)
        TRY(run_frames_put(to->run->frames, rgb, count));
    progress_update(p, p->done + count);
    return ST_OK;
}

/* What the stages took, to milliseconds, into the run file. */
static status save_timings(const struct run *run)
{
    cJSON *o = cJSON_CreateObject();
    char *text;
    status st;

    cJSON_AddNumberToObject(o, "text_s", round(run->text_s * 1e3) / 1e3);
    cJSON_AddNumberToObject(o, "denoise_s", round(run->denoise_s * 1e3) / 1e3);
    cJSON_AddNumberToObject(o, "decode_s", round(run->decode_s * 1e3) / 1e3);
    text = cJSON_PrintUnformatted(o);
    st = text != NULL ? runfile_set_text(run->request->run_file, "timings", text)
                      : fail(ST_MEMORY, "no host memory");
    cJSON_free(text);
    cJSON_Delete(o);
    return st;
}

status run_go(struct run *run, struct job *j, struct pipeline *p)
{
    const struct request *r = run->request;
    struct watcher watcher = { run, j };
    struct denoise_input in = { .shape = run->plan.latent,
                                .schedule = run->schedule,
                                .guidance = { (float)r->sample_guide_scale,
                                              (float)r->sample_guide_scale },
                                .guided = run->plan.guided,
                                .conditioning = &run->conditioning };
    double began = clock_seconds();
    status st = ST_OK;

    progress_stage(&j->progress, "sampling", run->resumed ? run->state.step : 0, r->sample_steps,
                   "step");
    TRY(pipeline_denoise(p, &in, run->noise, run->resumed ? &run->state : NULL,
                         (struct step_watch){ after_step, &watcher }, run->latent));
    progress_end(&j->progress);
    run->denoise_s = clock_seconds() - began;
    pipeline_offload(p);
    began = clock_seconds();
    if (j->world->rank == 0 && r->run_file != NULL && r->keep_frames)
        st = run_frames_open(&run->frames, r->run_file, r->frame_num, r->size[1], r->size[0]);
    TRY(agree(j->world, st));
    progress_stage(&j->progress, "decoding", 0, r->frame_num, "frame");
    TRY(pipeline_decode(p, run->plan.latent, run->latent, run->plan.tiling,
                        (struct frame_sink){ put_frames, &watcher }));
    progress_end(&j->progress);
    if (j->world->rank == 0)
        st = video_finish(run->video);
    if (st == ST_OK && run->frames != NULL)
        st = run_frames_finish(run->frames);
    run->decode_s = clock_seconds() - began;
    if (st == ST_OK && j->world->rank == 0 && r->run_file != NULL)
        st = save_timings(run);
    TRY(agree(j->world, st));
    progress_print(&j->progress, "wrote   %s (sampling %.1f s, decoding %.1f s)", run->name,
                   run->denoise_s, run->decode_s);
    return ST_OK;
}
