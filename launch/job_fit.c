/* Whether the requests of a job fit into the memory of its ranks. */
#include "launch/fit.h"
#include "launch/job.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GB 1e9

static void set_fsdp(struct plan_input *plans, int count, bool fsdp)
{
    for (int i = 0; i < count; i++)
        plans[i].fsdp = fsdp;
}

/* Frees the transformer before each decoding, and loads it again for the next request. */
static void set_offload(struct job *j, struct plan_input *plans, int count)
{
    for (int i = 0; i < count; i++)
        plans[i].keep_models = false;
    progress_print(&j->progress,
                   "note    the transformer and the decoding do not fit side by side: "
                   "it is loaded again for each request (--offload_model True)");
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
    struct world *w = j->world;
    struct rank_memory mine = { .host = "" }, *all = calloc((size_t)w->size, sizeof(*all));
    status st = ST_OK;

    if (all == NULL || ranks == NULL)
        st = fail(ST_MEMORY, "cannot allocate host memory for %d ranks", w->size);
    if (st == ST_OK)
        st = fit_needs(plans, count, w->rank, &mine.fit);
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

    for (int k = 0; k < j->world->size; k++) {
        least.device = fmin(least.device, ranks[k].device_free);
        least.host = fmin(least.host, ranks[k].host_free);
    }
    if (plans[0].gpu)
        least.gpus = device_cuda_count();
    fit_advice(advice, sizeof(advice), count == 1 ? r : NULL, plans, count, &least);
    needed = fit_node(ranks, j->world->size, i, &local);
    if (ranks[i].device > ranks[i].device_free)
        return fail(ST_MEMORY,
                    "rank %d needs %.2f GB of GPU memory, and its GPU has %.2f GB free: %s", i,
                    ranks[i].device / GB, ranks[i].device_free / GB, advice);
    return fail(ST_MEMORY,
                "the node of rank %d has %.2f GB of memory free, and the ranks on it (%d) need "
                "%.2f GB: %s",
                i, ranks[i].host_free / GB, local, needed / GB, advice);
}

status job_fit(struct job *j, const struct request *r, struct plan_input *plans, int count)
{
    struct world *w = j->world;
    struct fit_rank *ranks = calloc((size_t)w->size, sizeof(*ranks));
    int first;
    status st;

    TRY_OUT(gather_memory(j, plans, count, ranks));
    first = fit_first(ranks, w->size);
    if (first >= 0 && r->dit_fsdp < 0 && w->size > 1) {
        set_fsdp(plans, count, true);
        TRY_OUT(gather_memory(j, plans, count, ranks));
        first = fit_first(ranks, w->size);
    }
    if (first >= 0 && r->offload_model < 0 && plans[0].keep_models) {
        set_offload(j, plans, count);
        TRY_OUT(gather_memory(j, plans, count, ranks));
        first = fit_first(ranks, w->size);
    }
    if (first >= 0 && w->rank == 0)
        st = not_fitting(j, r, plans, count, ranks, first);
    TRY_OUT(agree(w, st));
out:
    free(ranks);
    return st;
}
