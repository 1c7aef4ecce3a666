#include "model/transformer/dit_part.h"

#include "model/checkpoint/config_json.h"
#include "model/transformer/dit.h"
#include "model/transformer/features.h"

#include <cjson/cJSON.h>
#include <inttypes.h>

#define EPS 1e-6f

/* ---- released sizes. Source: Wan2.1 and Wan2.2 wan/configs ---- */

#define TEXT .freq_dim = 256, .text_dim = 4096, .text_len = 512, .eps = EPS
#define SIZE_1B .out_dim = 16, .dim = 1536, .ffn_dim = 8960, .heads = 12, .layers = 30, TEXT
#define SIZE_5B .dim = 3072, .ffn_dim = 14336, .heads = 24, .layers = 30, TEXT
#define SIZE_14B .out_dim = 16, .dim = 5120, .ffn_dim = 13824, .heads = 40, .layers = 40, TEXT
#define SIZE_TINY                                                                                  \
    .dim = 128, .ffn_dim = 256, .freq_dim = 64, .text_dim = 64, .text_len = 512, .heads = 4,       \
    .layers = 3, .eps = EPS
#define CONFIG(...) (&(const struct dit_config){ __VA_ARGS__ })
#define USES(...) .use = { __VA_ARGS__ }
/* The features of I2V and FLF2V, for an image encoder of this width. */
#define USES_IMAGE(width) .image_dim = (width), USES({ &feature_image_context })
#define USES_IMAGES(width, positions)                                                              \
    .image_dim = (width), .image_positions = (positions),                                          \
    USES({ &feature_image_context }, { &feature_frame_positions })
/* Those of Fun Control with a reference image, and of Fun Camera. */
#define REFERENCE                                                                                  \
    {                                                                                              \
        &feature_reference, 0,                                                                     \
        {                                                                                          \
            16                                                                                     \
        }                                                                                          \
    }
#define CAMERA                                                                                     \
    {                                                                                              \
        &feature_camera, 0,                                                                        \
        {                                                                                          \
            24 * 8 * 8                                                                             \
        }                                                                                          \
    }
#define USES_REFERENCE(width) .image_dim = (width), USES({ &feature_image_context }, REFERENCE)
#define USES_CAMERA(width) .image_dim = (width), USES({ &feature_image_context }, CAMERA)
/* The widths of the motion and face encoders, as feature_animate lists them. */
/* The blocks after which S2V injects audio. */
#define INJECTED 0, 4, 8, 12, 16, 20, 24, 27, 30, 33, 36, 39
#define ANIMATE 32, 64, 128, 256, 512, 512, 512, 512, 512, 20, 512, 1024

static const struct variant variants[] = {
    { "t2v-1.3B", CONFIG(.in_dim = 16, SIZE_1B) },
    { "t2v-14B", CONFIG(.in_dim = 16, SIZE_14B) },
    { "i2v-14B", CONFIG(.in_dim = 36, SIZE_14B, USES_IMAGE(1280)) }, // and Fun-InP 14B
    { "inp-1.3B", CONFIG(.in_dim = 36, SIZE_1B, USES_IMAGE(1280)) },
    { "flf2v-14B", CONFIG(.in_dim = 36, SIZE_14B, USES_IMAGES(1280, 2 * 257)) },
    { "control-1.3B", CONFIG(.in_dim = 48, SIZE_1B, USES_IMAGE(1280)) },
    { "control-14B", CONFIG(.in_dim = 48, SIZE_14B, USES_IMAGE(1280)) },
    { "control-ref-1.3B", CONFIG(.in_dim = 48, SIZE_1B, USES_REFERENCE(1280)) },
    { "control-ref-14B", CONFIG(.in_dim = 48, SIZE_14B, USES_REFERENCE(1280)) },
    { "camera-1.3B", CONFIG(.in_dim = 32, SIZE_1B, USES_CAMERA(1280)) },
    { "camera-14B", CONFIG(.in_dim = 32, SIZE_14B, USES_CAMERA(1280)) },
    { "vace-1.3B", CONFIG(.in_dim = 16, SIZE_1B, USES({ &feature_vace, 15, { 96 } })) },
    { "vace-14B", CONFIG(.in_dim = 16, SIZE_14B, USES({ &feature_vace, 8, { 96 } })) },
    { "t2v-A14B", CONFIG(.in_dim = 16, SIZE_14B) },                      // each of two experts
    { "i2v-A14B", CONFIG(.in_dim = 36, SIZE_14B) },                      // each of two experts
    { "control-A14B", CONFIG(.in_dim = 52, SIZE_14B, USES(REFERENCE)) }, // each of two experts
    { "camera-A14B", CONFIG(.in_dim = 36, SIZE_14B, USES(CAMERA)) },     // each of two experts
    { "ti2v-5B", CONFIG(.in_dim = 48, .out_dim = 48, SIZE_5B) },
    { "s2v-14B", CONFIG(.in_dim = 16, SIZE_14B,
                        USES({ &feature_audio, 12, { 1024, 25, 16 }, { INJECTED } })) },
    { "animate-14B",
      CONFIG(.in_dim = 36, SIZE_14B, .image_dim = 1280,
             USES({ &feature_image_context }, { &feature_animate, 8, { ANIMATE } })) },
    { "fastwan-1.3B", CONFIG(.in_dim = 16, SIZE_1B, USES({ &feature_vsa_gate })) },
    { "fastwan-14B", CONFIG(.in_dim = 16, SIZE_14B, USES({ &feature_vsa_gate })) },
    { "fastwan-5B", CONFIG(.in_dim = 48, .out_dim = 48, SIZE_5B, USES({ &feature_vsa_gate })) },
    { "turbowan-1.3B", CONFIG(.in_dim = 16, SIZE_1B, USES({ &feature_sla })) },
    { "turbowan-14B", CONFIG(.in_dim = 16, SIZE_14B, USES({ &feature_sla })) },
    { "turbowan-i2v-A14B", CONFIG(.in_dim = 36, SIZE_14B, USES({ &feature_sla })) },
    { "tiny", CONFIG(.in_dim = 16, .out_dim = 16, SIZE_TINY) },
    { "tiny-meanflow",
      CONFIG(.in_dim = 16, .out_dim = 16, SIZE_TINY, USES({ &feature_mean_flow })) },
    { "tiny-i2v", CONFIG(.in_dim = 36, .out_dim = 16, SIZE_TINY) },
    { "tiny-i2v-clip", CONFIG(.in_dim = 36, .out_dim = 16, SIZE_TINY, USES_IMAGE(160)) },
    { "tiny-flf2v", CONFIG(.in_dim = 36, .out_dim = 16, SIZE_TINY, USES_IMAGES(160, 2 * 17)) },
    { "tiny-control", CONFIG(.in_dim = 48, .out_dim = 16, SIZE_TINY, USES_IMAGE(160)) },
    { "tiny-control-ref", CONFIG(.in_dim = 48, .out_dim = 16, SIZE_TINY, USES_REFERENCE(160)) },
    { "tiny-camera", CONFIG(.in_dim = 32, .out_dim = 16, SIZE_TINY, USES_CAMERA(160)) },
    { "tiny-control-A14B", CONFIG(.in_dim = 52, .out_dim = 16, SIZE_TINY, USES(REFERENCE)) },
    { "tiny-camera-A14B", CONFIG(.in_dim = 36, .out_dim = 16, SIZE_TINY, USES(CAMERA)) },
    { "tiny-vsa", CONFIG(.in_dim = 16, .out_dim = 16, SIZE_TINY, USES({ &feature_vsa_gate })) },
    { "tiny-sla", CONFIG(.in_dim = 16, .out_dim = 16, SIZE_TINY, USES({ &feature_sla })) },
    { "tiny-vace",
      CONFIG(.in_dim = 16, .out_dim = 16, SIZE_TINY, USES({ &feature_vace, 2, { 96 } })) },
    { "tiny-s2v", CONFIG(.in_dim = 16, .out_dim = 16, SIZE_TINY,
                         USES({ &feature_audio, 2, { 64, 4, 16 }, { 0, 2 } })) },
    { "tiny-5B", CONFIG(.in_dim = 48, .out_dim = 48, SIZE_TINY) },
    { NULL, NULL },
};

/* ---- the config of a file ---- */

static status find_features(const struct describing *d, struct dit_config *c)
{
    for (const struct feature *const *f = dit_features; *f != NULL; f++) {
        const struct feature_width *w = (*f)->widths;
        struct feature_use *use;

        if (!describe_has(d, (*f)->detected_by))
            continue;
        use = dit_add_feature(c, *f);
        if ((*f)->list != NULL)
            TRY(describe_count(d, (*f)->list, &use->units));
        for (int i = 0; w != NULL && w[i].tensor != NULL; i++) {
            TRY(describe_axis(d, w[i].tensor, w[i].ndim, w[i].axis, &use->width[i]));
            for (size_t k = 0; k < COUNT(w[i].key); k++)
                if (w[i].key[k] != NULL)
                    TRY(describe_agree(d, w[i].key[k], use->width[i], w[i].tensor));
        }
        if ((*f)->check != NULL)
            TRY((*f)->check(d, c, use));
        if ((*f)->describe != NULL)
            TRY((*f)->describe(d, c, use));
    }
    return ST_OK;
}

/* The heads of the released transformers of these widths; 0 if there is none. Tensors alone do not
 * tell the number of heads. */
static int released_heads(const struct dit_config *c)
{
    for (const struct variant *v = variants; v->name != NULL; v++) {
        const struct dit_config *known = v->config;

        if (known->dim == c->dim && known->ffn_dim == c->ffn_dim)
            return known->heads;
    }
    return 0;
}

static status find_heads(const struct describing *d, struct dit_config *c)
{
    int64_t heads = 0, head_dim = 0;

    TRY(describe_size(d, "num_heads", &heads));
    TRY(describe_size(d, "num_attention_heads", &heads));
    TRY(describe_size(d, "attention_head_dim", &head_dim));
    if (heads == 0)
        heads = head_dim != 0 ? c->dim / head_dim : released_heads(c);
    if (heads == 0 && head_dim == 0)
        return fail(ST_FORMAT,
                    "%s: its transformer has no released size, so the number of heads is not "
                    "known: put the config.json with num_heads beside it",
                    d->file);
    if (heads == 0 || c->dim % heads != 0 || c->dim / heads % 2 != 0 ||
        (head_dim != 0 && head_dim * heads != c->dim))
        return fail(ST_FORMAT,
                    "%s: the transformer's width %lld does not divide into %lld heads of even size "
                    "(attention_head_dim %lld, 0: not given)",
                    d->config ? d->config : d->file, (long long)c->dim, (long long)heads,
                    (long long)head_dim);
    c->heads = (int)heads;
    return ST_OK;
}

static status check_patch(const struct describing *d)
{
    static const int sizes[] = { 1, 2, 2 };
    const cJSON *patch = cJSON_GetObjectItemCaseSensitive(d->json, "patch_size");

    if (patch == NULL || cJSON_IsNull(patch))
        return ST_OK;
    for (int i = 0; i < 3; i++) {
        const cJSON *size = cJSON_GetArrayItem(patch, i);

        if (!cJSON_IsNumber(size) || size->valuedouble != sizes[i])
            return fail(ST_FORMAT, "%s: patch_size is not [1, 2, 2], which this version needs",
                        d->config);
    }
    return ST_OK;
}

static status describe(const struct describing *d, void *config)
{
    struct dit_config c = { .text_len = 512, .eps = EPS };
    double eps = 1e-6;
    int64_t four_out;

    TRY(describe_axis(d, "patch_embedding.weight", 5, 0, &c.dim));
    TRY(describe_axis(d, "patch_embedding.weight", 5, 1, &c.in_dim));
    TRY(describe_axis(d, "text_embedding.0.weight", 2, 1, &c.text_dim));
    TRY(describe_axis(d, "time_embedding.0.weight", 2, 1, &c.freq_dim));
    TRY(describe_axis(d, "blocks.0.ffn.0.weight", 2, 0, &c.ffn_dim));
    TRY(describe_axis(d, "head.head.weight", 2, 0, &four_out));
    c.out_dim = four_out / 4;
    if (four_out % 4 != 0 || c.freq_dim % 2 != 0)
        return fail(ST_FORMAT,
                    "%s: the head has %lld outputs, expected a multiple of 4, and the time "
                    "embedding has %lld inputs, expected an even number",
                    d->file, (long long)four_out, (long long)c.freq_dim);
    TRY(describe_count(d, "blocks.", &c.layers));
    TRY(find_features(d, &c));
    if (describe_has(d, feature_image_context.detected_by))
        TRY(describe_axis(d, "img_emb.proj.3.weight", 2, 1, &c.image_dim));
    if (describe_has(d, feature_frame_positions.detected_by))
        TRY(describe_axis(d, "img_emb.emb_pos", 3, 1, &c.image_positions));
    TRY(find_heads(d, &c));
    TRY(describe_size(d, "text_len", &c.text_len));
    TRY(describe_number(d, "eps", &eps));
    if (!(eps > 0 && eps < 1))
        return fail(ST_FORMAT, "%s: eps is %g; expected a number between 0 and 1", d->config, eps);
    c.eps = (float)eps;

    TRY(describe_agree(d, "dim", c.dim, "patch_embedding.weight"));
    TRY(describe_agree(d, "in_dim", c.in_dim, "patch_embedding.weight"));
    TRY(describe_agree(d, "in_channels", c.in_dim, "patch_embedding.weight"));
    TRY(describe_agree(d, "out_dim", c.out_dim, "head.head.weight"));
    TRY(describe_agree(d, "out_channels", c.out_dim, "head.head.weight"));
    TRY(describe_agree(d, "ffn_dim", c.ffn_dim, "blocks.0.ffn.0.weight"));
    TRY(describe_agree(d, "freq_dim", c.freq_dim, "time_embedding.0.weight"));
    TRY(describe_agree(d, "text_dim", c.text_dim, "text_embedding.0.weight"));
    TRY(describe_agree(d, "num_layers", c.layers, "blocks.N"));
    if (c.image_dim > 0)
        TRY(describe_agree(d, "image_dim", c.image_dim, "img_emb.proj.3.weight"));
    TRY(check_patch(d));
    *(struct dit_config *)config = c;
    return ST_OK;
}

static void tensors(struct tensor_list *l, const void *config, const struct tensorfile *file)
{
    dit_tensors(l, config, DT_F32, (struct dit_matmul){ 0 });
}

static status check(const void *config, const char *file)
{
    return dit_check_features(config, file);
}

static void print(FILE *out, const void *config)
{
    const struct dit_config *c = config;

    fprintf(out,
            "  %-12schannels %" PRId64 " to %" PRId64 ", width %" PRId64 ", ffn %" PRId64
            ", %d heads, %d layers, text %" PRId64 " x %" PRId64 ", eps %g\n",
            "config", c->in_dim, c->out_dim, c->dim, c->ffn_dim, c->heads, c->layers, c->text_len,
            c->text_dim, (double)c->eps);
    for (int i = 0; i < DIT_FEATURES_MAX && c->use[i].feature != NULL; i++) {
        const struct feature *f = c->use[i].feature;

        fprintf(out, "  %-12s%s", i == 0 ? "features" : "", f->name);
        if (f->title != NULL)
            fprintf(out, ": %d %s", c->use[i].units, f->title);
        fputs(f->hooks == NULL ? ", not computed by this version\n" : "\n", out);
    }
}

/* ---- config.json ---- */

/* The keys of the official files, which omit what all released models have in common. */
static void official_json(cJSON *json, const struct dit_config *c)
{
    config_set_text(json, "_class_name", "WanModel");
    config_set_text(json, "_diffusers_version", "0.30.0");
    config_set_number(json, "dim", (double)c->dim);
    config_set_float(json, "eps", c->eps);
    config_set_number(json, "ffn_dim", (double)c->ffn_dim);
    config_set_number(json, "freq_dim", (double)c->freq_dim);
    config_set_number(json, "in_dim", (double)c->in_dim);
    config_set_text(json, "model_type",
                    c->in_dim == 48           ? "ti2v"
                    : c->in_dim != c->out_dim ? "i2v"
                                              : "t2v");
    config_set_number(json, "num_heads", c->heads);
    config_set_number(json, "num_layers", c->layers);
    config_set_number(json, "out_dim", (double)c->out_dim);
    config_set_number(json, "text_len", (double)c->text_len);
    if (c->text_dim != 4096)
        config_set_number(json, "text_dim", (double)c->text_dim);
}

static void diffusers_json(cJSON *json, const struct dit_config *c)
{
    static const float patch[] = { 1, 2, 2 };

    config_set_text(json, "_class_name", "WanTransformer3DModel");
    config_set_text(json, "_diffusers_version", "0.33.0");
    config_set_text(json, "added_kv_proj_dim", NULL);
    config_set_number(json, "attention_head_dim", (double)(c->dim / c->heads));
    config_set_bool(json, "cross_attn_norm", true);
    config_set_float(json, "eps", c->eps);
    config_set_number(json, "ffn_dim", (double)c->ffn_dim);
    config_set_number(json, "freq_dim", (double)c->freq_dim);
    config_set_text(json, "image_dim", NULL);
    config_set_number(json, "in_channels", (double)c->in_dim);
    config_set_number(json, "num_attention_heads", c->heads);
    config_set_number(json, "num_layers", c->layers);
    config_set_number(json, "out_channels", (double)c->out_dim);
    config_set_floats(json, "patch_size", patch, 3);
    config_set_text(json, "qk_norm", "rms_norm_across_heads");
    config_set_number(json, "rope_max_seq_len", 1024);
    config_set_number(json, "text_dim", (double)c->text_dim);
}

static void config_json(struct cJSON *json, const void *config, bool diffusers)
{
    const struct dit_config *c = config;

    if (diffusers)
        diffusers_json(json, c);
    else
        official_json(json, c);
    for (int i = 0; i < DIT_FEATURES_MAX && c->use[i].feature != NULL; i++) {
        const struct feature_use *use = &c->use[i];
        const struct feature_width *w = use->feature->widths;

        if (use->feature->config != NULL)
            use->feature->config(json, c, use, diffusers);
        for (int k = 0; w != NULL && w[k].tensor != NULL; k++)
            if (w[k].key[diffusers] != NULL)
                config_set_number(json, w[k].key[diffusers], (double)use->width[k]);
    }
}

/* ---- the rows ---- */

#define STEM "diffusion_pytorch_model"
static const struct place places[] = { { "", STEM, true }, { EXPERT_FOLDER, STEM, true }, { 0 } };
static const struct place diffusers_places[] = { { "/transformer", STEM, true }, { 0 } };
static const struct place low_places[] = { { "/low_noise_model", STEM, true }, { 0 } };
static const struct place low_diffusers_places[] = { { "/transformer_2", STEM, true }, { 0 } };
static const char *const folders[] = { "diffusion_models", "unet", "checkpoints", NULL };
static const struct name_pair detected_by[] = {
    { "time_projection.1.weight", "condition_embedder.time_proj.weight" }, { NULL, NULL }
};
/* Kijai's mark of the model in a file. */
static const char *const ignored[] = { "model_type.", NULL };
static const struct full_shape shapes[] = {
    { "patch_embedding.weight", 5, { SHAPE_BIAS, SHAPE_REST, 1, 2, 2 } },
    { "vace_patch_embedding.weight", 5, { SHAPE_BIAS, SHAPE_REST, 1, 2, 2 } },
    { "pose_patch_embedding.weight", 5, { SHAPE_BIAS, SHAPE_REST, 1, 2, 2 } },
    { "ref_conv.weight", 4, { SHAPE_BIAS, SHAPE_REST, 2, 2 } },
    { "control_adapter.conv.weight", 4, { SHAPE_BIAS, SHAPE_REST, 2, 2 } },
    { "control_adapter.residual_blocks.0.conv%.weight", 4, { SHAPE_BIAS, SHAPE_REST, 3, 3 } },
    { "blocks.%.modulation", 3, { 1, 6, SHAPE_REST } },
    { "vace_blocks.%.modulation", 3, { 1, 6, SHAPE_REST } },
    { "head.modulation", 3, { 1, 2, SHAPE_REST } },
    { "img_emb.emb_pos", 3, { 1, SHAPE_REST, SHAPE_LAST } },
    { NULL }
};

#define ROW                                                                                        \
    .config_bytes = sizeof(struct dit_config), .variants = variants, .official_config = true,      \
    .may_stay = true, .folders = folders, .detected_by = detected_by, .ignored = ignored,          \
    .rename = dit_rename, .shapes = shapes, .describe = describe, .tensors = tensors,              \
    .check = check, .print = print, .library = "diffusers", .class_name = "WanTransformer3DModel", \
    .config_json = config_json, .dtype = DT_F32

const struct part part_dit = { .key = "dit",
                               .name = "transformer",
                               .single_file = true,
                               .official = places,
                               .diffusers = diffusers_places,
                               .mark = "low",
                               ROW };

const struct part part_dit_low = { .key = "dit_low",
                                   .name = "transformer for low noise",
                                   .optional = true,
                                   .official = low_places,
                                   .diffusers = low_diffusers_places,
                                   .pair = &part_dit,
                                   .mark = "high",
                                   ROW };
