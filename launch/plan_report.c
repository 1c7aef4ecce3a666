#include "launch/plan_report.h"

#include "launch/commands.h"
#include "launch/job.h"
#include "launch/progress.h"
#include "model/pipeline/condition.h"
#include "model/transformer/features.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define GIB ((double)(1 << 30))

/* Whether two ranks have the same memory, FLOPs and messages. */
static bool same_rank(const struct plan_rank *a, const struct plan_rank *b)
{
    if (a->device != b->device || a->host != b->host || a->count != b->count)
        return false;
    for (int i = 0; i < a->count; i++)
        if (a->stage[i].flops != b->stage[i].flops || a->stage[i].sent != b->stage[i].sent ||
            a->stage[i].messages != b->stage[i].messages ||
            a->stage[i].sent_across != b->stage[i].sent_across)
            return false;
    return true;
}

/* Whether ranks of the request are on several nodes. */
static bool has_network(const struct plan_report *r)
{
    return r->in->ranks > r->in->ranks_per_node;
}

/* The last of the consecutive ranks, from `first` on, that have the same numbers. */
static int last_same(const struct plan_report *r, int first)
{
    int last = first;

    while (last + 1 < r->in->ranks && same_rank(&r->ranks[last + 1], &r->ranks[first]))
        last++;
    return last;
}

/* The memory that is compared: of a GPU, or of the node. */
static double needed_bytes(const struct plan_report *r)
{
    return r->in->gpu ? r->needs.device : r->node;
}

static double available_bytes(const struct plan_report *r)
{
    return r->in->gpu ? r->machine.device : r->machine.host;
}

/* Seconds of the slowest rank in each stage, and in all stages with all steps. */
static double total_seconds(const struct plan_report *r, struct plan_rank *most)
{
    *most = (struct plan_rank){ 0 };
    for (int i = 0; i < r->in->ranks; i++)
        plan_cover(most, &r->ranks[i]);
    return plan_seconds(r->in, most);
}

/* ---- text ---- */

static void print_stages(const struct plan_rank *p, bool network)
{
    for (int i = 0; i < p->count; i++) {
        const struct plan_stage *s = &p->stage[i];

        printf("  %-8s %10.1f %10.1f %10.1f %11.3f %10.1f %9.0f", s->name, (double)s->weights / 1e6,
               (double)s->run / 1e6, (double)s->scratch / 1e6, s->flops / 1e12, s->sent / 1e6,
               s->messages);
        if (network)
            printf(" %9.1f", s->sent_across / 1e6);
        printf("\n");
    }
}

/* The first rank with the same numbers as rank i. */
static int first_same(const struct plan_report *r, int i)
{
    int first = 0;

    while (!same_rank(&r->ranks[first], &r->ranks[i]))
        first++;
    return first;
}

/* "rank 0", "ranks 1-3, 5": rank `first`, and all with the same numbers. */
static void print_alike(const struct plan_report *r, int first)
{
    const char *before = "";
    int count = 0;

    for (int i = first; i < r->in->ranks; i++)
        count += first_same(r, i) == first;
    printf("rank%s ", count > 1 ? "s" : "");
    for (int i = first, last; i < r->in->ranks; i = last + 1) {
        last = last_same(r, i);
        if (first_same(r, i) != first)
            continue;
        printf("%s%d", before, i);
        if (last > i)
            printf("-%d", last);
        before = ", ";
    }
}

/* Prints the stages of each rank, of ranks with the same numbers once. */
static void print_ranks(const struct plan_report *r)
{
    printf("stages     weights MB     run MB scratch MB       TFLOP    sent MB  messages%s\n",
           has_network(r) ? " across MB" : "");
    for (int i = 0; i < r->in->ranks; i++) {
        const struct plan_rank *p = &r->ranks[i];

        if (first_same(r, i) < i)
            continue;
        print_alike(r, i);
        printf(": at most %.1f MB on the device, %.1f MB of the host\n", (double)p->device / 1e6,
               (double)p->host / 1e6);
        print_stages(p, has_network(r));
    }
}

static void print_fit(const struct plan_report *r)
{
    const double free_bytes = available_bytes(r);

    printf("memory    %.2f GiB of the ", needed_bytes(r) / GIB);
    if (isinf(free_bytes))
        printf("unknown memory of this node\n");
    else
        printf("%.2f GiB of %s: %s\n", free_bytes / GIB, r->in->gpu ? "a GPU" : "this node",
               r->fits ? "fits" : "does not fit");
    if (!r->fits)
        printf("          %s\n", r->advice);
}

static void print_time(const struct plan_report *r)
{
    struct plan_rank most;
    const double total = total_seconds(r, &most);
    char buffer[24];

    printf("time      about");
    for (int i = 0; i < most.count; i++) {
        const struct plan_stage *s = &most.stage[i];

        printf("%s %.3g s for %s%s", i > 0 ? "," : "", s->seconds,
               strcmp(s->name, STAGE_STEP) == 0 ? "a " : "", s->name);
    }
    printf(": %s in all, at the rates of %s: products at %.3g TFLOP/s, %.3g GB/s from a rank\n",
           progress_time(buffer, total), r->rates->name, r->rates->gemm * 1e-12,
           r->rates->link * 1e-9);
}

/* "13.55 GB from a rank to its node in 67.7 ms"; nothing if it sends nothing. */
static void print_sent(const char *before, double bytes, const char *where, double rate)
{
    const bool large = bytes >= 1e9;

    if (bytes > 0)
        printf("%s%.4g %s %s in %.3g ms", before, bytes / (large ? 1e9 : 1e6), large ? "GB" : "MB",
               where, 1e3 * bytes / rate);
}

/* What a rank sends on each link in the stages in which ranks do send, and the time that takes: of
 * the ranks with the most. */
static void print_links(const struct plan_report *r)
{
    const char *title = "links";
    struct plan_rank most;

    total_seconds(r, &most);
    for (int i = 0; i < most.count; i++) {
        const struct plan_stage *s = &most.stage[i];
        double node = 0;

        for (int rank = 0; rank < r->in->ranks; rank++) {
            const struct plan_stage *one = plan_stage(&r->ranks[rank], s->name);

            node = fmax(node, one->sent - one->sent_across);
        }
        if (s->sent == 0)
            continue;
        printf("%-9s %s: ", title, s->name);
        print_sent("", node, "from a rank to its node", r->rates->link);
        print_sent(node > 0 ? "; " : "", s->sent_across, "to other nodes", r->rates->network);
        printf("; %.3g ms of waiting\n", 1e3 * s->waited);
        title = "";
    }
}

/* Whether the copies of weights take longer than the computation that hides them. */
static void print_link(const struct plan_report *r)
{
    const struct plan_stage *s = plan_stage(&r->ranks[0], STAGE_STEP);
    const double copies_s = s->streamed / r->rates->upload;

    if (isinf(r->rates->upload))
        return;
    printf("          the copies take %.3g s of a step at %.3g GB/s, %s\n", copies_s,
           r->rates->upload * 1e-9,
           copies_s < s->seconds ? "while it computes" : "and it waits for them");
}

/* Whether the size will be that of an image which is not given. */
static bool follows_image(const struct request *r)
{
    bool given = false;

    for (int i = 0; i < INPUT_COUNT; i++)
        given |= r->input[i] != NULL;
    return r->task->required != 0 && r->task->size != size_as_given && !given;
}

/* Writes "1-10, 13, 16": the steps of which this branch is computed. */
static void computed_steps(char *text, size_t size, const unsigned char *branches, int steps, int b)
{
    size_t used = 0;

    text[0] = 0;
    for (int s = 0, end; s < steps && used < size; s = end + 1) {
        end = s;
        if ((branches[s] >> b & 1) == 0)
            continue;
        while (end + 1 < steps && (branches[end + 1] >> b & 1) != 0)
            end++;
        used += (size_t)snprintf(text + used, size - used, used > 0 ? ", %d" : "%d", s + 1);
        if (end > s && used < size)
            used += (size_t)snprintf(text + used, size - used, "-%d", end + 1);
    }
}

/* The forwards that the step cache skips, as far as they are known. */
static void print_cache(const struct plan_report *r)
{
    const struct plan_input *in = r->in;
    unsigned char *branches = malloc((size_t)in->steps);
    char text[2][2000];

    request_cache_text(text[0], sizeof(text[0]), r->request);
    if (text[0][0] != 0)
        printf("cache     %s\n", text[0]);
    if (plan_windows(in, 0) > 1)
        printf("windows   %d of %lld latent frames\n", plan_windows(in, 0),
               (long long)plan_frames(in));
    if (in->cache.kind == CACHE_MAG && branches != NULL) {
        plan_schedule(in, branches);
        for (int b = 0; b < 2; b++)
            computed_steps(text[b], sizeof(text[b]), branches, in->steps, b);
        printf("          %d of %d forwards computed: steps %s\n", plan_forwards(in, false),
               plan_forwards(in, true), text[0]);
        if (in->guided && strcmp(text[0], text[1]) != 0)
            printf("          of the branch without the prompt: %s\n", text[1]);
    } else if (in->cache.kind != CACHE_OFF && in->cache.kind != CACHE_CALIBRATE) {
        printf("          at most %d forwards computed: the run decides %s\n",
               plan_forwards(in, true),
               in->cache.kind == CACHE_TEA ? "when the weights are loaded" : "in each step");
    }
    free(branches);
}

void plan_print(const struct plan_report *r)
{
    const struct plan_input *in = r->in;
    const struct dit_config *dit = model_dit(&in->model);
    const struct latent_shape s = in->latent;
    char attention[160], experts[160], offload[240], sampling[800], guidance[400], mesh[120];
    char fp8[40] = "";

    request_sampling(sampling, sizeof(sampling), r->request);
    if (in->matmul.fp8)
        snprintf(fp8, sizeof(fp8), ", products of %d layers in fp8",
                 dit->layers - 2 * in->matmul.kept);
    printf("model     %s: %d layers of %lld, %d heads, %s%s\n", r->request->task_name, dit->layers,
           (long long)dit->dim, dit->heads, in->cdt == DT_BF16 ? "bf16" : "fp32", fp8);
    printf("video     %d*%d%s, %d frames; latent %lld x %lld x %lld x %lld, %lld tokens; %s; %d "
           "forwards\n",
           r->request->video_size[0], r->request->video_size[1],
           follows_image(r->request) ? " (the aspect ratio of the image changes it)" : "",
           r->request->video_frames, (long long)s.c, (long long)s.t, (long long)s.h, (long long)s.w,
           (long long)(s.t * (s.h / 2) * (s.w / 2)), sampling, plan_forwards(in, true));
    if (r->request->clip_count > 1)
        printf("clips     %d of %d frames, each continues the one before\n", r->request->clip_count,
               r->request->infer_frames);
    if (r->request->preset != NULL &&
        request_preset(sampling, sizeof(sampling), r->request) == ST_OK)
        printf("preset    %s:%s\n", r->request->preset, sampling);
    request_fast(sampling, sizeof(sampling), r->request);
    if (r->request->fast >= 0)
        printf("fast      %s:%s\n", request_fast_names[r->request->fast], sampling);
    print_cache(r);
    for (int i = 0; request_note(r->request, i) != NULL; i++)
        printf("note      %s\n", request_note(r->request, i));
    job_experts(experts, sizeof(experts), in, r->ranks[0].ahead);
    if (experts[0] != 0)
        printf("experts   %s\n", experts);
    job_guidance(guidance, sizeof(guidance), in);
    if (guidance[0] != 0)
        printf("guided    %s\n", guidance);
    if (r->described != NULL)
        machine_print(r->described, r->rates);
    job_mesh(mesh, sizeof(mesh), in);
    printf("ranks     %d: %s; transformer %s%s\n", in->ranks, mesh,
           in->fsdp ? "sharded" : "replicated",
           r->chose_fsdp ? " (replicated it does not fit)" : "");
    if (job_idles(in))
        printf("note      " JOB_IDLES "\n", model_dit(&in->model)->heads);
    if (r->groups > 1)
        printf("groups    %d such groups of ranks; below is one of them\n", r->groups);
    job_attention(attention, sizeof(attention), in);
    if (attention[0] != 0)
        printf("attention %s\n", attention);
    job_offload(offload, sizeof(offload), in, &r->ranks[0]);
    if (offload[0] != 0)
        printf("weights   %s\n", offload);
    if (in->offload == OFFLOAD_HOST)
        print_link(r);
    job_storage(offload, sizeof(offload), in, &r->ranks[0]);
    if (offload[0] != 0)
        printf("weights   %s\n", offload);
    if (in->frame_by_frame)
        printf("decode    the last layers frame by frame (whole chunks do not fit)\n");
    print_ranks(r);
    print_fit(r);
    print_links(r);
    print_time(r);
    if (r->meshes != NULL)
        meshes_print(r->meshes, r->meshes_count);
    if (r->groups_input != NULL)
        groups_print(r->groupings, r->groupings_count, r->groupings_best, r->groups_input);
}

/* ---- JSON ---- */

static void add_experts(cJSON *json, const struct plan_report *r)
{
    static const char *const memory[] = { "both", "ahead", "later" };
    const int steps[] = { plan_expert_steps(r->in, 0), plan_expert_steps(r->in, 1) };
    cJSON *experts;

    if (plan_experts(r->in) == 1)
        return;
    experts = cJSON_AddObjectToObject(json, "experts");
    cJSON_AddItemToObject(experts, "steps", cJSON_CreateIntArray(steps, 2));
    cJSON_AddStringToObject(experts, "memory", memory[r->in->experts]);
    cJSON_AddNumberToObject(experts, "ahead_bytes", (double)r->ranks[0].ahead);
}

static void add_attention(cJSON *json, const struct plan_input *in)
{
    const int steps[] = { in->self_attention.first_step, in->self_attention.end_step };
    const int blocks[] = { in->self_attention.first_block, in->self_attention.end_block };
    const struct sparse_kind *kind = dit_sparse_kind(model_dit(&in->model));
    const struct sparse_tiles tiles = plan_tiles(in);
    cJSON *attention;

    if (kind != NULL) {
        attention = cJSON_AddObjectToObject(json, "attention_sparse");
        cJSON_AddStringToObject(attention, "kind", kind->name);
        cJSON_AddNumberToObject(attention, "tiles", (double)tiles.k);
        cJSON_AddNumberToObject(attention, "kept", (double)tiles.kept);
    }
    if (steps[1] == 0)
        return;
    attention = cJSON_AddObjectToObject(json, "attention_8bit"); // [from, to), from 0
    cJSON_AddItemToObject(attention, "steps", cJSON_CreateIntArray(steps, 2));
    cJSON_AddItemToObject(attention, "blocks", cJSON_CreateIntArray(blocks, 2));
}

static cJSON *stage_json(const struct plan_stage *s)
{
    cJSON *json = cJSON_CreateObject();

    cJSON_AddStringToObject(json, "stage", s->name);
    cJSON_AddNumberToObject(json, "weight_bytes", (double)s->weights);
    cJSON_AddNumberToObject(json, "run_bytes", (double)s->run);
    cJSON_AddNumberToObject(json, "scratch_bytes", (double)s->scratch);
    cJSON_AddNumberToObject(json, "flops", s->flops);
    cJSON_AddNumberToObject(json, "streamed_bytes", s->streamed);
    cJSON_AddNumberToObject(json, "sent_bytes", s->sent);
    cJSON_AddNumberToObject(json, "sent_across_bytes", s->sent_across);
    cJSON_AddNumberToObject(json, "messages", s->messages);
    cJSON_AddNumberToObject(json, "seconds", s->seconds);
    cJSON_AddNumberToObject(json, "waited_seconds", s->waited);
    return json;
}

static void add_ranks(cJSON *json, const struct plan_report *r)
{
    cJSON *list = cJSON_AddArrayToObject(json, "ranks");

    for (int i = 0, last; i < r->in->ranks; i = last + 1) {
        const struct plan_rank *p = &r->ranks[i];
        cJSON *rank = cJSON_CreateObject(), *stages;

        last = last_same(r, i);
        cJSON_AddNumberToObject(rank, "first", i);
        cJSON_AddNumberToObject(rank, "last", last);
        cJSON_AddNumberToObject(rank, "device_bytes", (double)p->device);
        cJSON_AddNumberToObject(rank, "cuda_bytes", (double)p->cuda);
        cJSON_AddNumberToObject(rank, "host_bytes", (double)p->host);
        cJSON_AddNumberToObject(rank, "shared_host_bytes", (double)p->shared);
        stages = cJSON_AddArrayToObject(rank, "stages");
        for (int k = 0; k < p->count; k++)
            cJSON_AddItemToArray(stages, stage_json(&p->stage[k]));
        cJSON_AddItemToArray(list, rank);
    }
}

static void add_fit(cJSON *json, const struct plan_report *r)
{
    cJSON *memory = cJSON_AddObjectToObject(json, "memory");

    cJSON_AddStringToObject(memory, "of", r->in->gpu ? "gpu" : "node");
    cJSON_AddNumberToObject(memory, "needed_bytes", needed_bytes(r));
    if (isinf(available_bytes(r)))
        cJSON_AddNullToObject(memory, "available_bytes");
    else
        cJSON_AddNumberToObject(memory, "available_bytes", available_bytes(r));
    cJSON_AddBoolToObject(memory, "fits", r->fits);
    if (!r->fits)
        cJSON_AddStringToObject(memory, "advice", r->advice);
}

status plan_print_json(const struct plan_report *r)
{
    const struct plan_input *in = r->in;
    const double latent[] = { (double)in->latent.c, (double)in->latent.t, (double)in->latent.h,
                              (double)in->latent.w };
    struct plan_rank most;
    cJSON *json = cJSON_CreateObject();
    status st;

    cJSON_AddStringToObject(json, "task", r->request->task_name);
    cJSON_AddStringToObject(json, "precision", in->cdt == DT_BF16 ? "bf16" : "fp32");
    cJSON_AddStringToObject(json, "matmul", in->matmul.fp8 ? "fp8" : "exact");
    if (in->matmul.fp8)
        cJSON_AddNumberToObject(json, "matmul_bf16_blocks", in->matmul.kept);
    cJSON_AddItemToObject(json, "size", cJSON_CreateIntArray(r->request->size, 2));
    cJSON_AddNumberToObject(json, "frames", r->request->video_frames);
    cJSON_AddItemToObject(json, "latent", cJSON_CreateDoubleArray(latent, 4));
    cJSON_AddNumberToObject(json, "steps", in->steps);
    cJSON_AddNumberToObject(json, "forwards", plan_forwards(in, true));
    cJSON_AddNumberToObject(json, "computed_forwards", plan_forwards(in, false));
    add_attention(json, in);
    if (r->request->preset != NULL)
        cJSON_AddStringToObject(json, "preset", r->request->preset);
    command_json_mesh(json, "mesh", in->mesh);
    if (in->joined.cfg != 0)
        command_json_mesh(json, "mesh_of_one_branch", in->joined);
    cJSON_AddBoolToObject(json, "dit_fsdp", in->fsdp);
    cJSON_AddStringToObject(json, "weights", in->as_stored ? "stored" : "bf16");
    cJSON_AddBoolToObject(json, "frame_by_frame", in->frame_by_frame);
    cJSON_AddStringToObject(json, "offload",
                            in->offload == OFFLOAD_HOST   ? "cpu"
                            : in->offload == OFFLOAD_FILE ? "disk"
                                                          : "none");
    if (in->offload != OFFLOAD_NONE)
        cJSON_AddNumberToObject(json, "resident_blocks", in->resident);
    add_experts(json, r);
    add_ranks(json, r);
    add_fit(json, r);
    cJSON_AddNumberToObject(json, "seconds", total_seconds(r, &most));
    cJSON_AddStringToObject(json, "rates", r->rates->name);
    if (r->described != NULL)
        machine_json(json, r->described, r->rates);
    if (r->meshes != NULL)
        meshes_json(json, r->meshes, r->meshes_count);
    if (r->groups_input != NULL)
        groups_json(json, r->groupings, r->groupings_count, r->groupings_best);
    st = command_print_json(json);
    cJSON_Delete(json);
    return st;
}
