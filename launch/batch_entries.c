#include "launch/batch.h"

#include "launch/run_state.h"
#include "launch/video/video.h"
#include "runtime/newfile.h"
#include "runtime/readfile.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILE_BYTES_MAX ((size_t)64 << 20)

static status no_memory(const struct request *job)
{
    return fail(ST_MEMORY, "cannot allocate host memory for the lines of %s", job->batch_file);
}

status batch_fail(status st, const struct entry *e)
{
    char line[600];

    snprintf(line, sizeof(line), "%s", status_line());
    return fail(st, "%s: %s", e->where, line);
}

static bool exists(const char *path)
{
    return path != NULL && access(path, F_OK) == 0;
}

/* ---- reading ---- */

static bool is_blank(const char *line)
{
    while (isspace((unsigned char)*line))
        line++;
    return *line == '\0';
}

/* Names the result and the run file of a line that does not. */
static status name_files(struct entry *e, const struct request *job)
{
    struct request *r = &e->request;

    if (r->save_file == NULL)
        TRY(request_result_name(r, job->batch_file, &r->save_file));
    if (r->run_file != NULL)
        return ST_OK;
    e->own_run_file = true;
    if (asprintf(&r->run_file, "%s.h5", r->save_file) >= 0)
        return ST_OK;
    r->run_file = NULL;
    return no_memory(job);
}

static status add_entry(struct batch *b, const struct request *job, const char *text, int line)
{
    struct entry *more = realloc(b->entries, (size_t)(b->count + 1) * sizeof(*more)), *e;

    if (more == NULL)
        return no_memory(job);
    b->entries = more;
    e = &b->entries[b->count++];
    *e = (struct entry){ .line = line };
    request_init(&e->request);
    snprintf(e->where, sizeof(e->where), "%s:%d", job->batch_file, line);
    TRY(request_line(&e->request, job, text, e->where));
    if (b->count == 1 && e->request.preset == NULL)
        request_note_preset(&e->request, job); // noted once
    return name_files(e, job);
}

static status read_lines(struct batch *b, const struct request *job)
{
    char *text = NULL, *rest, *line;
    status st;

    TRY_OUT(readfile_text(job->batch_file, FILE_BYTES_MAX, &text));
    rest = text;
    for (int i = 1; (line = strsep(&rest, "\n")) != NULL; i++)
        if (!is_blank(line))
            TRY_OUT(add_entry(b, job, line, i));
    if (b->count == 0)
        st = fail(ST_USAGE, "%s has no requests: write one JSON object per line", job->batch_file);
out:
    free(text);
    return st;
}

status batch_read(struct batch *b, struct world *w, const struct request *job)
{
    int count;

    TRY(agree(w, w->rank == 0 ? read_lines(b, job) : ST_OK));
    count = b->count;
    world_broadcast(w, &count, sizeof(count), 0);
    if (w->rank != 0)
        b->entries = calloc((size_t)count, sizeof(*b->entries));
    TRY(agree(w, b->entries != NULL ? ST_OK : no_memory(job)));
    for (int i = 0; i < count; i++) {
        if (w->rank != 0) {
            request_init(&b->entries[i].request);
            b->count++;
        }
        TRY(request_share(w, ST_OK, &b->entries[i].request));
        world_broadcast(w, b->entries[i].where, sizeof(b->entries[i].where), 0);
    }
    return ST_OK;
}

void batch_done(struct batch *b)
{
    for (int i = 0; i < b->count; i++)
        request_done(&b->entries[i].request);
    free(b->prompts);
    free(b->todo);
    free(b->entries);
    *b = (struct batch){ 0 };
}

/* ---- all requests together ---- */

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

/* All requests run on one mesh. Ranks for the second CFG branch are chosen if all of them compute
 * it in all steps, or all of them in some. */
static void choose_cfg(struct batch *b)
{
    int always = 0, sometimes = 0, never = 0;

    for (int i = 0; i < b->count; i++) {
        const struct request *r = &b->entries[i].request;

        if (b->entries[i].done)
            continue;
        always += request_always_guided(r);
        never += !request_guided(r);
        sometimes += request_guided(r) && !request_always_guided(r);
    }
    for (int i = 0; i < b->count && (never > 0 || (always > 0 && sometimes > 0)); i++)
        if (b->entries[i].request.cfg_size == 0)
            b->entries[i].request.cfg_size = 1;
}

status batch_prepare(struct batch *b)
{
    choose_cfg(b);
    return collect_prompts(b);
}

/* ---- files that several lines write ---- */

struct output {
    char *path;
    int entry;
};

static int by_path(const void *a, const void *b)
{
    const struct output *x = a, *y = b;
    const int order = strcmp(x->path, y->path);

    return order != 0 ? order : x->entry - y->entry;
}

/* Sorts the names of all outputs, and refuses a name that occurs twice. */
static status check_names(const struct batch *b, const struct request *job)
{
    struct output *all = calloc((size_t)b->count, 3 * sizeof(*all));
    int n = 0;
    status st = all != NULL ? ST_OK : no_memory(job);

    for (int i = 0; i < b->count && st == ST_OK; i++) {
        const struct request *r = &b->entries[i].request;
        const char *paths[] = { r->save_file, r->contact_sheet, r->run_file };

        for (size_t k = 0; k < COUNT(paths) && st == ST_OK; k++) {
            if (paths[k] == NULL)
                continue;
            all[n].entry = i;
            st = newfile_target(&all[n].path, paths[k]);
            if (st == ST_OK)
                n++;
            else
                st = batch_fail(st, &b->entries[i]);
        }
    }
    if (st == ST_OK)
        qsort(all, (size_t)n, sizeof(*all), by_path);
    for (int i = 1; i < n && st == ST_OK; i++) {
        const struct entry *first = &b->entries[all[i - 1].entry], *e = &b->entries[all[i].entry];

        if (strcmp(all[i - 1].path, all[i].path) == 0)
            st = fail(ST_USAGE,
                      "%s:%d: %s is written by line %d too: give one of them another save_file, or "
                      "another base_seed if the lines are the same",
                      job->batch_file, e->line, all[i].path, first->line);
    }
    for (int i = 0; i < n; i++)
        free(all[i].path);
    free(all);
    return st;
}

/* ---- what is done ---- */

/* Compares a line with its result, which exists. *differs: what another request made of it, as
 * text; NULL if it is the result of this request. */
static status compare_result(const struct entry *e, const char **differs)
{
    static const char other[] = "it is no result of wanmpi";
    const char *path = e->request.save_file;
    char *comment = NULL;
    status st;

    *differs = NULL;
    TRY_OUT(video_comment(path, &comment));
    if (comment == NULL) {
        *differs = other;
        goto out;
    }
    st = request_difference(differs, &e->request, comment, path, true);
    if (st == ST_USAGE) { // a comment of another program
        *differs = other;
        st = ST_OK;
    }
out:
    free(comment);
    return st;
}

/* Finds what is done. Refuses results of other requests, unless they may be overwritten. */
static status find_done(struct batch *b, const struct job *j, const struct request *job)
{
    char line[600] = "";
    int others = 0;

    for (int i = 0; i < b->count; i++) {
        struct entry *e = &b->entries[i];
        struct request *r = &e->request;
        const char *differs = NULL;

        if (!exists(r->save_file))
            continue;
        TRY(request_set_weights(r, j->weights));
        TRY(compare_result(e, &differs));
        e->done = differs == NULL && (r->contact_sheet == NULL || exists(r->contact_sheet));
        if (differs == NULL || job->overwrite || others++ > 0)
            continue;
        snprintf(line, sizeof(line), "%s: %s exists, but was not made by this line (%s)", e->where,
                 r->save_file, differs);
    }
    if (others == 0)
        return ST_OK;
    if (others == 1)
        return fail(ST_USAGE,
                    "%s: rename or delete it, give the line another save_file, or pass "
                    "--overwrite",
                    line);
    return fail(ST_USAGE,
                "%s, and %d more: rename or delete them, give the lines another "
                "save_file, or pass --overwrite",
                line, others - 1);
}

/* ---- what will be read and written ---- */

static status check_output(const char *path)
{
    struct newfile f = { 0 };
    status st = path != NULL ? newfile_open(&f, path) : ST_OK;

    newfile_drop(&f);
    return st;
}

/* Whether the run file is of this request; then the run goes on from it. */
static status check_run_file(struct entry *e)
{
    struct request *r = &e->request;
    struct runfile file = { 0 };
    bool same_result;
    status st = ST_OK;

    if (!exists(r->run_file))
        return check_output(r->run_file);
    TRY_OUT(runfile_read(r->run_file, &file));
    if (runfile_text(&file, "request") == NULL)
        TRY_OUT(fail(ST_FORMAT, "%s: exists and is no run file; give the line another run_file",
                     r->run_file));
    TRY_OUT(request_go_on(r, runfile_text(&file, "request"), runfile_text(&file, "folder"),
                          &same_result));
    e->continues = true;
out:
    runfile_done(&file);
    return st;
}

static status check_files(struct entry *e)
{
    TRY(check_output(e->request.save_file));
    TRY(check_output(e->request.contact_sheet));
    return check_run_file(e);
}

static status check_all(struct batch *b, const struct job *j, const struct request *job)
{
    TRY(check_names(b, job));
    TRY(find_done(b, j, job));
    for (int i = 0; i < b->count; i++) {
        struct entry *e = &b->entries[i];
        const status st = e->done ? ST_OK : check_files(e);

        if (st != ST_OK)
            return batch_fail(st, e);
    }
    return ST_OK;
}

status batch_check(struct batch *b, struct job *j, const struct request *job)
{
    struct world *w = j->all;

    TRY(agree(w, w->rank == 0 ? check_all(b, j, job) : ST_OK));
    b->todo = calloc((size_t)b->count, sizeof(*b->todo));
    TRY(agree(w, b->todo != NULL ? ST_OK : no_memory(job)));
    for (int i = 0; i < b->count; i++) {
        struct entry *e = &b->entries[i];
        bool state[] = { e->done, e->continues, e->own_run_file };

        world_broadcast(w, state, sizeof(state), 0);
        e->done = state[0];
        e->continues = state[1];
        e->own_run_file = state[2];
        if (e->done)
            continue;
        b->todo[b->todo_count++] = i;
        if (j->groups > 1) // what rank 0 has found out may be needed by rank 0 of any group
            TRY(request_share(w, ST_OK, &e->request));
    }
    return ST_OK;
}

status batch_check_inputs(const struct entry *e, const struct plan_input *plan)
{
    const struct request *r = &e->request;
    struct conditioning c = { 0 };
    struct runfile file = { 0 };
    float *noise = NULL;
    status st = ST_OK;

    if (e->continues)
        return ST_OK; // its run file has them
    if (r->noise_file != NULL) {
        noise = malloc((size_t)latent_count(plan->latent) * sizeof(float));
        if (noise == NULL)
            TRY_OUT(fail(ST_MEMORY, "cannot allocate host memory for a latent"));
        TRY_OUT(runfile_read(r->noise_file, &file));
        TRY_OUT(run_state_noise(noise, plan->latent, &file, r->noise_file));
        runfile_done(&file);
    }
    if (r->text_file != NULL) {
        TRY_OUT(runfile_read(r->text_file, &file));
        TRY_OUT(run_state_conditioning(&c, &plan->conditioning, &file, r->text_file));
    }
out:
    conditioning_done(&c);
    runfile_done(&file);
    free(noise);
    return st;
}
