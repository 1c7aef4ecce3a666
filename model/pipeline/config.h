/* config.h - the numbers that make one Wan model, as config.json and the tensors tell them, and the
 * released ones by name (facts: Wan2.1 wan/configs, Wan2.2 wan/configs). */
#ifndef MODEL_PIPELINE_CONFIG_H
#define MODEL_PIPELINE_CONFIG_H

#include "runtime/status.h"

#include <stdbool.h>
#include <stdint.h>

/* Which tensors a transformer's file has beside those of the text-to-video network. */
enum dit_kind { DIT_T2V, DIT_I2V, DIT_FLF2V, DIT_VACE, DIT_S2V, DIT_ANIMATE, DIT_KIND_COUNT };

struct dit_config {
    int64_t in_dim, out_dim, dim, ffn_dim, freq_dim, text_dim, text_len;
    int heads, layers;
    float eps;
    enum dit_kind kind;
    int extra_layers; // VACE blocks, S2V's audio injectors, Animate's face adapters; else 0
};

const char *dit_kind_name(enum dit_kind kind); // "T2V", "I2V", ...

struct t5_config {
    int64_t vocab, dim, attn_dim, ffn_dim;
    int heads, layers, buckets; // buckets: 32 in every release
};

#define VAE_CHANNELS_MAX 64

struct vae_config {
    int64_t z;                // latent channels
    int64_t base;             // 96: widths are base * {1, 2, 4, 4}
    int64_t decoder_base;     // the decoder's, which in Wan2.2 is another
    int64_t patch;            // pixels per side that are folded into channels: 1, in Wan2.2 2
    int res_blocks;           // per level in the encoder; the decoder has one more
    int64_t stride_t, stride; // 4, 8
    float mean[VAE_CHANNELS_MAX], std[VAE_CHANNELS_MAX]; // of the latents, z each
};

struct model_config {
    struct dit_config dit;
    struct t5_config t5;
    struct vae_config vae;
};

/* The constants of the released VAEs: the latents' mean and std for z of 16 or 48. False for other
 * z, which have none. */
bool vae_latent_constants(struct vae_config *vae);

/* "t2v-1.3B", "t2v-14B", ..., the released models by their official task names, and "tiny", small
 * sizes for tests. NULL when unknown. */
struct preset {
    const char *name;
    struct model_config config;
};
const struct preset *preset_find(const char *name);
const struct preset *preset_at(int index); // NULL behind the last

#endif
