#include "model/transformer/dit.h"

#include "model/transformer/dit_internal.h"
#include "parallel/split.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- parameters ---- */

static status check_config(const struct dit_config *c)
{
    TRY(dit_check_features(c, "transformer"));
    if (c->heads < 1 || c->layers < 1 || c->dim < 1 || c->dim % (2 * c->heads) != 0)
        return fail(ST_FORMAT,
                    "the transformer's width %lld does not divide into %d heads of even size (%d "
                    "layers)",
                    (long long)c->dim, c->heads, c->layers);
    if (c->freq_dim < 2 || c->freq_dim % 2 != 0)
        return fail(ST_FORMAT, "freq_dim is %lld; it must be even", (long long)c->freq_dim);
    return ST_OK;
}

status dit_open(struct dit *m, const struct dit_config *config, struct mesh *mesh,
                struct device *dev, struct arena *a, enum dtype cdt, struct dit_matmul matmul,
                struct tensors_place place, struct weight_source source)
{
    struct tensor_list list = { 0 };
    status st;

    *m = (struct dit){ .config = *config, .cdt = cdt, .matmul = matmul, .dev = dev, .mesh = mesh };
    TRY_OUT(check_config(config));
    dit_tensors(&list, config, cdt, matmul);
    TRY_OUT(tensors_status(&list));
    for (int i = 0; i < list.stack_count; i++) {
        struct dit_stack *s = &m->stack[m->stacks];

        if (list.stacks[i].keep == TENSORS_READ)
            continue;
        assert(m->stacks < DIT_STACKS_MAX);
        s->name = list.stacks[i].name;
        TRY_OUT(tensors_open(&s->weights, &list, &list.stacks[i], a, &mesh->all, place, source));
        m->stacks++;
    }
out:
    tensors_done(&list);
    if (st != ST_OK)
        dit_close(m);
    return st;
}

status dit_complete(struct dit *m)
{
    for (int i = 0; i < m->stacks; i++)
        TRY(weights_all_gather(&m->stack[i].weights));
    return ST_OK;
}

void dit_close(struct dit *m)
{
    for (int i = 0; i < m->stacks; i++)
        weights_close(&m->stack[i].weights);
    *m = (struct dit){ 0 };
}

struct weights *dit_weights(struct dit *m, const char *stack)
{
    for (int i = 0; i < m->stacks; i++)
        if (strcmp(m->stack[i].name, stack) == 0)
            return &m->stack[i].weights;
    assert(!"a stack of this name");
    return NULL;
}

status dit_acquire_root(struct dit *m, struct dit_root *root)
{
    return weights_acquire(dit_weights(m, STACK_ROOT), 0, -1, root);
}

/* ---- features ---- */

/* The hooks of the i-th feature of the model, or NULL after the last. */
static const struct feature_hooks *hooks_at(const struct dit *m, int i)
{
    return i < DIT_FEATURES_MAX && m->config.use[i].feature != NULL
               ? m->config.use[i].feature->hooks
               : NULL;
}

/* ---- computed once per run ---- */

/* Position i of n on an axis, as numpy.linspace(from, to, n) made whole. */
static double position_at(const struct segment *g, int axis, int64_t i, int64_t n)
{
    const struct segment_axis *x = &g->axis[axis];
    double step;

    if (!g->placed)
        return (double)i;
    if (n == 1 || i == 0)
        return (double)x->from;
    if (i == n - 1)
        return (double)x->to;
    step = (double)(x->to - x->from) / (double)(n - 1);
    return trunc((double)i * step + (double)x->from);
}

/* The table of rotary angles of a segment: (cos, sin) of every pair of a head at every position,
 * [G, D/2, 2]. The pairs are divided over the axes f, h, w; pair i of an axis with n pairs rotates
 * by 10000^(-i/n) per position. */
static status make_table(struct dit_run *r, struct arena *a, struct tensor *rope,
                         const struct segment *g, int64_t count)
{
    const int64_t pairs = r->m->config.dim / r->m->config.heads / 2, spatial = pairs / 3;
    const int64_t axis_pairs[3] = { pairs - 2 * spatial, spatial, spatial };
    const int64_t size[3] = { g->grid.f, g->grid.h, g->grid.w };
    float *table = malloc((size_t)(count * pairs) * 2 * sizeof(*table));
    status st;

    if (table == NULL)
        return fail(ST_MEMORY,
                    "cannot allocate host memory for the rotary angles of %lld positions",
                    (long long)count);
    for (int64_t p = 0; p < count; p++) {
        float *to = table + p * pairs * 2;

        for (int axis = 0; axis < 3; axis++) {
            const double position = position_at(g, axis, p, size[axis]);

            for (int64_t i = 0; i < axis_pairs[axis]; i++) {
                const double angle =
                    position * (1 / pow(10000, (double)i / (double)axis_pairs[axis]));
                *to++ = (float)cos(angle);
                *to++ = (float)sin(angle);
            }
        }
    }
    TRY_OUT(arena_take(a, rope, DT_F32, count, pairs, 2));
    TRY_OUT(device_upload(r->m->dev, *rope, table));
out:
    free(table);
    return st;
}

static int64_t longest_axis(const struct token_grid *g)
{
    const int64_t longer = g->h > g->w ? g->h : g->w;

    return g->f > longer ? g->f : longer;
}

/* The tables of all segments: one for those whose positions are indices. */
static status make_rope(struct dit_run *r, struct arena *a)
{
    struct tensor shared = { 0 };
    int64_t count = 0;

    for (int i = 0; i < r->segments.count; i++) {
        const struct segment *g = &r->segments.segment[i];
        const int64_t most = longest_axis(&g->grid);

        count = !g->placed && most > count ? most : count;
    }
    for (int i = 0; i < r->segments.count; i++) {
        const struct segment *g = &r->segments.segment[i];

        if (g->placed)
            TRY(make_table(r, a, &r->rope[i], g, longest_axis(&g->grid)));
        else if (shared.ndim == 0)
            TRY(make_table(r, a, &shared, g, count));
        if (!g->placed)
            r->rope[i] = shared;
    }
    return ST_OK;
}

status dit_make_sinusoid(struct device *dev, struct tensor out, const float *timestep, int steps)
{
    const int64_t rows = out.dim[0], half = out.dim[1] / 2;
    float *host = malloc(tensor_bytes(out));
    status st;

    if (host == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for the sinusoids of %lld times",
                    (long long)rows);
    for (int64_t s = 0; s < rows; s++) {
        const float t = s < steps ? timestep[s] : 0;

        for (int64_t i = 0; i < half; i++) {
            const double angle = t * pow(10000, -(double)i / (double)half);
            host[s * 2 * half + i] = (float)cos(angle);
            host[s * 2 * half + half + i] = (float)sin(angle);
        }
    }
    st = device_upload(dev, out, host);
    free(host);
    return st;
}

int dit_time_row(const struct dit_run *r, int step, enum segment_time time)
{
    return time == TIME_STEP ? step : r->steps;
}

static bool has_time(const struct segments *s, enum segment_time time)
{
    for (int i = 0; i < s->count; i++)
        if (s->segment[i].time == time)
            return true;
    return false;
}

/* The time embeddings e and e0 of all steps (official names), always in f32. */
static status make_time(struct dit_run *r, struct arena *a, struct arena *step,
                        const struct dit_root *root, const float *timestep)
{
    const struct dit_config *c = &r->m->config;
    const int rows = r->steps + has_time(&r->segments, TIME_ZERO);
    struct device *dev = r->m->dev;
    const size_t mark = step->used;
    struct tensor sinusoid = { 0 }, mid = { 0 };
    status st;

    TRY_OUT(arena_take(a, &r->time, DT_F32, rows, c->dim));
    TRY_OUT(arena_take(a, &r->time_mod, DT_F32, rows, 6 * c->dim));
    TRY_OUT(arena_take(step, &sinusoid, DT_F32, rows, c->freq_dim));
    TRY_OUT(arena_take(step, &mid, DT_F32, rows, c->dim));
    TRY_OUT(dit_make_sinusoid(dev, sinusoid, timestep, r->steps));
    TRY_OUT(op_gemm(dev, mid, sinusoid, root->time0.w, root->time0.b, ACT_SILU));
    TRY_OUT(op_gemm(dev, r->time, mid, root->time2.w, root->time2.b, ACT_NONE));
    TRY_OUT(op_silu(dev, mid, r->time));
    TRY_OUT(op_gemm(dev, r->time_mod, mid, root->time_mod.w, root->time_mod.b, ACT_NONE));
out:
    arena_release(step, mark);
    return st;
}

/* Copies the modulation parameters of all blocks into one matrix, so that a step adds its e0 to all
 * of them with one op. */
static status make_block_mod(struct dit_run *r, struct arena *a)
{
    struct dit *m = r->m;
    struct weights *modulation = dit_weights(m, STACK_MODULATION);

    TRY(arena_take(a, &r->block_mod, DT_F32, m->config.layers, 6 * m->config.dim));
    for (int l = 0; l < m->config.layers; l++) {
        struct dit_modulation one;

        TRY(weights_acquire(modulation, l, -1, &one));
        TRY(op_copy(m->dev, tensor_at(r->block_mod, l), one.mod));
    }
    return ST_OK;
}

/* The text embedding of one branch, text_len rows. Rows after the text are zeros in the input of
 * the embedding, but not in its output. */
static status make_context(struct dit_run *r, struct arena *a, struct arena *step,
                           const struct dit_root *root, int branch, struct tensor text)
{
    const struct dit_config *c = &r->m->config;
    struct device *dev = r->m->dev;
    const enum dtype cdt = r->m->cdt;
    const size_t mark = step->used;
    struct tensor rows = { 0 }, in = { 0 }, mid = { 0 };
    status st;

    TRY_OUT(arena_take(a, &r->context[branch], cdt, c->text_len, c->dim));
    TRY_OUT(arena_take(a, &r->text_kv[branch], cdt, c->layers, c->text_len, 2 * c->dim));
    TRY_OUT(arena_take(step, &rows, DT_F32, c->text_len, c->text_dim));
    TRY_OUT(arena_take(step, &in, cdt, c->text_len, c->text_dim));
    TRY_OUT(arena_take(step, &mid, cdt, c->text_len, c->dim));
    r->padding[branch] = c->text_len - text.dim[0];
    TRY_OUT(device_zero(dev, rows));
    TRY_OUT(device_upload(dev, tensor_slice(rows, 0, 0, text.dim[0]), text.data));
    TRY_OUT(op_copy(dev, in, rows));
    TRY_OUT(op_gemm(dev, mid, in, root->text0.w, root->text0.b, ACT_GELU_TANH));
    TRY_OUT(op_gemm(dev, r->context[branch], mid, root->text2.w, root->text2.b, ACT_NONE));
out:
    arena_release(step, mark);
    return st;
}

status dit_upload_tokens(struct dit_run *r, struct arena *a, struct tensor *out,
                         struct tensor whole)
{
    const int64_t c = whole.dim[0], row = 4 * c;
    float *tokens = NULL;
    status st;

    TRY_OUT(arena_take(a, out, DT_F32, r->spans.latent_rows, 4, c));
    if (whole.data == NULL) // a plan
        goto out;
    tokens = malloc(tensor_bytes(whole));
    if (tokens == NULL) {
        st = fail(ST_MEMORY, "cannot allocate %zu bytes of host memory for %lld channels",
                  tensor_bytes(whole), (long long)c);
        goto out;
    }
    tokens_from_latent(tokens, whole.data, c, whole.dim[1], whole.dim[2], whole.dim[3]);
    TRY_OUT(device_upload(r->m->dev, *out, tokens + r->spans.latent_first * row));
out:
    free(tokens);
    return st;
}

/* Checks that the conditioning has the arrays that the model needs, in the right shapes. */
static status check_conditioning(const struct dit *m, const struct dit_input *in)
{
    static const char *const texts[DIT_BRANCHES] = { CONDITION_COND, CONDITION_UNCOND };
    const struct dit_config *c = &m->config;
    const struct tensor channels = conditioning_find(in->conditioning, CONDITION_CHANNELS);
    const struct tensor clean = conditioning_find(in->conditioning, CONDITION_CLEAN);

    for (int b = in->first_branch; b < in->first_branch + in->branches; b++) {
        const struct tensor text = conditioning_find(in->conditioning, texts[b]);

        if (text.ndim != 2 || text.dim[0] > c->text_len || text.dim[1] != c->text_dim)
            return fail(
                ST_USAGE, "%s is %s; the transformer needs at most %lld rows, of width %lld",
                texts[b], tensor_text(text), (long long)c->text_len, (long long)c->text_dim);
    }
    if (channels.ndim != 0 &&
        (channels.ndim != 4 || channels.dim[0] >= c->in_dim || channels.dim[1] != in->f ||
         channels.dim[2] != 2 * in->h || channels.dim[3] != 2 * in->w))
        return fail(ST_USAGE, "'channels' is %s; the latent has %lld frames of %lld x %lld",
                    tensor_text(channels), (long long)in->f, (long long)(2 * in->h),
                    (long long)(2 * in->w));
    if (clean.ndim != 0 && (clean.ndim != 4 || clean.dim[1] > in->f))
        return fail(ST_USAGE, "'clean' is %s; the latent has %lld frames", tensor_text(clean),
                    (long long)in->f);
    return ST_OK;
}

status dit_spans(const struct dit *m, const struct dit_input *in, struct segments *segments,
                 struct spans *spans)
{
    const struct tensor clean = conditioning_find(in->conditioning, CONDITION_CLEAN);
    const struct mesh *mesh = in->mesh != NULL ? in->mesh : m->mesh;
    const struct feature_hooks *hooks;

    TRY(check_conditioning(m, in));
    segments_of_latent(segments, in->f, in->h, in->w, clean.dim[1]);
    for (int i = 0; (hooks = hooks_at(m, i)) != NULL; i++)
        if (hooks->extend != NULL)
            hooks->extend(segments, in);
    spans_of(spans, segments, mesh_seq_size(mesh), mesh_seq_rank(mesh));
    return ST_OK;
}

/* Adds the conditioning's addend to the modulation of all times. */
static status add_time_mod(struct dit_run *r, struct arena *step, struct tensor addend)
{
    const size_t mark = step->used;
    struct tensor sum = { 0 }, row = { 0 };
    status st;

    if (addend.ndim == 0)
        return ST_OK;
    if (addend.ndim != 1 || addend.dim[0] != r->time_mod.dim[1])
        return fail(ST_USAGE, "'%s' is %s; the transformer needs %lld values", CONDITION_TIME_MOD,
                    tensor_text(addend), (long long)r->time_mod.dim[1]);
    TRY_OUT(arena_take(step, &sum, DT_F32, r->time_mod.dim[0], r->time_mod.dim[1]));
    TRY_OUT(arena_take(step, &row, DT_F32, r->time_mod.dim[1]));
    if (addend.data != NULL) // else a plan
        TRY_OUT(device_upload(r->m->dev, row, addend.data));
    TRY_OUT(op_add_rows(r->m->dev, sum, r->time_mod, row));
    TRY_OUT(op_copy(r->m->dev, r->time_mod, sum));
out:
    arena_release(step, mark);
    return st;
}

status dit_begin(struct dit_run *r, struct dit *m, struct arena *a, struct arena *step,
                 const struct dit_input *in)
{
    static const char *const texts[DIT_BRANCHES] = { CONDITION_COND, CONDITION_UNCOND };
    const struct tensor channels = conditioning_find(in->conditioning, CONDITION_CHANNELS);
    const struct feature_hooks *hooks;
    struct dit_root root;

    assert(in->branches >= 1 && in->first_branch + in->branches <= DIT_BRANCHES);
    *r = (struct dit_run){
        .m = m,
        .mesh = in->mesh != NULL ? in->mesh : m->mesh,
        .steps = in->steps,
        .last_step = in->last_step,
        .last_branch = in->last_branch,
        .branches = in->branches,
        .self_attention = in->self_attention,
    };
    TRY(dit_spans(m, in, &r->segments, &r->spans));
    r->tokens = segments_tokens(&r->segments);
    r->s_loc = split_count(r->tokens, mesh_seq_size(r->mesh), mesh_seq_rank(r->mesh));
    TRY(dit_acquire_root(m, &root));
    TRY(make_rope(r, a));
    TRY(make_time(r, a, step, &root, in->timestep));
    TRY(make_block_mod(r, a));
    for (int i = 0; i < in->branches; i++)
        TRY(make_context(r, a, step, &root, i,
                         conditioning_find(in->conditioning, texts[in->first_branch + i])));
    if (channels.ndim != 0)
        TRY(dit_upload_tokens(r, a, &r->channels, channels));
    for (int i = 0; (hooks = hooks_at(m, i)) != NULL; i++)
        if (hooks->begin != NULL)
            TRY(hooks->begin(r, r->feature[i], in, a, step));
    return add_time_mod(r, step, conditioning_find(in->conditioning, CONDITION_TIME_MOD));
}

status dit_begin_view(struct dit_run *view, const struct dit_run *run, struct arena *a,
                      const struct dit_input *in)
{
    const struct feature_hooks *hooks;

    *view = *run;
    TRY(dit_spans(run->m, in, &view->segments, &view->spans));
    view->tokens = segments_tokens(&view->segments);
    view->s_loc = split_count(view->tokens, mesh_seq_size(view->mesh), mesh_seq_rank(view->mesh));
    for (int i = 0; (hooks = hooks_at(run->m, i)) != NULL; i++)
        if (run->m->config.use[i].feature->sparse != NULL) // the tiles of self attention
            TRY(hooks->begin(view, view->feature[i], in, a, a));
    return ST_OK;
}

/* Computes the text's keys and values, which do not depend on the step or the latent. Called in the
 * first forward and not in dit_begin, because it is collective with sharded weights. Features may
 * upload what they need, once: these waits are not counted as those of a step. */
static status prepare(struct dit_run *r, struct arena *step)
{
    const int64_t stops = r->m->dev->stops;
    struct weights *text = dit_weights(r->m, STACK_TEXT);
    const int layers = r->m->config.layers;
    const struct feature_hooks *hooks;

    for (int l = 0; l < layers; l++) {
        struct dit_text unit;

        TRY(weights_acquire(text, l, l + 1 < layers ? l + 1 : -1, &unit));
        for (int b = 0; b < r->branches; b++)
            TRY(block_kv(r, &unit, tensor_at(r->text_kv[b], l), r->context[b]));
    }
    for (int i = 0; (hooks = hooks_at(r->m, i)) != NULL; i++)
        if (hooks->prepare != NULL)
            TRY(hooks->prepare(r, r->feature[i], step));
    r->m->dev->stops = stops;
    r->prepared = true;
    return ST_OK;
}

/* ---- one forward ---- */

/* The block whose weights are used after those of `layer`; -1 after the last forward of the run. */
static int next_block(const struct dit_run *r, int step, int branch, int layer)
{
    const int layers = r->m->config.layers;

    if (layer + 1 < layers)
        return layer + 1;
    return layers == 1 || (step == r->last_step && branch == r->last_branch) ? -1 : 0;
}

status dit_start_next(const struct dit_run *r, int step, int branch, int layer)
{
    const int next = next_block(r, step, branch, layer);
    struct weights *w;
    int unit;

    if (next < 0)
        return ST_OK;
    w = dit_block_weights(r->m, next, &unit);
    return weights_start_next(w, unit);
}

status dit_embed(struct block_ctx *ctx, const struct dit_root *root, struct tensor x)
{
    const struct dit_run *r = ctx->r;
    const struct dit *m = r->m;
    const int64_t rows = r->spans.latent_rows, in_dim = m->config.in_dim, c = x.dim[1] / 4;
    struct tensor in = { 0 };
    const struct feature_hooks *hooks;

    TRY(arena_take(ctx->a, &ctx->patch, m->cdt, r->s_loc, m->config.dim));
    TRY(arena_take(ctx->a, &in, m->cdt, rows, 4, in_dim));
    TRY(op_copy(m->dev, tensor_slice(in, 2, 0, c), tensor_reshape(x, rows, 4, c)));
    if (r->channels.ndim != 0)
        TRY(op_copy(m->dev, tensor_slice(in, 2, c, in_dim - c), r->channels));
    TRY(op_gemm(m->dev, tensor_slice(ctx->patch, 0, r->spans.latent_row, rows),
                tensor_reshape(in, rows, 4 * in_dim), root->patch.w, root->patch.b, ACT_NONE));
    for (int i = 0; (hooks = hooks_at(m, i)) != NULL; i++)
        if (hooks->after_patch != NULL)
            TRY(hooks->after_patch(ctx, r->feature[i]));
    return ST_OK;
}

status dit_head(struct block_ctx *ctx, const struct dit_root *root, struct tensor v)
{
    const struct dit_run *r = ctx->r;
    const struct dit *m = r->m;

    for (int i = 0; i < r->spans.count; i++) {
        const struct span *s = &r->spans.span[i];
        const struct tensor rows = tensor_slice(ctx->x, 0, s->first, s->count);
        struct tensor mod = { 0 }; // shift, scale

        if (!s->latent)
            continue;
        TRY(arena_take(ctx->a, &mod, DT_F32, 2, m->config.dim));
        TRY(op_add_rows(m->dev, mod, root->head_mod,
                        tensor_at(r->time, dit_time_row(r, ctx->step, s->time))));
        TRY(op_norm_modulate(m->dev, rows, rows, tensor_at(mod, 1), tensor_at(mod, 0),
                             m->config.eps));
    }
    return op_gemm(m->dev, v, tensor_slice(ctx->x, 0, r->spans.latent_row, r->spans.latent_rows),
                   root->head.w, root->head.b, ACT_NONE);
}

/* After the first block: asks whether its change is small enough to reuse the residual of the
 * others. `before`: x before the block. */
static status decide(struct block_ctx *ctx, struct tensor before, bool *reuse)
{
    const struct dit_run *r = ctx->r;

    TRY(dit_add(r, before, ctx->x, -1, before));
    TRY(r->after_first.call(r->after_first.payload, ctx->step, ctx->branch, before, reuse));
    return *reuse ? ST_OK : op_copy(r->m->dev, r->residual[ctx->branch], ctx->x);
}

status dit_forward(struct dit_run *r, struct arena *a, int step, int branch, struct tensor v,
                   struct tensor x)
{
    struct dit *m = r->m;
    const int64_t c = m->config.dim;
    const size_t mark = a->used;
    struct block_ctx ctx = {
        .r = r, .a = a, .step = step, .branch = branch, .every = 1, .text_kv = r->text_kv[branch]
    };
    struct dit_root root;
    struct tensor before = { 0 }; // the first block, f32
    size_t before_patches = 0;
    bool reuse = false;
    status st;

    assert(step < r->steps && branch < r->branches && x.dim[0] == r->spans.latent_rows);
    assert(x.dim[1] + (r->channels.ndim != 0 ? 4 * r->channels.dim[2] : 0) == 4 * m->config.in_dim);
    if (!r->prepared)
        TRY_OUT(prepare(r, a));
    TRY_OUT(dit_acquire_root(m, &root));
    TRY_OUT(arena_take(a, &ctx.x, DT_F32, r->s_loc, c));
    TRY_OUT(arena_take(a, &ctx.h, m->cdt, r->s_loc, c));
    TRY_OUT(arena_take(a, &ctx.y, m->cdt, r->s_loc, c));
    if (m->matmul.fp8)
        TRY_OUT(arena_take(a, &ctx.scale, DT_F32, r->s_loc));
    for (int t = 0; t < SEGMENT_TIMES; t++) {
        if (!has_time(&r->segments, (enum segment_time)t))
            continue;
        TRY_OUT(arena_take(a, &ctx.mod[t], DT_F32, m->config.layers, 6 * c));
        TRY_OUT(op_add_rows(m->dev, ctx.mod[t], r->block_mod,
                            tensor_at(r->time_mod, dit_time_row(r, step, (enum segment_time)t))));
    }
    if (r->after_first.call != NULL)
        TRY_OUT(arena_take(a, &before, DT_F32, r->s_loc, c));
    before_patches = a->used;
    TRY_OUT(dit_embed(&ctx, &root, x));
    if (r->after_first.call != NULL)
        TRY_OUT(op_copy(m->dev, before, ctx.patch));
    else if (dit_keeps(r))
        TRY_OUT(op_copy(m->dev, r->residual[branch], ctx.patch));
    TRY_OUT(block_enter(&ctx, 0, ctx.patch));
    for (int l = 0; l < m->config.layers && !reuse; l++) {
        struct dit_block b = { 0 };
        int unit;

        struct weights *w = dit_block_weights(m, l, &unit);
        TRY_OUT(weights_acquire(w, unit, -1, &b));
        TRY_OUT(block_self_attention(&ctx, &b, l, l == 0 ? ctx.patch : ctx.x));
        TRY_OUT(
            dit_start_next(r, step, branch, l)); // not earlier: keys and values use the same links
        arena_release(a, before_patches);        // the patches have been added into x
        TRY_OUT(block_cross_attention(&ctx, &b, l));
        TRY_OUT(block_feed_forward(&ctx, &b, l));
        if (r->mark.ndim != 0)
            TRY_OUT(op_find_nonfinite(m->dev, r->mark, ctx.x, (float)(l + 1)));
        if (l == 0 && r->after_first.call != NULL)
            TRY_OUT(decide(&ctx, before, &reuse));
    }
    if (reuse)
        TRY_OUT(dit_add(r, ctx.x, ctx.x, 1, r->residual[branch]));
    else if (dit_keeps(r))
        TRY_OUT(dit_add(r, r->residual[branch], ctx.x, -1, r->residual[branch]));
    TRY_OUT(dit_head(&ctx, &root, v));
out:
    arena_release(a, mark);
    return st;
}
