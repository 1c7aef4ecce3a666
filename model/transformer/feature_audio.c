/* Speech to video: tokens of a reference image and of packed motion frames after the latent's, a
 * pose video that is added to the patches, and an audio encoder, to whose tokens each latent frame
 * attends after some blocks.
 *
 *     audio [F, width] -> convolutions over time, halved twice -> of each latent frame 5 tokens
 *     (4 and a constant one), and one for all of it, from which scale and shift are computed
 *     after some blocks:  x += W_o attention(q of norm(x) * (1 + scale) + shift, k, v of 5 tokens)
 *
 * Source: Wan2.2 wan/modules/s2v, with 4 tokens a frame. */
#include "model/transformer/feature_audio.h"
#include "model/checkpoint/config_json.h"

#include "parallel/split.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STACK_POSE "pose"
#define STACK_INJECTORS "audio injectors"
#define STACK_KEYS "audio keys"
#define STACK_NORMS "audio norms"
#define STACK_PACKER "frame packer"

#define EPS_INJECTOR 1e-5f // diffusers' AdaLayerNorm

struct pose {
    struct linear patch; // [C, 4 c] for c channels of the pose video's latent
    struct tensor mask;  // [3, C]: added to the latent's tokens, to the reference's, the motion's
};

struct injector {
    struct linear q, o;   // [C, C]; the bias of o is f32
    struct tensor norm_q; // [C] f32
};

struct injector_norm {
    struct linear mod; // [2C, C]: shift, scale
};

struct packer {
    struct linear near, middle, far; // [C, 4 c], [C, 32 c], [C, 256 c]
};

/* The width and the layers of the speech encoder's output, channels of the pose video's latent. */
enum { AUDIO, LAYERS, CHANNELS };
static const struct feature_width audio_widths[] = {
    [AUDIO] = { "casual_audio_encoder.encoder.conv1_local.conv.weight", 3, 1, { "audio_dim" } },
    [LAYERS] = { FEATURE_AUDIO_WEIGHTS, 4, 1 },
    [CHANNELS] = { "cond_encoder.weight", 5, 1, { "cond_dim" } },
    { NULL }
};

static const struct feature_use *find_use(const struct dit *m)
{
    const struct feature_use *use = m->config.use;

    while (use->feature != &feature_audio)
        use++;
    return use;
}

/* ---- tensors ---- */

static void injector_tensors(struct tensor_list *l, int64_t dim, int units, enum dtype cdt)
{
#define AT(member) offsetof(struct injector, member)
    tensors_stack(l, STACK_INJECTORS, "audio_injector.injector.%d.", units, TENSORS_SHARDED);
    tensors_linear(l, "q", AT(q), dim, dim, cdt);
    tensors_vector(l, "norm_q.weight", AT(norm_q), dim, DT_F32);
    tensors_add(l, "o.weight", AT(o.w), cdt, TENSOR_DIMS(dim, dim));
    tensors_vector(l, "o.bias", AT(o.b), dim, DT_F32); // added in f32
#undef AT
    tensors_stack(l, STACK_KEYS, "audio_injector.injector.%d.", units, TENSORS_ONCE);
    dit_kv_tensors(l, "k", "v", "norm_k", dim, cdt);
    tensors_stack(l, STACK_NORMS, "audio_injector.injector_adain_layers.%d.", units, TENSORS_ONCE);
    tensors_linear(l, "linear", offsetof(struct injector_norm, mod), 2 * dim, dim, cdt);
}

static void audio_tensors(struct tensor_list *l, const struct dit_config *c,
                          const struct feature_use *use, enum dtype cdt)
{
    const int64_t dim = c->dim, latent = c->out_dim;

    tensors_stack(l, STACK_POSE, "", 1, TENSORS_RESIDENT);
    audio_conv(l, "cond_encoder", offsetof(struct pose, patch), cdt,
               TENSOR_DIMS(dim, use->width[CHANNELS], 1, 2, 2));
    tensors_add(l, "trainable_cond_mask.weight", offsetof(struct pose, mask), DT_F32,
                TENSOR_DIMS(3, dim));
    audio_encoder_tensors(l, dim, use->width[AUDIO], cdt);
    // which states of the speech encoder count how much: read where the sound is encoded
    tensors_stack(l, "audio layers", "", 1, TENSORS_READ);
    tensors_add(l, FEATURE_AUDIO_WEIGHTS, TENSORS_NO_SLOT, DT_F32,
                TENSOR_DIMS(1, use->width[LAYERS], 1, 1));
    injector_tensors(l, dim, use->units, cdt);
    tensors_stack(l, STACK_PACKER, "frame_packer.", 1, TENSORS_RESIDENT);
    audio_conv(l, "proj", offsetof(struct packer, near), cdt, TENSOR_DIMS(dim, latent, 1, 2, 2));
    audio_conv(l, "proj_2x", offsetof(struct packer, middle), cdt,
               TENSOR_DIMS(dim, latent, 2, 4, 4));
    audio_conv(l, "proj_4x", offsetof(struct packer, far), cdt, TENSOR_DIMS(dim, latent, 4, 8, 8));
}

static void audio_config(struct cJSON *json, const struct dit_config *c,
                         const struct feature_use *use, bool diffusers)
{
    float at[FEATURE_UNITS];

    for (int i = 0; i < use->units; i++)
        at[i] = (float)use->at[i];
    config_set_text(json, "_class_name", "WanModel_S2V");
    config_set_text(json, "model_type", "s2v");
    config_set_floats(json, "audio_inject_layers", at, use->units);
    config_set_text(json, "adain_mode", "attn_norm");
    config_set_bool(json, "add_last_motion", true);
    config_set_bool(json, "enable_adain", true);
    config_set_bool(json, "enable_framepack", true);
    config_set_bool(json, "enable_motioner", false);
    config_set_bool(json, "enable_tsm", false);
    config_set_text(json, "framepack_drop_mode", "padd");
    config_set_number(json, "num_audio_token", AUDIO_HEADS);
    config_set_bool(json, "zero_timestep", true);
}

/* The blocks after which audio is injected; and what this version computes. */
static status audio_describe(const struct describing *d, const struct dit_config *c,
                             struct feature_use *use)
{
    static const float released[] = { 0, 4, 8, 12, 16, 20, 24, 27, 30, 33, 36, 39 };
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(d->json, "audio_inject_layers");
    const cJSON *motioner = cJSON_GetObjectItemCaseSensitive(d->json, "enable_motioner");
    const cJSON *zero = cJSON_GetObjectItemCaseSensitive(d->json, "zero_timestep");
    float at[FEATURE_UNITS] = { 0 };

    if (use->units < 1 || use->units > FEATURE_UNITS)
        return fail(ST_FORMAT, "%s: has %d audio injectors, expected 1 to %d", d->file, use->units,
                    FEATURE_UNITS);
    if (list == NULL && (use->units != (int)COUNT(released) || c->layers != 40))
        return fail(ST_FORMAT,
                    "%s: its %d audio injectors are not those of the released model: put the "
                    "config.json with audio_inject_layers beside it",
                    d->file, use->units);
    if (cJSON_IsTrue(motioner) || cJSON_IsFalse(zero))
        return fail(ST_FORMAT,
                    "%s: enable_motioner is true or zero_timestep false, unlike in the released "
                    "model: this version does not compute it",
                    d->config);
    if (list == NULL)
        memcpy(at, released, sizeof(released));
    TRY(describe_list(d, "audio_inject_layers", use->units, false, at));
    for (int i = 0; i < use->units; i++) {
        if (!(at[i] >= 0 && at[i] < (float)c->layers) || at[i] != floorf(at[i]) ||
            (i > 0 && at[i] <= at[i - 1]))
            return fail(ST_FORMAT,
                        "%s: audio_inject_layers is not of rising whole numbers below %d",
                        d->config, c->layers);
        use->at[i] = (int)at[i];
    }
    return ST_OK;
}

/* ---- the tokens after the latent's ---- */

/* Of the motion frames the last one, the two before it, and the 16 before these are packed. */
static const struct pack {
    int from, frames; // latent frames, counted from the end
    int t, side;      // of a token: latent frames, and rows or columns
} packs[] = { { 1, 1, 1, 2 }, { 3, 2, 2, 4 }, { 19, 16, 4, 8 } };

#define REFERENCE_FRAME 30 // the rotary position of the reference image

static void audio_extend(struct segments *s, const struct dit_input *in)
{
    const struct tensor motion = conditioning_find(in->conditioning, CONDITION_MOTION);
    const struct segment reference = {
        .tokens = in->h * in->w,
        .grid = { 1, in->h, in->w, 0 },
        .time = TIME_ZERO,
        .placed = true,
        .axis = { { REFERENCE_FRAME, REFERENCE_FRAME }, { 0, in->h - 1 }, { 0, in->w - 1 } }
    };

    segments_append(s, reference);
    for (size_t i = 0; i < COUNT(packs) && motion.ndim != 0; i++) {
        const struct pack *p = &packs[i];
        const int64_t f = p->frames / p->t, h = 2 * in->h / p->side, w = 2 * in->w / p->side;
        const struct segment packed = {
            .tokens = f * h * w,
            .grid = { f, h, w, 0 },
            .time = TIME_ZERO,
            .placed = true,
            .axis = { { -p->from, p->frames - 1 - p->from }, { 0, in->h - 1 }, { 0, in->w - 1 } }
        };

        if (packed.tokens > 0)
            segments_append(s, packed);
    }
}

/* Host memory [tokens, t * side * side * c] of frames of a latent [c, T, H, W], as `pack` cuts them
 * into tokens; a token's values in the order (frame, row, column, channel). */
static void cut(float *out, struct tensor latent, int64_t first, const struct pack *p)
{
    const int64_t c = latent.dim[0], t = latent.dim[1], h = latent.dim[2], w = latent.dim[3];
    const float *from = latent.data;

    for (int64_t f = 0; f < p->frames; f += p->t)
        for (int64_t y = 0; y + p->side <= h; y += p->side)
            for (int64_t x = 0; x + p->side <= w; x += p->side)
                for (int64_t i = 0; i < (int64_t)p->t * p->side * p->side; i++)
                    for (int64_t k = 0; k < c; k++) {
                        const int64_t frame = first + f + i / (p->side * p->side);
                        const int64_t row = y + i / p->side % p->side, col = x + i % p->side;

                        *out++ = frame < 0 ? 0 : from[((k * t + frame) * h + row) * w + col];
                    }
}

/* The embedded tokens [rows, C] of such frames, plus a row of the mask. */
static status embed(struct dit_run *r, struct tensor out, struct tensor latent, int64_t first,
                    const struct pack *p, struct linear w, struct tensor ones, struct tensor mask,
                    struct arena *step)
{
    const int64_t width = w.w.dim[1], rows = out.dim[0];
    struct device *dev = r->m->dev;
    const size_t mark = step->used;
    struct tensor in = { 0 }, tokens = { 0 };
    float *host = NULL;
    status st;

    TRY_OUT(arena_take(step, &tokens, DT_F32, rows, width));
    TRY_OUT(arena_take(step, &in, r->m->cdt, rows, width));
    if (latent.data != NULL) { // else a plan, or bench
        host = malloc(tensor_bytes(tokens));
        if (host == NULL)
            TRY_OUT(
                fail(ST_MEMORY, "cannot allocate host memory for %lld tokens", (long long)rows));
        cut(host, latent, first, p);
        TRY_OUT(device_upload(dev, tokens, host));
    } else {
        TRY_OUT(device_zero(dev, tokens));
    }
    TRY_OUT(op_copy(dev, in, tokens));
    TRY_OUT(op_gemm(dev, out, in, w.w, w.b, ACT_NONE));
    TRY_OUT(op_channel_affine(dev, out, out, ones, mask));
out:
    arena_release(step, mark);
    free(host);
    return st;
}

static status make_tokens(struct dit_run *r, struct tensor *data, const struct dit_input *in,
                          struct arena *step)
{
    const struct tensor reference = conditioning_find(in->conditioning, CONDITION_REFERENCE);
    const struct tensor motion = conditioning_find(in->conditioning, CONDITION_MOTION);
    static const struct pack picture = { 1, 1, 1, 2 };
    const struct tensor ones = tensor_at(data[AUDIO_MASK], 0);
    struct dit_root root;
    struct packer packer;
    struct pose pose;
    int64_t at = in->h * in->w;

    TRY(dit_acquire_root(r->m, &root));
    TRY(weights_acquire(dit_weights(r->m, STACK_POSE), 0, -1, &pose));
    TRY(weights_acquire(dit_weights(r->m, STACK_PACKER), 0, -1, &packer));
    TRY(embed(r, tensor_slice(data[AUDIO_EXTRA], 0, 0, at), reference, 0, &picture, root.patch,
              ones, tensor_at(pose.mask, 1), step));
    for (size_t i = 0; i < COUNT(packs) && motion.ndim != 0; i++) {
        const struct linear w[] = { packer.near, packer.middle, packer.far };
        const struct pack *p = &packs[i];
        const int64_t rows = p->frames / p->t * (2 * in->h / p->side) * (2 * in->w / p->side);

        if (rows == 0)
            continue;
        TRY(embed(r, tensor_slice(data[AUDIO_EXTRA], 0, at, rows), motion, motion.dim[1] - p->from,
                  p, w[i], ones, tensor_at(pose.mask, 2), step));
        at += rows;
    }
    return ST_OK;
}

/* What the pose video adds to the patches; without one zeros are embedded. */
static status make_pose(struct dit_run *r, struct tensor out, const struct dit_input *in,
                        struct arena *step)
{
    const struct tensor video = conditioning_find(in->conditioning, CONDITION_POSE);
    const int64_t channels = find_use(r->m)->width[CHANNELS], rows = out.dim[0];
    const size_t mark = step->used;
    struct tensor tokens = { 0 }, x = { 0 };
    struct pose pose;
    status st;

    TRY_OUT(weights_acquire(dit_weights(r->m, STACK_POSE), 0, -1, &pose));
    TRY_OUT(arena_take(step, &x, r->m->cdt, rows, 4, channels));
    if (video.ndim != 0) {
        TRY_OUT(dit_upload_tokens(r, step, &tokens, video));
        TRY_OUT(op_copy(r->m->dev, x, tokens));
    } else {
        TRY_OUT(device_zero(r->m->dev, x));
    }
    TRY_OUT(op_gemm(r->m->dev, out, tensor_reshape(x, rows, 4 * channels), pose.patch.w,
                    pose.patch.b, ACT_NONE));
out:
    arena_release(step, mark);
    return st;
}

/* ---- one run ---- */

/* ST_USAGE if the conditioning does not have what the model needs. */
static status check_arrays(const struct feature_use *use, const struct dit_config *c,
                           const struct dit_input *in)
{
    const struct tensor audio = conditioning_find(in->conditioning, CONDITION_AUDIO);
    const struct {
        const char *name;
        int64_t channels, frames;
        bool needed;
    } latents[] = { { CONDITION_REFERENCE, c->out_dim, 1, true },
                    { CONDITION_MOTION, c->out_dim, AUDIO_MOTION_LATENTS, false },
                    { CONDITION_POSE, use->width[CHANNELS], in->f, false } };

    if (audio.ndim != 2 || audio.dim[1] != use->width[AUDIO] || audio.dim[0] != 4 * in->f)
        return fail(ST_USAGE,
                    "'%s' is %s; the transformer needs rows of width %lld, 4 for each of %lld "
                    "latent frames",
                    CONDITION_AUDIO, tensor_text(audio), (long long)use->width[AUDIO],
                    (long long)in->f);
    for (size_t i = 0; i < COUNT(latents); i++) {
        const struct tensor t = conditioning_find(in->conditioning, latents[i].name);

        if ((t.ndim == 0 && latents[i].needed) ||
            (t.ndim != 0 &&
             (t.ndim != 4 || t.dim[0] != latents[i].channels || t.dim[1] != latents[i].frames ||
              t.dim[2] != 2 * in->h || t.dim[3] != 2 * in->w)))
            return fail(ST_USAGE,
                        "'%s' is %s; the transformer needs %lld channels, %lld frames of %lld x "
                        "%lld",
                        latents[i].name, tensor_text(t), (long long)latents[i].channels,
                        (long long)latents[i].frames, (long long)(2 * in->h),
                        (long long)(2 * in->w));
    }
    return ST_OK;
}

/* Row 0 of data[AUDIO_MASK] is ones, row 1 the mask's first row. */
static status make_mask(struct dit_run *r, struct tensor out)
{
    const int64_t c = out.dim[1];
    struct pose pose;
    float *ones;
    status st;

    TRY(weights_acquire(dit_weights(r->m, STACK_POSE), 0, -1, &pose));
    TRY(op_copy(r->m->dev, tensor_at(out, 1), tensor_at(pose.mask, 0)));
    if (r->m->dev->kind == DEVICE_PLAN)
        return ST_OK;
    ones = malloc((size_t)c * sizeof(*ones));
    if (ones == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for %lld values", (long long)c);
    for (int64_t i = 0; i < c; i++)
        ones[i] = 1;
    st = device_upload(r->m->dev, tensor_at(out, 0), ones);
    free(ones);
    return st;
}

static status audio_begin(struct dit_run *r, struct tensor *data, const struct dit_input *in,
                          struct arena *a, struct arena *step)
{
    const struct feature_use *use = find_use(r->m);
    const int64_t c = r->m->config.dim, frames = r->branches * in->f;
    const enum dtype cdt = r->m->cdt;

    TRY(check_arrays(use, &r->m->config, in));
    TRY(arena_take(a, &data[AUDIO_EXTRA], cdt, r->tokens - in->f * in->h * in->w, c));
    TRY(arena_take(a, &data[AUDIO_POSE], cdt, r->spans.latent_rows, c));
    TRY(arena_take(a, &data[AUDIO_MASK], DT_F32, 2, c));
    TRY(arena_take(a, &data[AUDIO_FRAME], cdt, frames, c));
    TRY(arena_take(a, &data[AUDIO_SOUND], cdt, frames * AUDIO_TOKENS, c));
    TRY(arena_take(a, &data[AUDIO_KV], cdt, use->units, frames * AUDIO_TOKENS, 2 * c));
    TRY(arena_take(a, &data[AUDIO_MOD], DT_F32, use->units, frames, 2 * c));
    TRY(make_mask(r, data[AUDIO_MASK]));
    TRY(make_tokens(r, data, in, step));
    TRY(make_pose(r, data[AUDIO_POSE], in, step));
    return audio_encode(r, data, in, step);
}

static status audio_prepare(struct dit_run *r, struct tensor *data, struct arena *step)
{
    struct weights *keys = dit_weights(r->m, STACK_KEYS), *norms = dit_weights(r->m, STACK_NORMS);
    const int units = find_use(r->m)->units;

    for (int i = 0; i < units; i++) {
        struct dit_text unit;

        TRY(weights_acquire(keys, i, i + 1 < units ? i + 1 : -1, &unit));
        TRY(block_kv(r, &unit, tensor_at(data[AUDIO_KV], i), data[AUDIO_SOUND]));
    }
    for (int i = 0; i < units; i++) {
        struct injector_norm unit;

        TRY(weights_acquire(norms, i, i + 1 < units ? i + 1 : -1, &unit));
        TRY(op_gemm(r->m->dev, tensor_at(data[AUDIO_MOD], i), data[AUDIO_FRAME], unit.mod.w,
                    unit.mod.b, ACT_NONE));
    }
    return ST_OK;
}

/* ---- one forward ---- */

static status audio_after_patch(struct block_ctx *ctx, const struct tensor *data)
{
    const struct dit_run *r = ctx->r;
    const struct spans *spans = &r->spans;
    const struct tensor latent = tensor_slice(ctx->patch, 0, spans->latent_row, spans->latent_rows);
    // of this rank's first row, among the tokens after the latent's; negative in the latent
    const int64_t first = split_at(r->tokens, mesh_seq_size(r->mesh), mesh_seq_rank(r->mesh)) -
                          (r->tokens - data[AUDIO_EXTRA].dim[0]);

    TRY(op_gate_add(r->m->dev, latent, latent, data[AUDIO_POSE], (struct tensor){ 0 }));
    TRY(op_channel_affine(r->m->dev, latent, latent, tensor_at(data[AUDIO_MASK], 0),
                          tensor_at(data[AUDIO_MASK], 1)));
    for (int i = 0; i < spans->count; i++) {
        const struct span *s = &spans->span[i];

        if (!s->latent)
            TRY(op_copy(r->m->dev, tensor_slice(ctx->patch, 0, s->first, s->count),
                        tensor_slice(data[AUDIO_EXTRA], 0, first + s->first, s->count)));
    }
    return ST_OK;
}

static bool audio_is_after(const struct dit_config *c, const struct feature_use *use, int layer)
{
    for (int i = 0; i < use->units; i++)
        if (use->at[i] == layer)
            return true;
    return false;
}

static int injector_of(const struct feature_use *use, int layer)
{
    int i = 0;

    while (use->at[i] != layer)
        i++;
    return i;
}

static status acquire(const struct dit_run *r, int step, int branch, int i, struct injector *w)
{
    const int units = find_use(r->m)->units;
    const bool last = step == r->last_step && branch == r->last_branch;
    const int next = i + 1 < units ? i + 1 : units == 1 || last ? -1 : 0;

    return weights_acquire(dit_weights(r->m, STACK_INJECTORS), i, next, w);
}

/* The rows of x that are tokens of latent frame f and of this rank; dim[0] 0: none. */
static struct tensor frame_rows(const struct dit_run *r, struct tensor x, int64_t f, int64_t tokens)
{
    const int64_t first = r->spans.latent_first, end = first + r->spans.latent_rows;
    const int64_t from = f * tokens > first ? f * tokens : first;
    const int64_t to = (f + 1) * tokens < end ? (f + 1) * tokens : end;

    return from < to ? tensor_slice(x, 0, r->spans.latent_row + from - first, to - from)
                     : tensor_slice(x, 0, 0, 0);
}

static status audio_after_block(struct block_ctx *ctx, const struct tensor *data, int layer)
{
    struct dit_run *r = ctx->r;
    const struct feature_use *use = find_use(r->m);
    const struct token_grid grid = r->segments.segment[0].grid;
    const int64_t c = r->m->config.dim, d = c / r->m->config.heads, tokens = grid.h * grid.w;
    const int i = injector_of(use, layer);
    const struct spans *s = &r->spans;
    const struct tensor kv = tensor_at(data[AUDIO_KV], i), mod = tensor_at(data[AUDIO_MOD], i);
    const struct tensor h = tensor_slice(ctx->h, 0, s->latent_row, s->latent_rows);
    const struct tensor y = tensor_slice(ctx->y, 0, s->latent_row, s->latent_rows);
    struct device *dev = r->m->dev;
    struct injector w;

    TRY(acquire(r, ctx->step, ctx->branch, i, &w));
    if (s->latent_rows == 0)
        return ST_OK;
    for (int64_t f = 0; f < grid.f; f++) {
        const struct tensor rows = frame_rows(r, ctx->x, f, tokens);
        const struct tensor of = tensor_at(mod, ctx->branch * grid.f + f);

        if (rows.dim[0] > 0)
            TRY(op_norm_modulate(dev, frame_rows(r, ctx->h, f, tokens), rows,
                                 tensor_slice(of, 0, c, c), tensor_slice(of, 0, 0, c),
                                 EPS_INJECTOR));
    }
    TRY(op_gemm(dev, y, h, w.q.w, w.q.b, ACT_NONE));
    TRY(op_rms_norm(dev, y, y, w.norm_q, r->m->config.eps));
    for (int64_t f = 0; f < grid.f; f++) {
        const struct tensor q = frame_rows(r, ctx->y, f, tokens);
        const struct tensor own =
            tensor_slice(kv, 0, (ctx->branch * grid.f + f) * AUDIO_TOKENS, AUDIO_TOKENS);

        if (q.dim[0] > 0)
            TRY(op_attention(dev, tensor_split(frame_rows(r, ctx->h, f, tokens), 1, d),
                             (struct tensor){ 0 }, tensor_split(q, 1, d),
                             tensor_split(tensor_slice(own, 1, 0, c), 1, d),
                             tensor_split(tensor_slice(own, 1, c, c), 1, d), 1 / sqrtf((float)d)));
    }
    return op_gemm_add(dev, tensor_slice(ctx->x, 0, s->latent_row, s->latent_rows), h, w.o.w,
                       w.o.b);
}

static status audio_follow(struct dit_run *r, int step, int layer)
{
    const struct feature_use *use = find_use(r->m);
    struct injector w;

    return audio_is_after(&r->m->config, use, layer)
               ? acquire(r, step, 0, injector_of(use, layer), &w)
               : ST_OK;
}

static const struct feature_hooks audio_hooks = { .extend = audio_extend,
                                                  .begin = audio_begin,
                                                  .prepare = audio_prepare,
                                                  .after_patch = audio_after_patch,
                                                  .after_block = audio_after_block,
                                                  .is_after = audio_is_after,
                                                  .follow = audio_follow };

const struct feature feature_audio = { .name = "audio injection (S2V)",
                                       .detected_by = FEATURE_AUDIO_WEIGHTS,
                                       .list = "audio_injector.injector.",
                                       .title = "audio injectors",
                                       .widths = audio_widths,
                                       .tensors = audio_tensors,
                                       .describe = audio_describe,
                                       .config = audio_config,
                                       .hooks = &audio_hooks };
