/* A reference image: its latent is embedded by a convolution of its own, and its tokens are the
 * first frame of the sequence; those of the video follow. Without one nothing is added.
 * Source: DiffSynth-Studio diffsynth/pipelines/wan_video.py, model_fn_wan_video. */
#include "model/checkpoint/config_json.h"
#include "model/transformer/dit_internal.h"

#include <stdlib.h>

#define STACK_REFERENCE "reference"

struct reference {
    struct linear conv; // [C, 4 c] for c channels of the latent
};

enum { TOKENS }; // data of a run: [h * w, C] cdt, all tokens of the reference

/* The channels of the latent. */
static const struct feature_width reference_widths[] = {
    { "ref_conv.weight", 4, 1, { "in_dim_ref_conv", NULL } }, { NULL }
};

static void reference_tensors(struct tensor_list *l, const struct dit_config *c,
                              const struct feature_use *use, enum dtype cdt)
{
    struct weight_spec *t;

    tensors_stack(l, STACK_REFERENCE, "ref_conv.", 1, TENSORS_RESIDENT);
    t = tensors_add(l, "weight", offsetof(struct reference, conv.w), cdt,
                    TENSOR_DIMS(c->dim, use->width[0], 2, 2));
    t->channels_last = true; // order (ph, pw, channel), as the values of a token
    t->ndim = 2;
    t->dim[1] = 4 * use->width[0];
    tensors_vector(l, "bias", offsetof(struct reference, conv.b), c->dim, cdt);
}

static void reference_config(struct cJSON *json, const struct dit_config *c,
                             const struct feature_use *use, bool diffusers)
{
    config_set_bool(json, "add_ref_conv", true);
}

/* The latent's frames come after the reference, which is frame 0. */
static void reference_extend(struct segments *s, const struct dit_input *in)
{
    const struct tensor latent = conditioning_find(in->conditioning, CONDITION_REFERENCE);
    const int64_t frame = in->h * in->w;

    if (latent.ndim == 0)
        return;
    for (int i = 0; i < s->count; i++) {
        s->segment[i].grid.f++;
        s->segment[i].grid.first += frame;
    }
    segments_prepend(s, (struct segment){ .tokens = frame,
                                          .grid = { s->segment[0].grid.f, in->h, in->w, 0 },
                                          .time = TIME_STEP });
}

/* Embeds all tokens, on every rank: views of the run (dit_begin_view) divide them otherwise. */
static status reference_begin(struct dit_run *r, struct tensor *data, const struct dit_input *in,
                              struct arena *a, struct arena *step)
{
    const struct tensor latent = conditioning_find(in->conditioning, CONDITION_REFERENCE);
    const struct dit_config *config = &r->m->config;
    const int64_t c = latent.dim[0], count = in->h * in->w;
    struct device *dev = r->m->dev;
    const size_t mark = step->used;
    struct tensor rows = { 0 }, values = { 0 };
    struct reference w;
    float *tokens = NULL;
    status st = ST_OK;

    if (latent.ndim == 0)
        return ST_OK;
    if (latent.ndim != 4 || latent.dim[1] != 1 || latent.dim[2] != 2 * in->h ||
        latent.dim[3] != 2 * in->w || c != config->out_dim)
        return fail(ST_USAGE, "'%s' is %s; the latent has %lld channels, of %lld x %lld",
                    CONDITION_REFERENCE, tensor_text(latent), (long long)config->out_dim,
                    (long long)(2 * in->h), (long long)(2 * in->w));
    TRY_OUT(arena_take(a, &data[TOKENS], r->m->cdt, count, config->dim));
    TRY_OUT(arena_take(step, &rows, DT_F32, count, 4 * c));
    TRY_OUT(arena_take(step, &values, r->m->cdt, count, 4 * c));
    if (latent.data != NULL) { // else a plan
        tokens = malloc(tensor_bytes(latent));
        if (tokens == NULL)
            TRY_OUT(fail(ST_MEMORY, "cannot allocate %zu bytes of host memory for a reference",
                         tensor_bytes(latent)));
        tokens_from_latent(tokens, latent.data, c, 1, latent.dim[2], latent.dim[3]);
        TRY_OUT(device_upload(dev, rows, tokens));
    }
    TRY_OUT(op_copy(dev, values, rows));
    TRY_OUT(weights_acquire(dit_weights(r->m, STACK_REFERENCE), 0, -1, &w));
    TRY_OUT(op_gemm(dev, data[TOKENS], values, w.conv.w, w.conv.b, ACT_NONE));
out:
    free(tokens);
    arena_release(step, mark);
    return st;
}

/* Copies the tokens that this rank has. */
static status reference_after_patch(struct block_ctx *ctx, const struct tensor *data)
{
    const struct spans *spans = &ctx->r->spans;
    const struct span *s = &spans->span[0];

    return spans->count == 0 || s->latent || data[TOKENS].ndim == 0
               ? ST_OK
               : op_copy(ctx->r->m->dev, tensor_slice(ctx->patch, 0, s->first, s->count),
                         tensor_slice(data[TOKENS], 0, s->grid.first, s->count));
}

static const struct feature_hooks reference_hooks = { .extend = reference_extend,
                                                      .begin = reference_begin,
                                                      .after_patch = reference_after_patch };

const struct feature feature_reference = { .name = "reference image tokens (Fun Control)",
                                           .detected_by = "ref_conv.weight",
                                           .widths = reference_widths,
                                           .tensors = reference_tensors,
                                           .config = reference_config,
                                           .hooks = &reference_hooks };
