/* Animate: a motion encoder of StyleGAN2 layers, a face encoder, adapters after some blocks, and a
 * pose embedding that is added to the patch embedding. Source: Wan2.2 wan/modules/animate. */
#include "model/checkpoint/config_json.h"
#include "model/transformer/dit_internal.h"

#include <stdio.h>

#define MOTION 512
#define MOTION_DIM 20
#define FACE 1024
#define LATENT_CHANNELS 16

static void motion_encoder(struct tensor_list *l)
{
    static const int64_t widths[] = { 32, 64, 128, 256, 512, 512, 512, 512 };
    const size_t none = TENSORS_NO_SLOT;
    char name[40];

    tensors_stack(l, "motion encoder", "motion_encoder.enc.net_app.convs.", 1, TENSORS_RESIDENT);
    tensors_add(l, "0.0.weight", none, DT_F32, TENSOR_DIMS(32, 3, 1, 1));
    tensors_add(l, "0.1.bias", none, DT_F32, TENSOR_DIMS(1, 32, 1, 1));
    for (int i = 1; i < (int)COUNT(widths); i++) {
        const int64_t in = widths[i - 1], out = widths[i];

#define NAME(rest) (snprintf(name, sizeof(name), "%d." rest, i), name)
        tensors_add(l, NAME("conv1.0.weight"), none, DT_F32, TENSOR_DIMS(in, in, 3, 3));
        tensors_add(l, NAME("conv1.1.bias"), none, DT_F32, TENSOR_DIMS(1, in, 1, 1));
        tensors_add(l, NAME("conv2.0.kernel"), none, DT_F32, TENSOR_DIMS(4, 4));
        tensors_add(l, NAME("conv2.1.weight"), none, DT_F32, TENSOR_DIMS(out, in, 3, 3));
        tensors_add(l, NAME("conv2.2.bias"), none, DT_F32, TENSOR_DIMS(1, out, 1, 1));
        tensors_add(l, NAME("skip.0.kernel"), none, DT_F32, TENSOR_DIMS(4, 4));
        tensors_add(l, NAME("skip.1.weight"), none, DT_F32, TENSOR_DIMS(out, in, 1, 1));
#undef NAME
    }
    tensors_add(l, "8.weight", none, DT_F32, TENSOR_DIMS(MOTION, MOTION, 4, 4));
    tensors_stack(l, "motion layers", "motion_encoder.enc.fc.%d.", 4, TENSORS_RESIDENT);
    tensors_linear(l, "", none, MOTION, MOTION, DT_F32);
    tensors_stack(l, "motion directions", "motion_encoder.", 1, TENSORS_RESIDENT);
    tensors_linear(l, "enc.fc.4", none, MOTION_DIM, MOTION, DT_F32);
    tensors_add(l, "dec.direction.weight", none, DT_F32, TENSOR_DIMS(MOTION, MOTION_DIM));
}

static void animate_tensors(struct tensor_list *l, const struct dit_config *c, int units,
                            enum dtype cdt)
{
    const size_t none = TENSORS_NO_SLOT;
    const int64_t dim = c->dim;

    tensors_stack(l, "pose", "", 1, TENSORS_RESIDENT);
    dit_list_conv(l, "pose_patch_embedding", cdt, TENSOR_DIMS(dim, LATENT_CHANNELS, 1, 2, 2));
    motion_encoder(l);
    tensors_stack(l, "face encoder", "face_encoder.", 1, TENSORS_RESIDENT);
    dit_list_conv(l, "conv1_local.conv", cdt, TENSOR_DIMS(4 * FACE, MOTION, 3));
    dit_list_conv(l, "conv2.conv", cdt, TENSOR_DIMS(FACE, FACE, 3));
    dit_list_conv(l, "conv3.conv", cdt, TENSOR_DIMS(FACE, FACE, 3));
    tensors_linear(l, "out_proj", none, dim, FACE, cdt);
    tensors_add(l, "padding_tokens", none, cdt, TENSOR_DIMS(1, 1, 1, dim));
    tensors_stack(l, "face adapters", "face_adapter.fuser_blocks.%d.", units, TENSORS_SHARDED);
    tensors_linear(l, "linear1_kv", none, 2 * dim, dim, cdt);
    tensors_linear(l, "linear1_q", none, dim, dim, cdt);
    tensors_linear(l, "linear2", none, dim, dim, cdt);
    tensors_vector(l, "q_norm.weight", none, dim / c->heads, DT_F32);
    tensors_vector(l, "k_norm.weight", none, dim / c->heads, DT_F32);
}

static void animate_config(struct cJSON *json, const struct dit_config *c, int units,
                           bool diffusers)
{
    config_set_text(json, "_class_name", "WanAnimateModel");
    config_set_text(json, "model_type", "animate");
}

const struct feature feature_animate = { .name = "face adapter (Animate)",
                                         .detected_by = "motion_encoder.dec.direction.weight",
                                         .list = "face_adapter.fuser_blocks.",
                                         .title = "face adapters",
                                         .tensors = animate_tensors,
                                         .config = animate_config };
