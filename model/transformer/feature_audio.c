/* Speech to video: an audio encoder, its injection after some blocks, packed motion frames.
 * Source: Wan2.2 wan/modules/s2v, with 4 tokens a frame. */
#include "model/checkpoint/config_json.h"
#include "model/transformer/dit_internal.h"

/* The width and the layers of the speech encoder's output, channels of the pose video's latent. */
enum { AUDIO, LAYERS, POSE };
static const struct feature_width audio_widths[] = {
    [AUDIO] = { "casual_audio_encoder.encoder.conv1_local.conv.weight", 3, 1, { "audio_dim" } },
    [LAYERS] = { "casual_audio_encoder.weights", 4, 1 },
    [POSE] = { "cond_encoder.weight", 5, 1, { "cond_dim" } },
    { NULL }
};

static void audio_tensors(struct tensor_list *l, const struct dit_config *c,
                          const struct feature_use *use, enum dtype cdt)
{
    const size_t none = TENSORS_NO_SLOT;
    const int64_t dim = c->dim, audio = use->width[AUDIO], latent = c->out_dim;

    tensors_stack(l, "pose", "", 1, TENSORS_RESIDENT);
    dit_list_conv(l, "cond_encoder", cdt, TENSOR_DIMS(dim, use->width[POSE], 1, 2, 2));
    tensors_add(l, "trainable_cond_mask.weight", none, cdt, TENSOR_DIMS(3, dim));
    tensors_stack(l, "audio encoder", "casual_audio_encoder.", 1, TENSORS_RESIDENT);
    tensors_add(l, "weights", none, DT_F32, TENSOR_DIMS(1, use->width[LAYERS], 1, 1));
    dit_list_conv(l, "encoder.conv1_local.conv", cdt, TENSOR_DIMS(dim, audio, 3));
    dit_list_conv(l, "encoder.conv1_global.conv", cdt, TENSOR_DIMS(dim / 4, audio, 3));
    dit_list_conv(l, "encoder.conv2.conv", cdt, TENSOR_DIMS(dim / 2, dim / 4, 3));
    dit_list_conv(l, "encoder.conv3.conv", cdt, TENSOR_DIMS(dim, dim / 2, 3));
    tensors_linear(l, "encoder.final_linear", none, dim, dim, cdt);
    tensors_add(l, "encoder.padding_tokens", none, cdt, TENSOR_DIMS(1, 1, 1, dim));
    tensors_stack(l, "audio injectors", "audio_injector.injector.%d.", use->units, TENSORS_SHARDED);
    dit_list_attention(l, "", dim, cdt);
    tensors_stack(l, "audio norms", "audio_injector.injector_adain_layers.%d.", use->units,
                  TENSORS_SHARDED);
    tensors_linear(l, "linear", none, 2 * dim, dim, cdt);
    tensors_stack(l, "frame packer", "frame_packer.", 1, TENSORS_RESIDENT);
    dit_list_conv(l, "proj", cdt, TENSOR_DIMS(dim, latent, 1, 2, 2));
    dit_list_conv(l, "proj_2x", cdt, TENSOR_DIMS(dim, latent, 2, 4, 4));
    dit_list_conv(l, "proj_4x", cdt, TENSOR_DIMS(dim, latent, 4, 8, 8));
}

static void audio_config(struct cJSON *json, const struct dit_config *c,
                         const struct feature_use *use, bool diffusers)
{
    config_set_text(json, "_class_name", "WanModel_S2V");
    config_set_text(json, "model_type", "s2v");
}

const struct feature feature_audio = { .name = "audio injection (S2V)",
                                       .detected_by = "casual_audio_encoder.weights",
                                       .list = "audio_injector.injector.",
                                       .title = "audio injectors",
                                       .widths = audio_widths,
                                       .tensors = audio_tensors,
                                       .config = audio_config };
