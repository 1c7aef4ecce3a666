/* Sparse-linear attention: blocks of adjacent tokens attend to the blocks that are most like their
 * own, by the means of their queries and keys; linear attention to all tokens is added, through a
 * projection. The blocks are those of TurboDiffusion on Hopper, 64 queries and 128 keys.
 * Source: SLA sparse_linear_attention/core.py, and TurboDiffusion turbodiffusion/SLA/core.py,
 * SageSparseLinearAttention. */
#include "model/transformer/dit_internal.h"

#include <stdlib.h>

#define QUERIES 64
#define KEYS 128

static void sla_tensors(struct tensor_list *l, const struct dit_config *c, emit_linear *linear,
                        enum dtype cdt)
{
    const int64_t depth = c->dim / c->heads;

    tensors_linear(l, "self_attn.attn_op.local_attn.proj_l", offsetof(struct dit_block, linear),
                   depth, depth, DT_F32);
}

static struct sparse_tiles count_tiles(struct dit_sparsity s, int64_t f, int64_t h, int64_t w)
{
    const int64_t tokens = f * h * w, count = (tokens + KEYS - 1) / KEYS;

    return (struct sparse_tiles){ .q = (tokens + QUERIES - 1) / QUERIES,
                                  .k = count,
                                  .kept = sparse_kept((int64_t)(s.sla_topk * (double)count), count),
                                  .q_rows = QUERIES,
                                  .k_rows = KEYS };
}

/* The first rows of `count` blocks of `rows` tokens, and their end: i32 [count + 1]. */
static status make_blocks(struct tensor *first, struct device *dev, struct arena *a, int64_t count,
                          int64_t rows, int64_t tokens)
{
    int32_t *host = malloc((size_t)(count + 1) * sizeof(*host));
    status st;

    if (host == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for %lld blocks", (long long)count);
    for (int64_t i = 0; i <= count; i++)
        host[i] = (int32_t)(i < count ? i * rows : tokens);
    TRY_OUT(arena_take(a, first, DT_I32, count + 1));
    TRY_OUT(device_upload(dev, *first, host));
out:
    free(host);
    return st;
}

static status sla_begin(struct dit_run *r, struct tensor *data, const struct dit_input *in,
                        struct arena *a, struct arena *step)
{
    const struct sparse_tiles n = count_tiles(in->self_attention.sparsity, 1, 1, r->tokens);
    struct attention_tiles *t = &r->tiles;

    *t = (struct attention_tiles){ .q_rows = n.q_rows, .k_rows = n.k_rows, .kept = n.kept };
    TRY(make_blocks(&t->q_first, r->m->dev, a, n.q, QUERIES, r->tokens));
    return make_blocks(&t->k_first, r->m->dev, a, n.k, KEYS, r->tokens);
}

static const struct sparse_kind sla = {
    .name = "SLA", .title = "sparse-linear attention", .flag = "sla_topk", .count = count_tiles
};
static const struct feature_hooks sla_hooks = { .begin = sla_begin };

const struct feature feature_sla = { .name = "projection of sparse-linear attention (TurboWan)",
                                     .detected_by = "blocks.0.self_attn.attn_op.local_attn.",
                                     .block_tensors = sla_tensors,
                                     .any_task = true,
                                     .sparse = &sla,
                                     .hooks = &sla_hooks };
