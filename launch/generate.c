/* wanmpi generate: one request. */
#include "launch/commands.h"
#include "launch/run.h"
#include "launch/run_state.h"
#include "runtime/clock.h"

#include <stdlib.h>
#include <unistd.h>

static bool is_there(const char *path)
{
    return path != NULL && access(path, F_OK) == 0;
}

static status read_run(struct runfile *from, const char *path)
{
    TRY(runfile_read(path, from));
    if (runfile_text(from, "request") == NULL)
        return fail(ST_FORMAT,
                    "%s: has no text 'request', so no run can go on from it; use a file that "
                    "--run_file wrote, or a new name",
                    path);
    return ST_OK;
}

/* Rank 0 only. Parses the flags into a complete request. If the run goes on from a run file, the
 * one of --resume or an existing one of --run_file, it is read into *from. *finished: the latter
 * run has written its result, which is still there. */
static status read_request(struct request *r, struct runfile *from, bool *finished, int argc,
                           char **argv)
{
    bool same_result;

    *finished = false;
    TRY(request_parse(r, CMD_GENERATE, NULL, 0, argc, argv));
    if (r->resume != NULL) {
        TRY(read_run(from, r->resume));
        TRY(request_resume(r, runfile_text(from, "request"), runfile_text(from, "folder"),
                           r->resume));
        return request_choose_task(r);
    }
    TRY(request_choose_task(r));
    TRY(request_complete(r, CMD_GENERATE));
    if (!is_there(r->run_file))
        return ST_OK;
    TRY(read_run(from, r->run_file));
    TRY(request_go_on(r, runfile_text(from, "request"), runfile_text(from, "folder"),
                      &same_result));
    *finished = same_result && runfile_text(from, "timings") != NULL && is_there(r->save_file) &&
                (r->contact_sheet == NULL || is_there(r->contact_sheet));
    return ST_OK;
}

status cmd_generate(struct world *w, int argc, char **argv)
{
    struct request r;
    struct runfile from = { 0 };
    struct job job = { 0 };
    struct plan_input plan;
    struct pipeline p = { 0 };
    struct run run = { 0 };
    bool finished = false;
    int first_step;
    double start_s;
    status st;

    request_init(&r);
    st = w->rank == 0 ? read_request(&r, &from, &finished, argc, argv) : ST_OK;
    TRY_OUT(request_share(w, st, &r));
    world_broadcast(w, &finished, sizeof(finished), 0);
    if (finished) {
        progress_init(&job.progress, stderr, w->rank == 0);
        progress_print(&job.progress,
                       "done    %s is the complete result of %s; --resume %s would "
                       "decode it again",
                       r.save_file, r.run_file, r.run_file);
        if (w->rank == 0)
            run_state_clean(r.run_file);
        goto out;
    }
    first_step =
        r.resume != NULL && w->rank == 0 ? run_state_step(&from, r.steps, r.clip_count) : 0;
    world_broadcast(w, &first_step, sizeof(first_step), 0);
    TRY_OUT(job_open(&job, w, &r));
    st = job_plan(&job, &r, r.resume == NULL ? request_prompts(&r) : 0, &plan);
    plan.first_step = first_step;
    TRY_OUT(agree(w, st));
    TRY_OUT(job_fit(&job, &r, &plan, 1));
    TRY_OUT(agree(w, job_note_request(&job, &r)));
    job_announce(&job, &r, &plan);
    if (w->rank == 0 && r.resume != NULL && !from.verified)
        progress_print(&job.progress, "note    %s has no SHA-256 at its end: it cannot be checked",
                       r.resume);
    TRY_OUT(run_open(&run, &job, &r, &plan, r.resume != NULL ? &from : NULL));
    TRY_OUT(pipeline_open(&p, w, &job.dev, &job.checkpoint, job.tokenizer, &plan, 1));
    job_note_links(&job, &p);
    start_s = clock_seconds();
    if (!run_is_sampled(&run))
        job_load_begin(&job, &plan);
    TRY_OUT(run_condition(&run, &job, &p, &from));
    if (!run_is_sampled(&run))
        TRY_OUT(pipeline_load(&p));
    job_load_end(&job);
    run.text_s = clock_seconds() - start_s;
    TRY_OUT(run_go(&run, &job, &p));
    job_memory(&job, &p);
out:
    if (st == ST_PREEMPTED)
        st = run_stop(&run, &job, &p);
    run_close(&run); // removes its unfinished files
    if (p.must_abort)
        command_abort(w, st);
    pipeline_close(&p);
    job_close(&job);
    runfile_done(&from);
    request_done(&r);
    return st;
}
