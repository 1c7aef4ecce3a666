#include "launch/plan_groups.h"

#include "launch/commands.h"
#include "launch/job.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define GIB ((double)(1 << 30))

int groups_per_node(int ranks, int ranks_per_node)
{
    int a = ranks, b = ranks_per_node;

    while (b != 0) {
        const int rest = a % b;

        a = b;
        b = rest;
    }
    return a;
}

/* The plans of the requests, those that are alike once. */
struct kinds {
    struct plan_input *plan;
    int *of; // of each request
    int count;
};

static void kinds_done(struct kinds *k)
{
    free(k->plan);
    free(k->of);
}

/* Whether two requests of a batch have the same plan: they differ in sizes and steps only. */
static bool is_same(const struct plan_input *a, const struct plan_input *b)
{
    return memcmp(&a->latent, &b->latent, sizeof(a->latent)) == 0 && a->prepended == b->prepended &&
           a->appended == b->appended && a->steps == b->steps && a->low_from == b->low_from &&
           a->guided == b->guided && a->solver == b->solver &&
           memcmp(&a->guidance, &b->guidance, sizeof(a->guidance)) == 0 && a->images == b->images &&
           a->clips == b->clips &&
           memcmp(a->clip_frames, b->clip_frames, sizeof(a->clip_frames)) == 0 &&
           memcmp(&a->chain, &b->chain, sizeof(a->chain)) == 0 &&
           a->sound_samples == b->sound_samples && a->saves == b->saves &&
           a->conditioning.count == b->conditioning.count &&
           memcmp(&a->windows, &b->windows, sizeof(a->windows)) == 0 &&
           memcmp(&a->encode_tiling, &b->encode_tiling, sizeof(a->encode_tiling)) == 0 &&
           memcmp(&a->tiling, &b->tiling, sizeof(a->tiling)) == 0;
}

static status find_kinds(struct kinds *k, const struct groups_input *in, int ranks)
{
    const int local = groups_per_node(ranks, in->ranks_per_node);

    k->plan = calloc((size_t)in->count, sizeof(*k->plan));
    k->of = calloc((size_t)in->count, sizeof(*k->of));
    if (k->plan == NULL || k->of == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for %d plans", in->count);
    for (int i = 0; i < in->count; i++) {
        const struct request *r = in->requests[i];
        struct plan_input *p = &k->plan[k->count];
        int same = 0;

        TRY(job_plan_input(p, r, in->model, in->table, ranks, local, in->prompts));
        p->keep_models = r->offload_model != 1;
        p->keep_images = in->count > 1 && p->keep_models && p->images > 0;
        p->rates = in->rates;
        while (same < k->count && !is_same(&k->plan[same], p))
            same++;
        k->of[i] = same;
        k->count += same == k->count;
    }
    return ST_OK;
}

/* Compares the memory of all groups with the machine's. */
static status compare_memory(struct grouping *g, const struct kinds *k,
                             const struct groups_input *in)
{
    const int on_node = g->ranks < in->ranks_per_node ? in->ranks_per_node / g->ranks : 1;
    double node = 0;

    g->device = g->node = 0;
    for (int i = 0; i < g->ranks; i++) {
        struct fit_rank one;

        TRY(fit_needs(k->plan, k->count, i, &one));
        node = i % in->ranks_per_node == 0 ? one.host : node + one.host;
        g->node = fmax(g->node, on_node * node);
        g->device = fmax(g->device, one.device);
    }
    g->fits = g->device <= in->machine.device && g->node <= in->machine.host;
    return ST_OK;
}

/* Seconds of a video on the slowest rank. The texts are encoded before, all at once. */
static status estimate(double *seconds, const struct plan_input *p)
{
    struct plan_rank most = { 0 }, one;

    for (int i = 0; i < p->ranks; i++) {
        TRY(plan_rank(p, i, &one));
        plan_cover(&most, &one);
    }
    for (int i = 0; i < most.count; i++)
        if (strcmp(most.stage[i].name, STAGE_TEXT) == 0)
            most.stage[i].seconds = 0;
    *seconds = plan_seconds(p, &most);
    return ST_OK;
}

/* The requests one after the other, each on the group that is free first. `free_s`: [g->groups]. */
static void run_queue(struct grouping *g, const struct kinds *k, const struct groups_input *in,
                      const double *seconds, double *free_s)
{
    double sum = 0;

    for (int i = 0; i < in->count; i++) {
        int first = 0;

        for (int n = 1; n < g->groups; n++)
            first = free_s[n] < free_s[first] ? n : first;
        free_s[first] += seconds[k->of[i]];
        sum += seconds[k->of[i]];
        g->total_s = fmax(g->total_s, free_s[first]);
    }
    g->video_s = sum / in->count;
    g->per_hour = 3600 * g->groups / g->video_s;
}

static status plan_grouping(struct grouping *g, const struct groups_input *in)
{
    struct kinds k = { 0 };
    double *seconds = calloc((size_t)in->count, sizeof(*seconds));
    double *free_s = calloc((size_t)g->groups, sizeof(*free_s));
    bool changed;
    status st = find_kinds(&k, in, g->ranks);

    if (st == ST_USAGE) { // sizes of the mesh that this number of ranks does not have
        snprintf(g->why, sizeof(g->why), "%s", status_line());
        st = ST_OK;
        goto out;
    }
    if (st == ST_OK && (seconds == NULL || free_s == NULL))
        st = fail(ST_MEMORY, "cannot allocate host memory for %d requests", in->count);
    TRY_OUT(st);
    TRY_OUT(compare_memory(g, &k, in));
    for (int i = 0; i < JOB_SETTINGS && !g->fits; i++) {
        job_setting(i, in->requests[0], k.plan, k.count, &changed);
        if (changed)
            TRY_OUT(compare_memory(g, &k, in));
    }
    for (int i = 0; i < k.count; i++)
        TRY_OUT(estimate(&seconds[i], &k.plan[i]));
    g->mesh = k.plan[0].mesh;
    g->fsdp = k.plan[0].fsdp;
    run_queue(g, &k, in, seconds, free_s);
out:
    kinds_done(&k);
    free(seconds);
    free(free_s);
    return st;
}

status groups_plan(struct grouping **list, int *count, int *best, const struct groups_input *in)
{
    status st = ST_OK;

    *count = 0;
    *best = -1;
    *list = calloc((size_t)in->ranks, sizeof(**list));
    if (*list == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for the plans of %d ranks", in->ranks);
    for (int groups = 1; groups <= in->ranks && st == ST_OK; groups++) {
        struct grouping *g = &(*list)[*count], *b = *best >= 0 ? &(*list)[*best] : NULL;

        if (in->ranks % groups != 0)
            continue;
        *g = (struct grouping){ .groups = groups, .ranks = in->ranks / groups };
        st = plan_grouping(g, in);
        if (g->why[0] == 0 && g->fits &&
            (b == NULL || (in->count > 1 ? g->total_s < b->total_s : g->per_hour > b->per_hour)))
            *best = *count;
        ++*count;
    }
    return st;
}

/* ---- printing ---- */

static void print_row(const struct grouping *g, const struct groups_input *in)
{
    char total[24] = "", videos[24] = "no memory", mesh[48];

    if (g->why[0] != 0) {
        printf("%6d %6d  %s\n", g->groups, g->ranks, g->why);
        return;
    }
    snprintf(mesh, sizeof(mesh), "%d x %d x %d%s", g->mesh.cfg, g->mesh.ring, g->mesh.ulysses,
             g->fsdp ? ", sharded" : "");
    if (g->fits && in->count > 1)
        progress_time(total, g->total_s);
    if (g->fits)
        snprintf(videos, sizeof(videos), "%.4g", g->per_hour);
    printf("%6d %6d  %-21s %8.2f %9.2f %11.4g %12s %10s\n", g->groups, g->ranks, mesh,
           g->device / GIB, g->node / GIB, g->video_s, videos, total);
}

void groups_print(const struct grouping *list, int count, int best, const struct groups_input *in)
{
    const struct grouping *b = best >= 0 ? &list[best] : NULL;

    printf("groups  ranks  cfg x ring x ulysses   GPU GiB  node GiB   s a video  videos/hour %s\n",
           in->count > 1 ? "       all" : "");
    for (int i = 0; i < count; i++)
        print_row(&list[i], in);
    if (b == NULL)
        printf("best      none fits\n");
    else if (list[0].fits && best > 0)
        printf("best      --groups %d: %.4g videos per hour, %.3g times as many as one group\n",
               b->groups, b->per_hour, b->per_hour / list[0].per_hour);
    else
        printf("best      --groups %d: %.4g videos per hour\n", b->groups, b->per_hour);
}

void groups_json(struct cJSON *json, const struct grouping *list, int count, int best)
{
    cJSON *rows = cJSON_AddArrayToObject(json, "groupings");

    for (int i = 0; i < count; i++) {
        const struct grouping *g = &list[i];
        cJSON *row = cJSON_CreateObject();

        cJSON_AddNumberToObject(row, "groups", g->groups);
        cJSON_AddNumberToObject(row, "ranks", g->ranks);
        if (g->why[0] != 0) {
            cJSON_AddStringToObject(row, "impossible", g->why);
        } else {
            command_json_mesh(row, "mesh", g->mesh);
            cJSON_AddBoolToObject(row, "dit_fsdp", g->fsdp);
            cJSON_AddBoolToObject(row, "fits", g->fits);
            cJSON_AddNumberToObject(row, "gpu_bytes", g->device);
            cJSON_AddNumberToObject(row, "node_bytes", g->node);
            cJSON_AddNumberToObject(row, "video_seconds", g->video_s);
            cJSON_AddNumberToObject(row, "total_seconds", g->total_s);
            cJSON_AddNumberToObject(row, "videos_per_hour", g->per_hour);
        }
        cJSON_AddItemToArray(rows, row);
    }
    if (best >= 0)
        cJSON_AddNumberToObject(json, "best_groups", list[best].groups);
    else
        cJSON_AddNullToObject(json, "best_groups");
}

status groups_print_json(const struct grouping *list, int count, int best,
                         const struct groups_input *in)
{
    cJSON *json = cJSON_CreateObject();
    status st;

    cJSON_AddNumberToObject(json, "requests", in->count);
    cJSON_AddNumberToObject(json, "texts", in->prompts);
    cJSON_AddNumberToObject(json, "ranks", in->ranks);
    groups_json(json, list, count, best);
    cJSON_AddStringToObject(json, "rates", in->rates->name);
    st = command_print_json(json);
    cJSON_Delete(json);
    return st;
}
