#include "model/vae/vae_part.h"

#include "model/checkpoint/config_json.h"
#include "model/vae/vae_internal.h"

#include <inttypes.h>
#include <string.h>

/* ---- released sizes. Source: Wan2.1 and Wan2.2 wan/modules/vae*.py ---- */

#define MEAN_21                                                                                    \
    {                                                                                              \
        -0.7571f, -0.7089f, -0.9113f, 0.1075f, -0.1745f, 0.9653f, -0.1517f, 1.5508f, 0.4134f,      \
            -0.0715f, 0.5517f, -0.3632f, -0.1922f, -0.9497f, 0.2503f, -0.2921f                     \
    }
#define STD_21                                                                                     \
    {                                                                                              \
        2.8184f, 1.4541f, 2.3275f, 2.6558f, 1.2196f, 1.7708f, 2.6052f, 2.0743f, 3.2687f, 2.1526f,  \
            2.8652f, 1.5579f, 1.6382f, 1.1253f, 2.8251f, 1.9160f                                   \
    }
#define VAE_21(width)                                                                              \
    {                                                                                              \
        .z = 16, .base = (width), .decoder_base = (width), .patch = 1, .res_blocks = 2,            \
        .stride_t = 4, .stride = 8, .mean = MEAN_21, .std = STD_21                                 \
    }

#define MEAN_22                                                                                    \
    {                                                                                              \
        -0.2289f, -0.0052f, -0.1323f, -0.2339f, -0.2799f, 0.0174f, 0.1838f, 0.1557f, -0.1382f,     \
            0.0542f, 0.2813f, 0.0891f, 0.1570f, -0.0098f, 0.0375f, -0.1825f, -0.2246f, -0.1207f,   \
            -0.0698f, 0.5109f, 0.2665f, -0.2108f, -0.2158f, 0.2502f, -0.2055f, -0.0322f, 0.1109f,  \
            0.1567f, -0.0729f, 0.0899f, -0.2799f, -0.1230f, -0.0313f, -0.1649f, 0.0117f, 0.0723f,  \
            -0.2839f, -0.2083f, -0.0520f, 0.3748f, 0.0152f, 0.1957f, 0.1433f, -0.2944f, 0.3573f,   \
            -0.0548f, -0.1681f, -0.0667f                                                           \
    }
#define STD_22                                                                                     \
    {                                                                                              \
        0.4765f, 1.0364f, 0.4514f, 1.1677f, 0.5313f, 0.4990f, 0.4818f, 0.5013f, 0.8158f, 1.0344f,  \
            0.5894f, 1.0901f, 0.6885f, 0.6165f, 0.8454f, 0.4978f, 0.5759f, 0.3523f, 0.7135f,       \
            0.6804f, 0.5833f, 1.4146f, 0.8986f, 0.5659f, 0.7069f, 0.5338f, 0.4889f, 0.4917f,       \
            0.4069f, 0.4999f, 0.6866f, 0.4093f, 0.5709f, 0.6065f, 0.6415f, 0.4944f, 0.5726f,       \
            1.2042f, 0.5458f, 1.6887f, 0.3971f, 1.0600f, 0.3943f, 0.5537f, 0.5444f, 0.4089f,       \
            0.7468f, 0.7744f                                                                       \
    }
#define VAE_22(width, decoder_width)                                                               \
    {                                                                                              \
        .z = 48, .base = (width), .decoder_base = (decoder_width), .patch = 2, .res_blocks = 2,    \
        .stride_t = 4, .stride = 16, .mean = MEAN_22, .std = STD_22                                \
    }

static const struct vae_config wan21 = VAE_21(96), tiny21 = VAE_21(16);
static const struct vae_config wan22 = VAE_22(160, 256), tiny22 = VAE_22(16, 24);
static const struct variant variants[] = {
    { "wan2.1", &wan21 },       { "wan2.2", &wan22 }, { "wan2.1-tiny", &tiny21 },
    { "wan2.2-tiny", &tiny22 }, { NULL, NULL },
};

/* Mean and deviation of the latents, for the channels of a release. False for others. */
static bool latent_constants(struct vae_config *vae)
{
    for (const struct variant *v = variants; v->name != NULL; v++) {
        const struct vae_config *released = v->config;

        if (vae->z != released->z)
            continue;
        memcpy(vae->mean, released->mean, sizeof(vae->mean));
        memcpy(vae->std, released->std, sizeof(vae->std));
        return true;
    }
    return false;
}

/* ---- numbers of a file ---- */

#define ENCODER "encoder.conv1.weight"
#define DECODER "decoder.conv1.weight"

/* Blocks of a level: Wan2.1 has four levels with three resamplings between in one list, Wan2.2 a
 * list of each level's blocks and resampling. */
static status count_blocks(const struct describing *d, bool encoder, struct vae_config *c)
{
    static const char *const lists[2][2] = {
        { "decoder.upsamples.", "encoder.downsamples." },
        { "decoder.upsamples.0.upsamples.", "encoder.downsamples.0.downsamples." },
    };
    int entries = 0;

    TRY(describe_count(d, lists[c->patch > 1][encoder], &entries));
    c->res_blocks = c->patch > 1 ? entries - 1 : (entries - 3) / 4;
    c->res_blocks -= encoder ? 0 : 1; // the decoder has one more
    return ST_OK;
}

static status find_constants(const struct describing *d, struct vae_config *c)
{
    memset(c->std, 0, sizeof(c->std));
    latent_constants(c);
    TRY(describe_list(d, "latents_mean", c->z, false, c->mean));
    TRY(describe_list(d, "latents_std", c->z, true, c->std));
    if (c->std[0] == 0)
        return fail(ST_FORMAT,
                    "%s: the mean and deviation of %lld latent channels are unknown; they must be "
                    "in a config.json as latents_mean and latents_std",
                    d->file, (long long)c->z);
    return ST_OK;
}

static status describe(const struct describing *d, void *config)
{
    const bool encoder = describe_has(d, ENCODER), decoder = describe_has(d, DECODER);
    struct vae_config c = { .patch = 1, .res_blocks = 2, .stride_t = 4 };
    int64_t colours = 0;

    if (!encoder && !decoder)
        return fail(ST_FORMAT,
                    "%s: has neither encoder.conv1 nor decoder.conv1, so it is not a VAE", d->file);
    if (encoder) {
        TRY(describe_axis(d, ENCODER, 5, 0, &c.base));
        TRY(describe_axis(d, ENCODER, 5, 1, &colours));
        TRY(describe_axis(d, "conv1.weight", 5, 0, &c.z));
        c.z /= 2;
    }
    if (decoder) {
        TRY(describe_axis(d, DECODER, 5, 0, &c.decoder_base));
        TRY(describe_axis(d, "decoder.head.2.weight", 5, 0, &colours));
        TRY(describe_axis(d, "conv2.weight", 5, 0, &c.z));
        c.decoder_base /= 4;
    }
    if (colours != 3 && colours != 12)
        return fail(ST_FORMAT, "%s: its frames have %lld channels; 3 or 12 are known", d->file,
                    (long long)colours);
    c.patch = colours == 3 ? 1 : 2;
    c.stride = 8 * c.patch;
    TRY(count_blocks(d, encoder, &c));
    c.base = encoder ? c.base : c.decoder_base;
    c.decoder_base = decoder ? c.decoder_base : c.base;
    if (c.res_blocks < 1 || c.base < 2 || c.base % 2 != 0 || c.decoder_base < 2 ||
        (c.patch == 1 && c.base != c.decoder_base))
        return fail(ST_FORMAT,
                    "%s: an encoder of width %lld, a decoder of %lld and %d blocks per level are "
                    "no VAE that is known",
                    d->file, (long long)c.base, (long long)c.decoder_base, c.res_blocks);
    if (c.z < 1 || c.z > VAE_CHANNELS_MAX)
        return fail(ST_FORMAT, "%s: %lld latent channels; 1 to %d are possible", d->file,
                    (long long)c.z, VAE_CHANNELS_MAX);
    TRY(find_constants(d, &c));
    TRY(describe_agree(d, "z_dim", c.z, decoder ? "conv2.weight" : "conv1.weight"));
    TRY(describe_agree(d, "base_dim", c.base, encoder ? ENCODER : DECODER));
    TRY(describe_agree(d, "num_res_blocks", c.res_blocks, "encoder.downsamples.N"));
    *(struct vae_config *)config = c;
    return ST_OK;
}

static void tensors(struct tensor_list *l, const void *config, const struct tensorfile *file)
{
    const bool encoder = file == NULL || tensorfile_find(file, ENCODER) != NULL;
    const bool decoder = file == NULL || tensorfile_find(file, DECODER) != NULL;

    vae_tensors(l, config, DT_F32, encoder, decoder);
}

static void print(FILE *out, const void *config)
{
    const struct vae_config *c = config;

    fprintf(out, "  %-12s%" PRId64 " latent channels, width %" PRId64, "config", c->z, c->base);
    if (c->decoder_base != c->base)
        fprintf(out, " and %" PRId64 " in the decoder", c->decoder_base);
    fprintf(out, ", %d blocks per level, strides %" PRId64 " x %" PRId64 " x %" PRId64 "\n",
            c->res_blocks, c->stride_t, c->stride, c->stride);
}

/* ---- synth ---- */

static const char *official_file(const void *config)
{
    return ((const struct vae_config *)config)->patch == 1 ? "Wan2.1_VAE.pth" : "Wan2.2_VAE.pth";
}

static void config_json(struct cJSON *json, const void *config, bool diffusers)
{
    static const float dim_mult[] = { 1, 2, 4, 4 };
    const struct vae_config *c = config;

    config_set_text(json, "_class_name", "AutoencoderKLWan");
    config_set_text(json, "_diffusers_version", "0.33.0");
    config_set_number(json, "base_dim", (double)c->base);
    config_set_floats(json, "dim_mult", dim_mult, 4);
    config_set_number(json, "num_res_blocks", c->res_blocks);
    config_set_number(json, "z_dim", (double)c->z);
    if (c->patch > 1) {
        config_set_number(json, "decoder_base_dim", (double)c->decoder_base);
        config_set_bool(json, "is_residual", true);
        config_set_number(json, "in_channels", 3 * (double)(c->patch * c->patch));
        config_set_number(json, "out_channels", 3 * (double)(c->patch * c->patch));
        config_set_number(json, "patch_size", (double)c->patch);
        config_set_number(json, "scale_factor_spatial", (double)c->stride);
        config_set_number(json, "scale_factor_temporal", (double)c->stride_t);
    }
    config_set_floats(json, "latents_mean", c->mean, (int)c->z);
    config_set_floats(json, "latents_std", c->std, (int)c->z);
}

static float std_scale(const void *config, const char *tensor) // pixels stay within [-1, 1]
{
    return strcmp(tensor, "decoder.head.2.weight") == 0 ? 0.5f : 1;
}

static const struct place places[] = { { "", "Wan2.1_VAE.pth", false },
                                       { "", "Wan2.1_VAE*.safetensors", false },
                                       { "", "wan_2.1_vae*.safetensors", false },
                                       { "", "Wan2.2_VAE.pth", false },
                                       { "", "Wan2.2_VAE*.safetensors", false },
                                       { "", "wan2.2_vae*.safetensors", false },
                                       { "/vae", "wan_2.1_vae*.safetensors", false },
                                       { "/../vae", "wan_2.1_vae*.safetensors", false },
                                       { "/vae", "wan2.2_vae*.safetensors", false },
                                       { "/../vae", "wan2.2_vae*.safetensors", false },
                                       { 0 } };
static const struct place diffusers_places[] = { { "/vae", "diffusion_pytorch_model", true },
                                                 { 0 } };
static const char *const folders[] = { "vae", "checkpoints", NULL };
static const struct name_pair detected_by[] = {
    { "decoder.head.0.gamma", "decoder.norm_out.gamma" },
    { "encoder.head.0.gamma", "encoder.norm_out.gamma" },
    { NULL, NULL }
};

const struct part part_vae = { .key = "vae",
                               .name = "VAE",
                               .config_bytes = sizeof(struct vae_config),
                               .variants = variants,
                               .official = places,
                               .diffusers = diffusers_places,
                               .folders = folders,
                               .detected_by = detected_by,
                               .rename = vae_rename,
                               .witness = "decoder.up_blocks.0.upsampler.resample.1.weight",
                               .rename_witnessed = vae_rename_levels,
                               .describe = describe,
                               .tensors = tensors,
                               .print = print,
                               .official_file = official_file,
                               .library = "diffusers",
                               .class_name = "AutoencoderKLWan",
                               .config_json = config_json,
                               .std_scale = std_scale,
                               .dtype = DT_F32 };
