/* Animate: a motion encoder of StyleGAN2 layers, a face encoder, adapters after some blocks, and a
 * pose embedding that is added to the patch embedding. Source: Wan2.2 wan/modules/animate. */
#include "model/checkpoint/config_json.h"
#include "model/transformer/dit_internal.h"

#include <stdio.h>

#define CONVS 8 // of the motion encoder, for images of 512 x 512
#define HEADS 4 // of the face encoder: tokens a frame

/* The output channels of each convolution of the motion encoder come first. */
enum { STYLE = CONVS, DIRECTIONS, MOTION, FACE };
#define CONV(n, rest) [n] = { .tensor = "motion_encoder.enc.net_app.convs." #n rest, .ndim = 4 }
#define NEXT(n) CONV(n, ".conv2.1.weight")
#define DIRECTION "motion_encoder.dec.direction.weight"
static const struct feature_width animate_widths[] = {
    CONV(0, ".0.weight"),
    NEXT(1),
    NEXT(2),
    NEXT(3),
    NEXT(4),
    NEXT(5),
    NEXT(6),
    NEXT(7),
    [STYLE] = { "motion_encoder.enc.fc.0.weight", 2, 0, { NULL, "motion_style_dim" } },
    [DIRECTIONS] = { DIRECTION, 2, 1, { NULL, "motion_dim" } },
    [MOTION] = { DIRECTION, 2, 0, { "motion_encoder_dim", "motion_encoder_dim" } },
    [FACE] = { "face_encoder.conv2.conv.weight", 3, 0, { NULL, "face_encoder_hidden_dim" } },
    { NULL }
};

static void motion_encoder(struct tensor_list *l, const int64_t *width)
{
    const int64_t first = width[0], style = width[STYLE];
    const size_t none = TENSORS_NO_SLOT;
    char name[40];

    tensors_stack(l, "motion encoder", "motion_encoder.enc.net_app.convs.", 1, TENSORS_RESIDENT);
    tensors_add(l, "0.0.weight", none, DT_F32, TENSOR_DIMS(first, 3, 1, 1));
    tensors_add(l, "0.1.bias", none, DT_F32, TENSOR_DIMS(1, first, 1, 1));
    for (int i = 1; i < CONVS; i++) {
        const int64_t in = width[i - 1], out = width[i];

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
    tensors_add(l, "8.weight", none, DT_F32, TENSOR_DIMS(style, width[CONVS - 1], 4, 4));
    tensors_stack(l, "motion layers", "motion_encoder.enc.fc.%d.", 4, TENSORS_RESIDENT);
    tensors_linear(l, "", none, style, style, DT_F32);
    tensors_stack(l, "motion directions", "motion_encoder.", 1, TENSORS_RESIDENT);
    tensors_linear(l, "enc.fc.4", none, width[DIRECTIONS], style, DT_F32);
    tensors_add(l, "dec.direction.weight", none, DT_F32,
                TENSOR_DIMS(width[MOTION], width[DIRECTIONS]));
}

static void animate_tensors(struct tensor_list *l, const struct dit_config *c,
                            const struct feature_use *use, enum dtype cdt)
{
    const size_t none = TENSORS_NO_SLOT;
    const int64_t dim = c->dim, face = use->width[FACE];

    tensors_stack(l, "pose", "", 1, TENSORS_RESIDENT);
    dit_list_conv(l, "pose_patch_embedding", cdt, TENSOR_DIMS(dim, c->out_dim, 1, 2, 2));
    motion_encoder(l, use->width);
    tensors_stack(l, "face encoder", "face_encoder.", 1, TENSORS_RESIDENT);
    dit_list_conv(l, "conv1_local.conv", cdt, TENSOR_DIMS(HEADS * face, use->width[MOTION], 3));
    dit_list_conv(l, "conv2.conv", cdt, TENSOR_DIMS(face, face, 3));
    dit_list_conv(l, "conv3.conv", cdt, TENSOR_DIMS(face, face, 3));
    tensors_linear(l, "out_proj", none, dim, face, cdt);
    tensors_add(l, "padding_tokens", none, cdt, TENSOR_DIMS(1, 1, 1, dim));
    tensors_stack(l, "face adapters", "face_adapter.fuser_blocks.%d.", use->units, TENSORS_SHARDED);
    tensors_linear(l, "linear1_kv", none, 2 * dim, dim, cdt);
    tensors_linear(l, "linear1_q", none, dim, dim, cdt);
    tensors_linear(l, "linear2", none, dim, dim, cdt);
    tensors_vector(l, "q_norm.weight", none, dim / c->heads, DT_F32);
    tensors_vector(l, "k_norm.weight", none, dim / c->heads, DT_F32);
}

static void animate_config(struct cJSON *json, const struct dit_config *c,
                           const struct feature_use *use, bool diffusers)
{
    config_set_text(json, "_class_name", "WanAnimateModel");
    config_set_text(json, "model_type", "animate");
}

const struct feature feature_animate = { .name = "face adapter (Animate)",
                                         .detected_by = DIRECTION,
                                         .list = "face_adapter.fuser_blocks.",
                                         .title = "face adapters",
                                         .widths = animate_widths,
                                         .tensors = animate_tensors,
                                         .config = animate_config };
