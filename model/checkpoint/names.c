/* Other names for the same tensors: diffusers' transformer and VAE, transformers' umT5.
 * Source: diffusers scripts/convert_wan_to_diffusers.py, read backwards and forwards. */
#include "model/checkpoint/checkpoint_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A pattern matches a whole name, or when it ends in '.', the beginning of one, whose rest is kept.
 * '%' stands for the same number on both sides. The first pair that matches is taken. */
struct pair {
    const char *official, *other;
};

static const struct pair dit_pairs[] = {
    { "patch_embedding.", "patch_embedding." },
    { "text_embedding.0.", "condition_embedder.text_embedder.linear_1." },
    { "text_embedding.2.", "condition_embedder.text_embedder.linear_2." },
    { "time_embedding.0.", "condition_embedder.time_embedder.linear_1." },
    { "time_embedding.2.", "condition_embedder.time_embedder.linear_2." },
    { "time_projection.1.", "condition_embedder.time_proj." },
    { "img_emb.proj.0.", "condition_embedder.image_embedder.norm1." },
    { "img_emb.proj.1.", "condition_embedder.image_embedder.ff.net.0.proj." },
    { "img_emb.proj.3.", "condition_embedder.image_embedder.ff.net.2." },
    { "img_emb.proj.4.", "condition_embedder.image_embedder.norm2." },
    { "img_emb.emb_pos", "condition_embedder.image_embedder.pos_embed" },
    { "head.modulation", "scale_shift_table" },
    { "head.head.", "proj_out." },
    { "vace_patch_embedding.", "vace_patch_embedding." },
};

/* Behind "blocks.N." or "vace_blocks.N.". Official norm3, the affine one, is diffusers' norm2. */
static const struct pair block_pairs[] = {
    { "modulation", "scale_shift_table" },
    { "self_attn.q.", "attn1.to_q." },
    { "self_attn.k.", "attn1.to_k." },
    { "self_attn.v.", "attn1.to_v." },
    { "self_attn.o.", "attn1.to_out.0." },
    { "self_attn.norm_q.", "attn1.norm_q." },
    { "self_attn.norm_k.", "attn1.norm_k." },
    { "cross_attn.q.", "attn2.to_q." },
    { "cross_attn.k.", "attn2.to_k." },
    { "cross_attn.v.", "attn2.to_v." },
    { "cross_attn.o.", "attn2.to_out.0." },
    { "cross_attn.norm_q.", "attn2.norm_q." },
    { "cross_attn.norm_k.", "attn2.norm_k." },
    { "cross_attn.k_img.", "attn2.add_k_proj." },
    { "cross_attn.v_img.", "attn2.add_v_proj." },
    { "cross_attn.norm_k_img.", "attn2.norm_added_k." },
    { "norm3.", "norm2." },
    { "ffn.0.", "ffn.net.0.proj." },
    { "ffn.2.", "ffn.net.2." },
    { "before_proj.", "proj_in." },
    { "after_proj.", "proj_out." },
};

static const struct pair t5_pairs[] = {
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
};

/* Only Wan2.1's VAE; the decoder's up_blocks are vae_up below. */
static const struct pair vae_pairs[] = {
    { "conv1.", "quant_conv." },
    { "conv2.", "post_quant_conv." },
    { "encoder.conv1.", "encoder.conv_in." },
    { "encoder.downsamples.%.", "encoder.down_blocks.%." },
    { "encoder.middle.0.", "encoder.mid_block.resnets.0." },
    { "encoder.middle.1.", "encoder.mid_block.attentions.0." },
    { "encoder.middle.2.", "encoder.mid_block.resnets.1." },
    { "encoder.head.0.", "encoder.norm_out." },
    { "encoder.head.2.", "encoder.conv_out." },
    { "decoder.conv1.", "decoder.conv_in." },
    { "decoder.middle.0.", "decoder.mid_block.resnets.0." },
    { "decoder.middle.1.", "decoder.mid_block.attentions.0." },
    { "decoder.middle.2.", "decoder.mid_block.resnets.1." },
    { "decoder.head.0.", "decoder.norm_out." },
    { "decoder.head.2.", "decoder.conv_out." },
};

static const struct pair res_pairs[] = {
    { "residual.0.", "norm1." }, { "residual.2.", "conv1." },       { "residual.3.", "norm2." },
    { "residual.6.", "conv2." }, { "shortcut.", "conv_shortcut." },
};

/* The number at *text, of one to four digits; false when there is none. */
static bool take_index(const char **text, int *index)
{
    const char *s = *text;

    *index = 0;
    while (*s >= '0' && *s <= '9' && s - *text < 4)
        *index = 10 * *index + (*s++ - '0');
    if (s == *text || (s - *text > 1 && **text == '0'))
        return false;
    *text = s;
    return true;
}

/* What follows the pattern in the name, or NULL when it does not match. */
static const char *match(const char *pattern, const char *name, int *index)
{
    const bool open = pattern[strlen(pattern) - 1] == '.';

    for (; *pattern; pattern++) {
        if (*pattern == '%') {
            if (!take_index(&name, index))
                return NULL;
        } else if (*pattern != *name++) {
            return NULL;
        }
    }
    return open || *name == '\0' ? name : NULL;
}

/* Writes prefix, pattern and rest; false when they do not fit. */
static bool write_name(char *out, size_t size, const char *prefix, const char *pattern, int index,
                       const char *rest)
{
    const char *hole = strchr(pattern, '%');
    int n;

    if (hole != NULL)
        n = snprintf(out, size, "%s%.*s%d%s%s", prefix, (int)(hole - pattern), pattern, index,
                     hole + 1, rest);
    else
        n = snprintf(out, size, "%s%s%s", prefix, pattern, rest);
    return n >= 0 && (size_t)n < size;
}

static bool translate(const struct pair *pairs, size_t count, bool to_official, const char *prefix,
                      const char *name, char *out, size_t size)
{
    for (size_t i = 0; i < count; i++) {
        int index = 0;
        const char *rest = match(to_official ? pairs[i].other : pairs[i].official, name, &index);

        if (rest != NULL)
            return write_name(out, size, prefix, to_official ? pairs[i].official : pairs[i].other,
                              index, rest);
    }
    return false;
}

static bool dit_name(const char *name, bool to_official, char *out, size_t size)
{
    static const char *const lists[] = { "blocks.%.", "vace_blocks.%." };
    char prefix[64];

    for (size_t i = 0; i < COUNT(lists); i++) {
        int index = 0;
        const char *rest = match(lists[i], name, &index);

        if (rest == NULL)
            continue;
        write_name(prefix, sizeof(prefix), "", lists[i], index, "");
        return translate(block_pairs, COUNT(block_pairs), to_official, prefix, rest, out, size);
    }
    return translate(dit_pairs, COUNT(dit_pairs), to_official, "", name, out, size);
}

/* Every level of the decoder has three residual blocks, and all but the last an upsampler behind
 * them: decoder.upsamples counts through, diffusers counts per level. */
#define UP_ENTRIES 4

static const char *vae_up_to_official(const char *name, char *prefix, size_t size)
{
    int level = 0, entry = UP_ENTRIES - 1;
    const char *rest = match("decoder.up_blocks.%.", name, &level), *inner;

    if (rest == NULL)
        return NULL;
    inner = match("upsamplers.0.", rest, &entry);
    if (inner == NULL) {
        inner = match("resnets.%.", rest, &entry);
        if (inner == NULL || entry >= UP_ENTRIES - 1)
            return NULL;
    }
    snprintf(prefix, size, "decoder.upsamples.%d.", UP_ENTRIES * level + entry);
    return inner;
}

static const char *vae_up_from_official(const char *name, char *prefix, size_t size)
{
    int index = 0;
    const char *rest = match("decoder.upsamples.%.", name, &index);

    if (rest == NULL)
        return NULL;
    if (index % UP_ENTRIES == UP_ENTRIES - 1)
        snprintf(prefix, size, "decoder.up_blocks.%d.upsamplers.0.", index / UP_ENTRIES);
    else
        snprintf(prefix, size, "decoder.up_blocks.%d.resnets.%d.", index / UP_ENTRIES,
                 index % UP_ENTRIES);
    return rest;
}

static bool vae_name(const char *name, bool to_official, char *out, size_t size)
{
    char prefix[96];
    const char *rest = to_official ? vae_up_to_official(name, prefix, sizeof(prefix))
                                   : vae_up_from_official(name, prefix, sizeof(prefix));

    for (size_t i = 0; rest == NULL && i < COUNT(vae_pairs); i++) {
        int index = 0;

        rest = match(to_official ? vae_pairs[i].other : vae_pairs[i].official, name, &index);
        if (rest != NULL &&
            !write_name(prefix, sizeof(prefix), "",
                        to_official ? vae_pairs[i].official : vae_pairs[i].other, index, ""))
            return false;
    }
    if (rest == NULL)
        return false;
    // what a residual block has inside is renamed too; the rest keeps its name
    return translate(res_pairs, COUNT(res_pairs), to_official, prefix, rest, out, size) ||
           write_name(out, size, prefix, rest, 0, "");
}

static bool rename_tensor(enum part part, const char *name, bool to_official, char *out,
                          size_t size)
{
    switch (part) {
    case PART_DIT:
        return dit_name(name, to_official, out, size);
    case PART_T5:
        return translate(t5_pairs, COUNT(t5_pairs), to_official, "", name, out, size);
    case PART_VAE:
        return vae_name(name, to_official, out, size);
    case PART_COUNT:
        break;
    }
    return false;
}

bool name_to_official(enum part part, const char *name, char *out, size_t size)
{
    return rename_tensor(part, name, true, out, size);
}

bool name_from_official(enum part part, const char *name, char *out, size_t size)
{
    return rename_tensor(part, name, false, out, size);
}

/* By which a part is recognised, in either style; behind any of the prefixes. */
static const struct {
    const char *official, *other;
} anchors[PART_COUNT] = {
    [PART_DIT] = { "time_projection.1.weight", "condition_embedder.time_proj.weight" },
    [PART_T5] = { "token_embedding.weight", "encoder.final_layer_norm.weight" },
    [PART_VAE] = { "decoder.head.0.gamma", "decoder.norm_out.gamma" },
};
static const char *const encoder_anchors[] = { "encoder.head.0.gamma", "encoder.norm_out.gamma" };
static const char *const prefixes[] = {
    "",
    "model.diffusion_model.",
    "diffusion_model.",
    "model.",
    "transformer.",
    "first_stage_model.",
    "vae.",
    "text_encoders.umt5xxl.transformer.",
    "text_encoder.",
};

static bool has(const struct tensorfile *f, const char *prefix, const char *name)
{
    char whole[160];

    snprintf(whole, sizeof(whole), "%s%s", prefix, name);
    return tensorfile_find(f, whole) != NULL;
}

struct renaming {
    enum part part;
    const char *prefix;
    bool translate;
    bool tied; // embed_tokens is a copy of shared
};

static bool make_official(void *payload, const char *name, char *out, size_t size)
{
    const struct renaming *r = payload;
    const size_t length = strlen(r->prefix);
    const char *bare = name + length;

    if (strncmp(name, r->prefix, length) != 0)
        return false;
    if (r->translate && r->part == PART_T5 && !r->tied &&
        strcmp(bare, "encoder.embed_tokens.weight") == 0)
        bare = "shared.weight";
    if (r->translate && name_to_official(r->part, bare, out, size))
        return true;
    return write_name(out, size, "", bare, 0, "");
}

status names_make_official(struct tensorfile *f, enum part part, const char **prefix)
{
    struct renaming r = { .part = part, .prefix = "" };

    for (size_t i = 0; i < COUNT(prefixes); i++) {
        const bool official = has(f, prefixes[i], anchors[part].official) ||
                              (part == PART_VAE && has(f, prefixes[i], encoder_anchors[0]));
        const bool other = has(f, prefixes[i], anchors[part].other) ||
                           (part == PART_VAE && has(f, prefixes[i], encoder_anchors[1]));

        if (official || other) {
            r.prefix = prefixes[i];
            r.translate = !official;
            r.tied = has(f, prefixes[i], "shared.weight");
            break;
        }
    }
    *prefix = r.prefix;
    if (r.prefix[0] == '\0' && !r.translate)
        return ST_OK;
    return tensorfile_rename(f, make_official, &r);
}
