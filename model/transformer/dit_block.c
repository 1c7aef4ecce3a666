/* A block: self attention, attention to the text, feed forward. Each ends with the norm that the
 * next begins with, so that x is read once between two products.
 * Source: Wan2.1 wan/modules/model.py, WanAttentionBlock. */
#include "model/transformer/dit_internal.h"

#include "parallel/attention.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#define MATRIX(of, rows, cols)                                                                     \
    {                                                                                              \
        .name = "blocks.%d." of ".weight", .dtype = cdt, .ndim = 2, .dim = { rows, cols }          \
    }
#define VECTOR(of, dt, rows)                                                                       \
    {                                                                                              \
        .name = "blocks.%d." of, .dtype = dt, .ndim = 1, .dim = { rows }                           \
    }
#define JOINED_MATRIX(of, rows, cols)                                                              \
    {                                                                                              \
        .name = "blocks.%d." of ".weight", .dtype = cdt, .joined = true, .ndim = 2, .dim = {       \
            rows,                                                                                  \
            cols                                                                                   \
        }                                                                                          \
    }
#define JOINED_VECTOR(of, dt, rows)                                                                \
    {                                                                                              \
        .name = "blocks.%d." of, .dtype = dt, .joined = true, .ndim = 1, .dim = { rows }           \
    }

void block_specs(struct weight_spec specs[DIT_BLOCK_TENSORS], const struct dit_config *config,
                 enum dtype cdt)
{
    const int64_t c = config->dim, f = config->ffn_dim;
    const struct weight_spec all[] = {
        MATRIX("self_attn.q", c, c),
        VECTOR("self_attn.q.bias", cdt, c),
        MATRIX("self_attn.k", c, c),
        VECTOR("self_attn.k.bias", cdt, c),
        MATRIX("self_attn.v", c, c),
        VECTOR("self_attn.v.bias", cdt, c),
        VECTOR("self_attn.norm_q.weight", DT_F32, c),
        VECTOR("self_attn.norm_k.weight", DT_F32, c),
        MATRIX("self_attn.o", c, c),
        VECTOR("self_attn.o.bias", cdt, c),
        VECTOR("norm3.weight", DT_F32, c),
        VECTOR("norm3.bias", DT_F32, c),
        MATRIX("cross_attn.q", c, c),
        VECTOR("cross_attn.q.bias", cdt, c),
        VECTOR("cross_attn.norm_q.weight", DT_F32, c),
        MATRIX("cross_attn.o", c, c),
        VECTOR("cross_attn.o.bias", DT_F32, c), // added in f32, see block_cross_attention
        MATRIX("ffn.0", f, c),
        VECTOR("ffn.0.bias", cdt, f),
        MATRIX("ffn.2", c, f),
        VECTOR("ffn.2.bias", cdt, c),
    };

    static_assert(COUNT(all) == DIT_BLOCK_TENSORS, "one spec per tensor");
    memcpy(specs, all, sizeof(all));
}

void text_specs(struct weight_spec specs[DIT_TEXT_TENSORS], const struct dit_config *config,
                enum dtype cdt)
{
    const int64_t c = config->dim;
    const struct weight_spec all[] = {
        MATRIX("cross_attn.k", c, c),
        JOINED_MATRIX("cross_attn.v", c, c),
        VECTOR("cross_attn.k.bias", cdt, c),
        JOINED_VECTOR("cross_attn.v.bias", cdt, c),
        VECTOR("cross_attn.norm_k.weight", DT_F32, c),
    };

    static_assert(COUNT(all) == DIT_TEXT_TENSORS, "one spec per tensor");
    memcpy(specs, all, sizeof(all));
}

/* Two tensors of one shape that lie behind each other: their outer axes are one. */
static struct tensor joined(const struct tensor t[2])
{
    int64_t dim[TENSOR_AXES] = { 0 };

    for (int i = 0; i < t->ndim; i++)
        dim[i] = t->dim[i];
    dim[0] *= 2;
    assert((const char *)t[1].data == (const char *)t[0].data + tensor_bytes(t[0]));
    return tensor_dims(t->data, t->dtype, t->ndim, dim);
}

void block_from_tensors(struct block *b, const struct tensor t[DIT_BLOCK_TENSORS])
{
    *b = (struct block){
        .q = { t[0], t[1] },
        .k = { t[2], t[3] },
        .v = { t[4], t[5] },
        .norm_q = t[6],
        .norm_k = t[7],
        .o = { t[8], t[9] },
        .norm_w = t[10],
        .norm_b = t[11],
        .text_q = { t[12], t[13] },
        .text_norm_q = t[14],
        .text_o = { t[15], t[16] },
        .up = { t[17], t[18] },
        .down = { t[19], t[20] },
    };
}

static status linear(struct device *dev, struct tensor out, struct tensor x, struct linear l,
                     enum act act)
{
    return op_gemm(dev, out, x, l.w, l.b, act);
}

/* The rows of a layer's modulation. */
enum { SHIFT_ATTENTION, SCALE_ATTENTION, GATE_ATTENTION, SHIFT_FFN, SCALE_FFN, GATE_FFN };

static struct tensor mod_row(const struct block_ctx *f, int layer, int row)
{
    const int64_t c = f->r->m->config.dim;

    return tensor_slice(tensor_at(f->mod, layer), 0, row * c, c);
}

/* [S, C] as heads: [S, N, D] */
static struct tensor heads(const struct block_ctx *f, struct tensor t)
{
    return tensor_split(t, 1, f->r->m->config.dim / f->r->m->config.heads);
}

status block_enter(struct block_ctx *f, struct tensor from)
{
    return op_norm_modulate(f->r->m->dev, f->h, from, mod_row(f, 0, SCALE_ATTENTION),
                            mod_row(f, 0, SHIFT_ATTENTION), f->r->m->config.eps);
}

status block_self_attention(struct block_ctx *f, const struct block *b, int layer,
                            struct tensor from)
{
    const struct dit_run *r = f->r;
    struct device *dev = r->m->dev;
    const int64_t c = r->m->config.dim;
    const float eps = r->m->config.eps;
    const size_t mark = f->a->used;
    struct sequence seq;
    struct tensor q = { 0 }, k = { 0 }, v = { 0 };
    status st;

    TRY_OUT(arena_take(f->a, &q, r->m->cdt, r->s_loc, c));
    TRY_OUT(arena_take(f->a, &k, r->m->cdt, r->s_loc, c));
    TRY_OUT(arena_take(f->a, &v, r->m->cdt, r->s_loc, c));
    TRY_OUT(sequence_open(&seq, r->m->mesh, dev, f->a, r->m->cdt, r->tokens, r->m->config.heads,
                          c / r->m->config.heads));
    TRY_OUT(linear(dev, v, f->h, b->v, ACT_NONE));
    TRY_OUT(sequence_send(&seq, SEQUENCE_V, heads(f, v)));
    TRY_OUT(linear(dev, k, f->h, b->k, ACT_NONE));
    TRY_OUT(op_norm_rope(dev, k, b->norm_k, eps, r->rope, r->grid));
    TRY_OUT(sequence_send(&seq, SEQUENCE_K, heads(f, k)));
    TRY_OUT(linear(dev, q, f->h, b->q, ACT_NONE));
    TRY_OUT(op_norm_rope(dev, q, b->norm_q, eps, r->rope, r->grid));
    TRY_OUT(sequence_send(&seq, SEQUENCE_Q, heads(f, q)));
    TRY_OUT(sequence_attention(&seq, heads(f, f->h)));
    TRY_OUT(linear(dev, f->y, f->h, b->o, ACT_NONE));
    TRY_OUT(op_add_layer_norm(dev, f->h, f->x, from, f->y, mod_row(f, layer, GATE_ATTENTION),
                              b->norm_w, b->norm_b, eps));
out:
    arena_release(f->a, mark);
    return st;
}

status block_text_kv(struct dit_run *r, const struct tensor t[DIT_TEXT_TENSORS], int layer,
                     int side)
{
    const struct linear both = { joined(t), joined(t + 2) };
    const struct tensor kv = tensor_at(r->text_kv[side], layer);
    const struct tensor k = tensor_slice(kv, 1, 0, r->m->config.dim);

    TRY(linear(r->m->dev, kv, r->context[side], both, ACT_NONE));
    return op_rms_norm(r->m->dev, k, k, t[4], r->m->config.eps);
}

status block_cross_attention(struct block_ctx *f, const struct block *b, int layer)
{
    const struct dit_run *r = f->r;
    struct device *dev = r->m->dev;
    const int64_t c = r->m->config.dim;
    const float eps = r->m->config.eps, scale = 1 / sqrtf((float)(c / r->m->config.heads));
    const struct tensor kv = tensor_at(r->text_kv[f->side], layer);
    const struct tensor k = tensor_slice(kv, 1, 0, c), v = tensor_slice(kv, 1, c, c);

    TRY(linear(dev, f->y, f->h, b->text_q, ACT_NONE));
    TRY(op_rms_norm(dev, f->y, f->y, b->text_norm_q, eps));
    TRY(op_attention(dev, heads(f, f->h), (struct tensor){ 0 }, heads(f, f->y), heads(f, k),
                     heads(f, v), scale));
    TRY(op_gemm_add(dev, f->x, f->h, b->text_o.w, b->text_o.b)); // there is no gate
    return op_norm_modulate(dev, f->h, f->x, mod_row(f, layer, SCALE_FFN),
                            mod_row(f, layer, SHIFT_FFN), eps);
}

status block_feed_forward(struct block_ctx *f, const struct block *b, int layer)
{
    const struct dit_run *r = f->r;
    struct device *dev = r->m->dev;
    const size_t mark = f->a->used;
    struct tensor wide = { 0 };
    status st;

    TRY_OUT(arena_take(f->a, &wide, r->m->cdt, r->s_loc, r->m->config.ffn_dim));
    TRY_OUT(linear(dev, wide, f->h, b->up, ACT_GELU_TANH));
    TRY_OUT(linear(dev, f->y, wide, b->down, ACT_NONE));
    if (layer + 1 == r->m->config.layers)
        TRY_OUT(op_gate_add(dev, f->x, f->x, f->y, mod_row(f, layer, GATE_FFN)));
    else
        TRY_OUT(op_add_norm_modulate(dev, f->h, f->x, f->x, f->y, mod_row(f, layer, GATE_FFN),
                                     mod_row(f, layer + 1, SCALE_ATTENTION),
                                     mod_row(f, layer + 1, SHIFT_ATTENTION), r->m->config.eps));
out:
    arena_release(f->a, mark);
    return st;
}
