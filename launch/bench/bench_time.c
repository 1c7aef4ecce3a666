/* Timing, rows of results, and their output: on the screen, as JSON, as HDF5. */
#include "launch/bench/bench.h"
#include "launch/commands.h"
#include "runtime/columnfile.h"
#include "runtime/json.h"
#include "runtime/timeline.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const ceiling_names[CEILING_COUNT] = { "", "gemm", "copy", "host copy", "link" };

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

/* "12.34 ms" in a buffer of 16. */
static const char *duration(char *text, double s)
{
    if (s >= 1)
        snprintf(text, 16, "%.3f s", s);
    else if (s >= 1e-3)
        snprintf(text, 16, "%.3f ms", s * 1e3);
    else
        snprintf(text, 16, "%.1f us", s * 1e6);
    return text;
}

static void print_row(const struct bench_row *r)
{
    char took[16], rate[32] = "", part[32] = "";
    const bool counts = r->flops > 0 && r->against != CEILING_COPY;
    const double per_s = (counts ? r->flops : r->bytes) / r->median_s;

    if (counts && per_s < 1e12)
        snprintf(rate, sizeof(rate), "%.1f GFLOP/s", per_s * 1e-9);
    else if (counts)
        snprintf(rate, sizeof(rate), "%.1f TFLOP/s", per_s * 1e-12);
    else if (r->bytes > 0)
        snprintf(rate, sizeof(rate), "%.0f GB/s", per_s * 1e-9);
    if (r->ceiling > 0)
        snprintf(part, sizeof(part), "%3.0f%% of %s", 100 * per_s / r->ceiling,
                 ceiling_names[r->against]);
    printf("%-12s %-48s %10s  -%4.1f%% +%4.1f%%  %14s  %s\n", r->test, r->name,
           duration(took, r->median_s), 100 * (1 - r->least_s / r->median_s),
           100 * (r->most_s / r->median_s - 1), rate, part);
    fflush(stdout);
}

static status add_row(struct bench *b, const struct bench_row *row)
{
    if (b->count == b->capacity) {
        const int capacity = b->capacity > 0 ? 2 * b->capacity : 64;
        struct bench_row *grown = realloc(b->rows, (size_t)capacity * sizeof(*grown));

        if (grown == NULL)
            return fail(ST_MEMORY, "cannot allocate host memory for %d results", capacity);
        b->rows = grown;
        b->capacity = capacity;
    }
    b->rows[b->count++] = *row;
    return ST_OK;
}

status bench_add(struct bench *b, const char *test, const char *name, int runs, double *seconds,
                 double flops, double bytes, enum ceiling against)
{
    struct bench_row row = { .runs = runs,
                             .flops = flops,
                             .bytes = bytes,
                             .against = against,
                             .ceiling = b->ceilings[against] };
    double mine[3], *all = calloc(3 * (size_t)b->world->size, sizeof(*all));
    status st;

    if (all == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory");
    qsort(seconds, (size_t)runs, sizeof(*seconds), by_size);
    mine[0] = seconds[runs / 2];
    mine[1] = seconds[0];
    mine[2] = seconds[runs - 1];
    world_gather(b->world, mine, sizeof(mine), all);
    for (int r = 0; r < b->world->size; r++) {
        if (all[3 * r] > row.median_s) {
            row.median_s = all[3 * r];
            row.least_s = all[3 * r + 1];
            row.most_s = all[3 * r + 2];
        }
    }
    snprintf(row.test, sizeof(row.test), "%s", test);
    snprintf(row.name, sizeof(row.name), "%s", name);
    st = add_row(b, &row);
    if (b->world->rank == 0)
        print_row(&row);
    free(all);
    return st;
}

status bench_add_trace_row(struct bench *b, const char *test, const struct trace_row *part,
                           enum ceiling against)
{
    struct bench_row row = { .runs = 1,
                             .median_s = part->seconds,
                             .least_s = part->seconds,
                             .most_s = part->seconds,
                             .flops = part->flops,
                             .bytes = part->bytes,
                             .waited_s = part->waited,
                             .against = against,
                             .ceiling = b->ceilings[against],
                             .calls = part->calls };

    snprintf(row.test, sizeof(row.test), "%s part", test);
    snprintf(row.family, sizeof(row.family), "%s", part->family);
    snprintf(row.name, sizeof(row.name), "%s", part->what);
    return add_row(b, &row);
}

status bench_run(struct bench *b, status (*call)(void *payload), void *payload, double *seconds)
{
    struct timeline m = { 0 };
    int from, to;
    status st;

    TRY_OUT(timeline_open(&m, &b->dev, 2));
    TRY_OUT(timeline_record(&m, &from));
    TRY_OUT(call(payload));
    TRY_OUT(timeline_record(&m, &to));
    TRY_OUT(device_wait(&b->dev));
    TRY_OUT(timeline_between(&m, from, to, seconds));
out:
    timeline_close(&m);
    return st;
}

status bench_run_together(struct bench *b, status (*call)(void *payload), void *payload,
                          double *seconds)
{
    TRY(device_wait(&b->dev));
    world_barrier(b->world);
    return bench_run(b, call, payload, seconds);
}

status bench_time(struct bench *b, const char *test, struct bench_work work, const char *format,
                  ...)
{
    const int runs = b->options->repeats;
    double *seconds = calloc((size_t)runs, sizeof(*seconds)), first, flops = 0;
    char name[72];
    va_list args;
    status st;

    va_start(args, format);
    vsnprintf(name, sizeof(name), format, args);
    va_end(args);
    if (seconds == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for %d times", runs);
    if (!work.warm)
        TRY_OUT(bench_run_together(b, work.call, work.payload, &first));
    for (int i = 0; i < runs; i++) {
        flops = b->dev.flops;
        TRY_OUT(bench_run_together(b, work.call, work.payload, &seconds[i]));
        flops = b->dev.flops - flops;
    }
    TRY_OUT(bench_add(b, test, name, runs, seconds, work.flops < 0 ? flops : work.flops, work.bytes,
                      work.against));
out:
    free(seconds);
    return st;
}

static void add_scaling(cJSON *o, const struct bench_scaling *s)
{
    cJSON_AddNumberToObject(o, "ranks", s->ranks);
    cJSON_AddBoolToObject(command_json_mesh(o, "mesh", s->mesh), "fsdp", s->fsdp);
    cJSON_AddNumberToObject(o, "efficiency", s->efficiency);
    cJSON_AddNumberToObject(o, "plan_s", s->plan_s);
    cJSON_AddNumberToObject(o, "device_bytes_peak", s->peak);
    cJSON_AddNumberToObject(o, "device_bytes_planned", s->planned);
    cJSON_AddBoolToObject(o, "same_bits", s->same_bits);
    cJSON_AddNumberToObject(o, "took_s", s->took_s);
}

static cJSON *json_row(const struct bench_row *r)
{
    cJSON *o = cJSON_CreateObject();

    cJSON_AddStringToObject(o, "test", r->test);
    if (r->family[0] != 0)
        cJSON_AddStringToObject(o, "family", r->family);
    cJSON_AddStringToObject(o, "name", r->name);
    cJSON_AddNumberToObject(o, "runs", r->runs);
    cJSON_AddNumberToObject(o, "median_s", r->median_s);
    cJSON_AddNumberToObject(o, "least_s", r->least_s);
    cJSON_AddNumberToObject(o, "most_s", r->most_s);
    cJSON_AddNumberToObject(o, "flops", r->flops);
    cJSON_AddNumberToObject(o, "bytes", r->bytes);
    if (r->calls > 0)
        cJSON_AddNumberToObject(o, "calls", r->calls);
    if (r->waited_s > 0)
        cJSON_AddNumberToObject(o, "waited_s", r->waited_s);
    if (r->scaling.ranks > 0)
        add_scaling(o, &r->scaling);
    if (r->ceiling > 0) {
        cJSON_AddStringToObject(o, "against", ceiling_names[r->against]);
        cJSON_AddNumberToObject(o, "ceiling", r->ceiling);
    }
    return o;
}

/* The settings of this job, as JSON. */
static cJSON *settings_json(const struct bench *b)
{
    const struct bench_options *o = b->options;
    const struct self_attention *a = &b->plan.self_attention;
    const int exact[] = { a->first_block, model_dit(&b->plan.model)->layers - a->end_block };
    cJSON *root = cJSON_CreateObject();
    char size[32];

    snprintf(size, sizeof(size), "%d*%d", o->size[0], o->size[1]);
    cJSON_AddStringToObject(root, "version", WANMPI_VERSION);
    cJSON_AddStringToObject(root, "model", o->model != NULL ? o->model : "1.3B");
    cJSON_AddStringToObject(root, "size", size);
    cJSON_AddNumberToObject(root, "frame_num", o->frame_num);
    cJSON_AddStringToObject(root, "device", b->dev.kind == DEVICE_CUDA ? "cuda" : "cpu");
    cJSON_AddStringToObject(root, "precision", b->cdt == DT_BF16 ? "bf16" : "fp32");
    cJSON_AddStringToObject(root, "matmul", b->plan.matmul.fp8 ? "fp8" : "exact");
    if (b->plan.matmul.fp8)
        cJSON_AddNumberToObject(root, "matmul_bf16_blocks", b->plan.matmul.kept);
    cJSON_AddStringToObject(root, "attention", a->end_step > 0 ? "8bit" : "exact");
    if (a->end_step > 0)
        cJSON_AddItemToObject(root, "attention_exact_blocks", cJSON_CreateIntArray(exact, 2));
    cJSON_AddStringToObject(root, "vae_precision", vae_precision_name(b->plan.vae_dtype));
    if (o->with_image)
        cJSON_AddBoolToObject(root, "with_image", true);
    cJSON_AddNumberToObject(root, "ranks", b->world->size);
    cJSON_AddBoolToObject(command_json_mesh(root, "mesh", b->plan.mesh), "fsdp", b->plan.fsdp);
    cJSON_AddNumberToObject(root, "device_bytes_peak", (double)b->dev.held_peak);
    return root;
}

static status write_text(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    status st = ST_OK;

    if (f == NULL || fprintf(f, "%s\n", text) < 0)
        st = fail(status_of_errno(), "%s: %s", path, strerror(errno));
    if (f != NULL && fclose(f) != 0 && st == ST_OK)
        st = fail(status_of_errno(), "%s: %s", path, strerror(errno));
    return st;
}

status bench_json(const struct bench *b, const char *path)
{
    cJSON *root = settings_json(b), *list = cJSON_AddArrayToObject(root, "results");
    char *text;
    status st;

    for (int i = 0; i < b->count; i++)
        cJSON_AddItemToArray(list, json_row(&b->rows[i]));
    text = json_text(root, true);
    cJSON_Delete(root);
    st = text != NULL ? write_text(path, text)
                      : fail(ST_MEMORY, "cannot allocate host memory for the results");
    free(text);
    return st;
}

status bench_hdf5(const struct bench *b, const char *path)
{
    static const char *const names[] = { "runs",  "median_s", "least_s",  "most_s", "flops",
                                         "bytes", "calls",    "waited_s", "ceiling" };
    enum { NUMBERS = COUNT(names), TEXTS = 4 };
    const size_t n = (size_t)b->count;
    double *numbers = calloc(NUMBERS * n + 1, sizeof(*numbers));
    const char **texts = calloc(TEXTS * n + 1, sizeof(*texts));
    struct column columns[TEXTS + NUMBERS] = {
        { .name = "test" }, { .name = "family" }, { .name = "name" }, { .name = "against" }
    };
    cJSON *root = settings_json(b);
    char *text = json_text(root, false);
    status st = ST_OK;

    if (numbers == NULL || texts == NULL || text == NULL)
        TRY_OUT(fail(ST_MEMORY, "cannot allocate host memory for the results"));
    for (size_t c = 0; c < TEXTS; c++)
        columns[c].texts = texts + c * n;
    for (size_t c = 0; c < NUMBERS; c++)
        columns[TEXTS + c] = (struct column){ .name = names[c], .numbers = numbers + c * n };
    for (size_t i = 0; i < n; i++) {
        const struct bench_row *r = &b->rows[i];
        const double values[NUMBERS] = { r->runs,  r->median_s, r->least_s,  r->most_s, r->flops,
                                         r->bytes, r->calls,    r->waited_s, r->ceiling };
        const char *const words[TEXTS] = { r->test, r->family, r->name, ceiling_names[r->against] };

        for (size_t c = 0; c < NUMBERS; c++)
            numbers[c * n + i] = values[c];
        for (size_t c = 0; c < TEXTS; c++)
            texts[c * n + i] = words[c];
    }
    TRY_OUT(columnfile_write(path, text, b->count, columns, TEXTS + NUMBERS));
out:
    cJSON_Delete(root);
    free(text);
    free(numbers);
    free(texts);
    return st;
}
