#include "launch/job.h"

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define MB 1e6
#define GB 1e9

/* Bytes of this process that are in memory now. */
static size_t resident_now(void)
{
    long long pages = 0, whole = 0;
    FILE *f = fopen("/proc/self/statm", "r");

    if (f == NULL)
        return 0;
    if (fscanf(f, "%lld %lld", &whole, &pages) != 2)
        pages = 0;
    fclose(f);
    return (size_t)pages * (size_t)sysconf(_SC_PAGESIZE);
}

static size_t resident_peak(void)
{
    struct rusage use;

    return getrusage(RUSAGE_SELF, &use) == 0 ? (size_t)use.ru_maxrss * 1024 : 0;
}

void job_table(struct table *t, int ops)
{
    if (ops == OPS_REF)
        *t = table_ref;
    else
        table_cpu(t);
}

static status open_parts(struct job *j, const struct request *r)
{
    TRY(checkpoint_open(&j->checkpoint, r->ckpt_dir));
    TRY(checkpoint_part(&j->checkpoint, PART_DIT));
    TRY(checkpoint_part(&j->checkpoint, PART_VAE));
    if (r->text_file == NULL && r->resume == NULL)
        TRY(checkpoint_part(&j->checkpoint, PART_T5));
    return ST_OK;
}

static status open_local(struct job *j, const struct request *r, const struct placement_node *node)
{
    TRY(placement_choose(&j->place, node, r->threads));
    TRY(placement_bind(&j->place));
    job_table(&j->table, r->ops);
    TRY(device_open_cpu(&j->dev, j->place.threads, &j->table, j->table.workspace));
    return open_parts(j, r);
}

status job_open(struct job *j, struct world *w, const struct request *r)
{
    struct placement_node node;

    *j = (struct job){ .world = w };
    progress_init(&j->progress, stderr, w->rank == 0);
    TRY(placement_here(w, &node));
    TRY(agree(w, open_local(j, r, &node)));
    j->resident = resident_now();
    return ST_OK;
}

void job_close(struct job *j)
{
    checkpoint_close(&j->checkpoint);
    device_close(&j->dev);
    *j = (struct job){ 0 };
}

status job_plan_input(struct plan_input *plan, const struct request *r,
                      const struct model_config *config, const struct table *table, int ranks,
                      int ranks_per_node, int prompts)
{
    const struct vae_config *vae = &config->vae;
    struct mesh_shape shape = { r->cfg_size, r->ring_size, r->ulysses_size };

    if (r->size[0] % (2 * vae->stride) != 0 || r->size[1] % (2 * vae->stride) != 0)
        return fail(ST_USAGE, "--size %d*%d: width and height must be multiples of %lld",
                    r->size[0], r->size[1], (long long)(2 * vae->stride));
    *plan = (struct plan_input){
        .config = *config,
        .latent = { vae->z, 1 + (r->frame_num - 1) / vae->stride_t, r->size[1] / vae->stride,
                    r->size[0] / vae->stride },
        .steps = r->sample_steps,
        .guided = r->sample_guide_scale != 1, // at 1 v = u + (c - u) = c
        .ranks = ranks,
        .ranks_per_node = ranks_per_node,
        .cdt = r->precision == PRECISION_BF16 ? DT_BF16 : DT_F32,
        .vae_dtype = DT_F32,
        .fsdp = r->dit_fsdp == 1,
        .t5_stored = DT_BF16,
        .prompts = prompts,
        .text_rows = (int)config->dit.text_len,
        .t5_fsdp = r->t5_fsdp && ranks > 1,
        .decode = true,
        .table = table,
    };
    if (r->tiled)
        plan->tiling = (struct vae_tiling){ r->tile_size[0], r->tile_size[1], r->tile_stride[0],
                                            r->tile_stride[1] };
    TRY(mesh_choose(&shape, ranks, ranks_per_node, config->dit.heads, plan->guided));
    plan->mesh = shape;
    return ST_OK;
}

/* How umT5's matrices lie in memory: as narrow as their file has them. */
static enum dtype t5_stored(struct checkpoint *c, enum dtype cdt)
{
    const struct file_tensor *t = NULL;

    if (c->part[PART_T5].count > 0)
        t = tensorfile_find(&c->part[PART_T5], "blocks.0.attn.q.weight");
    return t != NULL && t->shape.dtype == DT_BF16 ? DT_BF16 : cdt;
}

status job_plan(struct job *j, const struct request *r, int prompts, struct plan_input *plan)
{
    TRY(job_plan_input(plan, r, &j->checkpoint.config, &j->table, j->world->size,
                       j->world->local_size, prompts));
    plan->t5_stored = t5_stored(&j->checkpoint, plan->cdt);
    return ST_OK;
}

/* What the rank will take at most beyond what it has, for all requests in turn. */
static status need(const struct plan_input *plans, int count, int rank, size_t *bytes)
{
    struct plan_rank all = { 0 }, one;

    for (int i = 0; i < count; i++) {
        TRY(plan_rank(&plans[i], rank, &one));
        plan_cover(&all, &one);
    }
    *bytes = all.device - all.workspace + all.host; // the workspace is there already
    return ST_OK;
}

static void set_fsdp(struct plan_input *plans, int count, bool fsdp)
{
    for (int i = 0; i < count; i++)
        plans[i].fsdp = fsdp;
}

status job_fit(struct job *j, const struct request *r, struct plan_input *plans, int count)
{
    struct world *w = j->world;
    const double share = (double)placement_memory() / w->local_size;
    size_t bytes = 0, sharded;
    int fsdp = plans[0].fsdp;
    status st = ST_OK;

    if (w->rank == 0 && r->dit_fsdp < 0 && w->size > 1) {
        st = need(plans, count, 0, &bytes);
        fsdp = (double)bytes > share;
    }
    TRY(agree(w, st));
    world_broadcast(w, &fsdp, sizeof(fsdp), 0);
    set_fsdp(plans, count, fsdp);
    st = need(plans, count, w->rank, &bytes);
    if (st == ST_OK && (double)bytes > share) {
        const char *hint = "take a smaller --size, fewer frames or a machine with more memory";

        if (!fsdp && w->size > 1) {
            set_fsdp(plans, count, true);
            if (need(plans, count, w->rank, &sharded) == ST_OK && (double)sharded <= share)
                hint = "--dit_fsdp would fit";
        }
        st = fail(ST_MEMORY,
                  "rank %d would take %.2f GB and has %.2f GB (%d ranks share this node): %s",
                  w->rank, (double)bytes / GB, share / GB, w->local_size, hint);
    }
    return agree(w, st);
}

void job_announce(struct job *j, const struct request *r, const struct plan_input *plan)
{
    const struct latent_shape s = plan->latent;
    const struct mesh_shape m = plan->mesh;
    struct progress *p = &j->progress;
    struct plan_rank all = { 0 }, one;

    if (j->world->rank != 0)
        return;
    for (int rank = 0; rank < plan->ranks; rank++)
        if (plan_rank(plan, rank, &one) == ST_OK)
            plan_cover(&all, &one);
    progress_line(p, "model   %s, %s (%s)", r->task_name, r->ckpt_dir, j->checkpoint.layout);
    progress_line(p,
                  "video   %d*%d, %d frames; latent %lld x %lld x %lld x %lld, %lld tokens; "
                  "%d steps, shift %g, guidance %g, seed %lld",
                  r->size[0], r->size[1], r->frame_num, (long long)s.c, (long long)s.t,
                  (long long)s.h, (long long)s.w, (long long)(s.t * (s.h / 2) * (s.w / 2)),
                  r->sample_steps, r->sample_shift, r->sample_guide_scale, (long long)r->base_seed);
    progress_line(
        p, "ranks   %d: cfg %d x ring %d x ulysses %d, %d thread%s each; transformer %s, %s",
        plan->ranks, m.cfg, m.ring, m.ulysses, j->place.threads, j->place.threads == 1 ? "" : "s",
        plan->fsdp ? "sharded" : "replicated", plan->cdt == DT_BF16 ? "bf16" : "fp32");
    progress_line(p,
                  "memory  at most %.0f MB a rank (weights %.0f, step %.0f, decode %.0f); "
                  "%.1f GB available on this node",
                  (double)(j->resident + all.device + all.host) / MB, (double)all.step.weights / MB,
                  (double)(all.step.run + all.step.scratch) / MB,
                  (double)(all.decode.weights + all.decode.scratch) / MB,
                  (double)placement_memory() / GB);
}

void job_memory(struct job *j, const struct pipeline *p)
{
    struct tensorfile *part = j->checkpoint.part;
    const size_t mine[3] = {
        resident_peak(),
        j->resident + p->sizes.device - p->sizes.workspace + p->sizes.host,
        part[PART_DIT].bytes_read + part[PART_T5].bytes_read + part[PART_VAE].bytes_read,
    };
    size_t(*all)[3] = calloc((size_t)j->world->size, sizeof(*all));

    if (agree(j->world, all != NULL ? ST_OK : fail(ST_MEMORY, "no host memory")) != ST_OK)
        goto out; // only a remark is lost
    world_gather(j->world, mine, sizeof(mine), all);
    for (int i = 0; i < j->world->size && j->world->rank == 0; i++)
        progress_line(&j->progress,
                      "memory  rank %d: peak %.0f MB, planned %.0f MB; read %.1f MB of weights", i,
                      (double)all[i][0] / MB, (double)all[i][1] / MB, (double)all[i][2] / MB);
out:
    free(all);
}
