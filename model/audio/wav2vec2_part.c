#include "model/audio/wav2vec2_part.h"

#include "model/checkpoint/config_json.h"
#include "model/checkpoint/names.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define FOLDER "/wav2vec2-large-xlsr-53-english"
#define HEAD_DIM 64 // of the heads, which tensors do not tell, where config.json is missing

static const struct wav2vec2_config large = { .dim = 1024,
                                              .ffn_dim = 4096,
                                              .channels = 512,
                                              .convs = 7,
                                              .kernel = { 10, 3, 3, 3, 3, 2, 2 },
                                              .stride = { 5, 2, 2, 2, 2, 2, 2 },
                                              .position_kernel = 128,
                                              .position_groups = 16,
                                              .vocab = 33,
                                              .heads = 16,
                                              .layers = 24,
                                              .eps = 1e-5f };
static const struct wav2vec2_config tiny = { .dim = 64,
                                             .ffn_dim = 128,
                                             .channels = 32,
                                             .convs = 7,
                                             .kernel = { 10, 3, 3, 3, 3, 2, 2 },
                                             .stride = { 5, 2, 2, 2, 2, 2, 2 },
                                             .position_kernel = 16,
                                             .position_groups = 4,
                                             .vocab = 33,
                                             .heads = 4,
                                             .layers = 3,
                                             .eps = 1e-5f };
static const struct variant variants[] = { { "wav2vec2-large", &large },
                                           { "wav2vec2-tiny", &tiny },
                                           { NULL, NULL } };

/* The names that newer versions of PyTorch give the parts of a weight norm. */
#define POSITION "wav2vec2.encoder.pos_conv_embed.conv."
static const struct name_pair pairs[] = {
    { POSITION "weight_g", POSITION "parametrizations.weight.original0" },
    { POSITION "weight_v", POSITION "parametrizations.weight.original1" },
    { NULL, NULL },
};

static bool rename_tensor(const char *name, bool to_official, char *out, size_t size)
{
    return names_translate(pairs, to_official, "", name, out, size) ||
           names_write(out, size, "", name, 0, "");
}

static status find_convolutions(const struct describing *d, struct wav2vec2_config *c)
{
    static const int64_t strides[] = { 5, 2, 2, 2, 2, 2, 2 }; // of the released models
    float stride[WAV2VEC2_CONVS] = { 0 };
    char name[80];

    TRY(describe_count(d, "wav2vec2.feature_extractor.conv_layers.", &c->convs));
    if (c->convs < 1 || c->convs > WAV2VEC2_CONVS)
        return fail(ST_FORMAT, "%s: the audio encoder has %d convolutions, expected 1 to %d",
                    d->file, c->convs, WAV2VEC2_CONVS);
    for (int i = 0; i < c->convs; i++) {
        snprintf(name, sizeof(name), "wav2vec2.feature_extractor.conv_layers.%d.conv.weight", i);
        TRY(describe_axis(d, name, 3, 2, &c->kernel[i]));
        stride[i] = i < (int)COUNT(strides) ? (float)strides[i] : 2;
    }
    snprintf(name, sizeof(name), "wav2vec2.feature_extractor.conv_layers.0.conv.weight");
    TRY(describe_axis(d, name, 3, 0, &c->channels));
    TRY(describe_list(d, "conv_stride", c->convs, true, stride));
    for (int i = 0; i < c->convs; i++) {
        if (stride[i] < 1 || stride[i] > (float)c->kernel[i] || stride[i] != floorf(stride[i]))
            return fail(ST_FORMAT,
                        "%s: convolution %d of the audio encoder has stride %g and a kernel of "
                        "%lld; the stride must be a whole number up to the kernel",
                        d->config, i, (double)stride[i], (long long)c->kernel[i]);
        c->stride[i] = (int64_t)stride[i];
    }
    return ST_OK;
}

/* What tensors do not tell: the norms' places and the activations. */
static status check_kind(const struct describing *d)
{
    static const struct {
        const char *key, *value;
    } texts[] = { { "feat_extract_norm", "layer" },
                  { "feat_extract_activation", "gelu" },
                  { "hidden_act", "gelu" } };
    const cJSON *stable = cJSON_GetObjectItemCaseSensitive(d->json, "do_stable_layer_norm");

    if (!describe_has(d, "wav2vec2.feature_extractor.conv_layers.1.layer_norm.weight") ||
        (stable != NULL && !cJSON_IsTrue(stable)))
        return fail(ST_FORMAT,
                    "%s: is a wav2vec 2.0 of another kind: S2V needs one with norms in front of "
                    "its layers and after each convolution, wav2vec2-large-xlsr-53-english",
                    d->file);
    for (size_t i = 0; i < COUNT(texts); i++) {
        const cJSON *text = cJSON_GetObjectItemCaseSensitive(d->json, texts[i].key);

        if (text != NULL &&
            (!cJSON_IsString(text) || strcmp(text->valuestring, texts[i].value) != 0))
            return fail(ST_FORMAT, "%s: %s is not \"%s\", as in S2V's audio encoder", d->config,
                        texts[i].key, texts[i].value);
    }
    return ST_OK;
}

static status describe(const struct describing *d, void *config)
{
    static const char up[] = "wav2vec2.encoder.layers.0.feed_forward.intermediate_dense.weight";
    static const char position[] = POSITION "weight_v";
    struct wav2vec2_config c = { .eps = 1e-5f };
    int64_t width;
    double eps = 1e-5;

    TRY(check_kind(d));
    TRY(describe_axis(d, up, 2, 0, &c.ffn_dim));
    TRY(describe_axis(d, up, 2, 1, &c.dim));
    TRY(describe_count(d, "wav2vec2.encoder.layers.", &c.layers));
    TRY(describe_axis(d, position, 3, 1, &width));
    TRY(describe_axis(d, position, 3, 2, &c.position_kernel));
    if (width < 1 || c.dim % width != 0)
        return fail(ST_FORMAT, "%s: tensor %s has groups of %lld channels, of %lld", d->file,
                    position, (long long)width, (long long)c.dim);
    c.position_groups = c.dim / width;
    TRY(find_convolutions(d, &c));
    TRY(describe_heads(d, c.dim, HEAD_DIM, "audio encoder", &c.heads));
    if (describe_has(d, "lm_head.weight"))
        TRY(describe_axis(d, "lm_head.weight", 2, 0, &c.vocab));
    TRY(describe_number(d, "layer_norm_eps", &eps));
    c.eps = (float)eps;
    TRY(describe_agree(d, "hidden_size", c.dim, up));
    TRY(describe_agree(d, "intermediate_size", c.ffn_dim, up));
    TRY(describe_agree(d, "num_hidden_layers", c.layers, "wav2vec2.encoder.layers.N"));
    TRY(describe_agree(d, "num_conv_pos_embeddings", c.position_kernel, position));
    TRY(describe_agree(d, "num_conv_pos_embedding_groups", c.position_groups, position));
    *(struct wav2vec2_config *)config = c;
    return ST_OK;
}

static void tensors(struct tensor_list *l, const void *config, const struct tensorfile *file)
{
    wav2vec2_tensors(l, config);
}

static status check(const void *config, const char *file)
{
    return wav2vec2_check(config, file);
}

static void print(FILE *out, const void *config)
{
    const struct wav2vec2_config *c = config;
    int64_t stride = 1;

    for (int i = 0; i < c->convs; i++)
        stride *= c->stride[i];
    fprintf(out,
            "  %-12s%d samples a second, %d convolutions of %" PRId64
            " channels to a row of %" PRId64 " samples, width %" PRId64 ", ffn %" PRId64
            ", %d heads, %d layers\n",
            "config", WAV2VEC2_RATE, c->convs, c->channels, stride, c->dim, c->ffn_dim, c->heads,
            c->layers);
}

/* ---- synth ---- */

static void config_json(struct cJSON *json, const void *config, bool diffusers)
{
    const struct wav2vec2_config *c = config;
    float kernel[WAV2VEC2_CONVS], stride[WAV2VEC2_CONVS], channels[WAV2VEC2_CONVS];

    for (int i = 0; i < c->convs; i++) {
        kernel[i] = (float)c->kernel[i];
        stride[i] = (float)c->stride[i];
        channels[i] = (float)c->channels;
    }
    config_set_text(json, "model_type", "wav2vec2");
    config_set_bool(json, "conv_bias", true);
    config_set_floats(json, "conv_dim", channels, c->convs);
    config_set_floats(json, "conv_kernel", kernel, c->convs);
    config_set_floats(json, "conv_stride", stride, c->convs);
    config_set_bool(json, "do_stable_layer_norm", true);
    config_set_text(json, "feat_extract_activation", "gelu");
    config_set_text(json, "feat_extract_norm", "layer");
    config_set_text(json, "hidden_act", "gelu");
    config_set_number(json, "hidden_size", (double)c->dim);
    config_set_number(json, "intermediate_size", (double)c->ffn_dim);
    config_set_float(json, "layer_norm_eps", c->eps);
    config_set_number(json, "num_attention_heads", c->heads);
    config_set_number(json, "num_conv_pos_embedding_groups", (double)c->position_groups);
    config_set_number(json, "num_conv_pos_embeddings", (double)c->position_kernel);
    config_set_number(json, "num_feat_extract_layers", c->convs);
    config_set_number(json, "num_hidden_layers", c->layers);
    config_set_number(json, "vocab_size", (double)c->vocab);
}

static const struct place places[] = { { FOLDER, "model", true },
                                       { FOLDER, "pytorch_model.bin", false },
                                       { "", "wav2vec2*.safetensors", false },
                                       { "/audio_encoders", "wav2vec2*.safetensors", false },
                                       { "/../audio_encoders", "wav2vec2*.safetensors", false },
                                       { 0 } };
static const struct place diffusers_places[] = { { "/audio_encoder", "model", true }, { 0 } };
static const char *const folders[] = { "audio_encoders", NULL };
static const struct name_pair detected_by[] = {
    { POSITION "weight_v", POSITION "parametrizations.weight.original1" }, { NULL, NULL }
};
/* For training, and the head of speech recognition. */
static const char *const ignored[] = {
    "wav2vec2.masked_spec_embed", "lm_head.", "quantizer.", "project_q.", "project_hid.", NULL
};

const struct part part_wav2vec2 = { .key = "wav2vec2",
                                    .name = "audio encoder",
                                    .optional = true,
                                    .config_bytes = sizeof(struct wav2vec2_config),
                                    .variants = variants,
                                    .official = places,
                                    .diffusers = diffusers_places,
                                    .folders = folders,
                                    .official_config = true,
                                    .detected_by = detected_by,
                                    .ignored = ignored,
                                    .rename = rename_tensor,
                                    .describe = describe,
                                    .tensors = tensors,
                                    .check = check,
                                    .print = print,
                                    .library = "transformers",
                                    .class_name = "Wav2Vec2ForCTC",
                                    .config_json = config_json,
                                    .dtype = DT_F32 };
