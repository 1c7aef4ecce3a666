#include "model/transformer/dit.h"

#include "model/transformer/dit_internal.h"
#include "parallel/split.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- parameters ---- */

/* The root's tensors, in the order of root_specs. */
enum {
    PATCH_W,
    PATCH_B,
    TEXT0_W,
    TEXT0_B,
    TEXT2_W,
    TEXT2_B,
    TIME0_W,
    TIME0_B,
    TIME2_W,
    TIME2_B,
    TIME_MOD_W,
    TIME_MOD_B,
    HEAD_W,
    HEAD_B,
    HEAD_MOD
};

#define MATRIX(of, dt, rows, cols)                                                                 \
    {                                                                                              \
        .name = of, .dtype = dt, .ndim = 2, .dim = { rows, cols }                                  \
    }
#define VECTOR(of, dt, rows)                                                                       \
    {                                                                                              \
        .name = of, .dtype = dt, .ndim = 1, .dim = { rows }                                        \
    }

static void root_specs(struct weight_spec specs[DIT_ROOT_TENSORS], const struct dit_config *config,
                       enum dtype cdt)
{
    const int64_t c = config->dim;
    const struct weight_spec all[] = {
        MATRIX("patch:patch_embedding.weight", cdt, c, 4 * config->in_dim),
        VECTOR("patch_embedding.bias", cdt, c),
        MATRIX("text_embedding.0.weight", cdt, c, config->text_dim),
        VECTOR("text_embedding.0.bias", cdt, c),
        MATRIX("text_embedding.2.weight", cdt, c, c),
        VECTOR("text_embedding.2.bias", cdt, c),
        MATRIX("time_embedding.0.weight", DT_F32, c, config->freq_dim),
        VECTOR("time_embedding.0.bias", DT_F32, c),
        MATRIX("time_embedding.2.weight", DT_F32, c, c),
        VECTOR("time_embedding.2.bias", DT_F32, c),
        MATRIX("time_projection.1.weight", DT_F32, 6 * c, c),
        VECTOR("time_projection.1.bias", DT_F32, 6 * c),
        MATRIX("head.head.weight", DT_F32, 4 * config->out_dim, c),
        VECTOR("head.head.bias", DT_F32, 4 * config->out_dim),
        MATRIX("head.modulation", DT_F32, 2, c),
    };

    static_assert(COUNT(all) == DIT_ROOT_TENSORS, "one spec per tensor");
    memcpy(specs, all, sizeof(all));
}

static status check_config(const struct dit_config *c)
{
    if (c->kind != DIT_T2V)
        return fail(ST_USAGE, "a transformer of kind %s needs more than text; only T2V is known",
                    dit_kind_name(c->kind));
    if (c->heads < 1 || c->layers < 1 || c->dim < 1 || c->dim % (2 * c->heads) != 0)
        return fail(ST_FORMAT, "%lld channels do not make %d heads of even size in %d layers",
                    (long long)c->dim, c->heads, c->layers);
    if (c->freq_dim < 2 || c->freq_dim % 2 != 0)
        return fail(ST_FORMAT, "freq_dim is %lld; it must be even", (long long)c->freq_dim);
    return ST_OK;
}

status dit_open(struct dit *m, const struct dit_config *config, struct mesh *mesh,
                struct device *dev, struct arena *a, enum dtype cdt, bool fsdp,
                struct weight_source source)
{
    const int64_t c = config->dim;
    const struct weight_spec modulation = MATRIX("blocks.%d.modulation", DT_F32, 6, c);
    struct weight_spec root[DIT_ROOT_TENSORS], block[DIT_BLOCK_TENSORS];
    struct weight_spec text[DIT_TEXT_TENSORS];
    const enum weights_mode mode = fsdp ? WEIGHTS_SHARDED : WEIGHTS_RESIDENT;
    struct group *all;
    status st;

    *m = (struct dit){ .config = *config, .cdt = cdt, .dev = dev, .mesh = mesh };
    TRY_OUT(check_config(config));
    all = &mesh->all;
    root_specs(root, config, cdt);
    text_specs(text, config, cdt);
    block_specs(block, config, cdt);
    TRY_OUT(weights_open(&m->root, a, WEIGHTS_RESIDENT, all, 1, root, DIT_ROOT_TENSORS, source));
    TRY_OUT(weights_open(&m->modulation, a, WEIGHTS_RESIDENT, NULL, config->layers, &modulation, 1,
                         source));
    TRY_OUT(weights_open(&m->text, a, mode, all, config->layers, text, DIT_TEXT_TENSORS, source));
    TRY_OUT(
        weights_open(&m->blocks, a, mode, all, config->layers, block, DIT_BLOCK_TENSORS, source));
out:
    if (st != ST_OK)
        dit_close(m);
    return st;
}

status dit_complete(struct dit *m)
{
    TRY(weights_complete(&m->root));
    TRY(weights_complete(&m->text));
    return weights_complete(&m->blocks);
}

void dit_close(struct dit *m)
{
    weights_close(&m->blocks);
    weights_close(&m->text);
    weights_close(&m->modulation);
    weights_close(&m->root);
    *m = (struct dit){ 0 };
}

/* ---- what a run makes once ---- */

/* (cos, sin) of every pair of a head at every position, as [G, D/2, 2]. Axes have their own rates:
 * an axis of n pairs turns by 10000^(-i/n) per position. */
static status make_rope(struct dit_run *r, struct arena *a)
{
    const struct token_grid *g = &r->grid;
    const int64_t pairs = r->m->config.dim / r->m->config.heads / 2, side = pairs / 3;
    const int64_t longer = g->h > g->w ? g->h : g->w, count = g->f > longer ? g->f : longer;
    const int64_t axis_pairs[3] = { pairs - 2 * side, side, side };
    float *table = malloc((size_t)(count * pairs) * 2 * sizeof(*table));
    status st;

    if (table == NULL)
        return fail(ST_MEMORY, "no memory for rotary angles of %lld positions", (long long)count);
    for (int64_t p = 0; p < count; p++) {
        float *to = table + p * pairs * 2;

        for (int axis = 0; axis < 3; axis++) {
            for (int64_t i = 0; i < axis_pairs[axis]; i++) {
                const double angle =
                    (double)p * (1 / pow(10000, (double)i / (double)axis_pairs[axis]));
                *to++ = (float)cos(angle);
                *to++ = (float)sin(angle);
            }
        }
    }
    TRY_OUT(arena_take(a, &r->rope, DT_F32, count, pairs, 2));
    TRY_OUT(device_upload(r->m->dev, r->rope, table));
out:
    free(table);
    return st;
}

/* Sinusoids of the times, f64 rounded to f32: first all cosines, then all sines. */
static status make_sinusoid(struct device *dev, struct tensor out, const float *timestep)
{
    const int64_t steps = out.dim[0], half = out.dim[1] / 2;
    float *host = malloc(tensor_bytes(out));
    status st;

    if (host == NULL)
        return fail(ST_MEMORY, "no memory for the sinusoids of %lld steps", (long long)steps);
    for (int64_t s = 0; s < steps; s++) {
        for (int64_t i = 0; i < half; i++) {
            const double angle = timestep[s] * pow(10000, -(double)i / (double)half);
            host[s * 2 * half + i] = (float)cos(angle);
            host[s * 2 * half + half + i] = (float)sin(angle);
        }
    }
    st = device_upload(dev, out, host);
    free(host);
    return st;
}

/* e and e0 of all steps, in f32 whatever cdt is. */
static status make_time(struct dit_run *r, struct arena *a, struct arena *step,
                        const struct tensor *root, const float *timestep)
{
    const struct dit_config *c = &r->m->config;
    struct device *dev = r->m->dev;
    const size_t mark = step->used;
    struct tensor wave = { 0 }, mid = { 0 };
    status st;

    TRY_OUT(arena_take(a, &r->time, DT_F32, r->steps, c->dim));
    TRY_OUT(arena_take(a, &r->time_mod, DT_F32, r->steps, 6 * c->dim));
    TRY_OUT(arena_take(step, &wave, DT_F32, r->steps, c->freq_dim));
    TRY_OUT(arena_take(step, &mid, DT_F32, r->steps, c->dim));
    TRY_OUT(make_sinusoid(dev, wave, timestep));
    TRY_OUT(op_gemm(dev, mid, wave, root[TIME0_W], root[TIME0_B], ACT_SILU));
    TRY_OUT(op_gemm(dev, r->time, mid, root[TIME2_W], root[TIME2_B], ACT_NONE));
    TRY_OUT(op_silu(dev, mid, r->time));
    TRY_OUT(op_gemm(dev, r->time_mod, mid, root[TIME_MOD_W], root[TIME_MOD_B], ACT_NONE));
out:
    arena_release(step, mark);
    return st;
}

/* The blocks' modulation parameters as one matrix, so that a step adds its e0 to all at once. */
static status make_block_mod(struct dit_run *r, struct arena *a)
{
    struct dit *m = r->m;

    TRY(arena_take(a, &r->block_mod, DT_F32, m->config.layers, 6 * m->config.dim));
    for (int l = 0; l < m->config.layers; l++) {
        struct tensor one;

        TRY(weights_acquire(&m->modulation, l, -1, &one));
        TRY(op_copy(m->dev, tensor_at(r->block_mod, l), tensor_reshape(one, 6 * m->config.dim)));
    }
    return ST_OK;
}

/* One side's text through the embedding, text_len rows of it: those behind the text are zeros
 * going in, not coming out. */
static status make_context(struct dit_run *r, struct arena *a, struct arena *step,
                           const struct tensor *root, int side, struct tensor text)
{
    const struct dit_config *c = &r->m->config;
    struct device *dev = r->m->dev;
    const enum dtype cdt = r->m->cdt;
    const size_t mark = step->used;
    struct tensor rows = { 0 }, in = { 0 }, mid = { 0 };
    status st;

    TRY_OUT(arena_take(a, &r->context[side], cdt, c->text_len, c->dim));
    TRY_OUT(arena_take(a, &r->text_kv[side], cdt, c->layers, c->text_len, 2 * c->dim));
    TRY_OUT(arena_take(step, &rows, DT_F32, c->text_len, c->text_dim));
    TRY_OUT(arena_take(step, &in, cdt, c->text_len, c->text_dim));
    TRY_OUT(arena_take(step, &mid, cdt, c->text_len, c->dim));
    TRY_OUT(device_zero(dev, rows));
    TRY_OUT(device_upload(dev, tensor_slice(rows, 0, 0, text.dim[0]), text.data));
    TRY_OUT(op_copy(dev, in, rows));
    TRY_OUT(op_gemm(dev, mid, in, root[TEXT0_W], root[TEXT0_B], ACT_GELU_TANH));
    TRY_OUT(op_gemm(dev, r->context[side], mid, root[TEXT2_W], root[TEXT2_B], ACT_NONE));
out:
    arena_release(step, mark);
    return st;
}

status dit_begin(struct dit_run *r, struct dit *m, struct arena *a, struct arena *step, int64_t f,
                 int64_t h, int64_t w, int steps, const float *timestep, int sides,
                 const struct tensor *text)
{
    const int part = mesh_seq_rank(m->mesh), parts = mesh_seq_size(m->mesh);
    const struct dit_config *c = &m->config;
    struct tensor root[DIT_ROOT_TENSORS];

    assert(sides == 1 || sides == 2);
    *r = (struct dit_run){ .m = m, .tokens = f * h * w, .steps = steps, .sides = sides };
    r->grid = (struct token_grid){ f, h, w, split_at(r->tokens, parts, part) };
    r->s_loc = split_count(r->tokens, parts, part);
    for (int side = 0; side < sides; side++) {
        if (text[side].ndim != 2 || text[side].dim[0] > c->text_len ||
            text[side].dim[1] != c->text_dim || text[side].dtype != DT_F32)
            return fail(ST_USAGE, "text of %s; the transformer takes up to %lld rows of %lld",
                        tensor_text(text[side]), (long long)c->text_len, (long long)c->text_dim);
    }
    TRY(weights_acquire(&m->root, 0, -1, root));
    TRY(make_rope(r, a));
    TRY(make_time(r, a, step, root, timestep));
    TRY(make_block_mod(r, a));
    for (int side = 0; side < sides; side++)
        TRY(make_context(r, a, step, root, side, text[side]));
    return ST_OK;
}

/* The text's keys and values depend on neither step nor latent. Made in the first forward, which is
 * collective, as sharded weights are gathered for it. */
static status make_text_kv(struct dit_run *r)
{
    const int layers = r->m->config.layers;

    for (int l = 0; l < layers; l++) {
        struct tensor unit[DIT_TEXT_TENSORS];

        TRY(weights_acquire(&r->m->text, l, l + 1 < layers ? l + 1 : -1, unit));
        for (int side = 0; side < r->sides; side++)
            TRY(block_text_kv(r, unit, l, side));
    }
    r->text_ready = true;
    return ST_OK;
}

/* ---- a forward ---- */

/* Which block's weights will be wanted after `layer`'s: -1 behind the last forward of the run. */
static int next_block(const struct dit_run *r, int step, int side, int layer)
{
    const int layers = r->m->config.layers;

    if (layer + 1 < layers)
        return layer + 1;
    return layers == 1 || (step == r->steps - 1 && side == r->sides - 1) ? -1 : 0;
}

/* patch = W x + b: a token's values are one row. */
static status embed(struct block_ctx *f, const struct tensor *root, struct tensor *patch,
                    struct tensor x)
{
    const struct dit *m = f->r->m;
    struct tensor in = { 0 };

    TRY(arena_take(f->a, patch, m->cdt, f->r->s_loc, m->config.dim));
    TRY(arena_take(f->a, &in, m->cdt, x.dim[0], x.dim[1]));
    TRY(op_copy(m->dev, in, x));
    return op_gemm(m->dev, *patch, in, root[PATCH_W], root[PATCH_B], ACT_NONE);
}

/* v = W (norm(x) * (1 + scale) + shift) + b, f32 throughout; x is used up. */
static status head(struct block_ctx *f, const struct tensor *root, struct tensor v, int step)
{
    const struct dit *m = f->r->m;
    struct tensor mod = { 0 }; // shift, scale

    TRY(arena_take(f->a, &mod, DT_F32, 2, m->config.dim));
    TRY(op_add_rows(m->dev, mod, root[HEAD_MOD], tensor_at(f->r->time, step)));
    TRY(op_norm_modulate(m->dev, f->x, f->x, tensor_at(mod, 1), tensor_at(mod, 0), m->config.eps));
    return op_gemm(m->dev, v, f->x, root[HEAD_W], root[HEAD_B], ACT_NONE);
}

status dit_forward(struct dit_run *r, struct arena *a, int step, int side, struct tensor v,
                   struct tensor x)
{
    struct dit *m = r->m;
    const int64_t c = m->config.dim;
    const size_t mark = a->used;
    struct tensor root[DIT_ROOT_TENSORS], unit[DIT_BLOCK_TENSORS], from = { 0 };
    struct block_ctx f = { .r = r, .a = a, .side = side };
    size_t blocks = 0;
    status st;

    assert(step < r->steps && side < r->sides && x.dim[0] == r->s_loc);
    if (!r->text_ready)
        TRY_OUT(make_text_kv(r));
    TRY_OUT(weights_acquire(&m->root, 0, -1, root));
    TRY_OUT(arena_take(a, &f.x, DT_F32, r->s_loc, c));
    TRY_OUT(arena_take(a, &f.h, m->cdt, r->s_loc, c));
    TRY_OUT(arena_take(a, &f.y, m->cdt, r->s_loc, c));
    TRY_OUT(arena_take(a, &f.mod, DT_F32, m->config.layers, 6 * c));
    TRY_OUT(op_add_rows(m->dev, f.mod, r->block_mod, tensor_at(r->time_mod, step)));
    blocks = a->used;
    TRY_OUT(embed(&f, root, &from, x));
    TRY_OUT(block_enter(&f, from));
    for (int l = 0; l < m->config.layers; l++) {
        struct block b;

        TRY_OUT(weights_acquire(&m->blocks, l, next_block(r, step, side, l), unit));
        block_from_tensors(&b, unit);
        TRY_OUT(block_self_attention(&f, &b, l, from));
        arena_release(a, blocks); // the patches, once they are in x
        from = f.x;
        TRY_OUT(block_cross_attention(&f, &b, l));
        TRY_OUT(block_feed_forward(&f, &b, l));
    }
    TRY_OUT(head(&f, root, v, step));
out:
    arena_release(a, mark);
    return st;
}

/* ---- latents and tokens ---- */

/* Offset in tokens [T * H/2 * W/2, 4C] of the value at (c, t, y, x). */
static int64_t token_offset(int64_t c, int64_t h, int64_t w, int64_t ch, int64_t t, int64_t y,
                            int64_t x)
{
    const int64_t token = (t * (h / 2) + y / 2) * (w / 2) + x / 2;

    return (token * 4 + y % 2 * 2 + x % 2) * c + ch;
}

void tokens_from_latent(float *tokens, const float *latent, int64_t c, int64_t t, int64_t h,
                        int64_t w)
{
    for (int64_t ch = 0; ch < c; ch++)
        for (int64_t i = 0; i < t; i++)
            for (int64_t y = 0; y < h; y++)
                for (int64_t x = 0; x < w; x++)
                    tokens[token_offset(c, h, w, ch, i, y, x)] = *latent++;
}

void latent_from_tokens(float *latent, const float *tokens, int64_t c, int64_t t, int64_t h,
                        int64_t w)
{
    for (int64_t ch = 0; ch < c; ch++)
        for (int64_t i = 0; i < t; i++)
            for (int64_t y = 0; y < h; y++)
                for (int64_t x = 0; x < w; x++)
                    *latent++ = tokens[token_offset(c, h, w, ch, i, y, x)];
}
