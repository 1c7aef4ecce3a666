/* Step caching: its settings, and the files of its tables. */
#include "launch/request_internal.h"
#include "runtime/json.h"
#include "runtime/newfile.h"
#include "runtime/readfile.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TABLE_BYTES ((size_t)1 << 20) // of a file at most

static const char *const kinds[] = { "off", "magcache", "teacache", "easycache", "firstblock" };

/* The authors' settings, where a table does not have them. EasyCache: easycache_generate.py;
 * firstblock: cache-dit as vLLM-Omni runs it with Wan2.2. */
static const struct {
    double threshold, retain;
    int max_skip;
} defaults[] = {
    [CACHE_MAG] = { 0.12, 0.2, 2 },
    [CACHE_TEA] = { 0.1, 1, 0 },
    [CACHE_EASY] = { 0.05, 10, 0 },
    [CACHE_FIRST_BLOCK] = { 0.24, 4, 3 },
};

static int64_t pixels(const struct request *r)
{
    return (int64_t)r->size[0] * r->size[1];
}

static const struct cache_ratios *ratios_of(const struct request *r)
{
    return cache_find_ratios(r->task->name, pixels(r), r->input[INPUT_image] != NULL);
}

bool request_has_ratios(const struct request *r)
{
    return r->cache_ratios != NULL || ratios_of(r) != NULL;
}

static const struct cache_polynomial *polynomial_of(const struct request *r)
{
    return r->tea_cache_model_id >= 0 ? cache_polynomial_at(r->tea_cache_model_id)
                                      : cache_find_polynomial(r->task->name, pixels(r));
}

/* ---- tables ---- */

/* Appends the numbers of a JSON array to `out`, with commas. */
static status add_numbers(FILE *out, const cJSON *list, const char *path, const char *key)
{
    const int count = cJSON_GetArraySize(list);

    if (!cJSON_IsArray(list) || count < 2 || count > CACHE_RATIOS_MAX)
        return fail(ST_FORMAT, "%s: '%s' must be an array of 2 to %d numbers, one for each step",
                    path, key, CACHE_RATIOS_MAX);
    for (const cJSON *item = list->child; item != NULL; item = item->next) {
        if (!cJSON_IsNumber(item) || !isfinite(item->valuedouble) || item->valuedouble <= 0 ||
            item->valuedouble > 1e6)
            return fail(ST_FORMAT, "%s: '%s' has an entry that is no ratio above 0", path, key);
        fprintf(out, item->prev != NULL && item != list->child ? ",%.9g" : "%.9g",
                item->valuedouble);
    }
    return ST_OK;
}

/* Reads a file of ratios as the text of cache_table, malloc'ed. */
static status read_table(char **table, const char *path)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(table, &size);
    cJSON *json = NULL;
    const cJSON *cond, *uncond;
    status st;

    if (out == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for a table");
    TRY_OUT(readfile_text(path, TABLE_BYTES, &text));
    TRY_OUT(json_parse(&json, text, strlen(text), NULL, path));
    cond = cJSON_GetObjectItemCaseSensitive(json, "cond");
    uncond = cJSON_GetObjectItemCaseSensitive(json, "uncond");
    if (cond == NULL)
        TRY_OUT(fail(ST_FORMAT, "%s: no table of --calibrate_cache", path));
    uncond = uncond != NULL ? uncond : cond;
    if (cJSON_GetArraySize(cond) != cJSON_GetArraySize(uncond))
        TRY_OUT(fail(ST_FORMAT, "%s: 'cond' has %d numbers, 'uncond' %d", path,
                     cJSON_GetArraySize(cond), cJSON_GetArraySize(uncond)));
    TRY_OUT(add_numbers(out, cond, path, "cond"));
    fputc(';', out);
    TRY_OUT(add_numbers(out, uncond, path, "uncond"));
out:
    if (fclose(out) != 0 && st == ST_OK)
        st = fail(ST_MEMORY, "cannot allocate host memory for a table");
    cJSON_Delete(json);
    free(text);
    if (st != ST_OK) {
        free(*table);
        *table = NULL;
    }
    return st;
}

/* The file's numbers become the request's; those of a run that goes on must be the same, but its
 * file need not exist any more. */
static status fill_table(struct request *r)
{
    char *table = NULL;
    status st = read_table(&table, r->cache_ratios);

    if (r->cache_table == NULL) {
        r->cache_table = table;
        return st;
    }
    if (st == ST_OK && strcmp(table, r->cache_table) != 0)
        st = fail(ST_USAGE, "--cache_ratios %s: the file has changed since the run was started",
                  r->cache_ratios);
    else if (st != ST_MEMORY)
        st = ST_OK;
    free(table);
    return st;
}

static status use_table(struct cache_settings *set, const char *table)
{
    const char *at = table;

    for (int b = 0; b < CACHE_BRANCHES; b++) {
        char *end = NULL;
        int count = 0;

        do {
            const double value = strtod(at, &end);

            if (end == at || count == CACHE_RATIOS_MAX || !(value > 0))
                return fail(ST_USAGE, "cache_table: expected ratios, as \"1,1.01;1,1.02\"");
            set->ratio[b][count++] = value;
            at = end + (*end != 0);
        } while (*end == ',');
        if ((b > 0 && count != set->ratios) || (*end != 0) != (b == 0))
            return fail(ST_USAGE, "cache_table: expected two lists of the same length");
        set->ratios = count;
    }
    return ST_OK;
}

static void add_ratios(cJSON *json, const char *name, const double *ratio, int steps)
{
    cJSON *list = cJSON_AddArrayToObject(json, name);

    for (int i = 0; i < steps; i++) // of 6 digits: the text is short, and has the same number
        cJSON_AddItemToArray(list, cJSON_CreateNumber(i == 0 ? 1 : round(ratio[i] * 1e6) / 1e6));
}

status request_write_ratios(const struct request *r, double *const ratio[CACHE_BRANCHES])
{
    cJSON *json = cJSON_CreateObject();
    struct newfile file = { 0 };
    char *text = NULL;
    status st;

    cJSON_AddStringToObject(json, "task", r->task->name);
    cJSON_AddNumberToObject(json, "steps", r->steps);
    add_ratios(json, "cond", ratio[0], r->steps);
    if (request_guided(r))
        add_ratios(json, "uncond", ratio[1], r->steps);
    text = json_text(json, false);
    if (text == NULL)
        TRY_OUT(fail(ST_MEMORY, "cannot allocate host memory for a table"));
    TRY_OUT(newfile_open(&file, r->calibrate_cache));
    TRY_OUT(newfile_write(&file, text, strlen(text)));
    TRY_OUT(newfile_write(&file, "\n", 1));
    TRY_OUT(newfile_commit(&file));
out:
    newfile_drop(&file);
    free(text);
    cJSON_Delete(json);
    return st;
}

/* ---- settings ---- */

/* Refuses flags of another kind of cache, or without one. */
static status check_cache(const struct request *r)
{
    for (int i = 0; i < request_row_count; i++) {
        const struct option *row = &request_rows[i];
        const size_t at = row->offset;
        const bool tea = at == AT(tea_cache_l1_thresh) || at == AT(tea_cache_model_id) ||
                         at == AT(use_ret_steps);

        if ((row->marks & CACHE) == 0 || at == AT(cache) || !r->given[i])
            continue;
        if (tea && r->cache != CACHE_TEA)
            return fail(ST_USAGE, "--%s is for --cache teacache", row->name);
        if (at == AT(cache_ratios) && r->cache != CACHE_MAG)
            return fail(ST_USAGE, "--cache_ratios is for --cache magcache");
        if (r->cache == CACHE_OFF)
            return fail(ST_USAGE, "--%s needs --cache magcache, teacache, easycache or firstblock",
                        row->name);
    }
    if (r->calibrate_cache == NULL)
        return ST_OK;
    if (r->cache != CACHE_OFF)
        return fail(ST_USAGE, "--calibrate_cache computes all steps: remove --cache");
    if (r->run_file != NULL || r->resume != NULL)
        return fail(ST_USAGE, "--calibrate_cache measures a whole run: remove --run_file and "
                              "--resume");
    if (request_guided(r) && !request_always_guided(r))
        return fail(ST_USAGE,
                    "--calibrate_cache measures both CFG branches in all steps: remove "
                    "--cfg_gate, --cfg_interval and --zero_init_steps, and a guidance of 1");
    if (r->steps < 2 || r->steps > CACHE_RATIOS_MAX)
        return fail(ST_USAGE, "--calibrate_cache needs 2 to %d steps", CACHE_RATIOS_MAX);
    return ST_OK;
}

static void fill(struct request *r, double threshold, double retain, int max_skip)
{
    r->cache_threshold = r->cache_threshold < 0 ? threshold : r->cache_threshold;
    r->cache_retain = r->cache_retain < 0 ? retain : r->cache_retain;
    r->cache_max_skip = r->cache_max_skip < 0 ? max_skip : r->cache_max_skip;
}

static status fill_mag(struct request *r)
{
    const struct cache_ratios *row = ratios_of(r);

    if (r->cache_ratios != NULL)
        TRY(fill_table(r));
    else if (row == NULL)
        return fail(ST_USAGE,
                    "--cache magcache: its authors have no table for task %s: measure one with "
                    "--calibrate_cache FILE, and pass --cache_ratios FILE",
                    r->task->name);
    if (row != NULL)
        fill(r, row->threshold, row->retain, row->max_skip);
    return ST_OK;
}

static status fill_tea(struct request *r)
{
    const struct cache_polynomial *row = polynomial_of(r);

    if (row == NULL)
        return fail(ST_USAGE,
                    "--cache teacache: its authors have no polynomial for task %s: choose that of "
                    "another model with --tea_cache_model_id, or another --cache",
                    r->task->name);
    if (r->tea_cache_l1_thresh >= 0 && r->cache_threshold < 0)
        r->cache_threshold = r->tea_cache_l1_thresh;
    if (r->tea_cache_l1_thresh >= 0 && r->cache_threshold != r->tea_cache_l1_thresh)
        return fail(ST_USAGE, "--cache_threshold and --tea_cache_l1_thresh are the same: remove "
                              "one of them");
    fill(r, row->threshold, r->use_ret_steps ? 5 : 1, 0);
    return ST_OK;
}

status request_fill_cache(struct request *r)
{
    if (r->cache < 0)
        r->cache = r->tea_cache_l1_thresh >= 0 ? CACHE_TEA : CACHE_OFF;
    TRY(check_cache(r));
    if (r->cache == CACHE_OFF)
        return ST_OK;
    if (r->cache == CACHE_MAG)
        TRY(fill_mag(r));
    if (r->cache == CACHE_TEA)
        TRY(fill_tea(r));
    fill(r, defaults[r->cache].threshold, defaults[r->cache].retain, defaults[r->cache].max_skip);
    return ST_OK;
}

status request_cache(const struct request *r, struct cache_settings *set)
{
    const struct cache_ratios *ratios = ratios_of(r);

    *set = (struct cache_settings){ .kind = r->calibrate_cache != NULL ? CACHE_CALIBRATE
                                                                       : (enum cache_kind)r->cache,
                                    .threshold = r->cache_threshold,
                                    .retain = r->cache_retain,
                                    .max_skip = r->cache_max_skip,
                                    .start = request_start(r) };
    set->last = set->kind == CACHE_EASY || (set->kind == CACHE_TEA && !r->use_ret_steps);
    if (set->kind == CACHE_TEA)
        cache_use_polynomial(set, polynomial_of(r));
    if (set->kind != CACHE_MAG)
        return ST_OK;
    if (ratios != NULL)
        cache_use_ratios(set, ratios);
    return r->cache_table != NULL ? use_table(set, r->cache_table) : ST_OK;
}

void request_cache_text(char *text, size_t size, const struct request *r)
{
    const struct cache_ratios *ratios = ratios_of(r);
    char from[300] = "", most[60] = "", retain[60];

    text[0] = 0;
    if (r->calibrate_cache != NULL)
        snprintf(text, size, "measured for %s: all steps are computed", r->calibrate_cache);
    if (r->cache == CACHE_OFF)
        return;
    if (r->cache == CACHE_MAG)
        snprintf(from, sizeof(from), " with the ratios of %.250s",
                 r->cache_ratios != NULL ? r->cache_ratios : ratios->name);
    else if (r->cache == CACHE_TEA)
        snprintf(from, sizeof(from), " with the polynomial of %s%s", polynomial_of(r)->id,
                 r->use_ret_steps ? ", last step too" : "");
    if (r->cache_max_skip > 0)
        snprintf(most, sizeof(most), ", at most %d skipped in a row", r->cache_max_skip);
    snprintf(retain, sizeof(retain), r->cache_retain < 1 ? "%g of the steps" : "%g steps",
             r->cache_retain);
    snprintf(text, size, "%s%s: threshold %g, the first %s computed%s", kinds[r->cache], from,
             r->cache_threshold, retain, most);
}
