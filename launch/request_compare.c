/* Requests against others: the lines of a batch, the request of a run file, that of a result. */
#include "launch/request_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A row's marks: tiles in which is encoded change the latent. */
static unsigned marks_of(const struct request *r, int row)
{
    const size_t at = request_rows[row].offset;
    const bool encodes = r->tiled_encode == 1 && (at == AT(tile_size) || at == AT(tile_stride));

    return request_rows[row].marks | (encodes ? NUMBERS : 0);
}

/* The first row that has a bit of `marks`, was given, and differs between *a and *b; -1 if none. */
static int first_difference(struct request *a, struct request *b, const bool *given, unsigned marks)
{
    const struct option_set x = request_options(a), y = request_options(b);

    for (int i = 0; i < request_row_count; i++)
        if (given[i] && (marks_of(b, i) & marks) != 0 && !options_same(&x, &y, i))
            return i;
    return -1;
}

status request_line(struct request *r, const struct request *job, const char *text,
                    const char *where)
{
    struct request flags = *job, empty; // borrowed strings, read only
    const struct option_set from = request_options(&flags), to = request_options(r);
    const struct option_set unset = request_options(&empty);
    int differs = -1;

    request_init(r);
    TRY(options_copy_all(&to, &from));
    r->groups = 0; // it does not belong to the result
    r->head_size = job->head_size;
    r->layers = job->layers;
    r->sparse = job->sparse;
    if (job->drawn_seed) // each line draws its own
        r->base_seed = (struct seed){ 0 };
    request_init(&empty);
    for (int i = 0; i < request_row_count; i++) // may follow from what the line says
        if (((request_rows[i].marks & (SAMPLING | CACHE)) != 0 || request_fast_sets(i)) &&
            !job->given[i])
            TRY(options_copy(&to, &unset, i));
    memset(r->given, 0, sizeof(r->given));
    TRY(options_from_json(&to, CMD_LINE, text, where));
    differs = first_difference(r, &flags, r->given, JOB);
    if (differs >= 0)
        return fail(ST_USAGE, "%s: %s must be the same for all lines; pass --%s to batch", where,
                    request_rows[differs].name, request_rows[differs].name);
    for (int i = 0; i < request_row_count; i++)
        r->given[i] |= job->given[i];
    if (request_complete(r, job->ckpt_dir != NULL ? CMD_GENERATE : CMD_PLAN) != ST_OK) {
        char line[512];
        snprintf(line, sizeof(line), "%s", status_line());
        return fail(ST_USAGE, "%s: %s", where, line);
    }
    return ST_OK;
}

/* Whether the row is a list of images, with commas between them. */
static bool is_list(const struct option *row)
{
    for (int i = 0; i < INPUT_COUNT; i++)
        if (row->offset == AT(input[i]))
            return (TASK_LISTS >> i & 1) != 0;
    return false;
}

/* Writes `folder` before the relative paths of a list, which `between` separates. */
static status list_from(char **list, char between, const char *folder)
{
    const char ends[] = { between, 0 };
    char *whole = NULL;
    size_t size = 0;
    FILE *m = open_memstream(&whole, &size);

    for (const char *item = *list, *end; m != NULL && *item != 0; item = end + (*end != 0)) {
        end = item + strcspn(item, ends);
        fprintf(m, "%s%s%s%.*s", item == *list ? "" : ends, *item == '/' ? "" : folder,
                *item == '/' ? "" : "/", (int)(end - item), item);
    }
    if (m == NULL || fclose(m) != 0) {
        free(whole);
        return fail(ST_MEMORY, "cannot allocate host memory for file names");
    }
    free(*list);
    *list = whole;
    return ST_OK;
}

/* Makes relative paths, which are those of `folder`, absolute, unless it is the current folder. */
static status paths_from(struct request *r, const char *folder)
{
    char *here = getcwd(NULL, 0);
    const bool same = folder == NULL || (here != NULL && strcmp(here, folder) == 0);

    free(here);
    for (int i = 0; i < request_row_count && !same; i++) {
        const struct option *row = &request_rows[i];
        const bool path = row->type == OPT_STRING && row->offset != AT(task_name) &&
                          row->offset != AT(preset) && row->commands != CMD_RECORD;
        char **field = (char **)((char *)r + row->offset), *whole = NULL;

        if ((row->type == OPT_LIST || is_list(row)) && *field != NULL) {
            TRY(list_from(field, row->type == OPT_LIST ? '\n' : ',', folder));
            continue;
        }
        if (!path || *field == NULL || **field == '/')
            continue;
        if (asprintf(&whole, "%s/%s", folder, *field) < 0)
            return fail(ST_MEMORY, "cannot allocate host memory for a file name");
        free(*field);
        *field = whole;
    }
    return ST_OK;
}

status request_resume(struct request *r, const char *text, const char *folder, const char *run_file)
{
    status st;
    struct request saved;
    int differs = -1;

    request_init(&saved);
    const struct option_set from = request_options(r), to = request_options(&saved);
    TRY_OUT(request_from_json(&saved, text, run_file));
    TRY_OUT(paths_from(&saved, folder));
    free(saved.decoded); // of an earlier result
    saved.decoded = NULL;
    differs = first_difference(r, &saved, r->given, NUMBERS);
    if (differs >= 0) {
        st = fail(ST_USAGE,
                  "--%s differs from the run in %s; remove it to resume that run, or start a new "
                  "run without --resume",
                  request_rows[differs].name, run_file);
        goto out;
    }
    // Device, ranks and threads come from this command line only; flags that do not change the
    // latent, such as file names, replace the saved ones.
    for (int i = 0; i < request_row_count; i++) {
        const size_t at = request_rows[i].offset;
        const bool not_saved = at == AT(cfg_size) || at == AT(ring_size) ||
                               at == AT(ulysses_size) || at == AT(threads) || at == AT(timeout_s) ||
                               at == AT(dit_fsdp) || at == AT(experts) || at == AT(resume) ||
                               at == AT(vram_limit) || at == AT(vram_buffer) ||
                               at == AT(num_persistent_param_in_dit) || at == AT(offload_device) ||
                               at == AT(weight_storage) || at == AT(device) || at == AT(run_file);
        if (not_saved || (r->given[i] && (marks_of(&saved, i) & NUMBERS) == 0))
            TRY_OUT(options_copy(&to, &from, i));
    }
    if (saved.run_file == NULL) { // not the saved name: the file may have been moved
        saved.run_file = strdup(run_file);
        if (saved.run_file == NULL)
            TRY_OUT(fail(ST_MEMORY, "cannot allocate host memory for a file name"));
    }
    memcpy(saved.given, r->given, sizeof(saved.given));
    TRY_OUT(request_complete(&saved, CMD_GENERATE));
out:
    if (st == ST_OK) {
        request_done(r);
        *r = saved;
    } else {
        request_done(&saved);
    }
    return st;
}

const char *request_other_weights(const char *a, const char *b, int *length)
{
    for (const char *at = a; *at != 0; at += strspn(at, " ")) {
        const size_t whole = strcspn(at, " "), key = strcspn(at, "=");
        const char *other = b;

        while (*other != 0 && (strncmp(other, at, key) != 0 || other[key] != '='))
            other += strcspn(other, " ") + strspn(other + strcspn(other, " "), " ");
        *length = (int)key;
        if (*other != 0 && strncmp(other, at, whole) != 0)
            return at;
        at += whole;
    }
    return NULL;
}

status request_set_weights(struct request *r, const char *weights)
{
    char *copy;
    int length;

    if (r->weights != NULL && strlen(r->weights) >= strlen(weights) &&
        request_other_weights(r->weights, weights, &length) == NULL)
        return ST_OK;
    copy = strdup(weights);
    if (copy == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for a digest");
    free(r->weights);
    r->weights = copy;
    return ST_OK;
}

/* Whether the row is an input whose contents the row "media" compares. */
static bool is_media(const struct option *row)
{
    for (int i = 0; i < INPUT_COUNT; i++)
        if (row->offset == AT(input[i]))
            return (TASK_MEDIA >> i & 1) != 0;
    return false;
}

/* Whether the row's values differ, for request_difference: a seed only if it was given, weights
 * part by part where both have them, images and clips by their pixels. */
static bool row_differs(const struct request *a, const struct request *b, int index)
{
    const struct option_set x = { request_rows, request_row_count, (void *)a, NULL };
    const struct option_set y = { request_rows, request_row_count, (void *)b, NULL };
    const size_t at = request_rows[index].offset;
    int length;

    if (at == AT(base_seed) && (a->drawn_seed || !a->base_seed.given))
        return false;
    if (is_media(&request_rows[index]) && a->media != NULL && b->media != NULL)
        return false;
    if (at == AT(weights))
        return a->weights != NULL && b->weights != NULL &&
               request_other_weights(a->weights, b->weights, &length) != NULL;
    return !options_same(&x, &y, index);
}

status request_difference(const char **differs, const struct request *r, const char *text,
                          const char *where, bool pixels)
{
    static _Thread_local char line[256];
    const struct option_set here = { request_rows, request_row_count, (void *)r, NULL };
    const unsigned marks = pixels ? NUMBERS | PIXELS : NUMBERS;
    struct request made;
    const struct option_set there = request_options(&made);
    char a[64], b[64];
    status st;

    *differs = NULL;
    request_init(&made);
    TRY_OUT(request_from_json(&made, text, where));
    for (int i = 0; i < request_row_count && *differs == NULL; i++) {
        const struct option *row = &request_rows[i];

        if ((marks_of(r, i) & marks) == 0 || !row_differs(r, &made, i))
            continue;
        TRY_OUT(options_value(&there, i, a, sizeof(a)));
        TRY_OUT(options_value(&here, i, b, sizeof(b)));
        if (row->offset == AT(weights))
            snprintf(line, sizeof(line), "it was made with other weights");
        else if (row->offset == AT(media))
            snprintf(line, sizeof(line), "it was made from another image, clip or sound");
        else if (row->type == OPT_TEXT)
            snprintf(line, sizeof(line), "the %s is another", row->name);
        else
            snprintf(line, sizeof(line), "%s is %s there and %s here", row->name, a, b);
        *differs = line;
    }
out:
    request_done(&made);
    return st;
}

status request_go_on(struct request *r, const char *text, const char *folder, bool *same_result)
{
    const char *differs = NULL;
    struct request saved;
    status st;

    request_init(&saved);
    TRY_OUT(request_difference(&differs, r, text, r->run_file, false));
    if (differs != NULL) {
        st = fail(ST_USAGE,
                  "--run_file %s has the run of another request: %s; choose another name "
                  "for this one, or delete that file",
                  r->run_file, differs);
        goto out;
    }
    TRY_OUT(request_from_json(&saved, text, r->run_file));
    TRY_OUT(paths_from(&saved, folder));
    if (r->drawn_seed)
        r->base_seed = saved.base_seed;
    if (r->save_file == NULL) {
        r->save_file = saved.save_file;
        saved.save_file = NULL; // given away
    }
    free(r->weights);
    r->weights = saved.weights;
    saved.weights = NULL; // given away
    r->resume = strdup(r->run_file);
    if (r->resume == NULL)
        TRY_OUT(fail(ST_MEMORY, "cannot allocate host memory for a file name"));
    TRY_OUT(request_difference(&differs, r, text, r->run_file, true));
    *same_result = differs == NULL && (saved.save_file == NULL || r->save_file == NULL ||
                                       strcmp(saved.save_file, r->save_file) == 0);
out:
    request_done(&saved);
    return st;
}
