/* The computation of a run: sampling and decoding, of a whole video or clip by clip. */
#include "launch/run_internal.h"
#include "launch/run_save.h"
#include "model/media/frame.h"
#include "model/pipeline/clips.h"
#include "runtime/clock.h"
#include "runtime/stop.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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
    const int64_t rest = ctx->run->request->video_frames - ctx->run->put;

    TRY(stop_check());
    count = count < rest ? count : rest; // the sound ends before the last clip
    if (count == 0)
        return ST_OK;
    ctx->run->put += count;
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

/* Whether all steps of the clip are done. */
static bool is_sampled(const struct run *run)
{
    return run->state.step == run->request->steps;
}

bool run_is_sampled(const struct run *run)
{
    return (run->request->clip_count <= 1 || run->clip == run->request->clip_count - 1) &&
           run->state.step == run->request->steps;
}

/* Without --run_file the state was not copied from the device. */
static void keep_latent(struct run *run)
{
    if (is_sampled(run))
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
    if (exact || ctx->job->world->rank != 0 || run->put > 0) // the frames of clips before stay
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
    return run_open_video(run);
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

/* Denoises, from the state on; a clip with its conditioning. */
static status sample(struct run *run, struct job *j, struct pipeline *p,
                     const struct conditioning *conditioning)
{
    const struct request *r = run->request;
    struct run_ctx ctx = { run, j };
    const struct denoise_input in = { .shape = run->plan.latent,
                                      .schedule = run->schedule,
                                      .guidance = run->plan.guidance,
                                      .low_from = run->plan.low_from,
                                      .noise = &run->generator,
                                      .windows = run->plan.windows,
                                      .self_attention = run->plan.self_attention,
                                      .check_blocks = r->check_finite == 1,
                                      .conditioning = conditioning,
                                      .cache = run->plan.cache,
                                      .report = &run->report };
    const double start_s = clock_seconds();

    if (is_sampled(run)) {
        memcpy(run->latent, run->state.latents, latent_bytes(run));
    } else {
        progress_stage(&j->progress, "sampling", run->state.step, r->steps, "step");
        TRY(pipeline_denoise(p, &in, run->state.latents, run->resumed ? &run->state : NULL,
                             (struct step_callback){ after_step, after_switch, &ctx },
                             run->latent));
        progress_end(&j->progress);
        keep_latent(run);
    }
    TRY(agree(j->world, stop_check()));
    run->denoise_s += clock_seconds() - start_s;
    pipeline_offload(p);
    return ST_OK;
}

/* Decodes a latent, or a clip of a chain (NULL: the video is one). */
static status decode(struct run *run, struct job *j, struct pipeline *p, struct clip_chain *chain,
                     int clip, const float *latent)
{
    const struct request *r = run->request;
    struct run_ctx ctx = { run, j };
    const struct frame_sink sink = { .put = put_frames,
                                     .payload = &ctx,
                                     .progress = decoded,
                                     .rounded = video_is_image(r->save_file) };
    const struct decode_callback less = { decode_with_less, &ctx };
    const double start_s = clock_seconds();
    status st;

    progress_stage(&j->progress, "decoding", 0, plan_decoded(&run->plan).t, "chunk");
    st = chain != NULL ? clips_decode(chain, clip, latent, run->plan.tiling, sink, less)
                       : pipeline_decode(p, run->plan.latent, run->plan.prepended,
                                         run->plan.appended, latent, run->plan.tiling, sink, less);
    if (st == ST_MEMORY && !p->must_abort)
        st = not_decoded(run, j);
    TRY(st);
    progress_end(&j->progress);
    run->decode_s += clock_seconds() - start_s;
    return ST_OK;
}

/* Begins with the next clip: its noise, and the state of step 0. */
static void next_clip(struct run *run)
{
    const int64_t count = latent_count(run->plan.latent);
    struct noise first;

    memcpy(run->finished + run->clip * count, run->latent, latent_bytes(run));
    run->clip++;
    run_open_noise(run);
    first = run->generator;
    noise_draw(&first, run->noise, count);
    for (int64_t i = 0; i < count; i++)
        run->state.latents[i] = run->noise[i] * run->schedule.start;
    memset(run->state.used, 0, sizeof(run->state.used));
    memset(run->state.anchored, 0, sizeof(run->state.anchored));
    run->state.step = 0;
    run->resumed = run->saved = false;
}

/* With --start_from_ref the image as a frame, malloc'ed, on rank 0. */
static status reference_frame(float **frame, const struct run *run, struct job *j)
{
    struct request *r = run->request;
    const int w = r->video_size[0], h = r->video_size[1];
    status st = ST_OK;

    if (!r->start_from_ref)
        return ST_OK;
    TRY_OUT(request_share_images(j->world, r));
    if (j->world->rank == 0) {
        *frame = malloc((size_t)w * (size_t)h * 3 * sizeof(float));
        st = *frame != NULL ? frame_center(*frame, w, h, &r->image[INPUT_image], false)
                            : fail(ST_MEMORY, "cannot allocate host memory for a frame");
    }
    TRY_OUT(agree(j->world, st));
out:
    request_drop_images(r);
    return st;
}

/* A video in clips. Those that are finished in a run that goes on are decoded again. */
static status go_clips(struct run *run, struct job *j, struct pipeline *p)
{
    const int64_t count = latent_count(run->plan.latent);
    const int clips = run->request->clip_count;
    const bool sampled = run_is_sampled(run); // before it goes on
    struct conditioning one;
    struct clip_chain chain = { 0 };
    float *reference = NULL;
    status st;

    p->encode_tiling = run->plan.encode_tiling;
    TRY_OUT(reference_frame(&reference, run, j));
    TRY_OUT(clips_open(&chain, p, &run->plan, &run->conditioning, reference));
    for (int i = 0; i < clips; i++) {
        const bool finished = i < run->clip;

        if (clips > 1)
            progress_print(&j->progress, "clip    %d of %d%s", i + 1, clips,
                           finished ? ", which is finished" : "");
        clips_conditioning(&one, &chain, i);
        if (!finished)
            TRY_OUT(sample(run, j, p, &one));
        TRY_OUT(decode(run, j, p, &chain, i, finished ? run->finished + i * count : run->latent));
        if (!finished && i + 1 < clips)
            next_clip(run);
    }
    if (!sampled)
        st = agree(j->world, report_cache(run, j));
out:
    clips_close(&chain);
    free(reference);
    return st;
}

status run_go(struct run *run, struct job *j, struct pipeline *p)
{
    const struct request *r = run->request;
    status st = ST_OK;

    if (j->world->rank == 0 && r->run_file != NULL && !run->saved)
        st = run_save(run, j); // the texts are in it, and no error is found late
    TRY(agree(j->world, st));
    if (r->clip_count > 0) {
        if (j->world->rank == 0 && r->run_file != NULL && r->keep_frames)
            run_save_frames_begin(run, j);
        TRY(go_clips(run, j, p));
    } else {
        const bool sampled = is_sampled(run);

        TRY(sample(run, j, p, &run->conditioning));
        if (!sampled)
            TRY(agree(j->world, report_cache(run, j)));
        if (j->world->rank == 0 && r->run_file != NULL && r->keep_frames)
            run_save_frames_begin(run, j);
        TRY(decode(run, j, p, NULL, 0, run->latent));
    }
    if (j->world->rank == 0)
        st = video_finish(run->video);
    TRY(agree(j->world, st));
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
    if (run->conditioning.count > 0 && !run->saved && (step > 0 || run->clip > 0 || file != NULL)) {
        run_frames_close(run->frames); // not complete
        run->frames = NULL;
        TRY(save_beside(run, j));
    }
    file = run->saved ? run->request->run_file : run->request->resume;
    if (file == NULL)
        return fail(ST_PREEMPTED, "%s before the first step; start it again", why);
    if (is_sampled(run))
        snprintf(where, sizeof(where), "while decoding");
    else if (run->request->clip_count > 1)
        snprintf(where, sizeof(where), "after step %lld of %d of clip %lld of %d", (long long)step,
                 run->request->steps, (long long)run->clip + 1, run->request->clip_count);
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
