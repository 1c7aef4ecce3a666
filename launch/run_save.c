#include "launch/run_save.h"

#include "launch/run_state.h"
#include "runtime/json.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The durations as JSON, rounded to milliseconds; malloc'ed, NULL without memory. */
static char *timings_text(const struct run *run)
{
    cJSON *o = cJSON_CreateObject();
    char *text;

    cJSON_AddNumberToObject(o, "text_s", round(run->text_s * 1e3) / 1e3);
    cJSON_AddNumberToObject(o, "denoise_s", round(run->denoise_s * 1e3) / 1e3);
    if (run->switch_s > 0)
        cJSON_AddNumberToObject(o, "switch_s", round(run->switch_s * 1e3) / 1e3);
    cJSON_AddNumberToObject(o, "decode_s", round(run->decode_s * 1e3) / 1e3);
    text = json_text(o, false);
    cJSON_Delete(o);
    return text;
}

/* Texts of the run file that do not depend on the state. */
static status add_texts(struct runfile *file, const struct run *run, const struct job *j)
{
    char plan[160], *request = NULL, *folder = getcwd(NULL, 0);
    status st;

    snprintf(plan, sizeof(plan), "ranks %d: cfg %d x ring %d x ulysses %d, %s, %s", j->world->size,
             run->plan.mesh.cfg, run->plan.mesh.ring, run->plan.mesh.ulysses,
             run->plan.fsdp ? "sharded" : "replicated", run->plan.cdt == DT_BF16 ? "bf16" : "fp32");
    TRY_OUT(request_record(run->request, &request));
    TRY_OUT(runfile_add_text(file, "request", request));
    TRY_OUT(runfile_add_text(file, "plan", plan));
    TRY_OUT(runfile_add_text(file, "weights", j->weights));
    TRY_OUT(runfile_add_text(file, "version", WANMPI_VERSION));
    if (folder != NULL)
        TRY_OUT(runfile_add_text(file, "folder", folder));
out:
    free(request);
    free(folder);
    return st;
}

/* The whole run file. `timings` may be NULL. */
static status contents(struct runfile *file, struct run *run, const struct job *j,
                       const char *timings)
{
    TRY(run_state_save(file, run->plan.latent, run->noise, &run->state));
    TRY(run_state_save_conditioning(file, &run->conditioning));
    if (run->request->clip_count > 1)
        TRY(run_state_save_clips(file, run->plan.latent, run->finished, &run->clip));
    TRY(add_texts(file, run, j));
    return timings != NULL ? runfile_add_text(file, "timings", timings) : ST_OK;
}

/* Writes it; with frames that have been put, together with these. */
static status save(struct run *run, const struct job *j, const char *timings)
{
    struct runfile file = { 0 };
    status st;

    TRY_OUT(contents(&file, run, j, timings));
    TRY_OUT(run->frames != NULL ? run_frames_finish(run->frames, &file)
                                : runfile_write(run->request->run_file, &file));
out:
    runfile_done(&file);
    return st;
}

status run_save(struct run *run, const struct job *j)
{
    const status st = save(run, j, NULL);

    run->saved = st == ST_OK;
    return st;
}

void run_save_or_warn(struct run *run, struct job *j)
{
    if (run_save(run, j) != ST_OK)
        progress_print(&j->progress, "warning %s; step %lld is not saved, the run goes on",
                       status_line(), (long long)run->state.step);
}

/* Drops the frames after an error. */
static void lose_frames(struct run *run, struct job *j, status st)
{
    progress_print(&j->progress, "warning %s; the frames are not kept, the run goes on",
                   status_line());
    run_frames_close(run->frames);
    run->frames = NULL;
    run->frames_lost = st;
}

void run_save_frames_begin(struct run *run, struct job *j)
{
    const struct request *r = run->request;

    const status st = run_frames_open(&run->frames, r->run_file, r->video_frames, r->video_size[1],
                                      r->video_size[0]);

    if (st != ST_OK)
        lose_frames(run, j, st);
}

void run_save_frames(struct run *run, struct job *j, const uint8_t *rgb, int64_t count)
{
    const status st = run->frames != NULL ? run_frames_put(run->frames, rgb, count) : ST_OK;

    if (st != ST_OK)
        lose_frames(run, j, st);
}

status run_save_end(struct run *run, struct job *j)
{
    char *timings = timings_text(run);
    const bool saved = run->saved;
    status st = save(run, j, timings);

    free(timings);
    if (st != ST_OK && run->frames != NULL) { // without frames it may fit
        lose_frames(run, j, st);
        st = ST_OK;
        if (!saved)
            st = save(run, j, NULL);
    } else if (st != ST_OK && saved) {
        progress_print(&j->progress, "note    %s; the durations of this run are not stored",
                       status_line());
        st = ST_OK;
    }
    if (st == ST_OK && run->frames_lost != ST_OK)
        st =
            fail(run->frames_lost, "%s: the frames are not in this run file, see the warning above",
                 run->request->run_file);
    return st;
}
