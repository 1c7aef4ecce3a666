/* Image context: a second cross attention, to CLIP's image tokens, with separate projections for
 * keys and values; and the position table for first and last frame (FLF2V).
 * Source: Wan2.1 wan/modules/model.py, MLPProj, WanI2VCrossAttention. */
#include "model/checkpoint/config_json.h"
#include "model/transformer/features.h"

#define CLIP_DIM 1280
#define CLIP_TOKENS 257

static void image_tensors(struct tensor_list *l, const struct dit_config *c, int units,
                          enum dtype cdt)
{
    tensors_stack(l, "image embedding", "img_emb.", 1, TENSORS_RESIDENT);
    tensors_norm(l, "proj.0", TENSORS_NO_SLOT, CLIP_DIM);
    tensors_linear(l, "proj.1", TENSORS_NO_SLOT, CLIP_DIM, CLIP_DIM, cdt);
    tensors_linear(l, "proj.3", TENSORS_NO_SLOT, c->dim, CLIP_DIM, cdt);
    tensors_norm(l, "proj.4", TENSORS_NO_SLOT, c->dim);
    tensors_stack(l, "image", "blocks.%d.cross_attn.", c->layers, TENSORS_SHARDED);
    tensors_linear(l, "k_img", TENSORS_NO_SLOT, c->dim, c->dim, cdt);
    tensors_linear(l, "v_img", TENSORS_NO_SLOT, c->dim, c->dim, cdt);
    tensors_vector(l, "norm_k_img.weight", TENSORS_NO_SLOT, c->dim, DT_F32);
}

static void image_config(struct cJSON *json, const struct dit_config *c, int units, bool diffusers)
{
    if (!diffusers)
        config_set_text(json, "model_type", "i2v");
    else {
        config_set_number(json, "added_kv_proj_dim", (double)c->dim);
        config_set_number(json, "image_dim", CLIP_DIM);
    }
}

static void position_tensors(struct tensor_list *l, const struct dit_config *c, int units,
                             enum dtype cdt)
{
    tensors_stack(l, "frame positions", "img_emb.", 1, TENSORS_RESIDENT);
    tensors_add(l, "emb_pos", TENSORS_NO_SLOT, DT_F32, TENSOR_DIMS(1, 2 * CLIP_TOKENS, CLIP_DIM));
}

static void position_config(struct cJSON *json, const struct dit_config *c, int units,
                            bool diffusers)
{
    if (diffusers)
        config_set_number(json, "pos_embed_seq_len", 2 * CLIP_TOKENS);
    else
        config_set_text(json, "model_type", "flf2v");
}

const struct feature feature_image_context = { .name = "image context (I2V)",
                                               .detected_by = "img_emb.proj.1.weight",
                                               .tensors = image_tensors,
                                               .config = image_config };

const struct feature feature_frame_positions = { .name =
                                                     "positions of first and last frame (FLF2V)",
                                                 .detected_by = "img_emb.emb_pos",
                                                 .tensors = position_tensors,
                                                 .config = position_config };
