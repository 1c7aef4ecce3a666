/* Image context: a second cross attention, to the tokens of an image encoder, with separate
 * projections for keys and values; and the position table for first and last frame (FLF2V).
 * Source: Wan2.1 wan/modules/model.py, MLPProj, WanI2VCrossAttention. */
#include "model/checkpoint/config_json.h"
#include "model/transformer/dit_internal.h"

#define EPS 1e-5f // of the embedding's norms

#define STACK_EMBEDDING "image embedding"
#define STACK_POSITIONS "frame positions"
#define STACK_IMAGE "image"

struct image_embedding {
    struct linear norm_in, norm_out; // [D], [C] f32
    struct linear up, out;           // [D, D], [C, D]
};

enum { CONTEXT, KV }; // data of a run: [rows, C] cdt, [L, rows, 2C] cdt

static void image_tensors(struct tensor_list *l, const struct dit_config *c,
                          const struct feature_use *use, enum dtype cdt)
{
    const int64_t dim = c->dim, image = c->image_dim;

    tensors_stack(l, STACK_EMBEDDING, "img_emb.", 1, TENSORS_RESIDENT);
    tensors_norm(l, "proj.0", offsetof(struct image_embedding, norm_in), image);
    tensors_linear(l, "proj.1", offsetof(struct image_embedding, up), image, image, cdt);
    tensors_linear(l, "proj.3", offsetof(struct image_embedding, out), dim, image, cdt);
    tensors_norm(l, "proj.4", offsetof(struct image_embedding, norm_out), dim);
    tensors_stack(l, STACK_IMAGE, "blocks.%d.cross_attn.", c->layers, TENSORS_ONCE);
    dit_kv_tensors(l, "k_img", "v_img", "norm_k_img", dim, cdt);
}

static void image_config(struct cJSON *json, const struct dit_config *c,
                         const struct feature_use *use, bool diffusers)
{
    if (!diffusers)
        config_set_text(json, "model_type", "i2v");
    else {
        config_set_number(json, "added_kv_proj_dim", (double)c->dim);
        config_set_number(json, "image_dim", (double)c->image_dim);
    }
}

static void position_tensors(struct tensor_list *l, const struct dit_config *c,
                             const struct feature_use *use, enum dtype cdt)
{
    struct weight_spec *t;

    tensors_stack(l, STACK_POSITIONS, "img_emb.", 1, TENSORS_RESIDENT);
    t = tensors_add(l, "emb_pos", 0, DT_F32, TENSOR_DIMS(1, c->image_positions, c->image_dim));
    t->ndim = 2;
    t->dim[0] = c->image_positions;
    t->dim[1] = c->image_dim;
}

static void position_config(struct cJSON *json, const struct dit_config *c,
                            const struct feature_use *use, bool diffusers)
{
    if (diffusers)
        config_set_number(json, "pos_embed_seq_len", (double)c->image_positions);
    else
        config_set_text(json, "model_type", "flf2v");
}

/* ST_USAGE if the conditioning does not have the tokens that the model needs. */
static status check_tokens(const struct dit_config *c, struct tensor tokens)
{
    if (tokens.ndim == 2 && tokens.dim[1] == c->image_dim &&
        (c->image_positions == 0 || c->image_positions == tokens.dim[0]))
        return ST_OK;
    if (c->image_positions == 0)
        return fail(ST_USAGE, "'%s' is %s; the transformer needs tokens of width %lld",
                    CONDITION_IMAGE, tensor_text(tokens), (long long)c->image_dim);
    return fail(ST_USAGE, "'%s' is %s; the transformer needs %lld tokens of width %lld",
                CONDITION_IMAGE, tensor_text(tokens), (long long)c->image_positions,
                (long long)c->image_dim);
}

/* The embedded tokens of the image. */
static status image_begin(struct dit_run *r, struct tensor *data, const struct dit_input *in,
                          struct arena *a, struct arena *step)
{
    const struct dit_config *c = &r->m->config;
    const struct tensor tokens = conditioning_find(in->conditioning, CONDITION_IMAGE);
    const int64_t rows = tokens.dim[0], width = c->image_dim;
    struct device *dev = r->m->dev;
    const enum dtype cdt = r->m->cdt;
    const size_t mark = step->used;
    struct tensor x = { 0 }, normed = { 0 }, mid = { 0 }, out = { 0 };
    struct image_embedding w;
    status st;

    TRY_OUT(check_tokens(c, tokens));
    TRY_OUT(arena_take(a, &data[CONTEXT], cdt, rows, c->dim));
    TRY_OUT(arena_take(a, &data[KV], cdt, c->layers, rows, 2 * c->dim));
    TRY_OUT(arena_take(step, &x, DT_F32, rows, width));
    TRY_OUT(arena_take(step, &normed, cdt, rows, width));
    TRY_OUT(arena_take(step, &mid, cdt, rows, width));
    TRY_OUT(arena_take(step, &out, cdt, rows, c->dim));
    if (tokens.data != NULL) // else a plan
        TRY_OUT(device_upload(dev, x, tokens.data));
    if (c->image_positions > 0) {
        struct tensor positions;

        TRY_OUT(weights_acquire(dit_weights(r->m, STACK_POSITIONS), 0, -1, &positions));
        TRY_OUT(op_gate_add(dev, x, x, positions, (struct tensor){ 0 }));
    }
    TRY_OUT(weights_acquire(dit_weights(r->m, STACK_EMBEDDING), 0, -1, &w));
    TRY_OUT(op_layer_norm(dev, normed, x, w.norm_in.w, w.norm_in.b, EPS));
    TRY_OUT(op_gemm(dev, mid, normed, w.up.w, w.up.b, ACT_GELU));
    TRY_OUT(op_gemm(dev, out, mid, w.out.w, w.out.b, ACT_NONE));
    TRY_OUT(op_layer_norm(dev, data[CONTEXT], out, w.norm_out.w, w.norm_out.b, EPS));
out:
    arena_release(step, mark);
    return st;
}

static status image_prepare(struct dit_run *r, struct tensor *data, struct arena *step)
{
    const int layers = r->m->config.layers;

    for (int l = 0; l < layers; l++) {
        struct dit_text unit;

        TRY(weights_acquire(dit_weights(r->m, STACK_IMAGE), l, l + 1 < layers ? l + 1 : -1, &unit));
        TRY(block_kv(r, &unit, tensor_at(data[KV], l), data[CONTEXT]));
    }
    return ST_OK;
}

static status image_attention(struct block_ctx *ctx, const struct tensor *data, int layer,
                              struct tensor q)
{
    const size_t mark = ctx->a->used;
    struct tensor image = { 0 };
    status st;

    TRY_OUT(arena_take(ctx->a, &image, q.dtype, q.dim[0], q.dim[1]));
    TRY_OUT(block_attend(ctx, image, q, tensor_at(data[KV], layer), 1));
    TRY_OUT(op_gate_add(ctx->r->m->dev, ctx->h, ctx->h, image, (struct tensor){ 0 }));
out:
    arena_release(ctx->a, mark);
    return st;
}

static const struct feature_hooks image_hooks = { .begin = image_begin,
                                                  .prepare = image_prepare,
                                                  .cross_attention = image_attention };
static const struct feature_hooks no_hooks; // the table is added in image_begin

const struct feature feature_image_context = { .name = "image context (I2V)",
                                               .detected_by = "img_emb.proj.1.weight",
                                               .tensors = image_tensors,
                                               .config = image_config,
                                               .hooks = &image_hooks };

const struct feature feature_frame_positions = { .name =
                                                     "positions of first and last frame (FLF2V)",
                                                 .detected_by = "img_emb.emb_pos",
                                                 .tensors = position_tensors,
                                                 .config = position_config,
                                                 .hooks = &no_hooks };
