#include "model/pipeline/model.h"

#include "model/media/camera.h"
#include "model/transformer/dit_part.h"
#include "model/transformer/features.h"

#include <assert.h>
#include <string.h>

#define ADDRESS(name) &part_##name,
const struct part *const model_parts[MODEL_PART_COUNT + 1] = { MODEL_PARTS(ADDRESS) NULL };
#undef ADDRESS

int model_index(const struct part *part)
{
    for (int i = 0; i < MODEL_PART_COUNT; i++)
        if (model_parts[i] == part)
            return i;
    assert(!"a part of the table");
    return -1;
}

const void *model_config(const struct model *m, const struct part *part)
{
    return m->config[model_index(part)];
}

void model_set(struct model *m, const struct part *part, const void *config)
{
    m->config[model_index(part)] = config;
}

struct model model_of_checkpoint(const struct checkpoint *c)
{
    struct model m = { .config = { NULL } };

    for (int i = 0; i < c->count; i++)
        model_set(&m, c->parts[i].row, c->parts[i].config);
    return m;
}

status model_check(const struct model *m, const char *path)
{
    const struct dit_config *dit = model_dit(m), *low = model_config(m, &part_dit_low);
    const struct t5_config *t5 = model_t5(m);
    const struct vae_config *vae = model_vae(m);
    const struct clip_config *clip = model_clip(m);
    const struct feature_use *camera = dit != NULL ? dit_find_feature(dit, &feature_camera) : NULL;
    const struct feature_use *reference =
        dit != NULL ? dit_find_feature(dit, &feature_reference) : NULL;

    if (dit != NULL && t5 != NULL && dit->text_dim != t5->dim)
        return fail(ST_FORMAT,
                    "%s: the transformer needs text of width %lld, but the text encoder outputs "
                    "%lld: they are from different models; use the parts of one model",
                    path, (long long)dit->text_dim, (long long)t5->dim);
    if (dit != NULL && clip != NULL && dit->image_dim > 0 &&
        (dit->image_dim != clip->dim ||
         (dit->image_positions > 0 && dit->image_positions != 2 * clip_tokens(clip))))
        return fail(ST_FORMAT,
                    "%s: the transformer needs image tokens of width %lld (for two images %lld of "
                    "them, 0: any), but the image encoder outputs %lld of width %lld for one: they "
                    "are from different models; use the parts of one model",
                    path, (long long)dit->image_dim, (long long)dit->image_positions,
                    (long long)clip_tokens(clip), (long long)clip->dim);
    if (dit != NULL && vae != NULL && dit->out_dim != vae->z)
        return fail(ST_FORMAT,
                    "%s: the transformer outputs latents of %lld channels, but the VAE needs %lld: "
                    "they are from different models; use the parts of one model",
                    path, (long long)dit->out_dim, (long long)vae->z);
    if (camera != NULL && vae != NULL &&
        camera->width[0] != CAMERA_VALUES * (int64_t)vae->stride * vae->stride)
        return fail(ST_FORMAT,
                    "%s: the transformer's camera adapter has %lld values per position of the "
                    "latent, expected %lld, of %d x %d pixels",
                    path, (long long)camera->width[0],
                    (long long)(CAMERA_VALUES * (int64_t)vae->stride * vae->stride),
                    (int)vae->stride, (int)vae->stride);
    if (reference != NULL && reference->width[0] != dit->out_dim)
        return fail(ST_FORMAT,
                    "%s: the transformer takes a reference of %lld channels, and outputs latents "
                    "of %lld",
                    path, (long long)reference->width[0], (long long)dit->out_dim);
    if (dit != NULL && dit->in_dim < dit->out_dim)
        return fail(ST_FORMAT,
                    "%s: the transformer has %lld input channels, fewer than its %lld output "
                    "channels",
                    path, (long long)dit->in_dim, (long long)dit->out_dim);
    if (dit != NULL && low != NULL &&
        (dit->in_dim != low->in_dim || dit->out_dim != low->out_dim ||
         dit->text_dim != low->text_dim || dit->text_len != low->text_len))
        return fail(ST_FORMAT,
                    "%s: the two transformers differ in channels, text width or text length; use "
                    "those of one model",
                    path);
    if (dit != NULL && low != NULL && dit_sparse_kind(dit) != dit_sparse_kind(low))
        return fail(
            ST_FORMAT,
            "%s: the self attention of one transformer is sparse, and that of the other not "
            "or in another way; use those of one model",
            path);
    return ST_OK;
}

/* ---- released models ---- */

#define WAN21(dit)                                                                                 \
    {                                                                                              \
        { &part_dit, dit }, { &part_t5, "umt5-xxl" },                                              \
        {                                                                                          \
            &part_vae, "wan2.1"                                                                    \
        }                                                                                          \
    }
#define WAN21_IMAGE(dit)                                                                           \
    {                                                                                              \
        { &part_dit, dit }, { &part_t5, "umt5-xxl" }, { &part_vae, "wan2.1" },                     \
        {                                                                                          \
            &part_clip, "vit-h-14"                                                                 \
        }                                                                                          \
    }
#define WAN22_AUDIO(dit)                                                                           \
    {                                                                                              \
        { &part_dit, dit }, { &part_t5, "umt5-xxl" }, { &part_vae, "wan2.1" },                     \
        {                                                                                          \
            &part_wav2vec2, "wav2vec2-large"                                                       \
        }                                                                                          \
    }
#define WAN22_TWO(dit)                                                                             \
    {                                                                                              \
        { &part_dit, dit }, { &part_dit_low, dit }, { &part_t5, "umt5-xxl" },                      \
        {                                                                                          \
            &part_vae, "wan2.1"                                                                    \
        }                                                                                          \
    }
/* The same of small sizes. */
#define TINY(dit)                                                                                  \
    {                                                                                              \
        { &part_dit, dit }, { &part_t5, "umt5-tiny" },                                             \
        {                                                                                          \
            &part_vae, "wan2.1-tiny"                                                               \
        }                                                                                          \
    }
#define TINY_IMAGE(dit)                                                                            \
    {                                                                                              \
        { &part_dit, dit }, { &part_t5, "umt5-tiny" }, { &part_vae, "wan2.1-tiny" },               \
        {                                                                                          \
            &part_clip, "clip-tiny"                                                                \
        }                                                                                          \
    }
#define TINY_TWO(dit)                                                                              \
    {                                                                                              \
        { &part_dit, dit }, { &part_dit_low, dit }, { &part_t5, "umt5-tiny" },                     \
        {                                                                                          \
            &part_vae, "wan2.1-tiny"                                                               \
        }                                                                                          \
    }
#define WAN22(dit)                                                                                 \
    {                                                                                              \
        { &part_dit, dit }, { &part_t5, "umt5-xxl" },                                              \
        {                                                                                          \
            &part_vae, "wan2.2"                                                                    \
        }                                                                                          \
    }

static const struct preset presets[] = {
    { "t2v-1.3B", 1, WAN21("t2v-1.3B") },
    { "t2v-14B", 1, WAN21("t2v-14B") },
    { "i2v-14B", 1, WAN21_IMAGE("i2v-14B") },
    { "inp-1.3B", 1, WAN21_IMAGE("inp-1.3B") },
    { "flf2v-14B", 1, WAN21_IMAGE("flf2v-14B") },
    { "control-1.3B", 1, WAN21_IMAGE("control-1.3B") },
    { "control-14B", 1, WAN21_IMAGE("control-14B") },
    { "control-ref-1.3B", 1, WAN21_IMAGE("control-ref-1.3B") },
    { "control-ref-14B", 1, WAN21_IMAGE("control-ref-14B") },
    { "camera-1.3B", 1, WAN21_IMAGE("camera-1.3B") },
    { "camera-14B", 1, WAN21_IMAGE("camera-14B") },
    { "vace-1.3B", 1, WAN21("vace-1.3B") },
    { "vace-14B", 1, WAN21("vace-14B") },
    { "t2v-A14B", 2, WAN22_TWO("t2v-A14B") },
    { "i2v-A14B", 2, WAN22_TWO("i2v-A14B") },
    { "control-A14B", 2, WAN22_TWO("control-A14B") },
    { "camera-A14B", 2, WAN22_TWO("camera-A14B") },
    { "ti2v-5B", 1, WAN22("ti2v-5B") },
    { "s2v-14B", 1, WAN22_AUDIO("s2v-14B") },
    { "animate-14B", 1, WAN21_IMAGE("animate-14B") },
    { "fastwan-1.3B", 1, WAN21("fastwan-1.3B") },
    { "fastwan-14B", 1, WAN21("fastwan-14B") },
    { "fastwan-5B", 1, WAN22("fastwan-5B") },
    { "turbowan-1.3B", 1, WAN21("turbowan-1.3B") },
    { "turbowan-14B", 1, WAN21("turbowan-14B") },
    { "turbowan-i2v-A14B", 2, WAN22_TWO("turbowan-i2v-A14B") },
    { "speed-1.3B", // T2V with the motion controller
      0,
      { { &part_dit, "t2v-1.3B" },
        { &part_t5, "umt5-xxl" },
        { &part_vae, "wan2.1" },
        { &part_motion, "speed-1.3B" } } },
    { "tiny", 0, TINY("tiny") },
    { "tiny-meanflow", 0, TINY("tiny-meanflow") },
    { "tiny-vsa", 0, TINY("tiny-vsa") },
    { "tiny-sla", 0, TINY("tiny-sla") },
    { "tiny-vace", 0, TINY("tiny-vace") },
    { "tiny-s2v",
      0,
      { { &part_dit, "tiny-s2v" },
        { &part_t5, "umt5-tiny" },
        { &part_vae, "wan2.1-tiny" },
        { &part_wav2vec2, "wav2vec2-tiny" } } },
    { "tiny-speed",
      0,
      { { &part_dit, "tiny" },
        { &part_t5, "umt5-tiny" },
        { &part_vae, "wan2.1-tiny" },
        { &part_motion, "speed-tiny" } } },
    { "tiny-5B",
      0,
      { { &part_dit, "tiny-5B" }, { &part_t5, "umt5-tiny" }, { &part_vae, "wan2.2-tiny" } } },
    { "tiny-i2v-A14B", 0, TINY_TWO("tiny-i2v") },
    { "tiny-i2v-14B", 0, TINY_IMAGE("tiny-i2v-clip") },
    { "tiny-flf2v-14B", 0, TINY_IMAGE("tiny-flf2v") },
    { "tiny-A14B", 0, TINY_TWO("tiny") },
    { "tiny-control", 0, TINY_IMAGE("tiny-control") },
    { "tiny-control-ref", 0, TINY_IMAGE("tiny-control-ref") },
    { "tiny-camera", 0, TINY_IMAGE("tiny-camera") },
    { "tiny-control-A14B", 0, TINY_TWO("tiny-control-A14B") },
    { "tiny-camera-A14B", 0, TINY_TWO("tiny-camera-A14B") },
};

const struct preset *preset_at(int index)
{
    return index >= 0 && index < (int)COUNT(presets) ? &presets[index] : NULL;
}

const struct preset *preset_find(const char *name)
{
    for (size_t i = 0; i < COUNT(presets); i++)
        if (strcmp(presets[i].name, name) == 0)
            return &presets[i];
    return NULL;
}

struct model preset_model(const struct preset *preset)
{
    struct model m = { .config = { NULL } };

    for (int i = 0; i < MODEL_PART_COUNT && preset->part[i].part != NULL; i++) {
        const void *config = part_variant(preset->part[i].part, preset->part[i].variant);

        assert(config != NULL);
        model_set(&m, preset->part[i].part, config);
    }
    return m;
}

status model_experts(int *experts, const struct checkpoint *c)
{
    bool two = checkpoint_is_high_noise(c, &part_dit);

    for (int i = 0; i < c->count; i++)
        two = two || (c->parts[i].row == &part_dit && c->parts[i].place != NULL &&
                      strcmp(c->parts[i].place->folder, EXPERT_FOLDER) == 0);
    if (!two)
        TRY(checkpoint_has(&two, c, &part_dit_low));
    *experts = two ? 2 : 1;
    return ST_OK;
}

status preset_of_checkpoint(const struct preset **preset, const struct checkpoint *c)
{
    int experts;
    char opened[FINGERPRINT_BYTES] = "", released[FINGERPRINT_BYTES] = "";

    *preset = NULL;
    TRY(model_experts(&experts, c));
    TRY(checkpoint_fingerprint(c, &part_dit, opened));
    for (size_t i = 0; i < COUNT(presets); i++) {
        const struct model m = preset_model(&presets[i]);
        const bool better = *preset == NULL || (*preset)->experts != experts;

        if (presets[i].experts == 0 || !better)
            continue;
        TRY(variant_fingerprint(&part_dit, model_dit(&m), released));
        if (strcmp(opened, released) == 0 && (*preset == NULL || presets[i].experts == experts))
            *preset = &presets[i];
    }
    return ST_OK;
}
