/* wanmpi batch: many requests, one per line of a file; the models are loaded once. */
#include "launch/commands.h"
#include "launch/run.h"
#include "runtime/readfile.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILE_BYTES_MAX ((size_t)64 << 20)

struct entry {
    struct request request;
    struct plan_input plan;
    bool done; // its result file exists, so it is skipped
};

struct batch {
    struct entry *entries;
    int count;
    const char **prompts; // each text once; borrowed from the requests
    int prompt_count;
};

static int line_count(const char *text)
{
    int n = 0;

    for (const char *p = text; *p; p++)
        n += *p == '\n';
    return n + 1;
}

static bool is_blank(const char *line)
{
    while (isspace((unsigned char)*line))
        line++;
    return *line == '\0';
}

/* The default save_file of a line: line 3 of jobs.jsonl writes jobs-0003.mp4. It is the same when
 * the batch is started again, so that finished requests are found. */
static status name_entry(struct request *r, const char *file, int line)
{
    const char *base = strrchr(file, '/') ? strrchr(file, '/') + 1 : file;
    const char *dot = strrchr(base, '.');

    if (r->save_file != NULL)
        return ST_OK;
    if (asprintf(&r->save_file, "%.*s-%04d.%s", (int)(dot ? dot - base : (long)strlen(base)), base,
                 line, r->frame_num == 1 ? "png" : "mp4") < 0) {
        r->save_file = NULL;
        return fail(ST_MEMORY, "cannot allocate host memory for a file name");
    }
    return ST_OK;
}

/* Reads the lines of the file as complete requests, the same on all ranks. Collective. */
static status read_entries(struct batch *b, struct world *w, const struct request *job)
{
    char *text = NULL;
    int lines = 0;
    status st = ST_OK;

    if (w->rank == 0)
        st = readfile_text(job->batch_file, FILE_BYTES_MAX, &text);
    if (w->rank == 0 && st == ST_OK)
        lines = line_count(text);
    TRY_OUT(agree(w, st));
    world_broadcast(w, &lines, sizeof(lines), 0);
    b->entries = calloc((size_t)lines, sizeof(*b->entries));
    TRY_OUT(agree(w, b->entries ? ST_OK
                                : fail(ST_MEMORY, "cannot allocate host memory for %d lines of %s",
                                       lines, job->batch_file)));
    for (int i = 0, at = 0; i < lines; i++) {
        struct entry *e = &b->entries[b->count];
        char *line = text + at, where[512];
        int skip = 0;

        if (w->rank == 0) {
            line[strcspn(line, "\n")] = '\0';
            at += (int)strlen(line) + 1;
            skip = is_blank(line);
        }
        world_broadcast(w, &skip, sizeof(skip), 0);
        if (skip)
            continue;
        b->count++;
        request_init(&e->request);
        if (w->rank == 0) {
            snprintf(where, sizeof(where), "%s:%d", job->batch_file, i + 1);
            st = request_line(&e->request, job, line, where);
            if (st == ST_OK)
                st = name_entry(&e->request, job->batch_file, i + 1);
        }
        TRY_OUT(request_share(w, st, &e->request));
        if (w->rank == 0)
            e->done = access(e->request.save_file, F_OK) == 0;
        world_broadcast(w, &e->done, sizeof(e->done), 0);
    }
    if (b->count == 0)
        st = fail(ST_USAGE, "%s has no requests: write one JSON object per line", job->batch_file);
out:
    free(text);
    return st;
}

static void add_prompt(struct batch *b, const char *prompt)
{
    int i = 0;

    while (i < b->prompt_count && strcmp(b->prompts[i], prompt) != 0)
        i++;
    if (i == b->prompt_count)
        b->prompts[b->prompt_count++] = prompt;
}

/* Collects the prompts of the requests that are not done, each text once. Local. */
static status collect_prompts(struct batch *b)
{
    b->prompts = calloc((size_t)b->count, 2 * sizeof(*b->prompts));
    if (b->prompts == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for %d prompts", 2 * b->count);
    for (int i = 0; i < b->count; i++) {
        struct entry *e = &b->entries[i];

        if (e->done || e->request.text_file != NULL)
            continue;
        add_prompt(b, e->request.prompt);
        add_prompt(b, e->request.negative_prompt);
    }
    return ST_OK;
}

/* All requests run on one mesh: if one of them is not guided, there is no second CFG branch to put
 * on other ranks. */
static void choose_cfg(struct batch *b)
{
    bool guided = true;

    for (int i = 0; i < b->count; i++)
        guided = guided && (b->entries[i].done || b->entries[i].request.sample_guide_scale != 1);
    for (int i = 0; i < b->count && !guided; i++)
        if (b->entries[i].request.cfg_size == 0)
            b->entries[i].request.cfg_size = 1;
}

/* The plans of the requests that are not done, as one array for job_fit and pipeline_open; the
 * caller frees *plans. Local. */
static status plan_all(struct batch *b, struct job *j, struct plan_input **plans, int *count)
{
    status st = ST_OK;

    *count = 0;
    *plans = calloc(b->count > 0 ? (size_t)b->count : 1, sizeof(**plans));
    if (*plans == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for %d plans", b->count);
    choose_cfg(b);
    for (int i = 0; i < b->count && st == ST_OK; i++) {
        if (b->entries[i].done)
            continue;
        st = job_plan(j, &b->entries[i].request, b->prompt_count, &(*plans)[*count]);
        (*plans)[(*count)++].keep_models = b->entries[i].request.offload_model != 1;
    }
    return st;
}

static void close_entries(struct batch *b)
{
    for (int i = 0; i < b->count; i++)
        request_done(&b->entries[i].request);
    free(b->prompts);
    free(b->entries);
}

/* Runs the requests that are not done, one after the other. Collective. */
static status run_all(struct batch *b, struct job *j, struct pipeline *p,
                      const struct plan_input *plans)
{
    int next = 0;
    status st = ST_OK;

    for (int i = 0; i < b->count && st == ST_OK; i++) {
        struct entry *e = &b->entries[i];
        struct run run = { 0 };

        if (e->done) {
            progress_print(&j->progress, "request %d of %d: %s exists, skipped", i + 1, b->count,
                           e->request.save_file);
            continue;
        }
        progress_print(&j->progress, "request %d of %d: %s", i + 1, b->count,
                       request_title(&e->request));
        st = run_open(&run, j, &e->request, &plans[next++], NULL);
        if (st == ST_OK)
            st = run_condition(&run, j, p, NULL);
        if (st == ST_OK)
            st = run_go(&run, j, p);
        if (st == ST_PREEMPTED)
            st = run_stop(&run, j, p);
        run_close(&run); // removes its unfinished files
    }
    return st;
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
    TRY_OUT(read_entries(&b, w, &r));
    TRY_OUT(job_open(&job, w, &r));
    st = collect_prompts(&b);
    if (st == ST_OK)
        st = plan_all(&b, &job, &plans, &todo);
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
    TRY_OUT(pipeline_open(&p, w, &job.dev, &job.checkpoint, job.tokenizer, plans, todo));
    job_note_links(&job, &p);
    job_load_begin(&job, &plans[0]);
    TRY_OUT(pipeline_text(&p, b.prompt_count, b.prompts));
    TRY_OUT(pipeline_load(&p));
    job_load_end(&job);
    TRY_OUT(run_all(&b, &job, &p, plans));
    job_memory(&job, &p);
out:
    if (p.must_abort)
        command_abort(w, st);
    pipeline_close(&p);
    free(plans);
    close_entries(&b);
    job_close(&job);
    request_done(&r);
    return st;
}
