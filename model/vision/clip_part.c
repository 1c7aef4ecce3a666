#include "model/vision/clip_part.h"

#include "model/checkpoint/config_json.h"
#include "model/checkpoint/names.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <string.h>

#define HEAD_DIM 80 // of the heads, which tensors do not tell, where config.json is missing

static const struct clip_config huge = { .dim = 1280,
                                         .ffn_dim = 5120,
                                         .patch = 14,
                                         .side = 224,
                                         .out_dim = 1024,
                                         .heads = 16,
                                         .layers = 32 };
static const struct clip_config tiny = {
    .dim = 160, .ffn_dim = 320, .patch = 14, .side = 56, .out_dim = 32, .heads = 2, .layers = 3
};
static const struct variant variants[] = { { "vit-h-14", &huge },
                                           { "clip-tiny", &tiny },
                                           { NULL, NULL } };

/* The names in transformers' CLIPVisionModel. */
static const struct name_pair clip_pairs[] = {
    { "visual.patch_embedding.", "vision_model.embeddings.patch_embedding." },
    { "visual.cls_embedding", "vision_model.embeddings.class_embedding" },
    { "visual.pos_embedding", "vision_model.embeddings.position_embedding.weight" },
    { "visual.pre_norm.", "vision_model.pre_layrnorm." },
    { "visual.pre_norm.", "vision_model.pre_layernorm." },
    { "visual.post_norm.", "vision_model.post_layernorm." },
    { "visual.transformer.%.norm1.", "vision_model.encoder.layers.%.layer_norm1." },
    { "visual.transformer.%.attn.q.", "vision_model.encoder.layers.%.self_attn.q_proj." },
    { "visual.transformer.%.attn.k.", "vision_model.encoder.layers.%.self_attn.k_proj." },
    { "visual.transformer.%.attn.v.", "vision_model.encoder.layers.%.self_attn.v_proj." },
    { "visual.transformer.%.attn.proj.", "vision_model.encoder.layers.%.self_attn.out_proj." },
    { "visual.transformer.%.norm2.", "vision_model.encoder.layers.%.layer_norm2." },
    { "visual.transformer.%.mlp.0.", "vision_model.encoder.layers.%.mlp.fc1." },
    { "visual.transformer.%.mlp.2.", "vision_model.encoder.layers.%.mlp.fc2." },
    { NULL, NULL },
};

static bool rename_tensor(const char *name, bool to_official, char *out, size_t size)
{
    return names_translate(clip_pairs, to_official, "", name, out, size);
}

/* The side of the image: as many patches as there are positions after the first. */
static status find_side(const struct describing *d, struct clip_config *c)
{
    int64_t positions, n = 0;

    TRY(describe_axis(d, "visual.pos_embedding", c->split ? 2 : 3, c->split ? 0 : 1, &positions));
    while ((n + 1) * (n + 1) < positions)
        n++;
    if (n < 1 || n * n + 1 != positions)
        return fail(ST_FORMAT,
                    "%s: tensor visual.pos_embedding has %lld positions; expected one, and those "
                    "of a square of patches",
                    d->file, (long long)positions);
    c->side = n * c->patch;
    return ST_OK;
}

/* The activation, which tensors do not tell, must be GELU. */
static status check_activation(const struct describing *d)
{
    const cJSON *act = cJSON_GetObjectItemCaseSensitive(d->json, "hidden_act");

    if (act == NULL || cJSON_IsNull(act))
        return ST_OK;
    if (cJSON_IsString(act) && strcmp(act->valuestring, "gelu") == 0)
        return ST_OK;
    return fail(ST_FORMAT, "%s: hidden_act is not \"gelu\", the activation of Wan's image encoder",
                d->config);
}

static status describe(const struct describing *d, void *config)
{
    static const char patch[] = "visual.patch_embedding.weight", up[] = "visual.transformer.0.mlp.0"
                                                                        ".weight";
    struct clip_config c = { 0 };

    c.split = describe_has(d, "visual.transformer.0.attn.q.weight");
    TRY(describe_axis(d, patch, 4, 0, &c.dim));
    TRY(describe_axis(d, patch, 4, 2, &c.patch));
    TRY(describe_axis(d, up, 2, 0, &c.ffn_dim));
    TRY(describe_count(d, "visual.transformer.", &c.layers));
    TRY(find_side(d, &c));
    if (describe_has(d, "visual.head"))
        TRY(describe_axis(d, "visual.head", 2, 1, &c.out_dim));
    TRY(describe_heads(d, c.dim, HEAD_DIM, "image encoder", &c.heads));
    TRY(check_activation(d));
    TRY(describe_agree(d, "hidden_size", c.dim, patch));
    TRY(describe_agree(d, "patch_size", c.patch, patch));
    TRY(describe_agree(d, "intermediate_size", c.ffn_dim, up));
    TRY(describe_agree(d, "num_hidden_layers", c.layers, "visual.transformer.N"));
    TRY(describe_agree(d, "image_size", c.side, "visual.pos_embedding"));
    *(struct clip_config *)config = c;
    return ST_OK;
}

static void tensors(struct tensor_list *l, const void *config, const struct tensorfile *file)
{
    clip_tensors(l, config);
}

static status check(const void *config, const char *file)
{
    return clip_check(config, file);
}

static void print(FILE *out, const void *config)
{
    const struct clip_config *c = config;

    fprintf(out,
            "  %-12simages of %" PRId64 " x %" PRId64 " in patches of %" PRId64 ", width %" PRId64
            ", ffn %" PRId64 ", %d heads, %d layers, the last one not computed\n",
            "config", c->side, c->side, c->patch, c->dim, c->ffn_dim, c->heads, c->layers);
}

/* ---- synth ---- */

static const char *official_file(const void *config)
{
    return "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth";
}

static void split_config(void *config)
{
    struct clip_config *c = config;

    c->split = true;
    c->out_dim = 0;
}

static void config_json(struct cJSON *json, const void *config, bool diffusers)
{
    const struct clip_config *c = config;

    config_set_text(json, "model_type", "clip_vision_model");
    config_set_text(json, "hidden_act", "gelu");
    config_set_number(json, "hidden_size", (double)c->dim);
    config_set_number(json, "image_size", (double)c->side);
    config_set_number(json, "intermediate_size", (double)c->ffn_dim);
    config_set_number(json, "layer_norm_eps", 1e-5);
    config_set_number(json, "num_attention_heads", c->heads);
    config_set_number(json, "num_hidden_layers", c->layers);
    config_set_number(json, "patch_size", (double)c->patch);
}

static const struct place places[] = {
    { "", "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth", false },
    { "", "models_clip*.pth", false },
    { "", "models_clip*.safetensors", false },
    { "", "clip_vision_h*.safetensors", false },
    { "/clip_vision", "clip_vision_h*.safetensors", false },
    { "/clip_vision", "*.safetensors", false },
    { "/../clip_vision", "clip_vision_h*.safetensors", false },
    { "/../clip_vision", "*.safetensors", false },
    { 0 }
};
static const struct place diffusers_places[] = { { "/image_encoder", "model", true }, { 0 } };
static const char *const folders[] = { "clip_vision", "checkpoints", NULL };
static const struct name_pair detected_by[] = {
    { "visual.cls_embedding", "vision_model.embeddings.class_embedding" }, { NULL, NULL }
};
/* The text encoder of the same model, which Wan does not use; of transformers' files. */
static const char *const ignored[] = { "textual.",
                                       "log_scale",
                                       "visual_projection.weight",
                                       "vision_model.embeddings.position_ids",
                                       "text_model.",
                                       "text_projection.weight",
                                       "logit_scale",
                                       NULL };

const struct part part_clip = { .key = "clip",
                                .name = "image encoder",
                                .optional = true,
                                .config_bytes = sizeof(struct clip_config),
                                .variants = variants,
                                .official = places,
                                .diffusers = diffusers_places,
                                .folders = folders,
                                .detected_by = detected_by,
                                .ignored = ignored,
                                .rename = rename_tensor,
                                .describe = describe,
                                .tensors = tensors,
                                .check = check,
                                .print = print,
                                .official_file = official_file,
                                .in_diffusers = split_config,
                                .library = "transformers",
                                .class_name = "CLIPVisionModel",
                                .config_json = config_json,
                                .dtype = DT_F32 };
