/* VACE: blocks beside the transformer's, which compute hints from a control. Block n of them is
 * computed after block n * every of the transformer, and its hint is added there.
 *
 *     c = W_before (the control's patches) + the latent's patches
 *     for each n:  c = block n of c;  x += scale * (W_after c), after block n * every
 *
 * Source: Wan2.1 wan/modules/vace_model.py, which computes all hints first. */
#include "model/checkpoint/config_json.h"
#include "model/checkpoint/describe.h"
#include "model/transformer/dit_internal.h"

#include <stdlib.h>

#define STACK_PATCH "VACE patch"
#define STACK_FIRST "VACE first block"
#define STACK_PARAMETERS "VACE modulation"
#define STACK_CONTEXT "VACE text"
#define STACK_BESIDE "VACE blocks"

struct vace_patch {
    struct linear patch; // [C, 4 c] for c channels of the control
};

struct vace_first {
    struct linear before; // [C, C]
};

struct vace_block {
    struct dit_block block;
    struct linear after; // [C, C]
};

/* Data of a run. */
enum {
    CONTROL,                              // [s_loc, C] cdt: W_before (the control's patches)
    START,                                // [s_loc, C] cdt: the same plus the latent's patches
    STREAM,                               // [s_loc, C] f32: c
    SCALE,                                // [C] f32
    PARAMETERS,                           // [n, 6C] f32: modulation parameters of the blocks
    MODULATION,                           // [n, 6C] f32 of a step, for each time
    TEXT_KV = MODULATION + SEGMENT_TIMES, // [n, text_len, 2C] cdt, for each branch
    DATA_COUNT = TEXT_KV + DIT_BRANCHES
};
_Static_assert((int)DATA_COUNT <= FEATURE_TENSORS, "data of a run");

/* The channels of the control. */
static const struct feature_width vace_widths[] = {
    { "vace_patch_embedding.weight", 5, 1, { "vace_in_dim", "vace_in_channels" } }, { NULL }
};

/* The transformer's blocks per block of VACE. */
static int every(const struct dit_config *c, const struct feature_use *use)
{
    return use->units > 0 ? (c->layers + use->units - 1) / use->units : c->layers;
}

static const struct feature_use *find_use(const struct dit *m)
{
    const struct feature_use *use = m->config.use;

    while (use->feature != &feature_vace)
        use++;
    return use;
}

static void vace_tensors(struct tensor_list *l, const struct dit_config *c,
                         const struct feature_use *use, enum dtype cdt)
{
    struct weight_spec *t;

    tensors_stack(l, STACK_PATCH, "", 1, TENSORS_RESIDENT);
    t = tensors_add(l, "vace_patch_embedding.weight", offsetof(struct vace_patch, patch.w), cdt,
                    TENSOR_DIMS(c->dim, use->width[0], 1, 2, 2));
    t->channels_last = true; // as patch_embedding
    t->ndim = 2;
    t->dim[1] = 4 * use->width[0];
    tensors_vector(l, "vace_patch_embedding.bias", offsetof(struct vace_patch, patch.b), c->dim,
                   cdt);
    tensors_stack(l, STACK_FIRST, "vace_blocks.0.", 1, TENSORS_RESIDENT);
    tensors_linear(l, "before_proj", offsetof(struct vace_first, before), c->dim, c->dim, cdt);
    dit_block_tensors(l, c, "vace_blocks.%d.", use->units, cdt, (struct dit_matmul){ 0 },
                      (struct block_stacks){ .modulation = STACK_PARAMETERS,
                                             .text = STACK_CONTEXT,
                                             .blocks = STACK_BESIDE });
    tensors_linear(l, "after_proj", offsetof(struct vace_block, after), c->dim, c->dim, cdt);
}

static void vace_config(struct cJSON *json, const struct dit_config *c,
                        const struct feature_use *use, bool diffusers)
{
    config_set_text(json, "_class_name", diffusers ? "WanVACETransformer3DModel" : "VaceWanModel");
    if (!diffusers)
        config_set_text(json, "model_type", "vace");
    if (use->units > 0)
        config_set_series(json, "vace_layers", use->units, every(c, use));
}

/* ST_FORMAT if config.json has other blocks in vace_layers than every n-th. */
static status vace_check(const struct describing *d, const struct dit_config *c,
                         const struct feature_use *use)
{
    float *layers;
    status st;

    if (use->units < 1 || (int64_t)(use->units - 1) * every(c, use) >= c->layers)
        return fail(ST_FORMAT, "%s: has %d blocks of VACE for the transformer's %d", d->file,
                    use->units, c->layers);
    layers = malloc((size_t)use->units * sizeof(*layers));
    if (layers == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for %d numbers", use->units);
    for (int n = 0; n < use->units; n++)
        layers[n] = (float)(n * every(c, use));
    TRY_OUT(describe_list(d, "vace_layers", use->units, false, layers));
    for (int n = 0; n < use->units; n++)
        if (layers[n] != (float)(n * every(c, use)))
            TRY_OUT(fail(ST_FORMAT,
                         "%s: vace_layers has %g for block %d of VACE; this version computes "
                         "%d blocks at every %d. block of the transformer",
                         d->config, (double)layers[n], n, use->units, every(c, use)));
out:
    free(layers);
    return st;
}

/* ---- one run ---- */

/* ST_USAGE if the conditioning does not have the control, in the latent's shape. */
static status check_control(const struct feature_use *use, const struct dit_input *in,
                            struct tensor control, struct tensor scale)
{
    if (control.ndim != 4 || control.dim[0] != use->width[0] || control.dim[1] != in->f ||
        control.dim[2] != 2 * in->h || control.dim[3] != 2 * in->w)
        return fail(ST_USAGE,
                    "'%s' is %s; the transformer needs %lld channels, and %lld frames of %lld x "
                    "%lld as the latent",
                    CONDITION_VACE, tensor_text(control), (long long)use->width[0],
                    (long long)in->f, (long long)(2 * in->h), (long long)(2 * in->w));
    if (scale.ndim != 1 || scale.dim[0] != 1)
        return fail(ST_USAGE, "'%s' is %s; it is one number", CONDITION_VACE_SCALE,
                    tensor_text(scale));
    return ST_OK;
}

/* W_before (patches of the control). Tokens that are not of the latent have none. */
static status embed_control(struct dit_run *r, struct tensor out, struct tensor control,
                            struct arena *step)
{
    const int64_t c = r->m->config.dim, channels = control.dim[0], rows = r->spans.latent_rows;
    struct device *dev = r->m->dev;
    const size_t mark = step->used;
    struct tensor tokens = { 0 }, in = { 0 }, patches = { 0 };
    struct vace_patch embedding;
    struct vace_first first;
    status st;

    TRY_OUT(weights_acquire(dit_weights(r->m, STACK_PATCH), 0, -1, &embedding));
    TRY_OUT(weights_acquire(dit_weights(r->m, STACK_FIRST), 0, -1, &first));
    TRY_OUT(arena_take(step, &patches, r->m->cdt, r->s_loc, c));
    TRY_OUT(arena_take(step, &in, r->m->cdt, rows, 4, channels));
    TRY_OUT(dit_upload_tokens(r, step, &tokens, control));
    TRY_OUT(op_copy(dev, in, tokens));
    TRY_OUT(device_zero(dev, patches));
    TRY_OUT(op_gemm(dev, tensor_slice(patches, 0, r->spans.latent_row, rows),
                    tensor_reshape(in, rows, 4 * channels), embedding.patch.w, embedding.patch.b,
                    ACT_NONE));
    TRY_OUT(op_gemm(dev, out, patches, first.before.w, first.before.b, ACT_NONE));
out:
    arena_release(step, mark);
    return st;
}

static status make_scale(struct dit_run *r, struct tensor out, struct tensor scale)
{
    const int64_t c = r->m->config.dim;
    float *row;
    status st;

    if (scale.data == NULL) // a plan
        return ST_OK;
    row = malloc((size_t)c * sizeof(*row));
    if (row == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for %lld values", (long long)c);
    for (int64_t i = 0; i < c; i++)
        row[i] = *(const float *)scale.data;
    st = device_upload(r->m->dev, out, row);
    free(row);
    return st;
}

static status vace_begin(struct dit_run *r, struct tensor *data, const struct dit_input *in,
                         struct arena *a, struct arena *step)
{
    const struct dit_config *c = &r->m->config;
    const struct feature_use *use = find_use(r->m);
    const struct tensor control = conditioning_find(in->conditioning, CONDITION_VACE);
    const struct tensor scale = conditioning_find(in->conditioning, CONDITION_VACE_SCALE);

    TRY(check_control(use, in, control, scale));
    TRY(arena_take(a, &data[CONTROL], r->m->cdt, r->s_loc, c->dim));
    TRY(arena_take(a, &data[START], r->m->cdt, r->s_loc, c->dim));
    TRY(arena_take(a, &data[STREAM], DT_F32, r->s_loc, c->dim));
    TRY(arena_take(a, &data[SCALE], DT_F32, c->dim));
    TRY(arena_take(a, &data[PARAMETERS], DT_F32, use->units, 6 * c->dim));
    for (int t = 0; t < SEGMENT_TIMES; t++)
        TRY(arena_take(a, &data[MODULATION + t], DT_F32, use->units, 6 * c->dim));
    for (int b = 0; b < r->branches; b++)
        TRY(arena_take(a, &data[TEXT_KV + b], r->m->cdt, use->units, c->text_len, 2 * c->dim));
    for (int n = 0; n < use->units; n++) {
        struct dit_modulation one;

        TRY(weights_acquire(dit_weights(r->m, STACK_PARAMETERS), n, -1, &one));
        TRY(op_copy(r->m->dev, tensor_at(data[PARAMETERS], n), one.mod));
    }
    TRY(make_scale(r, data[SCALE], scale));
    return embed_control(r, data[CONTROL], control, step);
}

static status vace_prepare(struct dit_run *r, struct tensor *data, struct arena *step)
{
    const int units = find_use(r->m)->units;

    for (int n = 0; n < units; n++) {
        struct dit_text unit;

        TRY(weights_acquire(dit_weights(r->m, STACK_CONTEXT), n, n + 1 < units ? n + 1 : -1,
                            &unit));
        for (int b = 0; b < r->branches; b++)
            TRY(block_kv(r, &unit, tensor_at(data[TEXT_KV + b], n), r->context[b]));
    }
    return ST_OK;
}

/* ---- one forward ---- */

static status vace_after_patch(struct block_ctx *ctx, const struct tensor *data)
{
    const struct dit_run *r = ctx->r;

    for (int t = 0; t < SEGMENT_TIMES; t++)
        if (ctx->mod[t].ndim != 0)
            TRY(op_add_rows(
                r->m->dev, data[MODULATION + t], data[PARAMETERS],
                tensor_at(r->time_mod, dit_time_row(r, ctx->step, (enum segment_time)t))));
    return op_gate_add(r->m->dev, data[START], data[CONTROL], ctx->patch, (struct tensor){ 0 });
}

static bool vace_is_after(const struct dit_config *c, const struct feature_use *use, int layer)
{
    return layer % every(c, use) == 0;
}

/* Starts to fetch the block after block n, of this or the next forward. */
static status start_next(const struct dit_run *r, int step, int branch, int n, int units)
{
    const bool last = step == r->last_step && branch == r->last_branch;

    if (n + 1 == units && (units == 1 || last))
        return ST_OK;
    return weights_start_next(dit_weights(r->m, STACK_BESIDE), (n + 1) % units);
}

static status vace_after_block(struct block_ctx *ctx, const struct tensor *data, int layer)
{
    const struct dit_run *r = ctx->r;
    const struct feature_use *use = find_use(r->m);
    const int n = layer / every(&r->m->config, use);
    struct block_ctx c = *ctx;
    struct vace_block b = { .after = { .w = { 0 } } };

    c.beside = true;
    c.every = every(&r->m->config, use);
    c.x = data[STREAM];
    c.text_kv = data[TEXT_KV + ctx->branch];
    for (int t = 0; t < SEGMENT_TIMES; t++)
        c.mod[t] = ctx->mod[t].ndim != 0 ? data[MODULATION + t] : ctx->mod[t];
    TRY(weights_acquire(dit_weights(r->m, STACK_BESIDE), n, -1, &b));
    TRY(block_enter(&c, n, n == 0 ? data[START] : c.x));
    TRY(block_self_attention(&c, &b.block, n, n == 0 ? data[START] : c.x));
    TRY(start_next(r, ctx->step, ctx->branch, n, use->units));
    TRY(block_cross_attention(&c, &b.block, n));
    TRY(block_feed_forward(&c, &b.block, n));
    TRY(op_copy(r->m->dev, c.h, c.x));
    TRY(op_gemm(r->m->dev, c.y, c.h, b.after.w, b.after.b, ACT_NONE));
    return op_gate_add(r->m->dev, ctx->x, ctx->x, c.y, data[SCALE]);
}

static status vace_follow(struct dit_run *r, int step, int layer)
{
    const struct feature_use *use = find_use(r->m);
    const int n = layer / every(&r->m->config, use);
    struct vace_block b;

    if (!vace_is_after(&r->m->config, use, layer))
        return ST_OK;
    TRY(weights_acquire(dit_weights(r->m, STACK_BESIDE), n, -1, &b));
    return start_next(r, step, 0, n, use->units);
}

static const struct feature_hooks vace_hooks = { .begin = vace_begin,
                                                 .prepare = vace_prepare,
                                                 .after_patch = vace_after_patch,
                                                 .after_block = vace_after_block,
                                                 .is_after = vace_is_after,
                                                 .follow = vace_follow };

const struct feature feature_vace = { .name = "VACE",
                                      .detected_by = "vace_patch_embedding.weight",
                                      .list = "vace_blocks.",
                                      .title = "VACE blocks",
                                      .widths = vace_widths,
                                      .tensors = vace_tensors,
                                      .config = vace_config,
                                      .check = vace_check,
                                      .hooks = &vace_hooks };
