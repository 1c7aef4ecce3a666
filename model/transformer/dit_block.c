/* A block: self attention, cross attention to the text, feed forward. Each of them ends with the
 * norm of the next one, so that x is read once between two matrix products. Ops that depend on the
 * time run once per span; usually a rank has one.
 * Source: Wan2.1 wan/modules/model.py, WanAttentionBlock. */
#include "model/transformer/dit_internal.h"

#include "parallel/attention.h"
#include "parallel/split.h"

#include <math.h>

static status linear(struct device *dev, struct tensor out, struct tensor x, struct linear l,
                     enum act act)
{
    return op_gemm(dev, out, x, l.w, l.b, act);
}

/* ---- products in fp8 ----
 *
 * What such a product reads is quantized by the norm that makes it, in h's memory, or afterwards.
 * The scales of its rows are in ctx->scale until the next one is quantized. */

static bool in_fp8(struct linear l)
{
    return l.w.dtype == DT_F8_E4M3;
}

/* Whether the products of a block are. */
static bool block_in_fp8(const struct block_ctx *ctx, int layer)
{
    const struct dit *m = ctx->r->m;

    return !ctx->beside && dit_block_in_fp8(&m->config, m->matmul, layer);
}

/* h as a norm quantized it. */
static struct fp8_rows fp8_h(const struct block_ctx *ctx)
{
    return (struct fp8_rows){
        tensor_of(ctx->h.data, DT_F8_E4M3, ctx->r->s_loc, ctx->r->m->config.dim), ctx->scale
    };
}

static status product(struct block_ctx *ctx, struct tensor out, struct fp8_rows x, struct linear l)
{
    return op_fp8_gemm(ctx->r->m->dev, out, x, (struct fp8_rows){ l.w, l.scale }, l.b);
}

/* out = l(h), where h is what a norm made. */
static status linear_of_h(struct block_ctx *ctx, struct tensor out, struct linear l)
{
    return in_fp8(l) ? product(ctx, out, fp8_h(ctx), l)
                     : linear(ctx->r->m->dev, out, ctx->h, l, ACT_NONE);
}

/* y = l(h), l in fp8. h is quantized into y's memory and the product is stored in h's; then they
 * are exchanged. */
static status quantize_and_multiply(struct block_ctx *ctx, struct linear l)
{
    const struct tensor h = ctx->h;
    const struct fp8_rows in = { tensor_of(ctx->y.data, DT_F8_E4M3, h.dim[0], h.dim[1]),
                                 ctx->scale };

    TRY(op_fp8_quantize(ctx->r->m->dev, in, h, ACT_NONE));
    TRY(product(ctx, h, in, l));
    ctx->h = ctx->y;
    ctx->y = h;
    return ST_OK;
}

/* ---- steps of a block ---- */

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

static struct fp8_rows span_fp8(struct fp8_rows t, const struct span *s)
{
    return (struct fp8_rows){ span_rows(t.value, s), span_rows(t.scale, s) };
}

/* h = norm(from) * (1 + scale) + shift; scale and shift are rows of the layer's modulation, whose
 * products read h. */
static status modulate(struct block_ctx *ctx, struct tensor from, int layer, int scale, int shift)
{
    const struct spans *spans = &ctx->r->spans;
    const struct dit *m = ctx->r->m;
    const bool fp8 = block_in_fp8(ctx, layer);
    const struct tensor none = { 0 };

    for (int i = 0; i < spans->count; i++) {
        const struct span *s = &spans->span[i];
        const struct tensor mul = mod_row(ctx, s, layer, scale);
        const struct tensor add = mod_row(ctx, s, layer, shift);

        if (fp8)
            TRY(op_fp8_norm(m->dev, span_fp8(fp8_h(ctx), s), none, span_rows(from, s), none, none,
                            mul, add, true, m->config.eps));
        else
            TRY(op_norm_modulate(m->dev, span_rows(ctx->h, s), span_rows(from, s), mul, add,
                                 m->config.eps));
    }
    return ST_OK;
}

/* x += gate * y, gate a row of the layer's modulation or -1 for 1; then h = modulate of x for layer
 * `of`. In one pass, bitwise equal to the separate ops. */
static status add_and_modulate(struct block_ctx *ctx, int layer, int gate, int of, int scale,
                               int shift)
{
    const struct spans *spans = &ctx->r->spans;
    const struct dit *m = ctx->r->m;
    const bool fp8 = block_in_fp8(ctx, of);

    for (int i = 0; i < spans->count; i++) {
        const struct span *s = &spans->span[i];
        const struct tensor x = span_rows(ctx->x, s), y = span_rows(ctx->y, s);
        const struct tensor mul = mod_row(ctx, s, of, scale), add = mod_row(ctx, s, of, shift);
        const struct tensor g = gate >= 0 ? mod_row(ctx, s, layer, gate) : (struct tensor){ 0 };

        if (fp8)
            TRY(op_fp8_norm(m->dev, span_fp8(fp8_h(ctx), s), x, x, y, g, mul, add, true,
                            m->config.eps));
        else
            TRY(op_add_norm_modulate(m->dev, span_rows(ctx->h, s), x, x, y, g, mul, add,
                                     m->config.eps));
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
                         r->rope[s->segment], s->grid));
    }
    return ST_OK;
}

status block_enter(struct block_ctx *ctx, int layer, struct tensor from)
{
    return modulate(ctx, from, layer, SCALE_ATTENTION, SHIFT_ATTENTION);
}

static bool uses_attention8(const struct block_ctx *ctx, int layer)
{
    const struct self_attention *a = &ctx->r->self_attention;
    const int block = layer * ctx->every;

    return ctx->step >= a->first_step && ctx->step < a->end_step && block >= a->first_block &&
           block < a->end_block;
}

/* y += the coarse attention [Tq, C] of each token's tile, times the gate of h. Then y is exchanged
 * with h, as the input of W_o. gate: scratch [s_loc, C]. */
static status add_coarse(struct block_ctx *ctx, struct linear l, struct tensor coarse,
                         struct tensor gate)
{
    const struct dit_run *r = ctx->r;
    const struct tensor h = ctx->h;
    const int64_t first = split_at(r->tokens, mesh_seq_size(r->mesh), mesh_seq_rank(r->mesh));

    TRY(linear_of_h(ctx, gate, l));
    TRY(op_add_gated_rows(r->m->dev, ctx->y, coarse,
                          tensor_slice(r->tiles.tile, 0, first, r->s_loc), gate));
    ctx->h = ctx->y;
    ctx->y = h;
    return ST_OK;
}

status block_self_attention(struct block_ctx *ctx, const struct dit_block *b, int layer,
                            struct tensor from)
{
    const struct dit_run *r = ctx->r;
    struct device *dev = r->m->dev;
    const int64_t c = r->m->config.dim;
    const size_t mark = ctx->a->used;
    const bool sparse = r->tiles.kept > 0 && !ctx->beside, coarse_too = sparse && r->tiles.coarse;
    struct parallel_attention seq;
    struct tensor q = { 0 }, k = { 0 }, v = { 0 }, coarse = { 0 }, place;
    struct attention_method method = { .eight = uses_attention8(ctx, layer),
                                       .tiles = sparse ? &r->tiles : NULL,
                                       .linear_w = b->linear.w,
                                       .linear_b = b->linear.b };
    status st;

    TRY_OUT(arena_take(ctx->a, &q, r->m->cdt, r->s_loc, c));
    TRY_OUT(arena_take(ctx->a, &k, r->m->cdt, r->s_loc, c));
    TRY_OUT(arena_take(ctx->a, &v, r->m->cdt, r->s_loc, c));
    if (coarse_too) {
        TRY_OUT(arena_take(ctx->a, &coarse, r->m->cdt, r->tiles.q_first.dim[0] - 1, c));
        method.coarse = heads(ctx, coarse);
    }
    TRY_OUT(parallel_attention_open(&seq, r->mesh, dev, ctx->a, r->m->cdt, method, r->tokens,
                                    r->m->config.heads, c / r->m->config.heads));
    place = parallel_attention_place(&seq, ATTENTION_V, heads(ctx, v));
    v.data = place.data; // v is not stored head by head
    TRY_OUT(linear_of_h(ctx, v, b->v));
    TRY_OUT(parallel_attention_send(&seq, ATTENTION_V, place));
    place = parallel_attention_place(&seq, ATTENTION_K, heads(ctx, k));
    TRY_OUT(linear_of_h(ctx, k, b->k));
    TRY_OUT(norm_rope(ctx, place, k, b->norm_k));
    TRY_OUT(parallel_attention_send(&seq, ATTENTION_K, place));
    place = parallel_attention_place(&seq, ATTENTION_Q, heads(ctx, q));
    TRY_OUT(linear_of_h(ctx, q, b->q));
    TRY_OUT(norm_rope(ctx, place, q, b->norm_q));
    TRY_OUT(parallel_attention_send(&seq, ATTENTION_Q, place));
    TRY_OUT(parallel_attention_run(&seq, heads(ctx, coarse_too ? ctx->y : ctx->h)));
    if (coarse_too)
        TRY_OUT(add_coarse(ctx, b->gate, coarse, q));
    TRY_OUT(in_fp8(b->o) ? quantize_and_multiply(ctx, b->o)
                         : linear(dev, ctx->y, ctx->h, b->o, ACT_NONE));
    for (int i = 0; i < r->spans.count; i++) {
        const struct span *s = &r->spans.span[i];
        const struct tensor sum = span_rows(ctx->x, s), y = span_rows(ctx->y, s);
        const struct tensor gate = mod_row(ctx, s, layer, GATE_ATTENTION);

        if (in_fp8(b->text_q))
            TRY_OUT(op_fp8_norm(dev, span_fp8(fp8_h(ctx), s), sum, span_rows(from, s), y, gate,
                                b->norm3.w, b->norm3.b, false, r->m->config.eps));
        else
            TRY_OUT(op_add_layer_norm(dev, span_rows(ctx->h, s), sum, span_rows(from, s), y, gate,
                                      b->norm3.w, b->norm3.b, r->m->config.eps));
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
                    struct tensor kv, int64_t equal)
{
    const int64_t c = ctx->r->m->config.dim;

    return op_attention_repeated(ctx->r->m->dev, heads(ctx, out), heads(ctx, q),
                                 heads(ctx, tensor_slice(kv, 1, 0, c)),
                                 heads(ctx, tensor_slice(kv, 1, c, c)),
                                 1 / sqrtf((float)(c / ctx->r->m->config.heads)), equal);
}

status block_cross_attention(struct block_ctx *ctx, const struct dit_block *b, int layer)
{
    const struct dit_run *r = ctx->r;
    struct device *dev = r->m->dev;
    const struct feature_use *use = r->m->config.use;
    const int64_t padding = r->padding[ctx->branch];

    TRY(linear_of_h(ctx, ctx->y, b->text_q));
    TRY(op_rms_norm(dev, ctx->y, ctx->y, b->text_norm_q, r->m->config.eps));
    TRY(block_attend(ctx, ctx->h, ctx->y, tensor_at(ctx->text_kv, layer),
                     padding > 0 ? padding : 1));
    for (int i = 0; i < DIT_FEATURES_MAX && use[i].feature != NULL && !ctx->beside; i++)
        if (use[i].feature->hooks->cross_attention != NULL)
            TRY(use[i].feature->hooks->cross_attention(ctx, r->feature[i], layer, ctx->y));
    if (in_fp8(b->text_o)) { // cross attention has no gate
        TRY(quantize_and_multiply(ctx, b->text_o));
        return add_and_modulate(ctx, layer, -1, layer, SCALE_FFN, SHIFT_FFN);
    }
    TRY(op_gemm_add(dev, ctx->x, ctx->h, b->text_o.w, b->text_o.b));
    return modulate(ctx, ctx->x, layer, SCALE_FFN, SHIFT_FFN);
}

/* Whether the feature has work between a block and the next. */
static bool changes_after(const struct dit_config *c, const struct feature_use *use, int layer)
{
    const struct feature_hooks *hooks = use->feature->hooks;

    return hooks->after_block != NULL &&
           (hooks->is_after == NULL || hooks->is_after(c, use, layer));
}

/* Whether a feature has: then sum and norm cannot be done in one pass. */
static bool changed_after_block(const struct dit *m, int layer)
{
    const struct feature_use *use = m->config.use;

    for (int i = 0; i < DIT_FEATURES_MAX && use[i].feature != NULL; i++)
        if (changes_after(&m->config, &use[i], layer))
            return true;
    return false;
}

/* x += gate * y, without a norm. */
static status add_feed_forward(struct block_ctx *ctx, int layer)
{
    const struct dit_run *r = ctx->r;

    for (int i = 0; i < r->spans.count; i++) {
        const struct span *s = &r->spans.span[i];
        const struct tensor sum = span_rows(ctx->x, s);

        TRY(op_gate_add(r->m->dev, sum, sum, span_rows(ctx->y, s),
                        mod_row(ctx, s, layer, GATE_FFN)));
    }
    return ST_OK;
}

/* The end of a block with such a feature: x += gate * y, the features' hooks, the norm of the next
 * block. */
static status end_with_features(struct block_ctx *ctx, int layer)
{
    const struct dit_run *r = ctx->r;
    const struct feature_use *use = r->m->config.use;

    TRY(add_feed_forward(ctx, layer));
    for (int i = 0; i < DIT_FEATURES_MAX && use[i].feature != NULL; i++)
        if (changes_after(&r->m->config, &use[i], layer))
            TRY(use[i].feature->hooks->after_block(ctx, r->feature[i], layer));
    return layer + 1 == r->m->config.layers
               ? ST_OK
               : modulate(ctx, ctx->x, layer + 1, SCALE_ATTENTION, SHIFT_ATTENTION);
}

static status end_of_block(struct block_ctx *ctx, int layer)
{
    if (ctx->beside)
        return add_feed_forward(ctx, layer);
    if (changed_after_block(ctx->r->m, layer))
        return end_with_features(ctx, layer);
    if (layer + 1 < ctx->r->m->config.layers)
        return add_and_modulate(ctx, layer, GATE_FFN, layer + 1, SCALE_ATTENTION, SHIFT_ATTENTION);
    return add_feed_forward(ctx, layer);
}

status block_feed_forward(struct block_ctx *ctx, const struct dit_block *b, int layer)
{
    const struct dit_run *r = ctx->r;
    struct device *dev = r->m->dev;
    const size_t mark = ctx->a->used;
    struct tensor wide = { 0 };
    struct fp8_rows narrow = { { 0 }, ctx->scale };
    status st;

    TRY_OUT(arena_take(ctx->a, &wide, r->m->cdt, r->s_loc, r->m->config.ffn_dim));
    if (in_fp8(b->up)) { // the GELU is computed where its result is quantized
        TRY_OUT(arena_take(ctx->a, &narrow.value, DT_F8_E4M3, r->s_loc, r->m->config.ffn_dim));
        TRY_OUT(linear_of_h(ctx, wide, b->up));
        TRY_OUT(op_fp8_quantize(dev, narrow, wide, ACT_GELU_TANH));
        TRY_OUT(product(ctx, ctx->y, narrow, b->down));
    } else {
        TRY_OUT(linear(dev, wide, ctx->h, b->up, ACT_GELU_TANH));
        TRY_OUT(linear(dev, ctx->y, wide, b->down, ACT_NONE));
    }
    arena_release(ctx->a, mark); // a feature may compute blocks of its own
    TRY_OUT(end_of_block(ctx, layer));
out:
    arena_release(ctx->a, mark);
    return st;
}
