#include "launch/fit.h"

#include "launch/job.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define RANKS_MOST 64   // advice does not name more, unless the job has more already
#define ADVICE_BYTES 96 // of the flags

struct fit_rank fit_of(const struct plan_input *plan, int rank, const struct plan_rank *p)
{
    struct fit_rank needs = { .node = rank / plan->ranks_per_node };

    if (plan->gpu || plan->limited)
        needs.device = (double)(p->device + p->cuda);
    needs.host = (double)(p->host + (plan->gpu ? 0 : p->device));
    if (rank % plan->ranks_per_node == 0)
        needs.host += (double)p->shared;
    return needs;
}

status fit_needs(const struct plan_input *plans, int count, int rank, struct fit_rank *out)
{
    struct plan_rank all = { 0 }, one;

    for (int i = 0; i < count; i++) {
        TRY(plan_rank(&plans[i], rank, &one));
        plan_cover(&all, &one);
    }
    *out = fit_of(&plans[0], rank, &all);
    return ST_OK;
}

double fit_node(const struct fit_rank *ranks, int count, int i, int *local)
{
    double sum = 0;

    *local = 0;
    for (int k = 0; k < count; k++) {
        if (ranks[k].node != ranks[i].node)
            continue;
        sum += ranks[k].host;
        ++*local;
    }
    return sum;
}

int fit_first(const struct fit_rank *ranks, int count)
{
    for (int i = 0, local; i < count; i++)
        if (ranks[i].device > ranks[i].device_free ||
            fit_node(ranks, count, i, &local) > ranks[i].host_free)
            return i;
    return -1;
}

bool fit_on(const struct plan_input *plans, int count, const struct fit_machine *m)
{
    double host = 0;

    for (int i = 0; i < plans[0].ranks; i++) {
        struct fit_rank one;

        if (fit_needs(plans, count, i, &one) != ST_OK)
            return false;
        host = i % plans[0].ranks_per_node == 0 ? one.host : host + one.host;
        if (one.device > m->device || host > m->host)
            return false;
    }
    return true;
}

status fit_resident(struct plan_input *plans, int count, const struct request *r,
                    status (*fits)(void *payload, bool *fits), void *payload)
{
    int low = plans[0].resident, high = model_dit(&plans[0].model)->layers + 1; // high does not fit
    bool all = true;

    if (plans[0].offload == OFFLOAD_NONE || r->num_persistent_param_in_dit >= 0)
        return ST_OK;
    while (high - low > 1) {
        const int middle = all ? high - 1 : (low + high) / 2; // all need no buffers: try them first
        bool fit;

        all = false;
        for (int i = 0; i < count; i++)
            plans[i].resident = middle;
        TRY(fits(payload, &fit));
        if (fit)
            low = middle;
        else
            high = middle;
    }
    for (int i = 0; i < count; i++)
        plans[i].resident = low;
    return ST_OK;
}

/* ---- settings that need less memory, the least harmful first ----
 *
 * --t5_fsdp is none: a rank that encodes alone reads the encoder layer by layer. */

static bool dit_fsdp(struct plan_input *p)
{
    const bool change = p->ranks > 1 && !p->fsdp;

    p->fsdp = p->fsdp || change;
    if (change && p->offload == OFFLOAD_FILE)
        p->offload = OFFLOAD_HOST;
    return change;
}

static bool experts_ahead(struct plan_input *p)
{
    const bool change = p->gpu && plan_has_two(p) && p->experts == EXPERTS_BOTH;

    p->experts = change ? EXPERTS_AHEAD : p->experts;
    return change;
}

static bool experts_later(struct plan_input *p)
{
    const bool change = plan_has_two(p) && p->experts != EXPERTS_LATER;

    p->experts = change ? EXPERTS_LATER : p->experts;
    return change;
}

static bool t5_cpu(struct plan_input *p)
{
    const bool change = p->gpu && p->prompts > 0 && !p->t5_fsdp && !p->t5_cpu;

    p->t5_cpu = p->t5_cpu || change;
    return change;
}

static bool offload_model(struct plan_input *p)
{
    const bool change = p->keep_models;

    p->keep_models = p->keep_images = false;
    return change;
}

static bool vae_tf32(struct plan_input *p)
{
    const bool change = p->decode && p->gpu && p->vae_dtype == DT_F32;

    p->vae_dtype = change ? DT_F16 : p->vae_dtype;
    return change;
}

static bool vae_bf16(struct plan_input *p)
{
    const bool change = p->decode && p->vae_dtype != DT_BF16;

    p->vae_dtype = DT_BF16;
    return change;
}

static bool tiled(struct plan_input *p)
{
    const bool change = p->decode && p->tiling.size_h == 0;

    if (change)
        p->tiling = (struct vae_tiling){ 30, 52, 15, 26 }; // the defaults of --tile_size
    return change;
}

static bool bf16(struct plan_input *p)
{
    const bool change = p->cdt == DT_F32;

    p->cdt = DT_BF16;
    return change;
}

static const struct setting {
    const char *flag;
    bool (*change)(struct plan_input *p); // false: it is set already, or has no effect
    bool exact;                           // the result is the same
} settings[] = {
    { "--dit_fsdp", dit_fsdp, true },
    { "--experts ahead", experts_ahead, true },
    { "--experts later", experts_later, true },
    { "--t5_cpu", t5_cpu, true },
    { "--offload_model true", offload_model, true },
    { "--vae_precision tf32", vae_tf32, false },
    { "--vae_precision bf16", vae_bf16, false },
    { "--tiled", tiled, false },
    { "--precision bf16", bf16, false },
};

/* The requests with some of the settings. scratch: for the changed plans. */
struct trial {
    const struct plan_input *plans;
    struct plan_input *scratch;
    int count;
    const struct fit_machine *machine;
};

static bool trial_fits(const struct trial *t, const bool *use)
{
    memcpy(t->scratch, t->plans, (size_t)t->count * sizeof(*t->plans));
    for (size_t i = 0; i < COUNT(settings); i++)
        for (int k = 0; k < t->count && use[i]; k++)
            settings[i].change(&t->scratch[k]);
    return fit_on(t->scratch, t->count, t->machine);
}

/* Finds settings with which the requests fit: all at first, then without those that are not needed,
 * beginning with the most harmful. Writes their flags. False if nothing helps. */
static bool find_settings(char *flags, size_t size, const struct trial *t, bool exact)
{
    bool use[COUNT(settings)];
    size_t used = 0;

    flags[0] = 0;
    for (size_t i = 0; i < COUNT(settings); i++) {
        struct plan_input changed = t->plans[0];

        use[i] = (settings[i].exact || !exact) && settings[i].change(&changed);
    }
    if (!trial_fits(t, use))
        return false;
    for (size_t i = COUNT(settings); i-- > 0;) {
        if (!use[i])
            continue;
        use[i] = false;
        use[i] = !trial_fits(t, use);
    }
    for (size_t i = 0; i < COUNT(settings) && used < size; i++)
        if (use[i])
            used += (size_t)snprintf(flags + used, size - used, "%s%s", used > 0 ? " " : "",
                                     settings[i].flag);
    return true;
}

/* Spreads the requests over `ranks` ranks, on a mesh that the program chooses. */
static bool spread(struct plan_input *plans, int count, int ranks, int gpus)
{
    for (int i = 0; i < count; i++) {
        struct plan_input *p = &plans[i];

        p->ranks = ranks;
        if (gpus > 0)
            p->ranks_per_node = ranks < gpus ? ranks : gpus;
        if (plan_choose_mesh(p, (struct mesh_shape){ 0 }, plan_two_branches(p)) != ST_OK)
            return false;
        plan_join(p);
    }
    return true;
}

/* Finds the smallest number of GPUs, or on a CPU of nodes, with which the result is the same. */
static bool find_ranks(char *text, size_t size, const struct trial *t)
{
    const struct plan_input *first = &t->plans[0];
    const int step = first->gpu ? 1 : first->ranks_per_node;
    struct plan_input *more = calloc((size_t)t->count, sizeof(*more));
    struct trial spread_trial = *t;
    char flags[ADVICE_BYTES];
    bool found = false;

    spread_trial.plans = more;
    for (int ranks = step; more != NULL && ranks <= RANKS_MOST && !found; ranks *= 2) {
        if (ranks <= first->ranks)
            continue;
        memcpy(more, t->plans, (size_t)t->count * sizeof(*more));
        found = spread(more, t->count, ranks, t->machine->gpus) &&
                find_settings(flags, sizeof(flags), &spread_trial, true);
        if (!found)
            continue;
        snprintf(text, size, "on %d %s%s%s", ranks / step, first->gpu ? "GPUs" : "such nodes",
                 flags[0] != 0 ? " with " : "", flags);
    }
    free(more);
    return found;
}

/* Finds the largest number of frames that fits. The plans differ in it only. */
static bool find_frames(int *frames, const struct request *r, const struct trial *t)
{
    const struct plan_input *first = &t->plans[0];
    int low = 0, high = (r->video_frames - 1) / 4; // 4 low + 1 fit, or low is 0; 4 high + 1 do not

    if (r->video_frames != r->frame_num || r->clip_count > 0) // those of a clip or a sound
        return false;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        struct request fewer = *r;
        struct plan_input p = *first, shapes;

        fewer.video_frames = 4 * middle + 1;
        if (job_plan_input(&shapes, &fewer, &first->model, first->table, first->ranks,
                           first->ranks_per_node, first->prompts) != ST_OK)
            return false;
        p.latent = shapes.latent;
        p.conditioning = shapes.conditioning;
        if (fit_on(&p, 1, t->machine))
            low = middle;
        else
            high = middle;
    }
    *frames = 4 * low + 1;
    return low > 0;
}

void fit_advice(char *text, size_t size, const struct request *r, const struct plan_input *plans,
                int count, const struct fit_machine *m)
{
    struct plan_input *scratch = calloc((size_t)count, sizeof(*scratch));
    const struct trial t = { plans, scratch, count, m };
    char flags[ADVICE_BYTES] = "", ranks[ADVICE_BYTES + 32] = "";
    int frames = 0;

    snprintf(text, size, "use a smaller --size or --frame_num, or a machine with more memory");
    if (scratch == NULL)
        return;
    if (find_settings(flags, sizeof(flags), &t, true)) {
        snprintf(text, size, "with %s it would fit", flags);
    } else {
        const bool more = find_ranks(ranks, sizeof(ranks), &t);

        if (find_settings(flags, sizeof(flags), &t, false))
            snprintf(text, size, "with %s it would fit%s%s", flags, more ? "; unchanged " : "",
                     ranks);
        else if (more)
            snprintf(text, size, "it would fit %s", ranks);
        else if (r != NULL && count == 1 && find_frames(&frames, r, &t))
            snprintf(text, size, "with --frame_num %d it would fit", frames);
    }
    free(scratch);
}
