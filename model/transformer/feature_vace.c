/* VACE: additional blocks that compute hints from a control video; a hint is added after some of
 * the main blocks. Source: Wan2.1 wan/modules/vace_model.py. */
#include "model/checkpoint/config_json.h"
#include "model/transformer/dit_internal.h"

/* The channels of the control. */
static const struct feature_width vace_widths[] = {
    { "vace_patch_embedding.weight", 5, 1, { "vace_in_dim", "vace_in_channels" } }, { NULL }
};

static void vace_tensors(struct tensor_list *l, const struct dit_config *c,
                         const struct feature_use *use, enum dtype cdt)
{
    tensors_stack(l, "VACE patch", "", 1, TENSORS_RESIDENT);
    tensors_add(l, "vace_patch_embedding.weight", TENSORS_NO_SLOT, cdt,
                TENSOR_DIMS(c->dim, use->width[0], 1, 2, 2));
    tensors_vector(l, "vace_patch_embedding.bias", TENSORS_NO_SLOT, c->dim, cdt);
    tensors_stack(l, "VACE first block", "vace_blocks.0.", 1, TENSORS_RESIDENT);
    tensors_linear(l, "before_proj", TENSORS_NO_SLOT, c->dim, c->dim, cdt);
    dit_block_tensors(l, c, "vace_blocks.%d.", use->units, cdt, (struct dit_matmul){ 0 },
                      (struct block_stacks){ .modulation = "VACE modulation",
                                             .text = "VACE text",
                                             .blocks = "VACE blocks" });
    tensors_stack(l, "VACE hints", "vace_blocks.%d.", use->units, TENSORS_SHARDED);
    tensors_linear(l, "after_proj", TENSORS_NO_SLOT, c->dim, c->dim, cdt);
}

static void vace_config(struct cJSON *json, const struct dit_config *c,
                        const struct feature_use *use, bool diffusers)
{
    config_set_text(json, "_class_name", diffusers ? "WanVACETransformer3DModel" : "VaceWanModel");
    if (!diffusers)
        config_set_text(json, "model_type", "vace");
    if (use->units > 0)
        config_set_series(json, "vace_layers", use->units, c->layers / use->units);
}

const struct feature feature_vace = { .name = "VACE",
                                      .detected_by = "vace_patch_embedding.weight",
                                      .list = "vace_blocks.",
                                      .title = "VACE blocks",
                                      .widths = vace_widths,
                                      .tensors = vace_tensors,
                                      .config = vace_config };
