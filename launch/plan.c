/* wanmpi plan: the ranks, memory, FLOPs, messages and time that a request needs, on this machine or
 * on a described one. Reads no weights. */
#include "kernels/rates.h"
#include "launch/batch.h"
#include "launch/cgroup.h"
#include "launch/commands.h"
#include "launch/fit.h"
#include "launch/job.h"
#include "launch/plan_report.h"
#include "model/transformer/features.h"

#include <math.h>
#include <stdlib.h>

void help_plan(FILE *out)
{
    struct machine m;
    struct request r;
    struct option_set sets[2];

    machine_init(&m);
    request_init(&r);
    sets[0] = request_options(&r);
    sets[1] = machine_options(&m);
    fputs("wanmpi plan: prints how a request would be split over ranks, and its memory, FLOPs,\n"
          "messages and estimated time, without running it. Takes the flags of generate. Needs no\n"
          "weights and no image; with --ckpt_dir it uses the sizes of that checkpoint. The exit "
          "status is 4 if\n"
          "the memory is not enough; the last line then says what would fit.\n\n"
          "    wanmpi plan --task t2v-14B --size 1280*720 --machine h200 --nodes 2 --meshes\n"
          "    wanmpi plan --task t2v-1.3B --size 832*480 --ranks 4\n"
          "    wanmpi plan jobs.jsonl --task t2v-1.3B --gpus 8    for batch: the best --groups\n",
          out);
    options_help(out, CMD_PLAN, sets, 2);
    help_tasks(out);
    help_presets(out);
    help_fast(out);
    request_done(&r);
}

static status gpu_memory(const struct device *dev, double *bytes)
{
    size_t total, available;

    TRY(device_cuda_memory(dev->index, &total, &available));
    *bytes = (double)(available + DEVICE_CUDA_CONTEXT);
    return ST_OK;
}

/* Fills what the rank that needs the most memory needs, and whether the machine has it. */
static status compare_memory(struct plan_report *report)
{
    const struct plan_input *in = report->in;
    struct fit_rank one;
    const int groups = report->groups > 1 && report->ranks_per_node > in->ranks
                           ? report->ranks_per_node / in->ranks
                           : 1; // of a node
    double node = 0;

    report->node = 0;
    report->needs = (struct fit_rank){ 0 };
    for (int i = 0; i < in->ranks; i++) {
        TRY(fit_needs(in, 1, i, &one));
        node = i % in->ranks_per_node == 0 ? one.host : node + one.host;
        report->node = fmax(report->node, groups * node);
        report->needs.device = fmax(report->needs.device, one.device);
        report->needs.host = fmax(report->needs.host, one.host);
    }
    report->fits =
        report->needs.device <= report->machine.device && report->node <= report->machine.host;
    return ST_OK;
}

static status report_fits(void *payload, bool *fits)
{
    struct plan_report *report = payload;

    TRY(compare_memory(report));
    *fits = report->fits;
    return ST_OK;
}

/* Chooses settings as job_fit does; if it does not fit with them, finds out what would. */
static status choose_fit(struct plan_report *report, struct plan_input *in)
{
    const bool sharded = in->fsdp;
    bool changed;

    TRY(compare_memory(report));
    for (int i = 0; i < JOB_SETTINGS && !report->fits; i++) {
        job_setting(i, report->request, in, 1, &changed);
        if (changed)
            TRY(compare_memory(report));
    }
    if (report->fits) {
        TRY(fit_resident(in, 1, report->request, report_fits, report));
        TRY(compare_memory(report));
    }
    report->chose_fsdp = in->fsdp && !sharded;
    if (!report->fits)
        fit_advice(report->advice, sizeof(report->advice), report->request, in, 1,
                   &report->machine);
    return ST_OK;
}

/* The memory of this machine, or of the described one, whose host memory is not known. */
static status find_memory(struct fit_machine *out, const struct machine *m, bool described,
                          int ranks_per_node, const struct plan_input *in, const struct device *dev,
                          double vram)
{
    const int64_t host = cgroup_memory("");

    *out = (struct fit_machine){ .device = INFINITY, .host = INFINITY };
    if (in->gpu)
        out->gpus = described ? ranks_per_node : device_cuda_count();
    if (described && in->gpu)
        out->device = m->memory_gb * 1e9;
    else if (in->gpu)
        TRY(gpu_memory(dev, &out->device));
    if (vram > 0)
        out->device = fmin(out->device, vram);
    if (!described && host >= 0)
        out->host = (double)host;
    return ST_OK;
}

static status does_not_fit(const struct plan_report *report)
{
    const struct fit_machine *m = &report->machine;

    if (report->needs.device > m->device && m->device == request_vram(report->request))
        return fail(ST_MEMORY,
                    "does not fit: --vram_limit leaves %.2f GB, but a rank needs %.2f GB, the "
                    "smallest limit that works; %s",
                    m->device / 1e9, report->needs.device / 1e9, report->advice);
    if (report->needs.device > m->device)
        return fail(ST_MEMORY,
                    "does not fit: a rank needs %.2f GB of GPU memory, and a GPU has %.2f GB: %s",
                    report->needs.device / 1e9, m->device / 1e9, report->advice);
    return fail(ST_MEMORY,
                "does not fit: the ranks of a node need %.2f GB of memory, and it has %.2f GB: %s",
                report->node / 1e9, m->host / 1e9, report->advice);
}

/* The number of ranks, and of those on a node. */
static status count_ranks(int *ranks, int *per_node, const struct request *r,
                          const struct machine *m, const struct world *w)
{
    const bool described = machine_described(m);

    *ranks = described ? m->nodes * m->gpus : m->ranks > 0 ? m->ranks : w->size;
    *per_node = described ? m->gpus : m->ranks > 0 ? m->ranks : w->local_size;
    if (described && m->ranks > 0)
        return fail(ST_USAGE, "--ranks is for this machine; a machine that --machine, --nodes and "
                              "--gpus describe has nodes * gpus ranks: remove --ranks");
    if (described && r->device == USE_CPU)
        return fail(ST_USAGE,
                    "--machine, --nodes and --gpus describe a machine with GPUs: remove --device "
                    "cpu, or plan for --ranks of this machine");
    return r->groups > 0 ? job_check_groups(r->groups, *ranks) : ST_OK;
}

/* The plan of a request: of one group, and with --groups of all numbers of groups. */
static status plan(const struct request *r, const struct machine *m, const struct model *model,
                   struct device *dev, const struct world *w)
{
    const bool described = machine_described(m);
    const int groups = r->groups > 0 ? r->groups : 1;
    struct plan_input in;
    struct rates rates;
    struct plan_rank *all = NULL;
    struct plan_report report = { .request = r, .in = &in, .rates = &rates, .groups = groups };
    struct groups_input every = { .requests = &r, .count = 1, .model = model, .rates = &rates };
    int ranks;
    status st = ST_OK;

    TRY(count_ranks(&every.ranks, &every.ranks_per_node, r, m, w));
    ranks = every.ranks / groups;
    report.ranks_per_node = every.ranks_per_node;
    TRY(job_plan_input(&in, r, model, dev->table, ranks,
                       groups_per_node(ranks, every.ranks_per_node), request_prompts(r)));
    in.keep_models = r->groups > 0 && r->offload_model != 1; // as batch does
    TRY(find_memory(&report.machine, m, described, every.ranks_per_node, &in, dev,
                    request_vram(r)));
    TRY(choose_fit(&report, &in));
    TRY(machine_rates(&rates, r->device == USE_CUDA, m, dev, in.cdt));
    in.rates = &rates;
    report.described = described ? m : NULL;
    report.ranks = all = calloc((size_t)ranks, sizeof(*all));
    if (all == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for the plans of %d ranks", ranks);
    for (int i = 0; i < ranks; i++)
        TRY_OUT(plan_rank(&in, i, &all[i]));
    if (m->meshes)
        TRY_OUT(meshes_plan(&report.meshes, &report.meshes_count, &in, &report.machine));
    if (r->groups > 0) {
        every.prompts = in.prompts;
        every.table = dev->table;
        every.machine = report.machine;
        report.groups_input = &every;
        TRY_OUT(groups_plan(&report.groupings, &report.groupings_count, &report.groupings_best,
                            &every));
    }
    if (m->json)
        TRY_OUT(plan_print_json(&report));
    else
        plan_print(&report);
    if (!report.fits)
        st = does_not_fit(&report);
out:
    free(report.groupings);
    free(report.meshes);
    free(all);
    return st;
}

/* Whether the batch fits with the --groups that were asked for, or else with any number. */
static status check_batch(const struct request *r, const struct grouping *list, int count, int best)
{
    for (int i = 0; i < count && r->groups > 0; i++)
        if (list[i].groups == r->groups && list[i].why[0] != 0)
            return fail(ST_USAGE, "%s", list[i].why);
        else if (list[i].groups == r->groups && !list[i].fits)
            return fail(ST_MEMORY,
                        "does not fit: %d groups of %d rank%s need %.2f GB of a GPU and "
                        "%.2f GB of a node%s",
                        r->groups, list[i].ranks, list[i].ranks > 1 ? "s" : "",
                        list[i].device / 1e9, list[i].node / 1e9,
                        best >= 0 ? ": use the best --groups of the table" : "");
    return best >= 0 ? ST_OK
                     : fail(ST_MEMORY, "does not fit with any number of groups: plan its largest "
                                       "request alone, for what would fit");
}

/* Plans all requests of a batch file, for all numbers of groups. */
static status plan_batch(const struct request *r, const struct machine *m,
                         const struct model *model, struct device *dev, const struct world *w)
{
    struct world here;
    struct batch b = { 0 };
    const struct request **requests = NULL;
    struct grouping *list = NULL;
    struct rates rates;
    struct groups_input in = { .model = model, .table = dev->table, .rates = &rates };
    struct plan_input first;
    int count = 0, best = -1;
    status st;

    world_describe(&here, 0, 1, 1);
    if (m->meshes)
        TRY_OUT(fail(ST_USAGE, "--meshes is for the plan of one request: plan one line of %s",
                     r->batch_file));
    TRY_OUT(count_ranks(&in.ranks, &in.ranks_per_node, r, m, w));
    TRY_OUT(batch_read(&b, &here, r));
    TRY_OUT(batch_prepare(&b));
    requests = calloc((size_t)b.count, sizeof(*requests));
    if (requests == NULL)
        TRY_OUT(fail(ST_MEMORY, "cannot allocate host memory for %d requests", b.count));
    for (int i = 0; i < b.count; i++)
        requests[i] = &b.entries[i].request;
    in.requests = requests;
    in.count = b.count;
    in.prompts = b.prompt_count;
    first = (struct plan_input){ .gpu = r->device == USE_CUDA,
                                 .cdt = r->precision == PRECISION_BF16 ? DT_BF16 : DT_F32 };
    TRY_OUT(find_memory(&in.machine, m, machine_described(m), in.ranks_per_node, &first, dev,
                        request_vram(r)));
    TRY_OUT(machine_rates(&rates, first.gpu, m, dev, first.cdt));
    TRY_OUT(groups_plan(&list, &count, &best, &in));
    if (m->json) {
        TRY_OUT(groups_print_json(list, count, best, &in));
    } else {
        printf("batch     %s: %d request%s, %d texts, on %d ranks\n", r->batch_file, b.count,
               b.count > 1 ? "s" : "", b.prompt_count, in.ranks);
        if (machine_described(m))
            machine_print(m, &rates);
        groups_print(list, count, best, &in);
    }
    TRY_OUT(check_batch(r, list, count, best));
out:
    free(list);
    free(requests);
    batch_done(&b);
    return st;
}

/* Without a checkpoint, the task's model; with an option of sparse attention that for which it is.
 */
static struct model model_without_files(const struct request *r)
{
    for (int i = 0; i < TASK_PRESETS_MAX && r->task->presets[i] != NULL; i++) {
        const struct model m = preset_model(preset_find(r->task->presets[i]));
        const struct sparse_kind *kind = dit_sparse_kind(model_dit(&m));

        if (kind != NULL && job_wants_sparse(r, kind))
            return m;
    }
    return preset_model(preset_find(r->task->presets[0]));
}

static status run_plan(struct request *r, struct machine *m, const struct world *w)
{
    struct model model = model_without_files(r);
    struct checkpoint c = { 0 };
    struct lora *lora[EXPERTS_MAX] = { NULL };
    struct tokenizer *tokenizer = NULL;
    struct table table;
    struct device dev = { 0 };
    status st;

    job_table(&table, r);
    if (machine_described(m))
        TRY_OUT(device_open_plan(&dev, &table, 0));
    else if (r->device == USE_CUDA)
        TRY_OUT(device_open_cuda(&dev, 0, &table, table.workspace));
    else
        TRY_OUT(device_open_cpu(&dev, r->threads > 0 ? r->threads : 1, &table, table.workspace));
    if (r->ckpt_dir != NULL) {
        TRY_OUT(request_checkpoint(r, &c));
        for (int i = 0; i < MODEL_PART_COUNT && r->task->parts[i] != NULL; i++)
            TRY_OUT(checkpoint_part(&c, r->task->parts[i]));
        model = model_of_checkpoint(&c);
        TRY_OUT(model_check(&model, c.path));
        TRY_OUT(pipeline_tokenizer(&tokenizer, &c));
        TRY_OUT(job_loras(r, &c, &model, false, lora));
    }
    TRY_OUT((r->batch_file != NULL ? plan_batch : plan)(r, m, &model, &dev, w));
out:
    tokenizer_close(tokenizer);
    checkpoint_close(&c);
    for (int i = 0; i < EXPERTS_MAX; i++)
        lora_close(lora[i]);
    device_close(&dev);
    return st;
}

status cmd_plan(struct world *w, int argc, char **argv)
{
    struct request r;
    struct machine m;
    struct option_set set = machine_options(&m);
    status st = ST_OK;

    machine_init(&m);
    request_init(&r);
    if (w->rank == 0) {
        TRY_OUT(request_parse(&r, CMD_PLAN, &set, 1, argc, argv));
        machine_complete(&m);
        if (r.device < 0 && machine_described(&m))
            r.device = USE_CUDA;
        TRY_OUT(request_choose_task(&r));
        TRY_OUT(request_complete(&r, CMD_PLAN));
        TRY_OUT(run_plan(&r, &m, w));
    }
out:
    request_done(&r);
    return agree(w, st);
}
