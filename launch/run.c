#include "launch/run.h"

#include "launch/commands.h"
#include "launch/run_save.h"
#include "launch/run_state.h"
#include "model/pipeline/condition.h"
#include "runtime/clock.h"
#include "runtime/newfile.h"
#include "runtime/stop.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static status allocate_latent(float **p, int64_t count)
{
    *p = malloc((size_t)count * sizeof(float));
    return *p != NULL ? ST_OK
                      : fail(ST_MEMORY, "cannot allocate %.2f GB of host memory for a latent",
                             (double)count * sizeof(float) / 1e9);
}

/* Called on rank 0: the noise, from a run file or from the seed. */
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
    } else {
        struct noise first = run->generator;

        noise_draw(&first, run->noise, latent_count(s));
        if (vace_is_diffsynth((const char *const *)r->input))
            vace_turn_noise(run->noise, s, run->plan.prepended);
    }
out:
    runfile_done(&file);
    return st;
}

/* Refuses two outputs that are one file, also by different names. */
static status check_outputs(const struct run *run)
{
    const struct request *r = run->request;
    const struct {
        const char *flag, *path;
    } out[] = { { "save_file", r->save_file },
                { "contact_sheet", r->contact_sheet },
                { "run_file", r->run_file },
                { "calibrate_cache", r->calibrate_cache } };
    char *target[COUNT(out)] = { NULL };
    status st = ST_OK;

    for (size_t i = 0; i < COUNT(out) && st == ST_OK; i++) {
        if (out[i].path != NULL)
            st = newfile_target(&target[i], out[i].path);
        for (size_t k = 0; k < i && st == ST_OK && target[i] != NULL; k++)
            if (target[k] != NULL && strcmp(target[i], target[k]) == 0)
                st = fail(ST_USAGE, "--%s and --%s are both %s; choose another name for one",
                          out[k].flag, out[i].flag, target[i]);
    }
    for (size_t i = 0; i < COUNT(out); i++)
        free(target[i]);
    return st;
}

/* Called on rank 0: opens the video, which records the request. */
static status open_video(struct run *run)
{
    const struct request *r = run->request;
    char *json = NULL;
    status st;

    TRY(request_record(r, &json));
    st = video_open(&run->video, &(struct video_settings){ .path = r->save_file,
                                                           .width_px = r->video_size[0],
                                                           .height_px = r->video_size[1],
                                                           .frames = r->video_frames,
                                                           .fps = r->fps,
                                                           .quality = r->quality,
                                                           .metadata = json,
                                                           .contact_sheet = r->contact_sheet });
    free(json);
    return st;
}

/* Called on rank 0: chooses the video's name and opens the files that will be written. `from`: what
 * the run continues, or NULL. */
static status open_outputs(struct run *run, struct job *j, const struct runfile *from)
{
    const struct request *r = run->request;

    if (r->save_file == NULL) // the time is in it: it must be kept for a run that goes on
        TRY(request_default_name(r, run->plan.mesh.ulysses, run->plan.mesh.ring, time(NULL),
                                 &run->request->save_file));
    TRY(check_outputs(run));
    if (r->run_file != NULL)
        TRY(run_state_claim(&run->lock, r->run_file, from, &run->saved));
    newfile_clean(r->save_file);
    TRY(request_set_weights(run->request, j->weights));
    return open_video(run);
}

status run_open(struct run *run, struct job *j, struct request *r, const struct plan_input *plan,
                const struct runfile *from)
{
    const int64_t count = latent_count(plan->latent);
    const size_t bytes = (size_t)count * sizeof(float);
    int resumed = from != NULL;
    status st;

    *run = (struct run){ .request = r, .plan = *plan };
    noise_open(&run->generator, (enum noise_device)r->rand_device, r->base_seed.value, r->cuda_sms);
    st = request_schedule(&run->schedule, r);
    if (st == ST_OK)
        st = allocate_latent(&run->noise, count);
    if (st == ST_OK)
        st = allocate_latent(&run->latent, count);
    if (st == ST_OK)
        st = allocate_latent(&run->state.latents, count);
    for (int i = 0; i < DENOISE_HISTORY && st == ST_OK; i++)
        st = allocate_latent(&run->state.history[i], count);
    for (int b = 0; b < CACHE_BRANCHES && st == ST_OK && plan->cache.kind != CACHE_OFF; b++)
        st = allocate_latent(&run->state.anchor[b], count);
    for (int b = 0; b < CACHE_BRANCHES && st == ST_OK && r->calibrate_cache != NULL; b++) {
        run->report.ratio[b] = calloc((size_t)r->steps, sizeof(double));
        if (run->report.ratio[b] == NULL)
            st = fail(ST_MEMORY, "cannot allocate host memory for %d ratios", r->steps);
    }
    if (st == ST_OK && from != NULL && runfile_text(from, "weights") != NULL)
        st = job_same_weights(j, runfile_text(from, "weights"), r->resume);
    if (st == ST_OK && j->world->rank == 0)
        st = first_latent(run, from);
    if (st == ST_OK && j->world->rank == 0 && from != NULL)
        st = run_state_load(&run->state, plan, &run->schedule, from, r->resume);
    if (st == ST_OK && j->world->rank == 0)
        st = open_outputs(run, j, from);
    TRY(agree(j->world, st));
    world_broadcast(j->world, run->noise, bytes, 0);
    world_broadcast(j->world, &resumed, sizeof(resumed), 0);
    run->resumed = resumed;
    if (!resumed) { // the state of step 0
        for (int64_t i = 0; i < count; i++)
            run->state.latents[i] = run->noise[i] * run->schedule.start;
    } else {
        world_broadcast(j->world, run->state.latents, bytes, 0);
        world_broadcast(j->world, run->state.used, sizeof(run->state.used), 0);
        for (int i = 0; i < DENOISE_HISTORY; i++)
            if (run->state.used[i])
                world_broadcast(j->world, run->state.history[i], bytes, 0);
        world_broadcast(j->world, run->state.anchored, sizeof(run->state.anchored), 0);
        world_broadcast(j->world, run->state.anchor_step, sizeof(run->state.anchor_step), 0);
        world_broadcast(j->world, run->state.cache, sizeof(run->state.cache), 0);
        for (int b = 0; b < CACHE_BRANCHES; b++)
            if (run->state.anchored[b])
                world_broadcast(j->world, run->state.anchor[b], bytes, 0);
        world_broadcast(j->world, &run->state.step, sizeof(run->state.step), 0);
        world_broadcast(j->world, &run->state.order, sizeof(run->state.order), 0);
    }
    return ST_OK;
}

void run_close(struct run *run)
{
    video_close(run->video);
    run_frames_close(run->frames);
    filelock_release(&run->lock);
    schedule_done(&run->schedule);
    conditioning_done(&run->conditioning);
    free(run->noise);
    free(run->latent);
    free(run->state.latents);
    for (int i = 0; i < DENOISE_HISTORY; i++)
        free(run->state.history[i]);
    for (int b = 0; b < CACHE_BRANCHES; b++) {
        free(run->state.anchor[b]);
        free(run->report.ratio[b]);
    }
    *run = (struct run){ 0 };
}

/* Copies the conditioning from the run file `path`, whose contents `from` rank 0 has read. */
static status read_condition(struct run *run, struct job *j, const struct runfile *from,
                             const char *path)
{
    status st = ST_OK;

    if (j->world->rank == 0)
        st = run_state_conditioning(&run->conditioning, &run->plan.conditioning, from, path);
    return conditioning_share(j->world, st, &run->conditioning);
}

/* Computes the conditioning from the inputs. */
static status make_condition(struct run *run, struct job *j, struct pipeline *p)
{
    struct request *r = run->request;
    struct task_inputs in;
    status st;

    TRY_OUT(request_share_images(j->world, r));
    in = request_inputs(r);
    p->encode_tiling = run->plan.encode_tiling;
    TRY_OUT(condition_task(r->task, p, &run->plan, &in, &run->conditioning));
    start_from_video(run->state.latents, run->noise, &run->conditioning, run->schedule.sigma[0]);
out:
    request_drop_images(r);
    return st;
}

/* --text: the texts come from that file, the rest from the inputs. */
static status read_texts(struct run *run, struct job *j, const struct runfile *from)
{
    const struct request *r = run->request;
    const struct conditioning *planned = &run->plan.conditioning;
    struct conditioning texts = { 0 };
    status st = ST_OK;

    for (int i = 0; i < planned->count; i++)
        if (strncmp(planned->array[i].name, "text/", 5) == 0)
            texts.array[texts.count++] = planned->array[i];
    if (j->world->rank == 0)
        st = run_state_conditioning(&run->conditioning, &texts, from, r->text_file);
    return conditioning_share(j->world, st, &run->conditioning);
}

status run_condition(struct run *run, struct job *j, struct pipeline *p, const struct runfile *from)
{
    const struct request *r = run->request;
    struct runfile file = { 0 };
    status st;

    if (run->resumed)
        return read_condition(run, j, from, r->resume);
    if (r->text_file == NULL)
        return make_condition(run, j, p);
    TRY_OUT(agree(j->world, j->world->rank == 0 ? runfile_read(r->text_file, &file) : ST_OK));
    TRY_OUT(read_texts(run, j, &file));
    TRY_OUT(make_condition(run, j, p));
out:
    runfile_done(&file);
    return st;
}

/* Payload of the callbacks. */
struct run_ctx {
    struct run *run;
    struct job *job;
};

/* Callback after each step: updates the progress line, and writes the run file every save_every
 * steps and after the last one. If a rank was asked to stop, the state is copied from the device on
 * all of them, for run_stop. */
static status after_step(void *payload, struct denoise *d, int done, int steps)
{
    struct run_ctx *ctx = payload;
    const struct request *r = ctx->run->request;
    const bool due = r->run_file != NULL && (done % r->save_every == 0 || done == steps);
    status stop;

    progress_update(&ctx->job->progress, done);
    stop = agree(ctx->job->world, stop_check());
    if (!due && stop == ST_OK)
        return ST_OK;
    TRY(denoise_save(d, &ctx->run->state));
    ctx->run->saved = false;
    if (due && ctx->job->world->rank == 0)
        run_save_or_warn(ctx->run, ctx->job);
    return stop;
}

/* Callback when another expert has replaced the one in memory. */
static void after_switch(void *payload, int done, double wait_s, double seconds)
{
    struct run_ctx *ctx = payload;

    ctx->run->switch_s += seconds;
    progress_print(&ctx->job->progress, "experts low noise from step %d on: loaded in %.1f s%s",
                   done + 1, seconds, wait_s > 0.1 ? ", as it was still being read" : "");
}

/* Callback on rank 0 for decoded frames: writes them to the video, and with --keep_frames to the
 * run file. */
static status put_frames(void *payload, const uint8_t *rgb, int64_t count, int64_t h, int64_t w)
{
    struct run_ctx *ctx = payload;

    TRY(stop_check());
    (void)video_put(ctx->run->video, rgb, count, h, w); // video_finish returns its error: here the
                                                        // ranks could not agree on it
    run_save_frames(ctx->run, ctx->job, rgb, count);
    return ST_OK;
}

/* Callback on rank 0: chunks of latent frames that are decoded; in tiles there are more. */
static void decoded(void *payload, int64_t done, int64_t total)
{
    struct progress *p = &((struct run_ctx *)payload)->job->progress;

    progress_total(p, total);
    progress_update(p, done);
}

static size_t latent_bytes(const struct run *run)
{
    return (size_t)latent_count(run->plan.latent) * sizeof(float);
}

bool run_is_sampled(const struct run *run)
{
    return run->state.step == run->request->steps;
}

/* Without --run_file the state was not copied from the device. */
static void keep_latent(struct run *run)
{
    if (run_is_sampled(run))
        return;
    memcpy(run->state.latents, run->latent, latent_bytes(run));
    memset(run->state.used, 0, sizeof(run->state.used));
    memset(run->state.anchored, 0, sizeof(run->state.anchored));
    run->state.step = run->request->steps;
}

/* A run without --run_file gets the first of cat.mp4.h5, cat.mp4.2.h5, ... that does not exist. */
static status choose_run_file(struct run *run)
{
    char **name = &run->request->run_file;

    for (int i = 1; *name == NULL || access(*name, F_OK) == 0; i++) {
        char number[16] = "";

        free(*name);
        if (i > 1)
            snprintf(number, sizeof(number), ".%d", i);
        if (asprintf(name, "%s%s.h5", run->request->save_file, number) < 0) {
            *name = NULL;
            return fail(ST_MEMORY, "cannot allocate host memory for a file name");
        }
    }
    return ST_OK;
}

/* Called on rank 0: saves the state, without --run_file beside the video. */
static status save_beside(struct run *run, struct job *j)
{
    if (run->request->run_file == NULL)
        TRY(choose_run_file(run));
    return run_save(run, j);
}

/* ---- too little memory for decoding ---- */

/* decode_callback: says what is done. If the frames change, the latent is kept, and the video
 * records how it is decoded. */
static status decode_with_less(void *payload, const char *way, bool exact)
{
    struct run_ctx *ctx = payload;
    struct run *run = ctx->run;
    struct request *r = run->request;
    struct progress *p = &ctx->job->progress;

    progress_print(p, "note    %s: %s", status_line(), way);
    if (exact || ctx->job->world->rank != 0)
        return ST_OK;
    if (!run->saved && run->frames == NULL && save_beside(run, ctx->job) != ST_OK)
        progress_print(p, "warning %s; the latent is not saved", status_line());
    else if (r->decoded == NULL)
        progress_print(p,
                       "note    the latent is in %s: with more memory, wanmpi generate --resume %s "
                       "decodes it as requested",
                       r->run_file, r->run_file);
    free(r->decoded);
    r->decoded = strdup(way);
    if (r->decoded == NULL)
        return fail(ST_MEMORY, "cannot allocate %zu bytes of host memory", strlen(way) + 1);
    video_close(run->video);
    run->video = NULL;
    return open_video(run);
}

/* After ST_MEMORY of every way of decoding: rank 0 keeps the latent. Collective. */
static status not_decoded(struct run *run, struct job *j)
{
    const struct request *r = run->request;
    char why[300];
    status st = ST_MEMORY;

    snprintf(why, sizeof(why), "%s", status_line());
    run_frames_close(run->frames); // empty
    run->frames = NULL;
    if (j->world->rank == 0 && !run->saved && save_beside(run, j) != ST_OK)
        st = fail(ST_MEMORY, "%s; and the latent cannot be saved: %.150s", why, status_line());
    else if (j->world->rank == 0)
        st = fail(ST_MEMORY,
                  "%s; the latent is in %s: wanmpi generate --resume %s decodes it where more "
                  "memory is free, or on more ranks",
                  why, r->run_file, r->run_file);
    return agree(j->world, st);
}

/* What the step cache did; rank 0 writes what was measured for one. */
static status report_cache(struct run *run, struct job *j)
{
    const struct request *r = run->request;

    if (run->plan.cache.kind == CACHE_OFF)
        return ST_OK;
    progress_print(&j->progress, "cache   %d of %d forwards computed%s%s", run->report.computed,
                   run->report.forwards, r->calibrate_cache != NULL ? "; their ratios are in " : "",
                   r->calibrate_cache != NULL ? r->calibrate_cache : "");
    return r->calibrate_cache != NULL && j->world->rank == 0
               ? request_write_ratios(r, run->report.ratio)
               : ST_OK;
}

status run_go(struct run *run, struct job *j, struct pipeline *p)
{
    const struct request *r = run->request;
    struct run_ctx ctx = { run, j };
    struct denoise_input in = { .shape = run->plan.latent,
                                .schedule = run->schedule,
                                .guidance = run->plan.guidance,
                                .low_from = run->plan.low_from,
                                .noise = &run->generator,
                                .windows = run->plan.windows,
                                .self_attention = run->plan.self_attention,
                                .check_blocks = r->check_finite == 1,
                                .conditioning = &run->conditioning,
                                .cache = run->plan.cache,
                                .report = &run->report };
    double start_s = clock_seconds();
    status st = ST_OK;

    if (j->world->rank == 0 && r->run_file != NULL && !run->saved)
        st = run_save(run, j); // the texts are in it, and no error is found late
    TRY(agree(j->world, st));
    if (run_is_sampled(run)) {
        memcpy(run->latent, run->state.latents, latent_bytes(run));
    } else {
        progress_stage(&j->progress, "sampling", run->state.step, r->steps, "step");
        TRY(pipeline_denoise(p, &in, run->state.latents, run->resumed ? &run->state : NULL,
                             (struct step_callback){ after_step, after_switch, &ctx },
                             run->latent));
        progress_end(&j->progress);
        keep_latent(run);
        TRY(agree(j->world, report_cache(run, j)));
    }
    TRY(agree(j->world, stop_check()));
    run->denoise_s = clock_seconds() - start_s;
    pipeline_offload(p);
    start_s = clock_seconds();
    if (j->world->rank == 0 && r->run_file != NULL && r->keep_frames)
        run_save_frames_begin(run, j);
    progress_stage(&j->progress, "decoding", 0, plan_decoded(&run->plan).t, "chunk");
    st = pipeline_decode(p, run->plan.latent, run->plan.prepended, run->plan.appended, run->latent,
                         run->plan.tiling,
                         (struct frame_sink){ .put = put_frames,
                                              .payload = &ctx,
                                              .progress = decoded,
                                              .rounded = video_is_image(r->save_file) },
                         (struct decode_callback){ decode_with_less, &ctx });
    if (st == ST_MEMORY && !p->must_abort)
        st = not_decoded(run, j);
    TRY(st);
    progress_end(&j->progress);
    if (j->world->rank == 0)
        st = video_finish(run->video);
    TRY(agree(j->world, st));
    run->decode_s = clock_seconds() - start_s;
    progress_print(&j->progress, "wrote   %s (sampling %.1f s, decoding %.1f s)", r->save_file,
                   run->denoise_s, run->decode_s);
    if (j->world->rank == 0 && r->run_file != NULL)
        st = run_save_end(run, j);
    return agree(j->world, st);
}

static status save_stopped(struct run *run, struct job *j)
{
    const int64_t step = run->state.step;
    char why[64], where[64];
    const char *file;

    snprintf(why, sizeof(why), "%s", status_line()); // "stopped by SIGTERM"
    if (run->request == NULL || j->world->rank != 0)
        return fail(ST_PREEMPTED, "%s before the first step; start it again", why);
    file = run->request->run_file;
    if (run->conditioning.count > 0 && !run->saved && (step > 0 || file != NULL)) {
        run_frames_close(run->frames); // not complete
        run->frames = NULL;
        TRY(save_beside(run, j));
    }
    file = run->saved ? run->request->run_file : run->request->resume;
    if (file == NULL)
        return fail(ST_PREEMPTED, "%s before the first step; start it again", why);
    if (run_is_sampled(run))
        snprintf(where, sizeof(where), "while decoding");
    else
        snprintf(where, sizeof(where), "after step %lld of %d", (long long)step,
                 run->request->steps);
    if (run->again != NULL)
        return fail(ST_PREEMPTED, "%s %s; %s", why, where, run->again);
    return fail(ST_PREEMPTED, "%s %s; to go on: wanmpi generate --resume %s", why, where, file);
}

status run_stop(struct run *run, struct job *j, const struct pipeline *p)
{
    const status st = save_stopped(run, j);

    return run->request == NULL || p->must_abort ? st : agree(j->world, st);
}
