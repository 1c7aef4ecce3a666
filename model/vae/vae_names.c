/* The VAEs' names in diffusers. Source: diffusers scripts/convert_wan_to_diffusers.py. */
#include "model/checkpoint/names.h"
#include "model/vae/vae_part.h"

#include <stdio.h>

/* All but Wan2.1's decoder.up_blocks and the levels of Wan2.2, which are further down. */
static const struct name_pair vae_pairs[] = {
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
    { NULL, NULL },
};

static const struct name_pair res_pairs[] = {
    { "residual.0.", "norm1." }, { "residual.2.", "conv1." },       { "residual.3.", "norm2." },
    { "residual.6.", "conv2." }, { "shortcut.", "conv_shortcut." }, { NULL, NULL },
};

/* In Wan2.1 every level of the decoder has three residual blocks, and all but the last an upsampler
 * after them: decoder.upsamples counts through, diffusers counts per level. */
#define UP_ENTRIES 4

static const char *vae_up_to_official(const char *name, char *prefix, size_t size)
{
    int level = 0, entry = UP_ENTRIES - 1;
    const char *rest = names_match("decoder.up_blocks.%.", name, &level), *inner;

    if (rest == NULL)
        return NULL;
    inner = names_match("upsamplers.0.", rest, &entry);
    if (inner == NULL) {
        inner = names_match("resnets.%.", rest, &entry);
        if (inner == NULL || entry >= UP_ENTRIES - 1)
            return NULL;
    }
    snprintf(prefix, size, "decoder.upsamples.%d.", UP_ENTRIES * level + entry);
    return inner;
}

static const char *vae_up_from_official(const char *name, char *prefix, size_t size)
{
    int index = 0;
    const char *rest = names_match("decoder.upsamples.%.", name, &index);

    if (rest == NULL)
        return NULL;
    if (index % UP_ENTRIES == UP_ENTRIES - 1)
        snprintf(prefix, size, "decoder.up_blocks.%d.upsamplers.0.", index / UP_ENTRIES);
    else
        snprintf(prefix, size, "decoder.up_blocks.%d.resnets.%d.", index / UP_ENTRIES,
                 index % UP_ENTRIES);
    return rest;
}

/* In Wan2.2 a level has a list of its residual blocks and then its resampling, which diffusers has
 * beside the list. */
static const struct {
    const char *level, *entry;             // official
    const char *block, *resnet, *resample; // in diffusers
    int blocks;                            // of a level
} sides[] = {
    { "encoder.downsamples.%.", "downsamples.%.", "encoder.down_blocks.%.", "resnets.%.",
      "downsampler.", 2 },
    { "decoder.upsamples.%.", "upsamples.%.", "decoder.up_blocks.%.", "resnets.%.", "upsampler.",
      3 },
};

/* prefix = `outer` with one number and `inner` with the other. */
static bool write_level(char *prefix, size_t size, const char *outer, int level, const char *inner,
                        int entry)
{
    char part[64];

    return names_write(part, sizeof(part), "", inner, entry, "") &&
           names_write(prefix, size, "", outer, level, part);
}

static const char *level_to_official(const char *name, char *prefix, size_t size)
{
    for (size_t i = 0; i < COUNT(sides); i++) {
        int level = 0, entry = sides[i].blocks;
        const char *rest = names_match(sides[i].block, name, &level), *inner;

        if (rest == NULL)
            continue;
        inner = names_match(sides[i].resample, rest, &entry);
        if (inner == NULL) {
            inner = names_match(sides[i].resnet, rest, &entry);
            if (inner == NULL || entry >= sides[i].blocks)
                return NULL;
        }
        return write_level(prefix, size, sides[i].level, level, sides[i].entry, entry) ? inner
                                                                                       : NULL;
    }
    return NULL;
}

static const char *level_from_official(const char *name, char *prefix, size_t size)
{
    for (size_t i = 0; i < COUNT(sides); i++) {
        int level = 0, entry = 0;
        const char *rest = names_match(sides[i].level, name, &level);
        const char *inner = rest != NULL ? names_match(sides[i].entry, rest, &entry) : NULL;
        const char *other = entry < sides[i].blocks ? sides[i].resnet : sides[i].resample;

        if (inner != NULL)
            return write_level(prefix, size, sides[i].block, level, other, entry) ? inner : NULL;
    }
    return NULL;
}

/* levels: of the names that both have, Wan2.2's are meant. */
static bool rename_tensor(const char *name, bool to_official, bool levels, char *out, size_t size)
{
    const bool first = levels || !to_official; // official names tell which one they are from
    const char *rest = NULL;
    char prefix[96];

    for (int i = 0; i < 2 && rest == NULL; i++) {
        if (first == (i == 0))
            rest = to_official ? level_to_official(name, prefix, sizeof(prefix))
                               : level_from_official(name, prefix, sizeof(prefix));
        else
            rest = to_official ? vae_up_to_official(name, prefix, sizeof(prefix))
                               : vae_up_from_official(name, prefix, sizeof(prefix));
    }
    for (size_t i = 0; rest == NULL && vae_pairs[i].official != NULL; i++) {
        int index = 0;

        rest = names_match(to_official ? vae_pairs[i].other : vae_pairs[i].official, name, &index);
        if (rest != NULL &&
            !names_write(prefix, sizeof(prefix), "",
                         to_official ? vae_pairs[i].official : vae_pairs[i].other, index, ""))
            return false;
    }
    if (rest == NULL)
        return false;
    // what a residual block has inside is renamed too; the rest keeps its name
    return names_translate(res_pairs, to_official, prefix, rest, out, size) ||
           names_write(out, size, prefix, rest, 0, "");
}

bool vae_rename(const char *name, bool to_official, char *out, size_t size)
{
    return rename_tensor(name, to_official, false, out, size);
}

bool vae_rename_levels(const char *name, bool to_official, char *out, size_t size)
{
    return rename_tensor(name, to_official, true, out, size);
}
