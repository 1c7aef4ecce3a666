/* The results of a trace: rows of a table, and a file for a viewer. */
#include "launch/bench/trace.h"

#include "runtime/json.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static int by_time(const void *a, const void *b)
{
    const struct trace_row *x = a, *y = b;

    if (x->lane != y->lane)
        return x->lane < y->lane ? -1 : 1;
    return x->seconds < y->seconds ? 1 : x->seconds > y->seconds ? -1 : 0;
}

int trace_rows(const struct trace *t, struct trace_row *rows, int capacity)
{
    int count = 0;

    for (const struct trace_span *s = t->spans; s < t->spans + t->count; s++) {
        int r = 0;

        if (s->lane == LANE_COUNT)
            continue;
        while (r < count &&
               (strcmp(rows[r].family, s->family) != 0 || strcmp(rows[r].what, s->what) != 0))
            r++;
        if (r == capacity)
            continue;
        if (r == count)
            rows[count++] =
                (struct trace_row){ .family = s->family, .what = s->what, .lane = s->lane };
        rows[r].calls++;
        rows[r].seconds += s->end - s->at;
        rows[r].waited += s->waited;
        rows[r].flops += s->flops;
        rows[r].bytes += s->bytes;
    }
    qsort(rows, (size_t)count, sizeof(*rows), by_time);
    return count;
}

/* Writes one event of the list and deletes it. */
static status write_event(FILE *out, cJSON *event, bool *first)
{
    char *text = json_text(event, false);

    cJSON_Delete(event);
    if (text == NULL)
        return fail(ST_MEMORY, "no host memory to write the trace");
    fprintf(out, "%s\n%s", *first ? "" : ",", text);
    *first = false;
    free(text);
    return ST_OK;
}

/* An event that names a process, or one of its threads if `lane` is not -1. */
static cJSON *name_event(const char *what, int rank, int lane, const char *name)
{
    cJSON *o = cJSON_CreateObject();

    cJSON_AddStringToObject(o, "ph", "M");
    cJSON_AddStringToObject(o, "name", what);
    cJSON_AddNumberToObject(o, "pid", rank);
    if (lane >= 0)
        cJSON_AddNumberToObject(o, "tid", lane);
    cJSON_AddStringToObject(cJSON_AddObjectToObject(o, "args"), "name", name);
    return o;
}

/* Rounded to one of `parts` parts, which keeps the file short. */
static double rounded(double x, double parts)
{
    return round(x * parts) / parts;
}

static cJSON *span_event(const struct trace_span *s, const char *lane, int rank)
{
    const double took = s->end - s->at;
    cJSON *o = cJSON_CreateObject(), *args;

    cJSON_AddStringToObject(o, "ph", "X");
    cJSON_AddStringToObject(o, "name", s->family);
    cJSON_AddStringToObject(o, "cat", lane);
    cJSON_AddNumberToObject(o, "pid", rank);
    cJSON_AddNumberToObject(o, "tid", s->lane);
    cJSON_AddNumberToObject(o, "ts", rounded(s->at * 1e6, 1e3)); // microseconds
    cJSON_AddNumberToObject(o, "dur", rounded(took * 1e6, 1e3));
    args = cJSON_AddObjectToObject(o, "args");
    cJSON_AddStringToObject(args, "what", s->what);
    cJSON_AddNumberToObject(args, "TFLOP/s", took > 0 ? rounded(s->flops / took * 1e-12, 10) : 0);
    cJSON_AddNumberToObject(args, "GB/s", took > 0 ? rounded(s->bytes / took * 1e-9, 10) : 0);
    return o;
}

static status write_spans(FILE *out, const struct trace_span *spans, int count, int rank,
                          bool *first)
{
    static const char *const lanes[] = { "ops", "communication" };
    char name[32];

    for (int lane = 0; lane < LANE_COUNT; lane++)
        TRY(write_event(out, name_event("thread_name", rank, lane, lanes[lane]), first));
    snprintf(name, sizeof(name), "rank %d", rank);
    TRY(write_event(out, name_event("process_name", rank, -1, name), first));
    for (int i = 0; i < count; i++) {
        if (spans[i].lane != LANE_COUNT)
            TRY(write_event(out, span_event(&spans[i], lanes[spans[i].lane], rank), first));
    }
    return ST_OK;
}

status trace_write(const struct trace *t, struct world *w, const char *path)
{
    const double mine = t->count;
    double *counts = calloc((size_t)w->size, sizeof(*counts));
    struct trace_span *all = NULL, *padded = NULL;
    int most = 0;
    bool first = true;
    FILE *out = NULL;
    status st = counts != NULL ? ST_OK : fail(ST_MEMORY, "cannot allocate host memory");

    TRY_OUT(agree(w, st));
    world_gather(w, &mine, sizeof(mine), counts);
    for (int r = 0; r < w->size; r++)
        most = (int)counts[r] > most ? (int)counts[r] : most;
    world_broadcast(w, &most, sizeof(most), 0);
    padded = calloc((size_t)most + 1, sizeof(*padded));
    all = calloc((size_t)w->size * ((size_t)most + 1), sizeof(*all));
    if (padded == NULL || all == NULL)
        st = fail(ST_MEMORY, "cannot allocate host memory for the trace of %d ranks", w->size);
    TRY_OUT(agree(w, st));
    memcpy(padded, t->spans, (size_t)t->count * sizeof(*padded));
    world_gather(w, padded, (size_t)most * sizeof(*padded), all);
    if (w->rank == 0) {
        out = fopen(path, "w");
        if (out == NULL)
            st = fail(status_of_errno(), "%s: %s", path, strerror(errno));
        else // the list is written event by event: there may be many thousands
            fputs("{\"displayTimeUnit\":\"ms\",\"traceEvents\":[", out);
        for (int r = 0; r < w->size && st == ST_OK; r++)
            st = write_spans(out, all + (size_t)r * (size_t)most, (int)counts[r], r, &first);
        if (out != NULL) {
            fputs("\n]}\n", out);
            if (fclose(out) != 0 && st == ST_OK)
                st = fail(status_of_errno(), "%s: %s", path, strerror(errno));
        }
    }
    st = agree(w, st);
out:
    free(counts);
    free(padded);
    free(all);
    return st;
}
