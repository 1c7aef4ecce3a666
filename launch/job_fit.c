/* Whether the requests of a job fit into the memory of its ranks. */
#include "launch/fit.h"
#include "launch/job.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GB 1e9

/* ---- settings that do not change the result, for a request that leaves them open ---- */

/* Only if decoding needs the most memory. */
static bool frame_by_frame(struct plan_input *p, const struct request *r)
{
    struct plan_input changed = *p;
    struct plan_rank before, after;

    changed.frame_by_frame = true;
    if (plan_rank(p, 0, &before) != ST_OK || plan_rank(&changed, 0, &after) != ST_OK ||
        after.device >= before.device)
        return false;
    *p = changed;
    return true;
}

static bool fsdp(struct plan_input *p, const struct request *r)
{
    const bool change = r->dit_fsdp < 0 && p->ranks > 1 && !p->fsdp && p->offload != OFFLOAD_FILE;

    p->fsdp = p->fsdp || change;
    return change;
}

static bool experts_ahead(struct plan_input *p, const struct request *r)
{
    const bool change = r->experts < 0 && p->gpu && plan_has_two(p) && p->experts == EXPERTS_BOTH;

    p->experts = change ? EXPERTS_AHEAD : p->experts;
    return change;
}

/* Blocks are copied to the device for every use, `offload` says from where. Then both experts may
 * be kept there. */
static bool offload(struct plan_input *p, const struct request *r, enum tensors_offload to)
{
    const bool change =
        r->num_persistent_param_in_dit < 0 && p->offload != to && (p->gpu || p->limited);

    if (!change)
        return false;
    p->offload = to;
    p->resident = 0;
    p->experts = r->experts < 0 ? EXPERTS_BOTH : p->experts;
    return true;
}

static bool offload_host(struct plan_input *p, const struct request *r)
{
    return r->offload_device != OFFLOAD_TO_DISK && offload(p, r, OFFLOAD_HOST);
}

static bool offload_file(struct plan_input *p, const struct request *r)
{
    if (r->offload_device == OFFLOAD_TO_CPU || r->dit_fsdp == 1 || !offload(p, r, OFFLOAD_FILE))
        return false;
    p->fsdp = false;
    return true;
}

/* There was not enough host memory for the blocks: another setting may need less of the device's.
 */
static void offload_none(struct plan_input *p, const struct request *r)
{
    if (r->num_persistent_param_in_dit < 0)
        p->offload = OFFLOAD_NONE;
}

static bool experts_later(struct plan_input *p, const struct request *r)
{
    const bool change = r->experts < 0 && plan_has_two(p) && p->experts != EXPERTS_LATER;

    if (!change)
        return false;
    p->experts = EXPERTS_LATER;
    offload_none(p, r);
    return true;
}

static bool reread_images(struct plan_input *p, const struct request *r)
{
    const bool change = p->keep_images;

    p->keep_images = false;
    if (change)
        offload_none(p, r);
    return change;
}

static bool offload_model(struct plan_input *p, const struct request *r)
{
    const bool change = r->offload_model < 0 && p->keep_models;

    p->keep_models = p->keep_models && !change;
    p->keep_images = p->keep_images && !change;
    if (change)
        offload_none(p, r);
    return change;
}

/* The cheapest first. */
static const struct {
    bool (*change)(struct plan_input *p, const struct request *r); // false: nothing to change
    const char *note;                                              // NULL: shown elsewhere
} settings[] = {
    { frame_by_frame, "the VAE's last layers decode frame by frame" },
    { fsdp, NULL },
    { experts_ahead, NULL },
    { offload_host, NULL },
    { experts_later, NULL },
    { reread_images, "the image encoder is freed after each request's images, and read again" },
    { offload_model, "the transformer is freed before decoding, and loaded again for each request "
                     "(--offload_model True)" },
    { offload_host, NULL },
    { offload_file, NULL },
};

const char *job_setting(int index, const struct request *r, struct plan_input *plans, int count,
                        bool *changed)
{
    *changed = false;
    for (int i = 0; i < count; i++)
        *changed |= settings[index].change(&plans[i], r);
    return settings[index].note;
}

/* What a rank tells the others about its memory. */
struct rank_memory {
    struct fit_rank fit;
    char host[64];
};

/* Numbers the nodes: the node of a rank is the first rank with the same host name. */
static void number_nodes(struct rank_memory *all, int ranks)
{
    for (int i = 0; i < ranks; i++) {
        int first = 0;

        while (strcmp(all[first].host, all[i].host) != 0)
            first++;
        all[i].fit.node = first;
    }
}

/* Fills `ranks` with the memory of all ranks, on every rank. Collective. */
static status gather_memory(const struct job *j, const struct plan_input *plans, int count,
                            struct fit_rank *ranks)
{
    struct world *w = j->all;
    struct rank_memory mine = { .host = "" }, *all = calloc((size_t)w->size, sizeof(*all));
    status st = ST_OK;

    if (all == NULL || ranks == NULL)
        st = fail(ST_MEMORY, "cannot allocate host memory for %d ranks", w->size);
    if (st == ST_OK)
        st = fit_needs(plans, count, j->world->rank, &mine.fit);
    TRY_OUT(agree(w, st));
    gethostname(mine.host, sizeof(mine.host) - 1);
    mine.fit.device_free = j->device_free;
    mine.fit.host_free = j->host_free;
    world_gather(w, &mine, sizeof(mine), all);
    if (w->rank == 0)
        number_nodes(all, w->size);
    world_broadcast(w, all, (size_t)w->size * sizeof(*all), 0);
    for (int i = 0; i < w->size; i++)
        ranks[i] = all[i].fit;
out:
    free(all);
    return st;
}

/* The line of a request that does not fit on rank i. Called on rank 0. */
static status not_fitting(const struct job *j, const struct request *r,
                          const struct plan_input *plans, int count, const struct fit_rank *ranks,
                          int i)
{
    struct fit_machine least = { .device = INFINITY, .host = INFINITY };
    char advice[256];
    double needed;
    int local;

    for (int k = 0; k < j->all->size; k++) {
        least.device = fmin(least.device, ranks[k].device_free);
        least.host = fmin(least.host, ranks[k].host_free);
    }
    if (plans[0].gpu)
        least.gpus = device_cuda_count();
    fit_advice(advice, sizeof(advice), count == 1 ? r : NULL, plans, count, &least);
    if (j->groups > 1)
        snprintf(advice, sizeof(advice), "use fewer --groups, or a machine with more memory");
    needed = fit_node(ranks, j->all->size, i, &local);
    if (ranks[i].device > ranks[i].device_free && ranks[i].device_free == request_vram(r))
        return fail(
            ST_MEMORY,
            "--vram_limit leaves %.2f GB, but rank %d needs %.2f GB, the smallest limit that "
            "works; %s",
            ranks[i].device_free / GB, i, ranks[i].device / GB, advice);
    if (ranks[i].device > ranks[i].device_free)
        return fail(ST_MEMORY,
                    "rank %d needs %.2f GB of GPU memory, and its GPU has %.2f GB free: %s", i,
                    ranks[i].device / GB, ranks[i].device_free / GB, advice);
    return fail(ST_MEMORY,
                "the node of rank %d has %.2f GB of memory free, and the ranks on it (%d) need "
                "%.2f GB: %s",
                i, ranks[i].host_free / GB, local, needed / GB, advice);
}

/* A trial of fit_resident. Collective. */
struct trial {
    const struct job *job;
    const struct plan_input *plans;
    int count;
    struct fit_rank *ranks;
};

static status trial_fits(void *payload, bool *fits)
{
    const struct trial *t = payload;

    TRY(gather_memory(t->job, t->plans, t->count, t->ranks));
    *fits = fit_first(t->ranks, t->job->all->size) < 0;
    return ST_OK;
}

/* Bytes that device_alloc may hold within a limit. On a CPU the plan counts of the workspace what
 * is used. */
static size_t device_limit(const struct job *j, double limit, bool gpu)
{
    const size_t bytes = (size_t)limit;

    if (!gpu)
        return bytes + j->table.workspace;
    return bytes > DEVICE_CUDA_BESIDE ? bytes - DEVICE_CUDA_BESIDE : 1;
}

status job_fit(struct job *j, const struct request *r, struct plan_input *plans, int count)
{
    struct world *w = j->all;
    struct fit_rank *ranks = calloc((size_t)w->size, sizeof(*ranks));
    bool changed;
    int first;
    status st;

    TRY_OUT(gather_memory(j, plans, count, ranks));
    first = fit_first(ranks, w->size);
    for (int i = 0; i < JOB_SETTINGS && first >= 0; i++) {
        const char *note = job_setting(i, r, plans, count, &changed);

        if (!changed)
            continue;
        if (note != NULL)
            progress_print(&j->progress, "note    for lack of memory %s", note);
        TRY_OUT(gather_memory(j, plans, count, ranks));
        first = fit_first(ranks, w->size);
    }
    if (first >= 0 && w->rank == 0)
        st = not_fitting(j, r, plans, count, ranks, first);
    TRY_OUT(agree(w, st));
    TRY_OUT(fit_resident(plans, count, r, trial_fits, &(struct trial){ j, plans, count, ranks }));
    if (request_vram(r) > 0)
        j->dev.limit = device_limit(j, request_vram(r), plans[0].gpu);
out:
    free(ranks);
    return st;
}
