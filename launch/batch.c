/* wanmpi batch: many requests, one per line of a file; the models are loaded once. */
#include "launch/batch.h"

#include "launch/commands.h"
#include "launch/run.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void add_prompt(struct batch *b, const char *prompt)
{
    int i = 0;

    while (i < b->prompt_count && strcmp(b->prompts[i], prompt) != 0)
        i++;
    if (i == b->prompt_count)
        b->prompts[b->prompt_count++] = prompt;
}

/* Collects the prompts of the requests that need them, each text once. Local. */
static status collect_prompts(struct batch *b)
{
    b->prompts = calloc((size_t)b->count, 2 * sizeof(*b->prompts));
    if (b->prompts == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for %d prompts", 2 * b->count);
    for (int i = 0; i < b->count; i++) {
        struct entry *e = &b->entries[i];

        if (e->done || e->continues || e->request.text_file != NULL)
            continue;
        add_prompt(b, e->request.prompt);
        if (request_guided(&e->request))
            add_prompt(b, e->request.negative_prompt);
    }
    return ST_OK;
}

/* All requests run on one mesh: if one of them is not guided in all steps, there is no second CFG
 * branch to put on other ranks. */
static void choose_cfg(struct batch *b)
{
    bool guided = true;

    for (int i = 0; i < b->count; i++)
        guided = guided && (b->entries[i].done || request_always_guided(&b->entries[i].request));
    for (int i = 0; i < b->count && !guided; i++)
        if (b->entries[i].request.cfg_size == 0)
            b->entries[i].request.cfg_size = 1;
}

/* The plans of the requests that are not done, as one array for job_fit and pipeline_open; the
 * caller frees *plans. Local. */
static status plan_all(struct batch *b, struct job *j, const struct request *job,
                       struct plan_input **plans, int *count)
{
    *count = 0;
    *plans = calloc((size_t)b->count, sizeof(**plans));
    if (*plans == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for %d plans", b->count);
    choose_cfg(b);
    for (int i = 0; i < b->count; i++) {
        struct entry *e = &b->entries[i];
        struct plan_input *plan = &(*plans)[*count];
        status st;

        if (e->done)
            continue;
        st = job_plan(j, &e->request, b->prompt_count, plan);
        if (st == ST_OK && j->world->rank == 0)
            st = batch_check_inputs(e, plan);
        if (st != ST_OK)
            return batch_fail(st, job, e);
        plan->keep_models = e->request.offload_model != 1;
        ++*count;
    }
    for (int i = 0; i < *count; i++)
        (*plans)[i].keep_images = *count > 1 && (*plans)[i].keep_models && (*plans)[i].images > 0;
    return ST_OK;
}

/* The first `most` bytes of the request's title, on one line. */
static void short_title(char *out, size_t most, const struct request *r)
{
    const size_t length = strcspn(request_title(r), "\r\n");

    snprintf(out, most, "%.*s", (int)length, request_title(r));
    for (size_t n = strlen(out); n + 1 == most && n > 0 && (out[n - 1] & 0x80) != 0;)
        out[--n] = '\0'; // perhaps a part of a character
}

static void announce(struct batch *b, struct job *j, const struct entry *e)
{
    const int number = (int)(e - b->entries) + 1;
    char title[72];

    short_title(title, sizeof(title), &e->request);
    if (e->done)
        progress_print(&j->progress, "request %d of %d: %s is done", number, b->count,
                       e->request.save_file);
    else if (e->continues)
        progress_print(&j->progress, "request %d of %d: %s, goes on from %s", number, b->count,
                       title, e->request.run_file);
    else
        progress_print(&j->progress, "request %d of %d: %s", number, b->count, title);
    if (!e->done && e->request.prompt != NULL && e->request.prompt[0] == '@')
        progress_print(&j->progress, "note    the prompt begins with @: no file is read for the "
                                     "lines of a batch");
}

/* Runs one request. Collective. */
static status run_one(struct entry *e, struct job *j, struct pipeline *p,
                      const struct plan_input *plan)
{
    struct runfile from = { 0 };
    struct run run = { 0 };
    status st = job_note_request(j, &e->request);

    if (st == ST_OK && e->continues && j->world->rank == 0)
        st = runfile_read(e->request.run_file, &from);
    TRY_OUT(agree(j->world, st));
    TRY_OUT(run_open(&run, j, &e->request, plan, e->continues ? &from : NULL));
    run.again = "start the batch again to go on";
    TRY_OUT(run_condition(&run, j, p, &from));
    TRY_OUT(run_go(&run, j, p));
    if (e->own_run_file)
        unlink(e->request.run_file);
out:
    if (st == ST_PREEMPTED)
        st = run_stop(&run, j, p);
    run_close(&run); // removes its unfinished files
    runfile_done(&from);
    return st;
}

/* Whether the next request can run although one has failed with `st`. */
static bool can_go_on(status st, const struct pipeline *p)
{
    return !p->must_abort && (st == ST_USAGE || st == ST_IO || st == ST_FORMAT || st == ST_MEMORY);
}

/* Runs the requests that are not done, one after the other. If some fail, the others run, and the
 * status is that of the first one. Collective. */
static status run_all(struct batch *b, struct job *j, struct pipeline *p, const struct request *job,
                      const struct plan_input *plans, int todo)
{
    status first = ST_OK;
    char line[700] = "";
    int failed = 0;

    for (int i = 0; i < b->count; i++) {
        struct entry *e = &b->entries[i];
        status st;

        announce(b, j, e);
        if (e->done)
            continue;
        st = run_one(e, j, p, plans++);
        malloc_trim(0); // else up to M_TRIM_THRESHOLD of what was freed stays in the heap
        if (st == ST_OK)
            continue;
        if (!can_go_on(st, p))
            return st;
        batch_fail(st, job, e);
        progress_print(&j->progress, "failed  %s", status_line());
        if (failed++ == 0) {
            first = st;
            snprintf(line, sizeof(line), "%s", status_line());
        }
    }
    if (failed == 0)
        return ST_OK;
    return fail(first, "%d of %d requests failed, the others are done; the first: %s", failed, todo,
                line);
}

/* Opens the pipeline, encodes all texts, and loads the transformer. Collective. */
static status load_models(struct pipeline *p, struct batch *b, struct job *j,
                          const struct plan_input *plans, int todo)
{
    struct run none = { 0 };
    status st;

    TRY_OUT(pipeline_open(p, j->world, &j->dev, &j->checkpoint, j->tokenizer, plans, todo));
    job_note_links(j, p);
    job_load_begin(j, &plans[0]);
    TRY_OUT(pipeline_text(p, b->prompt_count, b->prompts));
    TRY_OUT(pipeline_load(p));
    job_load_end(j);
out:
    return st == ST_PREEMPTED ? run_stop(&none, j, p) : st;
}

status cmd_batch(struct world *w, int argc, char **argv)
{
    struct request r;
    struct batch b = { 0 };
    struct job job = { 0 };
    struct pipeline p = { 0 };
    struct plan_input *plans = NULL;
    int todo = 0;
    status st;

    request_init(&r);
    st = w->rank == 0 ? request_parse(&r, CMD_BATCH, NULL, 0, argc, argv) : ST_OK;
    if (w->rank == 0 && st == ST_OK)
        st = request_choose_task(&r);
    if (w->rank == 0 && st == ST_OK)
        st = request_complete(&r, CMD_BATCH);
    TRY_OUT(request_share(w, st, &r));
    TRY_OUT(batch_read(&b, w, &r));
    TRY_OUT(job_open(&job, w, &r));
    TRY_OUT(batch_check(&b, &job, &r));
    st = collect_prompts(&b);
    if (st == ST_OK)
        st = plan_all(&b, &job, &r, &plans, &todo);
    TRY_OUT(agree(w, st));
    if (todo == 0) {
        progress_print(&job.progress, "all %d requests are done already", b.count);
        goto out;
    }
    TRY_OUT(job_fit(&job, &r, plans, todo));
    progress_print(&job.progress, "%d requests, %d to do, %d texts", b.count, todo, b.prompt_count);
    for (int i = 0, n = 0; i < b.count && n == 0; i++)
        if (!b.entries[i].done)
            job_announce(&job, &b.entries[i].request, &plans[n++]);
    TRY_OUT(load_models(&p, &b, &job, plans, todo));
    st = run_all(&b, &job, &p, &r, plans, todo);
    if (st == ST_OK || can_go_on(st, &p))
        job_memory(&job, &p);
out:
    if (p.must_abort)
        command_abort(w, st);
    pipeline_close(&p);
    free(plans);
    batch_done(&b);
    job_close(&job);
    request_done(&r);
    return st;
}
