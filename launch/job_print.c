/* What rank 0 prints about a job: its devices, ranks and memory, and the progress of loading. */
#include "launch/job.h"

#include "model/transformer/features.h"

#include <stdlib.h>
#include <string.h>

#define MB 1e6
#define GB 1e9

/* ---- progress ---- */

static int64_t bytes_read(const struct job *j)
{
    int64_t read = 0;

    for (int i = 0; i < j->checkpoint.count; i++)
        read += (int64_t)__atomic_load_n(&j->checkpoint.parts[i].file.bytes_read, __ATOMIC_RELAXED);
    return read;
}

/* alive_hook: shows that time passes, and what loading has read. */
static void tick(void *payload)
{
    struct job *j = payload;

    if (j->loading)
        progress_update(&j->progress, bytes_read(j) - j->read_before);
    progress_tick(&j->progress);
}

void job_hook(struct job *j)
{
    j->hook = (struct alive_hook){ .call = tick, .payload = j, .every_s = 0.2 };
    if (j->world->rank == 0)
        alive_hook_add(&j->hook);
}

void job_part(struct job *j)
{
    char prefix[24];

    if (j->groups == 1)
        return;
    snprintf(prefix, sizeof(prefix), "[group %d] ", j->group);
    progress_redirect(&j->progress, j->world->rank == 0 ? stderr : NULL, prefix);
    world_expect_of(j->all, j->group * j->world->size, j->world->size);
}

void job_meet(struct job *j)
{
    if (j->groups == 1)
        return;
    progress_redirect(&j->progress, j->all->rank == 0 ? stderr : NULL, "");
    world_expect_of(j->all, 0, 0);
    alive_at("waiting for other groups", -1);
}

void job_load_begin(struct job *j, const struct plan_input *plan)
{
    struct checkpoint *c = &j->checkpoint;
    uint64_t bytes = 0;

    if (j->world->rank != 0)
        return;
    for (int i = 0; i < EXPERTS_MAX; i++)
        if (model_config(&j->model, expert_parts[i]) != NULL)
            bytes += checkpoint_bytes(c, expert_parts[i], plan->ranks);
    if (plan->prompts > 0)
        bytes += checkpoint_bytes(c, &part_t5, plan->t5_fsdp ? plan->ranks : 1);
    if (plan->images > 0)
        bytes += checkpoint_bytes(c, &part_clip, 1);
    j->read_before = bytes_read(j);
    j->loading = true;
    progress_stage(&j->progress, "text and weights", 0, (int64_t)bytes, PROGRESS_BYTES);
}

void job_load_end(struct job *j)
{
    if (j->loading)
        progress_update(&j->progress, j->progress.total);
    j->loading = false;
    progress_end(&j->progress);
}

/* ---- the first lines ---- */

#define DEVICE_BYTES 128 // of a rank's device, "4 cores of AMD EPYC 9354"

/* Writes "2 x NVIDIA H200, NVIDIA L4" for the ranks' devices. */
static void devices_text(char *out, size_t size, char (*all)[DEVICE_BYTES], int ranks)
{
    size_t used = 0;

    for (int i = 0; i < ranks && used < size; i++) {
        char times[16] = "";
        int same = 0;
        bool told = false;

        for (int k = 0; k < ranks; k++) {
            same += strcmp(all[k], all[i]) == 0;
            told = told || (k < i && strcmp(all[k], all[i]) == 0);
        }
        if (told)
            continue;
        if (same > 1)
            snprintf(times, sizeof(times), "%d x ", same);
        used += (size_t)snprintf(out + used, size - used, "%s%s%s", used > 0 ? ", " : "", times,
                                 all[i]);
    }
}

status job_devices(struct job *j)
{
    const struct placement *p = &j->place;
    char mine[DEVICE_BYTES] = "", (*all)[DEVICE_BYTES] = NULL;
    status st = ST_OK;

    all = calloc((size_t)j->all->size, sizeof(*all));
    if (all == NULL)
        st = fail(ST_MEMORY, "cannot allocate host memory for %d ranks", j->all->size);
    else if (j->dev.kind == DEVICE_CUDA)
        st = device_cuda_name(j->dev.index, mine, sizeof(mine));
    else
        snprintf(mine, sizeof(mine), "%d core%s of %s", p->cores, p->cores > 1 ? "s" : "", p->cpu);
    TRY_OUT(agree(j->all, st));
    world_gather(j->all, mine, sizeof(mine), all);
    if (j->all->rank == 0)
        devices_text(j->devices, sizeof(j->devices), all, j->all->size);
out:
    free(all);
    return st;
}

/* "text 120, step 900, decode 300": device memory of each stage in MB. */
static void stages_text(char *out, size_t size, const struct plan_rank *p)
{
    size_t used = 0;

    out[0] = '\0';
    for (int i = 0; i < p->count && used < size; i++) {
        const struct plan_stage *s = &p->stage[i];
        const size_t bytes = s->weights + s->run + s->scratch;

        if (bytes > 0)
            used += (size_t)snprintf(out + used, size - used, "%s%s %.0f", used ? ", " : "",
                                     s->name, (double)bytes / MB);
    }
}

static void announce_memory(struct job *j, const struct plan_rank *all)
{
    const bool gpu = j->dev.kind == DEVICE_CUDA;
    char gpu_text[64] = "", stages[160];

    stages_text(stages, sizeof(stages), all);
    if (gpu)
        snprintf(gpu_text, sizeof(gpu_text), " of its GPU (%.1f GB free) and %.0f of the host",
                 j->device_free / GB, (double)(j->resident + all->host + all->shared) / MB);
    progress_print(&j->progress,
                   "memory  at most %.0f MB a rank%s (%s); %.1f GB available on this node",
                   (double)(gpu ? all->device + all->cuda
                                : j->resident + all->device + all->host + all->shared) /
                       MB,
                   gpu_text, stages, j->host_free / GB);
}

void job_experts(char *text, size_t size, const struct plan_input *plan, size_t ahead)
{
    const int high = plan_expert_steps(plan, 0), low = plan_expert_steps(plan, 1);

    if (plan_experts(plan) == 1 || high + low == 0)
        snprintf(text, size, "%s", "");
    else if (!plan_has_two(plan))
        snprintf(text, size, "only that for %s noise, %d steps", high > 0 ? "high" : "low",
                 high + low);
    else if (plan->experts == EXPERTS_BOTH)
        snprintf(text, size, "high noise %d steps, low noise %d; both are in memory", high, low);
    else if (plan->experts == EXPERTS_AHEAD)
        snprintf(text, size,
                 "high noise %d steps, low noise %d; the second is read ahead into %.0f MB of a "
                 "rank's host memory",
                 high, low, (double)ahead / MB);
    else
        snprintf(text, size,
                 "high noise %d steps, low noise %d; the second is read when it is needed", high,
                 low);
}

void job_attention(char *text, size_t size, const struct plan_input *plan)
{
    const struct self_attention *a = &plan->self_attention;
    const struct sparse_kind *kind = dit_sparse_kind(model_dit(&plan->model));
    const struct sparse_tiles n = plan_tiles(plan);

    snprintf(text, size, "%s", "");
    if (kind != NULL)
        snprintf(text, size,
                 "%s (%s): each tile of %d tokens to %lld of %lld tiles of %d, %.1f %% of all",
                 kind->title, kind->name, n.q_rows, (long long)n.kept, (long long)n.k, n.k_rows,
                 100 * (double)n.kept / (double)n.k);
    if (a->end_step > 0)
        snprintf(text, size, "8-bit in steps %d to %d of %d, in blocks %d to %d of %d",
                 a->first_step + 1, a->end_step, plan->steps, a->first_block + 1, a->end_block,
                 model_dit(&plan->model)->layers);
}

/* Prints a line for each LoRA of each transformer. */
static void announce_loras(struct job *j)
{
    static const char *const experts[EXPERTS_MAX] = { "high noise: ", "low noise: " };
    const bool two = model_config(&j->model, expert_parts[1]) != NULL;

    for (int e = 0; e < EXPERTS_MAX; e++)
        for (int i = 0; lora_line(j->lora[e], i) != NULL; i++)
            progress_print(&j->progress, "lora    %s%s", two ? experts[e] : "",
                           lora_line(j->lora[e], i));
}

void job_offload(char *text, size_t size, const struct plan_input *plan,
                 const struct plan_rank *sizes)
{
    const struct plan_stage *step = plan_stage(sizes, STAGE_STEP);
    const int layers = model_dit(&plan->model)->layers;

    text[0] = 0;
    if (plan->offload == OFFLOAD_NONE || step->weights == 0)
        return;
    if (plan->offload == OFFLOAD_FILE)
        snprintf(text, size,
                 "%d of %d blocks stay on the device, the others are read from their file: %.2f GB "
                 "a step",
                 plan->resident, layers, step->streamed / GB);
    else
        snprintf(text, size,
                 "%d of %d blocks stay on the device, the others are in %.2f GB of host memory%s: "
                 "%.2f GB copied a step",
                 plan->resident, layers, (double)sizes->weights / GB,
                 sizes->shared > 0 ? " that the ranks of a node share" : "", step->streamed / GB);
}

void job_guidance(char *text, size_t size, const struct plan_input *plan)
{
    static const char *const what[] = { [GUIDE_ZERO] = "velocity 0",
                                        [GUIDE_COND] = "one branch",
                                        [GUIDE_GATE] = "one branch and the last difference",
                                        [GUIDE_BOTH] = "both branches" };
    size_t used = 0;

    text[0] = 0;
    for (int first = 0, last; first < plan->steps && used < size; first = last + 1) {
        const enum guide guide = plan_guide(plan, first);

        last = first;
        while (last + 1 < plan->steps && plan_guide(plan, last + 1) == guide)
            last++;
        if (first == 0 && last + 1 == plan->steps)
            return; // all are alike
        used +=
            (size_t)snprintf(text + used, size - used, "%s%s in step%s %d", first > 0 ? ", " : "",
                             what[guide], last > first ? "s" : "", first + 1);
        if (last > first && used < size)
            used += (size_t)snprintf(text + used, size - used, " to %d", last + 1);
    }
}

void job_storage(char *text, size_t size, const struct plan_input *plan,
                 const struct plan_rank *sizes)
{
    const struct plan_stage *step = plan_stage(sizes, STAGE_STEP);
    struct plan_input computed = *plan;
    struct plan_rank other;
    size_t expanded;

    text[0] = 0;
    computed.as_stored = false;
    if (!plan->as_stored || step->weights == 0 || plan_rank(&computed, 0, &other) != ST_OK)
        return;
    expanded = plan_stage(&other, STAGE_STEP)->weights;
    if (step->weights == expanded) {
        snprintf(text, size,
                 "the file's matrices of blocks are not quantized: --weights stored "
                 "changes nothing");
        return;
    }
    snprintf(text, size,
             "matrices of blocks stay as they are in the file, and are expanded when they are "
             "needed: %.2f GB on the device, as %s %.2f GB",
             (double)step->weights / GB, plan->cdt == DT_BF16 ? "bf16" : "fp32",
             (double)expanded / GB);
}

void job_mesh(char *text, size_t size, const struct plan_input *plan)
{
    const struct mesh_shape m = plan->mesh, j = plan->joined;
    int used = snprintf(text, size, "cfg %d x ring %d x ulysses %d", m.cfg, m.ring, m.ulysses);

    if (j.cfg != 0)
        snprintf(text + used, size - (size_t)used,
                 "; in steps with one branch ring %d x ulysses %d", j.ring, j.ulysses);
}

bool job_idles(const struct plan_input *plan)
{
    const bool has_ring = plan_tiles(plan).kept == 0; // to advise

    return plan->mesh.cfg == 2 && plan->joined.cfg == 0 && plan_has_single(plan) && has_ring;
}

void job_announce(struct job *j, const struct request *r, const struct plan_input *plan)
{
    const struct latent_shape s = plan->latent;
    struct progress *p = &j->progress;
    struct plan_rank all = { 0 }, one;
    char noise[300], sampling[800], attention[160], experts[160], offload[240], guidance[400],
        mesh[120], fast[300];

    if (j->all->rank != 0)
        return;
    if (r->noise_file != NULL)
        snprintf(noise, sizeof(noise), "noise of %s", r->noise_file);
    else
        snprintf(noise, sizeof(noise), "seed %llu", (unsigned long long)r->base_seed.value);
    for (int rank = 0; rank < plan->ranks; rank++)
        if (plan_rank(plan, rank, &one) == ST_OK)
            plan_cover(&all, &one);
    request_sampling(sampling, sizeof(sampling), r);
    progress_print(p, "device  %s", j->devices);
    if (j->place.note[0] != 0)
        progress_print(p, "note    %s", j->place.note);
    progress_print(p, "model   %s, %s (%s)", r->task_name, r->ckpt_dir, j->checkpoint.layout);
    announce_loras(j);
    if (j->tokenizer != NULL && tokenizer_differs(j->tokenizer) != NULL)
        progress_print(
            p,
            "note    the tokenizer.json beside the tokenizer's spiece.model has %s; it is "
            "not followed, so prompts may get other tokens than in the official program",
            tokenizer_differs(j->tokenizer));
    progress_print(p,
                   "video   %d*%d, %d frames; latent %lld x %lld x %lld x %lld, %lld tokens; "
                   "%s, %s",
                   r->video_size[0], r->video_size[1], r->video_frames, (long long)s.c,
                   (long long)s.t, (long long)s.h, (long long)s.w,
                   (long long)(s.t * (s.h / 2) * (s.w / 2)), sampling, noise);
    if (r->clip_count > 1)
        progress_print(p, "clips   %d of %d frames, each continues the one before", r->clip_count,
                       r->infer_frames);
    request_fast(fast, sizeof(fast), r);
    if (r->fast >= 0)
        progress_print(p, "fast    %s:%s", request_fast_names[r->fast], fast);
    job_mesh(mesh, sizeof(mesh), plan);
    request_preset(sampling, sizeof(sampling), r);
    if (r->preset != NULL)
        progress_print(p, "preset  %s:%s", r->preset, sampling);
    request_cache_text(sampling, sizeof(sampling), r);
    if (sampling[0] != 0)
        progress_print(p, "cache   %s", sampling);
    if (plan_windows(plan, 0) > 1)
        progress_print(p, "windows %d of %lld latent frames", plan_windows(plan, 0),
                       (long long)plan_frames(plan));
    progress_print(p, "ranks   %d: %s, %s%d thread%s each; transformer %s, %s", plan->ranks, mesh,
                   j->dev.kind == DEVICE_CUDA ? "a GPU and " : "", j->place.threads,
                   j->place.threads == 1 ? "" : "s", plan->fsdp ? "sharded" : "replicated",
                   plan->cdt == DT_BF16 ? "bf16" : "fp32");
    if (job_idles(plan))
        progress_print(p, "note    " JOB_IDLES, model_dit(&plan->model)->heads);
    if (j->groups > 1)
        progress_print(p, "groups  %d such groups of ranks, each with its own weights", j->groups);
    job_experts(experts, sizeof(experts), plan, all.ahead);
    if (experts[0] != 0)
        progress_print(p, "experts %s", experts);
    job_guidance(guidance, sizeof(guidance), plan);
    if (guidance[0] != 0)
        progress_print(p, "guided  %s; %d forwards", guidance, plan_forwards(plan, true));
    job_attention(attention, sizeof(attention), plan);
    if (attention[0] != 0)
        progress_print(p, "attn    %s", attention);
    job_offload(offload, sizeof(offload), plan, &all);
    if (offload[0] != 0)
        progress_print(p, "weights %s", offload);
    job_storage(offload, sizeof(offload), plan, &all);
    if (offload[0] != 0)
        progress_print(p, "weights %s", offload);
    announce_memory(j, &all);
}

/* Prints how much of a prompt the transformer takes, if not all. */
static status note_text(struct job *j, const char *what, const char *text)
{
    const long long most = model_dit(&j->model)->text_len;
    size_t tokens = 0;

    TRY(tokenizer_count(j->tokenizer, text, &tokens));
    if ((long long)tokens > most)
        progress_print(&j->progress,
                       "note    the %s has %zu tokens, but the model takes %lld: the last %lld are "
                       "cut off, as in the official program",
                       what, tokens, most, (long long)tokens - most);
    return ST_OK;
}

status job_note_request(struct job *j, const struct request *r)
{
    if (j->world->rank != 0)
        return ST_OK;
    for (int i = 0; request_note(r, i) != NULL; i++)
        progress_print(&j->progress, "note    %s", request_note(r, i));
    if (j->tokenizer == NULL || r->text_file != NULL)
        return ST_OK;
    TRY(note_text(j, "prompt", r->prompt));
    return request_guided(r) ? note_text(j, "negative prompt", r->negative_prompt) : ST_OK;
}

/* ---- the last lines ---- */

/* Maximum resident memory of this program so far, in bytes; 0 if unknown. getrusage() would count
 * the program that started it: Linux keeps its maximum over exec. */
static size_t resident_peak(void)
{
    FILE *f = fopen("/proc/self/status", "r");
    char line[128];
    size_t kib = 0;

    while (f != NULL && kib == 0 && fgets(line, sizeof(line), f) != NULL)
        sscanf(line, "VmHWM: %zu kB", &kib);
    if (f != NULL)
        fclose(f);
    return kib * 1024;
}

/* Bytes on this rank's GPU. peak: the maximum in use, by all processes. other_bytes: in use now,
 * but not allocated with device_alloc: the driver, the CUDA libraries, and other processes. */
static void gpu_use(const struct job *j, size_t *peak, size_t *other_bytes)
{
    size_t total, available;

    *peak = *other_bytes = 0;
    if (j->dev.kind != DEVICE_CUDA || device_cuda_memory(j->dev.index, &total, &available) != ST_OK)
        return;
    *peak = total - available > j->dev.used_peak ? total - available : j->dev.used_peak;
    *other_bytes = total - available - j->dev.held;
}

void job_note_links(struct job *j, const struct pipeline *p)
{
    if (p->mesh.all.fallback)
        progress_print(&j->progress, "note    the GPUs of this node cannot write into each other's "
                                     "memory (CUDA IPC): they communicate through NCCL, which is "
                                     "slower");
}

void job_memory(struct job *j, const struct pipeline *p)
{
    const bool gpu = j->dev.kind == DEVICE_CUDA;
    const size_t host = j->resident + p->sizes.host + p->sizes.shared;
    size_t peak, other_bytes;

    gpu_use(j, &peak, &other_bytes);
    const size_t mine[6] = {
        resident_peak(),
        gpu ? host : host + p->sizes.device,
        (size_t)bytes_read(j),
        peak,
        p->sizes.device + p->sizes.cuda,
        other_bytes,
    };
    size_t(*all)[6] = calloc((size_t)j->all->size, sizeof(*all));

    if (agree(j->all, all != NULL ? ST_OK
                                  : fail(ST_MEMORY, "cannot allocate host memory for %d ranks",
                                         j->all->size)) != ST_OK)
        goto out; // only these lines are not printed: not an error of the run
    world_gather(j->all, mine, sizeof(mine), all);
    for (int i = 0; i < j->all->size && j->all->rank == 0 && gpu; i++)
        progress_print(&j->progress,
                       "memory  rank %d: GPU peak %.0f MB, planned %.0f MB; of which CUDA and its "
                       "libraries %.0f MB",
                       i, (double)all[i][3] / MB, (double)all[i][4] / MB, (double)all[i][5] / MB);
    for (int i = 0; i < j->all->size && j->all->rank == 0; i++)
        progress_print(&j->progress,
                       "memory  rank %d: peak %.0f MB, planned %.0f MB; read %.1f MB of weights", i,
                       (double)all[i][0] / MB, (double)all[i][1] / MB, (double)all[i][2] / MB);
out:
    free(all);
}
