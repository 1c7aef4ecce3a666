/* Residuals of the blocks, which step caching keeps and adds again. */
#include "model/transformer/dit_internal.h"

#include <assert.h>

bool dit_keeps(const struct dit_run *r)
{
    return r->residual[0].ndim != 0;
}

status dit_add(const struct dit_run *r, struct tensor out, struct tensor a, float coef,
               struct tensor b)
{
    return op_lincomb(r->m->dev, out, 2, (const float[]){ 1, coef },
                      (const struct tensor[]){ a, b });
}

status dit_reuse(struct dit_run *r, struct arena *a, int step, int branch, struct tensor v,
                 struct tensor x)
{
    struct block_ctx ctx = { .r = r, .a = a, .step = step, .branch = branch };
    const size_t mark = a->used;
    struct dit_root root;
    status st;

    assert(r->prepared && dit_keeps(r) && step < r->steps && branch < r->branches);
    TRY_OUT(dit_acquire_root(r->m, &root));
    TRY_OUT(arena_take(a, &ctx.x, DT_F32, r->s_loc, r->m->config.dim));
    TRY_OUT(dit_embed(&ctx, &root, x));
    TRY_OUT(op_copy(r->m->dev, ctx.x, ctx.patch));
    TRY_OUT(dit_add(r, ctx.x, ctx.x, 1, r->residual[branch]));
    TRY_OUT(dit_head(&ctx, &root, v));
out:
    arena_release(a, mark);
    return st;
}

status dit_follow(struct dit_run *r, int step)
{
    const struct feature_use *use = r->m->config.use;

    for (int l = 0; l < r->m->config.layers; l++) {
        struct dit_block b = { 0 };
        int unit;
        struct weights *w = dit_block_weights(r->m, l, &unit);

        TRY(weights_acquire(w, unit, -1, &b));
        TRY(dit_start_next(r, step, 0, l));
        for (int i = 0; i < DIT_FEATURES_MAX && use[i].feature != NULL; i++)
            if (use[i].feature->hooks->follow != NULL)
                TRY(use[i].feature->hooks->follow(r, step, l));
    }
    return ST_OK;
}
