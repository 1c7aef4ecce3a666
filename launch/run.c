#include "launch/run.h"

#include "launch/commands.h"
#include "model/sampling/noise.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

static double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static status floats(float **p, int64_t count)
{
    *p = malloc((size_t)count * sizeof(float));
    return *p != NULL ? ST_OK : fail(ST_MEMORY, "no host memory for %lld values", (long long)count);
}

static status latent_fits(const struct run_array *a, struct latent_shape s, const char *what,
                          const char *path)
{
    const int64_t want[4] = { s.c, s.t, s.h, s.w };

    if (a->ndim != 4 || memcmp(a->dim, want, sizeof(want)) != 0)
        return fail(ST_USAGE,
                    "%s: %s is [%lld, %lld, %lld, %lld], this request needs "
                    "[%lld, %lld, %lld, %lld]",
                    path, what, (long long)a->dim[0], (long long)a->dim[1], (long long)a->dim[2],
                    (long long)a->dim[3], (long long)s.c, (long long)s.t, (long long)s.h,
                    (long long)s.w);
    return ST_OK;
}

/* Rank 0: the first latent, from a file or from the seed. */
static status first_latent(struct run *run, const struct runfile *from)
{
    const struct request *r = run->request;
    const struct latent_shape s = run->plan.latent;
    const size_t bytes = (size_t)latent_count(s) * sizeof(float);
    struct runfile file = { 0 };
    status st = ST_OK;

    if (from != NULL) {
        TRY(latent_fits(&from->noise, s, "/noise", r->resume));
        memcpy(run->noise, from->noise.data, bytes);
    } else if (r->noise_file != NULL) {
        TRY_OUT(runfile_read(r->noise_file, &file));
        TRY_OUT(latent_fits(&file.noise, s, "/noise", r->noise_file));
        memcpy(run->noise, file.noise.data, bytes);
    } else if (r->rand_device == RAND_CUDA) {
        noise_cuda(run->noise, latent_count(s), (uint64_t)r->base_seed, r->cuda_sms);
    } else {
        noise_cpu(run->noise, latent_count(s), (uint64_t)r->base_seed);
    }
out:
    runfile_done(&file);
    return st;
}

/* Rank 0: the state to go on from. */
static status saved_state(struct run *run, const struct runfile *from)
{
    const struct latent_shape s = run->plan.latent;
    const size_t bytes = (size_t)latent_count(s) * sizeof(float);
    const char *path = run->request->resume;

    if (from->step < 0 || from->step > run->request->sample_steps)
        return fail(ST_FORMAT, "%s: /step is %lld of %d", path, (long long)from->step,
                    run->request->sample_steps);
    TRY(latent_fits(&from->latents, s, "/latents", path));
    memcpy(run->state.latents, from->latents.data, bytes);
    for (int i = 0; i < SOLVER_STATE; i++) {
        run->state.used[i] = from->history[i].ndim != 0;
        if (!run->state.used[i])
            continue;
        TRY(latent_fits(&from->history[i], s, "/solver", path));
        memcpy(run->state.history[i], from->history[i].data, bytes);
    }
    run->state.step = from->step;
    run->state.order = from->order;
    return ST_OK;
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
        st = saved_state(run, from);
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
    free(run->noise);
    free(run->latent);
    free(run->state.latents);
    for (int i = 0; i < SOLVER_STATE; i++)
        free(run->state.history[i]);
    free(run->name);
    *run = (struct run){ 0 };
}

status run_text_from(struct job *j, const struct runfile *from, int64_t text_dim,
                     struct text_rows text[2])
{
    const struct run_array *rows[2] = { from ? &from->cond : NULL, from ? &from->uncond : NULL };
    status st = ST_OK;

    for (int i = 0; i < 2; i++) {
        text[i] = (struct text_rows){ 0 };
        if (j->world->rank == 0 && st == ST_OK) {
            if (rows[i]->ndim != 2 || rows[i]->dim[1] != text_dim || rows[i]->dim[0] < 1)
                st = fail(ST_FORMAT,
                          "the run file has no /text/%s of %lld columns; give --prompt and leave "
                          "out --text",
                          i == 0 ? "cond" : "uncond", (long long)text_dim);
            else
                text[i].rows = rows[i]->dim[0];
        }
        world_broadcast(j->world, &text[i].rows, sizeof(text[i].rows), 0);
        if (text[i].rows > 0 && floats(&text[i].data, text[i].rows * text_dim) != ST_OK)
            st = ST_MEMORY;
    }
    TRY(agree(j->world, st));
    for (int i = 0; i < 2; i++) {
        const size_t bytes = (size_t)(text[i].rows * text_dim) * sizeof(float);

        if (j->world->rank == 0)
            memcpy(text[i].data, rows[i]->data, bytes);
        world_broadcast(j->world, text[i].data, bytes, 0);
    }
    return ST_OK;
}

struct watcher {
    struct run *run;
    struct job *job;
};

static struct run_array latent_array(const struct run *run, float *data)
{
    const struct latent_shape s = run->plan.latent;

    return (struct run_array){ 4, { s.c, s.t, s.h, s.w }, data };
}

static status write_state(struct run *run, struct job *j)
{
    const struct request *r = run->request;
    const int64_t dim = run->plan.config.dit.text_dim;
    struct runfile file = {
        .noise = latent_array(run, run->noise),
        .latents = latent_array(run, run->state.latents),
        .cond = { 2, { run->text[0].rows, dim }, run->text[0].data },
        .uncond = { 2, { run->text[1].rows, dim }, run->text[1].data },
        .step = run->state.step,
        .order = run->state.order,
        .version = (char *)WANMPI_VERSION,
    };
    char plan[160];
    status st;

    for (int i = 0; i < SOLVER_STATE; i++)
        if (run->state.used[i])
            file.history[i] = latent_array(run, run->state.history[i]);
    snprintf(plan, sizeof(plan), "ranks %d: cfg %d x ring %d x ulysses %d, %s, %s", j->world->size,
             run->plan.mesh.cfg, run->plan.mesh.ring, run->plan.mesh.ulysses,
             run->plan.fsdp ? "sharded" : "replicated", run->plan.cdt == DT_BF16 ? "bf16" : "fp32");
    file.plan = plan;
    TRY(request_to_json(r, &file.request));
    st = runfile_write(r->run_file, &file);
    free(file.request);
    return st;
}

/* After a step: the bar, and the run file when it is its turn. A GPU has only been told what to do,
 * and is waited for: what is said of the time is so, and what went wrong comes out here. */
static status after_step(void *payload, struct denoise *d, int done, int steps)
{
    struct watcher *w = payload;
    const struct request *r = w->run->request;

    TRY(device_wait(&w->job->dev));
    progress_done(&w->job->progress, done);
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
    progress_done(p, p->done + count);
    return ST_OK;
}

status run_go(struct run *run, struct job *j, struct pipeline *p)
{
    const struct request *r = run->request;
    struct watcher watcher = { run, j };
    struct denoise_input in = { .shape = run->plan.latent,
                                .schedule = run->schedule,
                                .guidance = (float)r->sample_guide_scale,
                                .guided = run->plan.guided,
                                .text = { run->text[0], run->text[1] } };
    double began = seconds();
    status st = ST_OK;

    progress_stage(&j->progress, "sampling", run->resumed ? run->state.step : 0, r->sample_steps,
                   "step");
    TRY(pipeline_denoise(p, &in, run->noise, run->resumed ? &run->state : NULL,
                         (struct step_watch){ after_step, &watcher }, run->latent));
    progress_end(&j->progress);
    run->denoise_s = seconds() - began;
    pipeline_offload(p);
    began = seconds();
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
    run->decode_s = seconds() - began;
    if (st == ST_OK && j->world->rank == 0 && r->run_file != NULL) {
        char timings[160];

        snprintf(timings, sizeof(timings),
                 "{\"text_s\": %.3f, \"denoise_s\": %.3f, \"decode_s\": %.3f}", run->text_s,
                 run->denoise_s, run->decode_s);
        st = runfile_set_timings(r->run_file, timings);
    }
    TRY(agree(j->world, st));
    progress_line(&j->progress, "wrote   %s (sampling %.1f s, decoding %.1f s)", run->name,
                  run->denoise_s, run->decode_s);
    return ST_OK;
}
