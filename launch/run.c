#include "launch/run.h"

#include "launch/commands.h"
#include "launch/run_internal.h"
#include "launch/run_save.h"
#include "launch/run_state.h"
#include "model/media/frame.h"
#include "model/pipeline/clips.h"
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

void run_open_noise(struct run *run)
{
    const struct request *r = run->request;

    noise_open(&run->generator, (enum noise_device)r->rand_device,
               r->base_seed.value + (uint64_t)run->clip, r->cuda_sms);
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

status run_open_video(struct run *run)
{
    const struct request *r = run->request;
    char *json = NULL;
    status st;

    TRY(request_record(r, &json));
    st =
        video_open(&run->video,
                   &(struct video_settings){ .path = r->save_file,
                                             .width_px = r->video_size[0],
                                             .height_px = r->video_size[1],
                                             .frames = r->video_frames,
                                             .fps = r->fps,
                                             .quality = r->quality,
                                             .metadata = json,
                                             .sound = r->task->sound ? r->input[INPUT_audio] : NULL,
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
    return run_open_video(run);
}

status run_open(struct run *run, struct job *j, struct request *r, const struct plan_input *plan,
                const struct runfile *from)
{
    const int64_t count = latent_count(plan->latent);
    const size_t bytes = (size_t)count * sizeof(float);
    int resumed = from != NULL;
    status st;

    *run = (struct run){ .request = r, .plan = *plan };
    st = request_schedule(&run->schedule, r);
    if (st == ST_OK && r->clip_count > 1)
        st = allocate_latent(&run->finished, r->clip_count * count);
    if (st == ST_OK && j->world->rank == 0 && from != NULL && r->clip_count > 1)
        st = run_state_load_clips(&run->clip, run->finished, plan->latent, r->clip_count, from,
                                  r->resume);
    run_open_noise(run);
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
    world_broadcast(j->world, &run->clip, sizeof(run->clip), 0);
    run_open_noise(run);
    for (int64_t i = 0; i < run->clip; i++)
        world_broadcast(j->world, run->finished + i * count, bytes, 0);
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
    free(run->finished);
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
