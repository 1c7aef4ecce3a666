/* wanmpi batch: many requests, one per line of a file; the models are loaded once, by each group of
 * ranks. The groups take the requests from one queue. */
#include "launch/batch.h"

#include "launch/commands.h"
#include "launch/run.h"
#include "parallel/queue.h"
#include "runtime/clock.h"
#include "runtime/stop.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The plans of the requests that are not done, as one array for job_fit and pipeline_open; the
 * caller frees *plans. Local. */
static status plan_all(struct batch *b, struct job *j, struct plan_input **plans, int *count)
{
    *count = 0;
    *plans = calloc((size_t)b->count, sizeof(**plans));
    if (*plans == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for %d plans", b->count);
    for (int i = 0; i < b->count; i++) {
        struct entry *e = &b->entries[i];
        struct plan_input *plan = &(*plans)[*count];
        status st;

        if (e->done)
            continue;
        st = job_plan(j, &e->request, b->prompt_count, plan);
        if (st == ST_OK && j->all->rank == 0)
            st = batch_check_inputs(e, plan);
        if (st != ST_OK)
            return batch_fail(st, e);
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
    if (e->own_run_file && j->world->rank == 0)
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

/* The next request for this group: its number in b->todo, or QUEUE_*. Collective over the group.
 * `done`: the result of the last one. */
static int next_request(struct batch *b, struct job *j, struct queue *q,
                        const struct queue_result *done)
{
    int item = QUEUE_EMPTY;

    if (j->group >= b->todo_count) // it has not loaded the models
        return item;
    alive_at("waiting for a request", -1);
    if (j->world->rank == 0)
        item = queue_next(q, done);
    world_broadcast(j->world, &item, sizeof(item), 0);
    return item;
}

/* Runs requests until there are none left, one after the other. If some fail, the others run: the
 * queue knows how many. Collective over the group. */
static status run_group(struct batch *b, struct job *j, struct pipeline *p,
                        const struct plan_input *plans, struct queue *q)
{
    struct queue_result last = { .item = -1 };
    int item;

    while ((item = next_request(b, j, q, &last)) >= 0) {
        struct entry *e = &b->entries[b->todo[item]];

        announce(b, j, e);
        last = (struct queue_result){ item, (int)run_one(e, j, p, &plans[item]), "" };
        malloc_trim(0); // else up to M_TRIM_THRESHOLD of what was freed stays in the heap
        if (last.st == ST_OK)
            continue;
        if (!can_go_on((status)last.st, p))
            return (status)last.st;
        batch_fail((status)last.st, e);
        snprintf(last.line, sizeof(last.line), "%s", status_line());
        progress_print(&j->progress, "failed  %s", last.line);
    }
    if (item == QUEUE_STOPPED)
        return fail(ST_PREEMPTED,
                    "stopped by %s between two requests; start the batch again to go "
                    "on",
                    stop_name(stop_requested()));
    return ST_OK;
}

/* Runs the requests that are not done, on all groups. Collective over all ranks. If some requests
 * failed, the status is that of the first one in the file. */
static status run_all(struct batch *b, struct job *j, struct pipeline *p,
                      const struct plan_input *plans)
{
    const double start_s = clock_seconds();
    struct queue q = { 0 };
    int made;
    double took_s;
    char time[24];
    status st;

    TRY_OUT(agree(j->all, queue_open(&q, j->all, b->todo_count)));
    job_part(j);
    st = run_group(b, j, p, plans, &q);
    if (st == ST_OK && j->groups > 1)
        progress_print(&j->progress, "no request is left for this group");
    if (p->must_abort)
        command_abort(j->all, st);
    job_meet(j);
    TRY_OUT(agree(j->all, st));
    made = b->todo_count - q.failed; // on rank 0
    took_s = clock_seconds() - start_s;
    progress_print(&j->progress, "done    %d requests in %s: %.4g per hour, after loading", made,
                   progress_time(time, took_s), 3600 * made / took_s);
    if (q.failed > 0) // on rank 0
        st =
            fail((status)q.first.st, "%d of %d requests failed, the others are done; the first: %s",
                 q.failed, b->todo_count, q.first.line);
    TRY_OUT(agree(j->all, st));
out:
    queue_close(&q);
    return st;
}

/* Opens the pipeline, and loads the transformer. The first group encodes the texts for all. A group
 * for which there is no request loads nothing. Collective over the group. */
static status load_group(struct pipeline *p, struct batch *b, struct job *j,
                         const struct plan_input *plans)
{
    struct plan_input reads = plans[0];
    struct run none = { 0 };
    status st;

    TRY_OUT(
        pipeline_open(p, j->world, &j->dev, &j->checkpoint, j->tokenizer, plans, b->todo_count));
    job_note_links(j, p);
    if (j->group >= b->todo_count)
        goto out;
    if (j->group > 0)
        reads.prompts = 0;
    job_load_begin(j, &reads);
    if (j->group == 0)
        TRY_OUT(pipeline_text(p, b->prompt_count, b->prompts));
    TRY_OUT(pipeline_load(p));
    job_load_end(j);
out:
    return st == ST_PREEMPTED ? run_stop(&none, j, p) : st;
}

/* Loads the models of all groups. Collective over all ranks. */
static status load_models(struct pipeline *p, struct batch *b, struct job *j,
                          const struct plan_input *plans)
{
    status st;

    job_part(j);
    st = load_group(p, b, j, plans);
    if (p->must_abort)
        command_abort(j->all, st);
    job_meet(j);
    TRY(agree(j->all, st));
    return j->groups > 1 ? pipeline_share_texts(p, j->all, b->prompt_count, b->prompts) : ST_OK;
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
    st = batch_prepare(&b);
    if (st == ST_OK)
        st = plan_all(&b, &job, &plans, &todo);
    TRY_OUT(agree(w, st));
    if (todo == 0) {
        progress_print(&job.progress, "all %d requests are done already", b.count);
        goto out;
    }
    TRY_OUT(job_fit(&job, &r, plans, todo));
    progress_print(&job.progress, "%d requests, %d to do, %d texts", b.count, todo, b.prompt_count);
    job_announce(&job, &b.entries[b.todo[0]].request, &plans[0]);
    if (job.groups > todo)
        progress_print(&job.progress, "note    %d of %d groups have nothing to do",
                       job.groups - todo, job.groups);
    TRY_OUT(load_models(&p, &b, &job, plans));
    for (int i = 0; i < b.count; i++)
        if (b.entries[i].done)
            announce(&b, &job, &b.entries[i]);
    st = run_all(&b, &job, &p, plans);
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
