#include "model/pipeline/config.h"

#include <string.h>

/* Source: Wan2.1 and Wan2.2 wan/configs; facts of the files themselves. */
#define TEXT .freq_dim = 256, .text_dim = 4096, .text_len = 512, .eps = 1e-6f
#define SIZE_1B .out_dim = 16, .dim = 1536, .ffn_dim = 8960, .heads = 12, .layers = 30, TEXT
#define SIZE_5B .dim = 3072, .ffn_dim = 14336, .heads = 24, .layers = 30, TEXT
#define SIZE_14B .out_dim = 16, .dim = 5120, .ffn_dim = 13824, .heads = 40, .layers = 40, TEXT

#define UMT5_XXL                                                                                   \
    {                                                                                              \
        .vocab = 256384, .dim = 4096, .attn_dim = 4096, .ffn_dim = 10240, .heads = 64,             \
        .layers = 24, .buckets = 32                                                                \
    }

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
#define VAE_22                                                                                     \
    {                                                                                              \
        .z = 48, .base = 160, .decoder_base = 256, .patch = 2, .res_blocks = 2, .stride_t = 4,     \
        .stride = 16, .mean = MEAN_22, .std = STD_22                                               \
    }

static const struct preset presets[] = {
    { "t2v-1.3B", { { .in_dim = 16, SIZE_1B }, UMT5_XXL, VAE_21(96) } },
    { "t2v-14B", { { .in_dim = 16, SIZE_14B }, UMT5_XXL, VAE_21(96) } },
    { "i2v-14B", { { .in_dim = 36, SIZE_14B, .kind = DIT_I2V }, UMT5_XXL, VAE_21(96) } },
    { "flf2v-14B", { { .in_dim = 36, SIZE_14B, .kind = DIT_FLF2V }, UMT5_XXL, VAE_21(96) } },
    { "vace-1.3B",
      { { .in_dim = 16, SIZE_1B, .kind = DIT_VACE, .extra_layers = 15 }, UMT5_XXL, VAE_21(96) } },
    { "vace-14B",
      { { .in_dim = 16, SIZE_14B, .kind = DIT_VACE, .extra_layers = 8 }, UMT5_XXL, VAE_21(96) } },
    { "t2v-A14B", { { .in_dim = 16, SIZE_14B }, UMT5_XXL, VAE_21(96) } }, // one of two experts
    { "i2v-A14B", { { .in_dim = 36, SIZE_14B }, UMT5_XXL, VAE_21(96) } }, // one of two experts
    { "ti2v-5B", { { .in_dim = 48, .out_dim = 48, SIZE_5B }, UMT5_XXL, VAE_22 } },
    { "s2v-14B",
      { { .in_dim = 16, SIZE_14B, .kind = DIT_S2V, .extra_layers = 12 }, UMT5_XXL, VAE_21(96) } },
    { "animate-14B",
      { { .in_dim = 36, SIZE_14B, .kind = DIT_ANIMATE, .extra_layers = 8 },
        UMT5_XXL,
        VAE_21(96) } },
    { "tiny",
      { { .in_dim = 16,
          .out_dim = 16,
          .dim = 128,
          .ffn_dim = 256,
          .freq_dim = 64,
          .text_dim = 64,
          .text_len = 512,
          .heads = 4,
          .layers = 3,
          .eps = 1e-6f },
        { .vocab = 2048,
          .dim = 64,
          .attn_dim = 64,
          .ffn_dim = 128,
          .heads = 4,
          .layers = 2,
          .buckets = 32 },
        VAE_21(16) } },
};

const char *dit_kind_name(enum dit_kind kind)
{
    static const char *const names[DIT_KIND_COUNT] = {
        [DIT_T2V] = "T2V",   [DIT_I2V] = "I2V", [DIT_FLF2V] = "FLF2V",
        [DIT_VACE] = "VACE", [DIT_S2V] = "S2V", [DIT_ANIMATE] = "Animate",
    };

    return names[kind];
}

bool vae_latent_constants(struct vae_config *vae)
{
    static const struct vae_config released[] = { VAE_21(96), VAE_22 };

    for (size_t i = 0; i < COUNT(released); i++) {
        if (vae->z == released[i].z) {
            memcpy(vae->mean, released[i].mean, sizeof(vae->mean));
            memcpy(vae->std, released[i].std, sizeof(vae->std));
            return true;
        }
    }
    return false;
}

const struct preset *preset_at(int index)
{
    return index >= 0 && index < (int)COUNT(presets) ? &presets[index] : NULL;
}

const struct preset *preset_find(const char *name)
{
    for (size_t i = 0; i < COUNT(presets); i++) {
        if (strcmp(presets[i].name, name) == 0)
            return &presets[i];
    }
    return NULL;
}
