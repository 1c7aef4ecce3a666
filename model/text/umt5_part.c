#include "model/text/umt5_part.h"

#include "model/checkpoint/config_json.h"
#include "model/checkpoint/names.h"
#include "model/text/spiece.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

static const struct t5_config xxl = { .vocab = 256384,
                                      .dim = 4096,
                                      .attn_dim = 4096,
                                      .ffn_dim = 10240,
                                      .heads = 64,
                                      .layers = 24,
                                      .buckets = 32 };
static const struct t5_config tiny = {
    .vocab = 2048, .dim = 64, .attn_dim = 64, .ffn_dim = 128, .heads = 4, .layers = 2, .buckets = 32
};
static const struct variant variants[] = { { "umt5-xxl", &xxl },
                                           { "umt5-tiny", &tiny },
                                           { NULL, NULL } };

/* The names in transformers' UMT5EncoderModel; then those of llama.cpp in GGUF files. */
static const struct name_pair t5_pairs[] = {
    { "token_embedding.weight", "shared.weight" },
    { "norm.weight", "encoder.final_layer_norm.weight" },
    { "blocks.%.norm1.", "encoder.block.%.layer.0.layer_norm." },
    { "blocks.%.attn.q.", "encoder.block.%.layer.0.SelfAttention.q." },
    { "blocks.%.attn.k.", "encoder.block.%.layer.0.SelfAttention.k." },
    { "blocks.%.attn.v.", "encoder.block.%.layer.0.SelfAttention.v." },
    { "blocks.%.attn.o.", "encoder.block.%.layer.0.SelfAttention.o." },
    { "blocks.%.pos_embedding.embedding.",
      "encoder.block.%.layer.0.SelfAttention.relative_attention_bias." },
    { "blocks.%.norm2.", "encoder.block.%.layer.1.layer_norm." },
    { "blocks.%.ffn.gate.0.", "encoder.block.%.layer.1.DenseReluDense.wi_0." },
    { "blocks.%.ffn.fc1.", "encoder.block.%.layer.1.DenseReluDense.wi_1." },
    { "blocks.%.ffn.fc2.", "encoder.block.%.layer.1.DenseReluDense.wo." },
    { "token_embedding.weight", "token_embd.weight" },
    { "norm.weight", "enc.output_norm.weight" },
    { "blocks.%.norm1.", "enc.blk.%.attn_norm." },
    { "blocks.%.attn.q.", "enc.blk.%.attn_q." },
    { "blocks.%.attn.k.", "enc.blk.%.attn_k." },
    { "blocks.%.attn.v.", "enc.blk.%.attn_v." },
    { "blocks.%.attn.o.", "enc.blk.%.attn_o." },
    { "blocks.%.pos_embedding.embedding.", "enc.blk.%.attn_rel_b." },
    { "blocks.%.norm2.", "enc.blk.%.ffn_norm." },
    { "blocks.%.ffn.gate.0.", "enc.blk.%.ffn_gate." },
    { "blocks.%.ffn.fc1.", "enc.blk.%.ffn_up." },
    { "blocks.%.ffn.fc2.", "enc.blk.%.ffn_down." },
    { NULL, NULL },
};

static bool rename_tensor(const char *name, bool to_official, char *out, size_t size)
{
    return names_translate(t5_pairs, to_official, "", name, out, size);
}

static status describe(const struct describing *d, void *config)
{
    static const char bias[] = "blocks.0.pos_embedding.embedding.weight";
    struct t5_config c = { 0 };
    int64_t heads = 0, buckets = 0, head_dim = 0;

    TRY(describe_axis(d, "token_embedding.weight", 2, 0, &c.vocab));
    TRY(describe_axis(d, "token_embedding.weight", 2, 1, &c.dim));
    TRY(describe_axis(d, "blocks.0.attn.q.weight", 2, 0, &c.attn_dim));
    TRY(describe_axis(d, "blocks.0.ffn.fc1.weight", 2, 0, &c.ffn_dim));
    TRY(describe_axis(d, bias, 2, 0, &buckets));
    TRY(describe_axis(d, bias, 2, 1, &heads));
    TRY(describe_count(d, "blocks.", &c.layers));
    c.heads = (int)heads;
    c.buckets = (int)buckets;
    if (c.attn_dim % heads != 0)
        return fail(ST_FORMAT, "%s: %lld heads do not split an attention of %lld", d->file,
                    (long long)heads, (long long)c.attn_dim);
    TRY(describe_size(d, "d_kv", &head_dim));
    if (head_dim != 0 && head_dim * heads != c.attn_dim)
        return fail(ST_FORMAT, "%s: d_kv is %lld, but by tensor blocks.0.attn.q.weight it is %lld",
                    d->config, (long long)head_dim, (long long)(c.attn_dim / heads));
    TRY(describe_agree(d, "vocab_size", c.vocab, "token_embedding.weight"));
    TRY(describe_agree(d, "d_model", c.dim, "token_embedding.weight"));
    TRY(describe_agree(d, "d_ff", c.ffn_dim, "blocks.0.ffn.fc1.weight"));
    TRY(describe_agree(d, "num_heads", heads, bias));
    TRY(describe_agree(d, "num_layers", c.layers, "blocks.N"));
    TRY(describe_agree(d, "relative_attention_num_buckets", buckets, bias));
    *(struct t5_config *)config = c;
    return ST_OK;
}

static void tensors(struct tensor_list *l, const void *config, const struct tensorfile *file)
{
    umt5_tensors(l, config, DT_F32, DT_F32);
}

static status check(const void *config, const char *file)
{
    return umt5_check(config, file);
}

static void print(FILE *out, const void *config)
{
    const struct t5_config *c = config;

    fprintf(out,
            "  %-12svocabulary %" PRId64 ", width %" PRId64 ", attention %" PRId64 ", ffn %" PRId64
            ", %d heads, %d layers, %d buckets\n",
            "config", c->vocab, c->dim, c->attn_dim, c->ffn_dim, c->heads, c->layers, c->buckets);
}

/* ---- synth ---- */

static const char *official_file(const void *config)
{
    return "models_t5_umt5-xxl-enc-bf16.pth";
}

static void config_json(struct cJSON *json, const void *config, bool diffusers)
{
    const struct t5_config *c = config;

    config_set_text(json, "model_type", "umt5");
    config_set_number(json, "d_ff", (double)c->ffn_dim);
    config_set_number(json, "d_kv", (double)(c->attn_dim / c->heads));
    config_set_number(json, "d_model", (double)c->dim);
    config_set_text(json, "dense_act_fn", "gelu_new");
    config_set_text(json, "feed_forward_proj", "gated-gelu");
    config_set_bool(json, "is_gated_act", true);
    config_set_number(json, "layer_norm_epsilon", 1e-6);
    config_set_number(json, "num_heads", c->heads);
    config_set_number(json, "num_layers", c->layers);
    config_set_number(json, "relative_attention_max_distance", 128);
    config_set_number(json, "relative_attention_num_buckets", c->buckets);
    config_set_number(json, "vocab_size", (double)c->vocab);
}

static float std_scale(const void *config, const char *tensor) // T5 does not scale its logits
{
    const struct t5_config *c = config;
    const char *end = strstr(tensor, "attn.q.weight");

    return end != NULL ? 1 / sqrtf((float)(c->attn_dim / c->heads)) : 1;
}

static const struct place places[] = { { "", "models_t5_umt5-xxl-enc-bf16.pth", false },
                                       { "", "models_t5*.pth", false },
                                       { "", "models_t5*.safetensors", false },
                                       { "", "umt5*.safetensors", false },
                                       { "/text_encoders", "umt5*.safetensors", false },
                                       { "/../text_encoders", "umt5*.safetensors", false },
                                       { 0 } };
static const struct place diffusers_places[] = { { "/text_encoder", "model", true }, { 0 } };
static const char *const folders[] = { "text_encoders", "clip", "checkpoints", NULL };
static const struct name_pair detected_by[] = {
    { "blocks.0.pos_embedding.embedding.weight", "encoder.final_layer_norm.weight" },
    { "blocks.0.pos_embedding.embedding.weight", "enc.output_norm.weight" },
    { NULL, NULL }
};
static const struct name_pair fallbacks[] = { { "encoder.embed_tokens.weight", "shared.weight" },
                                              { NULL, NULL } };
/* Tied to the embedding; where ComfyUI keeps the tokenizer; of a whole model. */
static const char *const ignored[] = {
    "encoder.embed_tokens.weight", "spiece_model", "decoder.", "dec.", "lm_head.weight", NULL
};

const struct part part_t5 = { .key = "t5",
                              .name = "text encoder",
                              .config_bytes = sizeof(struct t5_config),
                              .variants = variants,
                              .official = places,
                              .diffusers = diffusers_places,
                              .folders = folders,
                              .tokenizers = { "google/umt5-xxl", "tokenizer" },
                              .tokenizer_tensor = "spiece_model",
                              .tokenizer = spiece_of_gguf,
                              .detected_by = detected_by,
                              .fallbacks = fallbacks,
                              .ignored = ignored,
                              .rename = rename_tensor,
                              .describe = describe,
                              .tensors = tensors,
                              .check = check,
                              .print = print,
                              .official_file = official_file,
                              .library = "transformers",
                              .class_name = "UMT5EncoderModel",
                              .config_json = config_json,
                              .std_scale = std_scale,
                              .dtype = DT_BF16 };
