/* The transformer's tensor names in diffusers. Source: diffusers
 * scripts/convert_wan_to_diffusers.py. */
#include "model/transformer/dit_part.h"

#include "model/checkpoint/names.h"

static const struct name_pair dit_pairs[] = {
    { "patch_embedding.", "patch_embedding." },
    { "text_embedding.0.", "condition_embedder.text_embedder.linear_1." },
    { "text_embedding.2.", "condition_embedder.text_embedder.linear_2." },
    { "time_embedding.0.", "condition_embedder.time_embedder.linear_1." },
    { "time_embedding.2.", "condition_embedder.time_embedder.linear_2." },
    { "time_projection.1.", "condition_embedder.time_proj." },
    { "img_emb.proj.0.", "condition_embedder.image_embedder.norm1." },
    { "img_emb.proj.1.", "condition_embedder.image_embedder.ff.net.0.proj." },
    { "img_emb.proj.3.", "condition_embedder.image_embedder.ff.net.2." },
    { "img_emb.proj.4.", "condition_embedder.image_embedder.norm2." },
    { "img_emb.emb_pos", "condition_embedder.image_embedder.pos_embed" },
    { "head.modulation", "scale_shift_table" },
    { "head.head.", "proj_out." },
    { "vace_patch_embedding.", "vace_patch_embedding." },
    { "ref_conv.", "ref_conv." }, // as in VideoX-Fun; diffusers has no such models
    { "control_adapter.conv.", "control_adapter.conv." },
    { "control_adapter.residual_blocks.0.", "control_adapter.residual_blocks.0." },
    { NULL, NULL },
};

/* Names after "blocks.N." or "vace_blocks.N.". The official norm3, which is affine, is norm2 in
 * diffusers. */
static const struct name_pair block_pairs[] = {
    { "modulation", "scale_shift_table" },
    { "self_attn.q.", "attn1.to_q." },
    { "self_attn.k.", "attn1.to_k." },
    { "self_attn.v.", "attn1.to_v." },
    { "self_attn.o.", "attn1.to_out.0." },
    { "self_attn.norm_q.", "attn1.norm_q." },
    { "self_attn.norm_k.", "attn1.norm_k." },
    { "cross_attn.q.", "attn2.to_q." },
    { "cross_attn.k.", "attn2.to_k." },
    { "cross_attn.v.", "attn2.to_v." },
    { "cross_attn.o.", "attn2.to_out.0." },
    { "cross_attn.norm_q.", "attn2.norm_q." },
    { "cross_attn.norm_k.", "attn2.norm_k." },
    { "cross_attn.k_img.", "attn2.add_k_proj." },
    { "cross_attn.v_img.", "attn2.add_v_proj." },
    { "cross_attn.norm_k_img.", "attn2.norm_added_k." },
    { "to_gate_compress.", "to_gate_compress." },                                   // FastVideo's
    { "self_attn.attn_op.local_attn.proj_l.", "attn1.attn_op.local_attn.proj_l." }, // SGLang's
    { "self_attn.attn_op.local_attn.proj_l.", "attn1.attn_impl.proj_l." },          // FastVideo's
    { "norm3.", "norm2." },
    { "ffn.0.", "ffn.net.0.proj." },
    { "ffn.2.", "ffn.net.2." },
    { "before_proj.", "proj_in." },
    { "after_proj.", "proj_out." },
    { NULL, NULL },
};

bool dit_rename(const char *name, bool to_official, char *out, size_t size)
{
    static const char *const lists[] = { "blocks.%.", "vace_blocks.%." };
    char prefix[64];

    for (size_t i = 0; i < COUNT(lists); i++) {
        int index = 0;
        const char *rest = names_match(lists[i], name, &index);

        if (rest == NULL)
            continue;
        names_write(prefix, sizeof(prefix), "", lists[i], index, "");
        return names_translate(block_pairs, to_official, prefix, rest, out, size);
    }
    return names_translate(dit_pairs, to_official, "", name, out, size);
}
