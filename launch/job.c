#include "launch/job.h"

#include "launch/cgroup.h"
#include "model/pipeline/condition.h"
#include "model/transformer/dit.h"
#include "model/transformer/features.h"
#include "parallel/watch.h"
#include "runtime/alive.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Resident memory of this process now, in bytes; 0 if unknown. */
static size_t resident_now(void)
{
    long long pages = 0, virtual_pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");

    if (f == NULL)
        return 0;
    if (fscanf(f, "%lld %lld", &virtual_pages, &pages) != 2)
        pages = 0;
    fclose(f);
    return (size_t)pages * (size_t)sysconf(_SC_PAGESIZE);
}

void job_table(struct table *t, const struct request *r)
{
    if (r->device == USE_CUDA)
        table_cuda(t);
    else if (r->ops == OPS_REF)
        *t = table_ref;
    else
        table_cpu(t);
}

/* Whether the text encoder computes the prompts' embeddings; else they are read from a run file. */
static bool encodes_text(const struct request *r)
{
    return r->text_file == NULL && r->resume == NULL;
}

static status open_parts(struct job *j, const struct request *r)
{
    struct checkpoint *c = &j->checkpoint;

    TRY(request_checkpoint(r, c));
    for (int i = 0; i < MODEL_PART_COUNT && r->task->parts[i] != NULL; i++)
        if (r->task->parts[i] != &part_t5 || encodes_text(r))
            TRY(checkpoint_part(c, r->task->parts[i]));
    if (r->motion_bucket_id >= 0 && r->resume == NULL)
        TRY(checkpoint_part(c, &part_motion));
    j->model = model_of_checkpoint(c);
    TRY(model_check(&j->model, c->path));
    TRY(job_loras(r, c, &j->model, false, j->lora));
    return j->world->rank == 0 && encodes_text(r) ? pipeline_tokenizer(&j->tokenizer, c) : ST_OK;
}

/* Index and PCI address of the GPU that this rank uses: the GPUs of a node are assigned to its
 * ranks round-robin. A scheduler may show each rank one GPU only; then the index is 0. */
static status find_gpu(const struct job *j, int *index, char *bus, size_t size)
{
    const int count = device_cuda_count();

    *index = count > 0 ? j->all->local_rank % count : 0;
    return device_cuda_bus(*index, bus, size);
}

static status open_device(struct job *j, const struct request *r, int gpu)
{
    size_t total, available;

    job_table(&j->table, r);
    j->device_free = INFINITY;
    if (r->device == USE_CPU)
        TRY(device_open_cpu(&j->dev, j->place.threads, &j->table, j->table.workspace));
    if (request_vram(r) > 0)
        j->device_free = request_vram(r);
    if (r->device == USE_CPU)
        return ST_OK;
    TRY(device_open_cuda(&j->dev, gpu, &j->table, j->table.workspace));
    TRY(device_cuda_memory(gpu, &total, &available));
    j->device_free =
        fmin(j->device_free, (double)(available + j->table.workspace + DEVICE_CUDA_CONTEXT));
    return ST_OK;
}

static status open_local(struct job *j, const struct request *r, const struct placement_node *node,
                         int gpu)
{
    TRY(placement_choose(&j->place, node, r->threads));
    TRY(placement_bind(&j->place));
    TRY(open_device(j, r, gpu));
    return open_parts(j, r);
}

/* Writes the digests of the parts that are open. */
static status read_digests(struct job *j)
{
    struct checkpoint *c = &j->checkpoint;
    size_t n = 0;

    for (int i = 0; i < c->count; i++) {
        const struct part *part = c->parts[i].row;
        char hex[FINGERPRINT_BYTES];

        if (checkpoint_config(c, part) == NULL)
            continue;
        TRY(checkpoint_digest(c, part, hex));
        for (int e = 0; e < EXPERTS_MAX; e++)
            if (part == expert_parts[e])
                TRY(lora_digest(j->lora[e], hex));
        n += (size_t)snprintf(j->weights + n, sizeof(j->weights) - n, "%s%s=%s", n > 0 ? " " : "",
                              part->key, hex);
        assert(n < sizeof(j->weights));
    }
    return ST_OK;
}

/* Ranks on other nodes may see another checkpoint under the same path. */
static status compare_weights(struct job *j)
{
    char first[JOB_WEIGHTS_BYTES];
    status st = ST_OK;

    memcpy(first, j->weights, sizeof(first));
    world_broadcast(j->all, first, sizeof(first), 0);
    if (memcmp(first, j->weights, sizeof(first)) != 0)
        st = fail(ST_FORMAT,
                  "%s has other weights on the node of rank %d than on that of rank 0: copy the "
                  "same checkpoint to all nodes",
                  j->checkpoint.path, j->all->rank);
    return agree(j->all, st);
}

status job_same_weights(const struct job *j, const char *weights, const char *path)
{
    int length = 0;
    const char *part = request_other_weights(weights, j->weights, &length);

    if (part == NULL)
        return ST_OK;
    return fail(ST_USAGE,
                "%s was made with other weights of the %.*s than those of %s: pass the "
                "--ckpt_dir and the LoRAs of that run",
                path, length, part, j->checkpoint.path);
}

status job_check_groups(int groups, int ranks)
{
    char numbers[64] = "";
    size_t used = 0;

    if (ranks % groups == 0)
        return ST_OK;
    for (int i = 1; i <= ranks && used + 16 < sizeof(numbers); i++)
        if (ranks % i == 0)
            used += (size_t)snprintf(numbers + used, sizeof(numbers) - used, "%s%d",
                                     i > 1 ? ", " : "", i);
    return fail(ST_USAGE,
                "--groups %d does not divide the %d rank%s of this job: all groups have the same "
                "size; choose of %s",
                groups, ranks, ranks > 1 ? "s" : "", numbers);
}

/* Sets j->world to the ranks of this rank's group. Collective. */
static status form_groups(struct job *j, struct world *w, int groups)
{
    j->groups = groups;
    if (groups == 1)
        return ST_OK;
    TRY(job_check_groups(groups, w->size));
    TRY(agree(w, world_divide(&j->group_world, w, groups)));
    j->world = &j->group_world;
    j->group = w->rank / j->world->size;
    return ST_OK;
}

/* device_watch: while a group waits for its GPUs, rank 0 answers the queue, and all find out
 * whether another rank is silent. A group of one rank has no transfers that would do so. */
static status wait_for_gpu(void *payload)
{
    (void)payload;
    return watch_wait("the GPU");
}

static void nothing_freed(void *payload, void *p)
{
    (void)payload;
    (void)p;
}

static void watch_device(struct job *j)
{
    j->watch = (struct device_watch){ .waiting = wait_for_gpu, .freeing = nothing_freed };
    if (j->groups > 1)
        device_watch_add(&j->dev, &j->watch);
}

status job_open(struct job *j, struct world *w, const struct request *r)
{
    struct placement_node node;
    char bus[32] = "";
    int64_t host_free;
    int gpu = 0;

    *j = (struct job){ .all = w, .world = w };
    w->deadline_s = r->timeout_s;
    alive_at("opening", -1);
    progress_init(&j->progress, stderr, w->rank == 0);
    TRY(form_groups(j, w, r->groups > 0 ? r->groups : 1));
    job_hook(j);
    if (r->device == USE_CUDA)
        TRY(agree(w, find_gpu(j, &gpu, bus, sizeof(bus))));
    TRY(placement_detect(w, bus[0] != 0 ? bus : NULL, &node));
    TRY(agree(w, open_local(j, r, &node, gpu)));
    TRY(agree(w, read_digests(j)));
    TRY(compare_weights(j));
    watch_device(j);
    j->resident = resident_now();
    host_free = cgroup_memory("");
    j->host_free = host_free >= 0 ? (double)host_free : INFINITY;
    return job_devices(j);
}

void job_close(struct job *j)
{
    tokenizer_close(j->tokenizer);
    checkpoint_close(&j->checkpoint);
    for (int i = 0; i < EXPERTS_MAX; i++)
        lora_close(j->lora[i]);
    device_close(&j->dev);
    alive_hook_remove(&j->hook);
    world_join(&j->group_world);
    *j = (struct job){ 0 };
}

/* Number of blocks that have at most `params` parameters together with what always stays on the
 * device. */
static status blocks_of(int *blocks, const struct dit_config *c, enum dtype cdt, int64_t params)
{
    struct tensor_list list = { 0 };
    int64_t rest = params, block = 0, number;
    status st;

    dit_tensors(&list, c, cdt, (struct dit_matmul){ 0 });
    TRY_OUT(tensors_status(&list));
    for (int i = 0; i < list.stack_count; i++) {
        const struct tensor_stack *s = &list.stacks[i];
        int64_t unit = 0;

        for (int k = 0; k < s->count; k++) {
            const struct weight_spec *t = &tensors_of(&list, s)[k];

            unit += tensor_count(tensor_dims(NULL, t->dtype, t->ndim, t->dim));
        }
        if (s->keep == TENSORS_SHARDED && s->units == c->layers)
            block += unit;
        else if (s->keep == TENSORS_RESIDENT || s->keep == TENSORS_LOCAL)
            rest -= unit * s->units;
    }
    number = rest > 0 ? rest / block : 0;
    *blocks = number < c->layers ? (int)number : c->layers;
out:
    tensors_done(&list);
    return st;
}

/* Where the blocks are, as far as the flags say. */
static status find_offload(struct plan_input *plan, const struct request *r)
{
    plan->limited = request_vram(r) > 0;
    if (r->num_persistent_param_in_dit < 0)
        return ST_OK;
    plan->offload = r->offload_device == OFFLOAD_TO_DISK ? OFFLOAD_FILE : OFFLOAD_HOST;
    return blocks_of(&plan->resident, model_dit(&plan->model), plan->cdt,
                     r->num_persistent_param_in_dit);
}

/* The sizes that the request leaves open. Both branches are computed on different ranks, if these
 * can share the sequence in the steps that have one branch. */
static status find_mesh(struct plan_input *plan, const struct request *r)
{
    struct mesh_shape given = { r->cfg_size, r->ring_size, r->ulysses_size };

    if (plan->guidance.three) { // all ranks share the sequence of each branch
        if (given.cfg == 2)
            return fail(ST_USAGE,
                        "--cfg_size 2: the guidance of task %s has three branches; remove it",
                        r->task_name);
        given.cfg = 1;
        return plan_choose_mesh(plan, given, false);
    }
    if (plan_has_single(plan) && (plan->guided || given.cfg == 2) &&
        plan_choose_mesh(plan, given, true) == ST_OK) {
        plan_join(plan);
        if (plan->joined.cfg != 0)
            return ST_OK;
    }
    if (given.cfg == 0 && plan_has_single(plan))
        given.cfg = 1;
    return plan_choose_mesh(plan, given, plan->guided);
}

/* [first, end) without `exact` of each end, of `count` steps or blocks. */
static status inner_range(int *first, int *end, const int *exact, int by_default, int count,
                          const char *what)
{
    *first = exact[0] >= 0 ? exact[0] : by_default;
    *end = count - (exact[1] >= 0 ? exact[1] : by_default);
    if (*first < *end)
        return ST_OK;
    return fail(ST_USAGE,
                "--attention 8bit: of %d %s the first %d and the last %d stay exact, which leaves "
                "none: pass a smaller --attention_exact_%s FIRST,LAST",
                count, what, *first, count - *end, what);
}

/* The options of sparse self attention: which weights have it, and the fields that are set. */
static const struct {
    const char *flag, *weights;
    size_t given, value; // of struct request, of struct dit_sparsity
} sparse_options[] = {
    { "vsa_sparsity", "FastWan's weights with VSA (to_gate_compress)",
      offsetof(struct request, vsa_sparsity), offsetof(struct dit_sparsity, vsa) },
    { "sla_topk", "TurboWan's weights with SLA (proj_l)", offsetof(struct request, sla_topk),
      offsetof(struct dit_sparsity, sla_topk) },
};

bool job_wants_sparse(const struct request *r, const struct sparse_kind *kind)
{
    for (size_t i = 0; i < COUNT(sparse_options); i++)
        if (strcmp(kind->flag, sparse_options[i].flag) == 0)
            return *(const double *)((const char *)r + sparse_options[i].given) >= 0;
    return false;
}

/* How much of sparse self attention is computed. */
static status find_sparsity(struct plan_input *plan, const struct request *r)
{
    const struct dit_config *dit = model_dit(&plan->model);
    const struct sparse_kind *kind = dit_sparse_kind(dit);

    plan->self_attention.sparsity = dit_default_sparsity(dit);
    for (size_t i = 0; i < COUNT(sparse_options); i++) {
        const double given = *(const double *)((const char *)r + sparse_options[i].given);

        if (given < 0)
            continue;
        if (kind == NULL || strcmp(kind->flag, sparse_options[i].flag) != 0)
            return fail(ST_USAGE,
                        "--%s is for %s, and this transformer has no such tensors: remove it",
                        sparse_options[i].flag, sparse_options[i].weights);
        *(double *)((char *)&plan->self_attention.sparsity + sparse_options[i].value) = given;
    }
    return ST_OK;
}

status job_attention8(struct plan_input *plan, const int exact_steps[2], const int exact_blocks[2])
{
    const struct dit_config *dit = model_dit(&plan->model);
    const struct sparse_kind *kind = dit_sparse_kind(dit);
    struct self_attention *a = &plan->self_attention;

    if (kind != NULL)
        return fail(ST_USAGE,
                    "--attention 8bit is for attention to all tokens, and this transformer's is "
                    "sparse (%s): remove it",
                    kind->name);
    if (plan->gpu && plan->cdt != DT_BF16)
        return fail(ST_USAGE, "--attention 8bit on GPUs is for --precision bf16");
    if (plan->gpu && dit->dim / dit->heads != 128)
        return fail(ST_USAGE,
                    "--attention 8bit on GPUs is for heads of 128; this model's have %lld",
                    (long long)(dit->dim / dit->heads));
    TRY(inner_range(&a->first_step, &a->end_step, exact_steps, (plan->steps + 9) / 10, plan->steps,
                    "steps"));
    return inner_range(&a->first_block, &a->end_block, exact_blocks, 2, dit->layers, "blocks");
}

/* The first step of the second expert. */
static status find_low_steps(struct plan_input *plan, const struct request *r)
{
    struct schedule s;

    TRY(request_schedule(&s, r));
    plan->low_from = request_low_from(r, &s);
    schedule_done(&s);
    return ST_OK;
}

status job_plan_input(struct plan_input *plan, const struct request *r, const struct model *model,
                      const struct table *table, int ranks, int ranks_per_node, int prompts)
{
    const struct vae_config *vae = model_vae(model);
    const struct dit_config *dit = model_dit(model);
    const int kept = r->matmul != MATMUL_FP8      ? 0
                     : r->matmul_bf16_blocks >= 0 ? r->matmul_bf16_blocks
                                                  : dit_default_kept(dit);
    const struct task_inputs inputs = request_inputs(r);
    const struct vae_tiling tiles = { r->tile_size[0], r->tile_size[1], r->tile_stride[0],
                                      r->tile_stride[1] };

    if (2 * kept >= dit->layers)
        return fail(ST_USAGE,
                    "--matmul_bf16_blocks %d leaves none of the %d blocks in fp8: pass a smaller "
                    "number, or leave out --matmul fp8",
                    kept, dit->layers);
    if (r->video_size[0] % (2 * vae->stride) != 0 || r->video_size[1] % (2 * vae->stride) != 0)
        return fail(ST_USAGE, "--size %d*%d: width and height must be multiples of %lld",
                    r->video_size[0], r->video_size[1], (long long)(2 * vae->stride));
    *plan = (struct plan_input){
        .model = *model,
        .latent = latent_of_video(vae, r->video_size[0], r->video_size[1], r->video_frames),
        .prepended = r->task->prepends ? r->references : 0,
        .appended = r->task->appends ? r->references : 0,
        .steps = r->steps,
        .low_from = r->steps,
        .experts = r->experts >= 0 ? (enum expert_memory)r->experts : EXPERTS_BOTH,
        .guided = request_guided(r),
        .cond_only = !request_guided(r),
        .guidance = request_guidance(r),
        .windows = request_windows(r),
        .solver = (enum solver_kind)r->sample_solver,
        .ranks = ranks,
        .ranks_per_node = ranks_per_node,
        .cdt = r->precision == PRECISION_BF16 ? DT_BF16 : DT_F32,
        .matmul = { r->matmul == MATMUL_FP8, kept },
        .vae_dtype = vae_precision(r->vae_precision),
        .fsdp = r->dit_fsdp == 1,
        .as_stored = r->weight_storage == WEIGHTS_AS_STORED,
        .t5_stored = DT_BF16,
        .prompts = prompts,
        .text_rows = (int)dit->text_len,
        .t5_cpu = r->t5_cpu && r->device == USE_CUDA,
        .t5_fsdp = r->t5_fsdp && ranks > 1,
        .threads = r->threads > 0 ? r->threads : 16,
        .gpu = r->device == USE_CUDA,
        .saves = r->run_file != NULL,
        .decode = true,
        .table = table,
    };
    plan->latent.t += plan->prepended + plan->appended;
    if (r->clip_count > 0)
        plan->latent.t = r->infer_frames / vae->stride_t;
    plan->keep_models = r->clip_count > 1 && r->offload_model != 1; // from clip to clip
    if (r->tiled)
        plan->tiling = tiles;
    if (r->tiled_encode)
        plan->encode_tiling = tiles;
    TRY(find_low_steps(plan, r));
    TRY(request_cache(r, &plan->cache));
    TRY(find_sparsity(plan, r));
    TRY(find_mesh(plan, r));
    TRY(find_offload(plan, r));
    if (r->attention == ATTENTION_8BIT)
        TRY(job_attention8(plan, r->attention_exact_steps, r->attention_exact_blocks));
    return condition_task(r->task, NULL, plan, &inputs, &plan->conditioning);
}

/* Data type of umT5's matrices in memory: bf16 if their file has bf16, else the compute type. */
static enum dtype t5_stored(struct checkpoint *c, enum dtype cdt)
{
    const struct tensorfile *f = checkpoint_file(c, &part_t5);
    const struct file_tensor *t =
        f->count > 0 ? tensorfile_find(f, "blocks.0.attn.q.weight") : NULL;

    return t != NULL && t->shape.dtype == DT_BF16 ? DT_BF16 : cdt;
}

status job_plan(struct job *j, const struct request *r, int prompts, struct plan_input *plan)
{
    TRY(job_plan_input(plan, r, &j->model, &j->table, j->world->size, j->world->local_size,
                       prompts));
    plan->t5_stored = t5_stored(&j->checkpoint, plan->cdt);
    plan->threads = j->place.threads;
    return ST_OK;
}
