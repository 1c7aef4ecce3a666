/* A block: self attention, cross attention to the text, feed forward. Each of them ends with the
 * norm of the next one, so that x is read once between two matrix products. Ops that depend on the
 * time run once per span; usually a rank has one.
 * Source: Wan2.1 wan/modules/model.py, WanAttentionBlock. */
#include "model/transformer/dit_internal.h"

#include "parallel/attention.h"

#include <math.h>

static status linear(struct device *dev, struct tensor out, struct tensor x, struct linear l,
                     enum act act)
{
    return op_gemm(dev, out, x, l.w, l.b, act);
}

/* The rows of a layer's modulation. */
enum { SHIFT_ATTENTION, SCALE_ATTENTION, GATE_ATTENTION, SHIFT_FFN, SCALE_FFN, GATE_FFN };

static struct tensor mod_row(const struct block_ctx *ctx, const struct span *s, int layer, int row)
{
    const int64_t c = ctx->r->m->config.dim;

    return tensor_slice(tensor_at(ctx->mod[s->time], layer), 0, row * c, c);
}

static struct tensor span_rows(struct tensor t, const struct span *s)
{
    return tensor_slice(t, 0, s->first, s->count);
}

/* A view of [S, C] as [S, N, D]. */
static struct tensor heads(const struct block_ctx *ctx, struct tensor t)
{
    return tensor_split(t, 1, ctx->r->m->config.dim / ctx->r->m->config.heads);
}

/* h = norm(from) * (1 + scale) + shift; scale and shift are rows of the layer's modulation. */
static status modulate(struct block_ctx *ctx, struct tensor from, int layer, int scale, int shift)
{
    const struct spans *spans = &ctx->r->spans;

    for (int i = 0; i < spans->count; i++) {
        const struct span *s = &spans->span[i];

        TRY(op_norm_modulate(ctx->r->m->dev, span_rows(ctx->h, s), span_rows(from, s),
                             mod_row(ctx, s, layer, scale), mod_row(ctx, s, layer, shift),
                             ctx->r->m->config.eps));
    }
    return ST_OK;
}

/* out [S, N, D] = rope(norm(x)), each row at its position in its segment's grid. */
static status norm_rope(struct block_ctx *ctx, struct tensor out, struct tensor x, struct tensor w)
{
    const struct dit_run *r = ctx->r;

    for (int i = 0; i < r->spans.count; i++) {
        const struct span *s = &r->spans.span[i];

        TRY(op_norm_rope(r->m->dev, span_rows(out, s), span_rows(x, s), w, r->m->config.eps,
                         r->rope, s->grid));
    }
    return ST_OK;
}

status block_enter(struct block_ctx *ctx, struct tensor from)
{
    return modulate(ctx, from, 0, SCALE_ATTENTION, SHIFT_ATTENTION);
}

status block_self_attention(struct block_ctx *ctx, const struct dit_block *b, int layer,
                            struct tensor from)
{
    const struct dit_run *r = ctx->r;
    struct device *dev = r->m->dev;
    const int64_t c = r->m->config.dim;
    const size_t mark = ctx->a->used;
    struct parallel_attention seq;
    struct tensor q = { 0 }, k = { 0 }, v = { 0 }, place;
    status st;

    TRY_OUT(arena_take(ctx->a, &q, r->m->cdt, r->s_loc, c));
    TRY_OUT(arena_take(ctx->a, &k, r->m->cdt, r->s_loc, c));
    TRY_OUT(arena_take(ctx->a, &v, r->m->cdt, r->s_loc, c));
    TRY_OUT(parallel_attention_open(&seq, r->mesh, dev, ctx->a, r->m->cdt, r->tokens,
                                    r->m->config.heads, c / r->m->config.heads));
    place = parallel_attention_place(&seq, ATTENTION_V, heads(ctx, v));
    v.data = place.data; // v is not stored head by head
    TRY_OUT(linear(dev, v, ctx->h, b->v, ACT_NONE));
    TRY_OUT(parallel_attention_send(&seq, ATTENTION_V, place));
    place = parallel_attention_place(&seq, ATTENTION_K, heads(ctx, k));
    TRY_OUT(linear(dev, k, ctx->h, b->k, ACT_NONE));
    TRY_OUT(norm_rope(ctx, place, k, b->norm_k));
    TRY_OUT(parallel_attention_send(&seq, ATTENTION_K, place));
    place = parallel_attention_place(&seq, ATTENTION_Q, heads(ctx, q));
    TRY_OUT(linear(dev, q, ctx->h, b->q, ACT_NONE));
    TRY_OUT(norm_rope(ctx, place, q, b->norm_q));
    TRY_OUT(parallel_attention_send(&seq, ATTENTION_Q, place));
    TRY_OUT(parallel_attention_run(&seq, heads(ctx, ctx->h)));
    TRY_OUT(linear(dev, ctx->y, ctx->h, b->o, ACT_NONE));
    for (int i = 0; i < r->spans.count; i++) {
        const struct span *s = &r->spans.span[i];

        TRY_OUT(op_add_layer_norm(dev, span_rows(ctx->h, s), span_rows(ctx->x, s),
                                  span_rows(from, s), span_rows(ctx->y, s),
                                  mod_row(ctx, s, layer, GATE_ATTENTION), b->norm3.w, b->norm3.b,
                                  r->m->config.eps));
    }
out:
    arena_release(ctx->a, mark);
    return st;
}

status block_kv(struct dit_run *r, const struct dit_text *t, struct tensor kv,
                struct tensor context)
{
    const struct tensor k = tensor_slice(kv, 1, 0, r->m->config.dim);

    TRY(linear(r->m->dev, kv, context, t->kv, ACT_NONE));
    return op_rms_norm(r->m->dev, k, k, t->norm_k, r->m->config.eps);
}

status block_attend(const struct block_ctx *ctx, struct tensor out, struct tensor q,
                    struct tensor kv)
{
    const int64_t c = ctx->r->m->config.dim;

    return op_attention(ctx->r->m->dev, heads(ctx, out), (struct tensor){ 0 }, heads(ctx, q),
                        heads(ctx, tensor_slice(kv, 1, 0, c)),
                        heads(ctx, tensor_slice(kv, 1, c, c)),
                        1 / sqrtf((float)(c / ctx->r->m->config.heads)));
}

status block_cross_attention(struct block_ctx *ctx, const struct dit_block *b, int layer)
{
    const struct dit_run *r = ctx->r;
    struct device *dev = r->m->dev;
    const struct feature_use *use = r->m->config.use;

    TRY(linear(dev, ctx->y, ctx->h, b->text_q, ACT_NONE));
    TRY(op_rms_norm(dev, ctx->y, ctx->y, b->text_norm_q, r->m->config.eps));
    TRY(block_attend(ctx, ctx->h, ctx->y, tensor_at(r->text_kv[ctx->branch], layer)));
    for (int i = 0; i < DIT_FEATURES_MAX && use[i].feature != NULL; i++)
        if (use[i].feature->hooks->cross_attention != NULL)
            TRY(use[i].feature->hooks->cross_attention(ctx, r->feature[i], layer, ctx->y));
    TRY(op_gemm_add(dev, ctx->x, ctx->h, b->text_o.w, b->text_o.b)); // cross attention has no gate
    return modulate(ctx, ctx->x, layer, SCALE_FFN, SHIFT_FFN);
}

/* Whether a feature has a hook between two blocks: then sum and norm cannot be done in one pass. */
static bool changed_after_block(const struct dit *m)
{
    for (int i = 0; i < DIT_FEATURES_MAX && m->config.use[i].feature != NULL; i++)
        if (m->config.use[i].feature->hooks->after_block != NULL)
            return true;
    return false;
}

/* The end of a block with such a feature: x += gate * y, the features' hooks, the norm of the next
 * block. */
static status end_with_features(struct block_ctx *ctx, int layer)
{
    const struct dit_run *r = ctx->r;
    const struct feature_use *use = r->m->config.use;

    for (int i = 0; i < r->spans.count; i++) {
        const struct span *s = &r->spans.span[i];

        TRY(op_gate_add(r->m->dev, span_rows(ctx->x, s), span_rows(ctx->x, s), span_rows(ctx->y, s),
                        mod_row(ctx, s, layer, GATE_FFN)));
    }
    for (int i = 0; i < DIT_FEATURES_MAX && use[i].feature != NULL; i++)
        if (use[i].feature->hooks->after_block != NULL)
            TRY(use[i].feature->hooks->after_block(ctx, r->feature[i], layer));
    return layer + 1 == r->m->config.layers
               ? ST_OK
               : modulate(ctx, ctx->x, layer + 1, SCALE_ATTENTION, SHIFT_ATTENTION);
}

/* The end of a block without: sum and norm in one pass, bitwise equal to the separate ops. */
static status end_of_block(struct block_ctx *ctx, int layer)
{
    const struct dit_run *r = ctx->r;

    for (int i = 0; i < r->spans.count; i++) {
        const struct span *s = &r->spans.span[i];
        const struct tensor sum = span_rows(ctx->x, s), y = span_rows(ctx->y, s);
        const struct tensor gate = mod_row(ctx, s, layer, GATE_FFN);

        if (layer + 1 == r->m->config.layers)
            TRY(op_gate_add(r->m->dev, sum, sum, y, gate));
        else
            TRY(op_add_norm_modulate(r->m->dev, span_rows(ctx->h, s), sum, sum, y, gate,
                                     mod_row(ctx, s, layer + 1, SCALE_ATTENTION),
                                     mod_row(ctx, s, layer + 1, SHIFT_ATTENTION),
                                     r->m->config.eps));
    }
    return ST_OK;
}

status block_feed_forward(struct block_ctx *ctx, const struct dit_block *b, int layer)
{
    const struct dit_run *r = ctx->r;
    struct device *dev = r->m->dev;
    const size_t mark = ctx->a->used;
    struct tensor wide = { 0 };
    status st;

    TRY_OUT(arena_take(ctx->a, &wide, r->m->cdt, r->s_loc, r->m->config.ffn_dim));
    TRY_OUT(linear(dev, wide, ctx->h, b->up, ACT_GELU_TANH));
    TRY_OUT(linear(dev, ctx->y, wide, b->down, ACT_NONE));
    TRY_OUT(changed_after_block(r->m) ? end_with_features(ctx, layer) : end_of_block(ctx, layer));
out:
    arena_release(ctx->a, mark);
    return st;
}
