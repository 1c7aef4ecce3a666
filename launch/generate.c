/* wanmpi generate: one request. */
#include "launch/commands.h"
#include "launch/run.h"

#include <stdlib.h>
#include <time.h>

/* Rank 0: flags to a complete request; for --resume also the run file it goes on from. */
static status read_request(struct request *r, struct runfile *from, int argc, char **argv)
{
    TRY(request_parse(r, CMD_GENERATE, NULL, 0, argc, argv));
    if (r->resume == NULL)
        return request_complete(r, CMD_GENERATE);
    TRY(runfile_read(r->resume, from));
    if (from->request == NULL)
        return fail(ST_FORMAT, "%s: no request in it; it cannot be resumed", r->resume);
    return request_resume(r, from->request, r->resume);
}

/* Both texts of the request, on every rank. */
static status texts(struct job *j, struct pipeline *p, const struct request *r,
                    const struct runfile *from, struct text_rows text[2])
{
    const char *prompts[2] = { r->prompt, r->negative_prompt };
    struct runfile file = { 0 };
    status st;

    if (r->resume == NULL && r->text_file == NULL)
        return pipeline_text(p, 2, prompts, text);
    st = j->world->rank == 0 && r->resume == NULL ? runfile_read(r->text_file, &file) : ST_OK;
    st = agree(j->world, st);
    if (st == ST_OK)
        st = run_text_from(j, r->resume != NULL ? from : &file, p->plan.config.dit.text_dim, text);
    runfile_done(&file);
    return st;
}

status cmd_generate(struct world *w, int argc, char **argv)
{
    struct request r;
    struct runfile from = { 0 };
    struct job job = { 0 };
    struct plan_input plan;
    struct pipeline p = { 0 };
    struct run run = { 0 };
    struct text_rows text[2] = { { 0 } };
    struct timespec began, now;
    status st;

    request_init(&r);
    st = w->rank == 0 ? read_request(&r, &from, argc, argv) : ST_OK;
    TRY_OUT(request_share(w, st, &r));
    TRY_OUT(job_open(&job, w, &r));
    st = job_plan(&job, &r, r.resume == NULL && r.text_file == NULL ? 2 : 0, &plan);
    TRY_OUT(agree(w, st));
    TRY_OUT(job_fit(&job, &r, &plan, 1));
    if (w->rank == 0 && request_note(&r) != NULL)
        progress_line(&job.progress, "note    %s", request_note(&r));
    job_announce(&job, &r, &plan);
    TRY_OUT(run_open(&run, &job, &r, &plan, r.resume != NULL ? &from : NULL));
    TRY_OUT(pipeline_open(&p, w, &job.dev, &job.checkpoint, &plan, 1));
    clock_gettime(CLOCK_MONOTONIC, &began);
    progress_stage(&job.progress, "text and weights", 0, 0, "");
    TRY_OUT(texts(&job, &p, &r, &from, text));
    TRY_OUT(pipeline_load(&p));
    progress_end(&job.progress);
    clock_gettime(CLOCK_MONOTONIC, &now);
    run.text_s = (double)(now.tv_sec - began.tv_sec) + 1e-9 * (double)(now.tv_nsec - began.tv_nsec);
    run.text[0] = text[0];
    run.text[1] = text[1];
    TRY_OUT(run_go(&run, &job, &p));
    job_memory(&job, &p);
out:
    run_close(&run); // takes its unfinished files away
    if (p.in_step)
        command_abort(w, st);
    pipeline_close(&p);
    free(text[0].data);
    free(text[1].data);
    job_close(&job);
    runfile_done(&from);
    request_done(&r);
    return st;
}
