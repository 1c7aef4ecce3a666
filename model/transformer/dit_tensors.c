/* The transformer's tensors. Source: Wan2.1 wan/modules/model.py. The lists are complete: for the
 * released sizes they have the fingerprints of the real files in DiffSynth-Studio (test_spec). */
#include "model/transformer/dit_internal.h"

#include <stdio.h>

#define ROOT(member) offsetof(struct dit_root, member)
#define TEXT(member) offsetof(struct dit_text, member)
#define BLOCK(member) offsetof(struct dit_block, member)

void dit_kv_tensors(struct tensor_list *l, const char *k, const char *v, const char *norm,
                    int64_t dim, enum dtype cdt)
{
    char name[WEIGHT_NAME_BYTES];

    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof(name), "%s.weight", i == 0 ? k : v);
        tensors_add(l, name, TEXT(kv.w), cdt, TENSOR_DIMS(dim, dim))->joined = i > 0;
    }
    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof(name), "%s.bias", i == 0 ? k : v);
        tensors_add(l, name, TEXT(kv.b), cdt, TENSOR_DIMS(dim))->joined = i > 0;
    }
    snprintf(name, sizeof(name), "%s.weight", norm);
    tensors_vector(l, name, TEXT(norm_k), dim, DT_F32);
}

int dit_default_kept(const struct dit_config *config)
{
    return config->layers < 12 ? config->layers / 4 : 3;
}

bool dit_block_in_fp8(const struct dit_config *config, struct dit_matmul matmul, int layer)
{
    return matmul.fp8 && layer >= matmul.kept && layer < config->layers - matmul.kept;
}

/* The tensors of a block that are stored for every step. features: those of the features, too. */
static void add_block(struct tensor_list *l, const struct dit_config *c, enum dtype cdt, bool fp8,
                      bool features)
{
    emit_linear *linear = fp8 ? tensors_fp8_linear : tensors_linear;
    const int64_t dim = c->dim, ffn = c->ffn_dim;

    linear(l, "self_attn.q", BLOCK(q), dim, dim, cdt);
    linear(l, "self_attn.k", BLOCK(k), dim, dim, cdt);
    linear(l, "self_attn.v", BLOCK(v), dim, dim, cdt);
    tensors_vector(l, "self_attn.norm_q.weight", BLOCK(norm_q), dim, DT_F32);
    tensors_vector(l, "self_attn.norm_k.weight", BLOCK(norm_k), dim, DT_F32);
    linear(l, "self_attn.o", BLOCK(o), dim, dim, cdt);
    tensors_norm(l, "norm3", BLOCK(norm3), dim);
    linear(l, "cross_attn.q", BLOCK(text_q), dim, dim, cdt);
    tensors_vector(l, "cross_attn.norm_q.weight", BLOCK(text_norm_q), dim, DT_F32);
    if (fp8) {
        linear(l, "cross_attn.o", BLOCK(text_o), dim, dim, cdt);
    } else {
        tensors_add(l, "cross_attn.o.weight", BLOCK(text_o.w), cdt, TENSOR_DIMS(dim, dim));
        tensors_vector(l, "cross_attn.o.bias", BLOCK(text_o.b), dim, DT_F32); // added in f32
    }
    linear(l, "ffn.0", BLOCK(up), ffn, dim, cdt);
    linear(l, "ffn.2", BLOCK(down), dim, ffn, cdt);
    for (int i = 0; features && i < DIT_FEATURES_MAX && c->use[i].feature != NULL; i++)
        if (c->use[i].feature->block_tensors != NULL)
            c->use[i].feature->block_tensors(l, c, linear, cdt);
}

void dit_block_tensors(struct tensor_list *l, const struct dit_config *c, const char *prefix,
                       int units, enum dtype cdt, struct dit_matmul matmul,
                       struct block_stacks names)
{
    const int64_t dim = c->dim;
    const int kept = matmul.kept, between = units - 2 * kept;
    const bool fp8 = matmul.fp8 && between > 0;
    struct weight_spec *t;

    tensors_stack(l, names.modulation, prefix, units, TENSORS_LOCAL);
    t = tensors_add(l, "modulation", offsetof(struct dit_modulation, mod), DT_F32,
                    TENSOR_DIMS(1, 6, dim));
    t->ndim = 1;
    t->dim[0] = 6 * dim;

    tensors_stack(l, names.text, prefix, units, TENSORS_ONCE);
    dit_kv_tensors(l, "cross_attn.k", "cross_attn.v", "cross_attn.norm_k", dim, cdt);

    tensors_stack(l, names.blocks, prefix, fp8 ? between : units, TENSORS_SHARDED);
    if (fp8)
        tensors_numbers(l, kept, 0, 0);
    add_block(l, c, cdt, fp8, names.features);
    if (!fp8 || kept == 0)
        return;
    tensors_stack(l, names.kept, prefix, 2 * kept, TENSORS_SHARDED);
    tensors_numbers(l, 0, kept, between);
    add_block(l, c, cdt, false, names.features);
}

struct weights *dit_block_weights(struct dit *m, int layer, int *unit)
{
    const int kept = m->matmul.kept, between = m->config.layers - 2 * kept;

    *unit = layer;
    if (!m->matmul.fp8 || between <= 0)
        return dit_weights(m, STACK_BLOCKS);
    if (layer >= kept && layer < kept + between) {
        *unit = layer - kept;
        return dit_weights(m, STACK_BLOCKS);
    }
    *unit = layer < kept ? layer : layer - between;
    return dit_weights(m, STACK_KEPT);
}

static void root_tensors(struct tensor_list *l, const struct dit_config *c, enum dtype cdt)
{
    struct weight_spec *t;

    tensors_stack(l, STACK_ROOT, "", 1, TENSORS_RESIDENT);
    t = tensors_add(l, "patch_embedding.weight", ROOT(patch.w), cdt,
                    TENSOR_DIMS(c->dim, c->in_dim, 1, 2, 2));
    t->channels_last = true; // order (ph, pw, channel), as the values of a token
    t->ndim = 2;
    t->dim[1] = 4 * c->in_dim;
    tensors_vector(l, "patch_embedding.bias", ROOT(patch.b), c->dim, cdt);
    tensors_linear(l, "text_embedding.0", ROOT(text0), c->dim, c->text_dim, cdt);
    tensors_linear(l, "text_embedding.2", ROOT(text2), c->dim, c->dim, cdt);
    tensors_linear(l, "time_embedding.0", ROOT(time0), c->dim, c->freq_dim, DT_F32);
    tensors_linear(l, "time_embedding.2", ROOT(time2), c->dim, c->dim, DT_F32);
    tensors_linear(l, "time_projection.1", ROOT(time_mod), 6 * c->dim, c->dim, DT_F32);
    tensors_linear(l, "head.head", ROOT(head), 4 * c->out_dim, c->dim, DT_F32);
    t = tensors_add(l, "head.modulation", ROOT(head_mod), DT_F32, TENSOR_DIMS(1, 2, c->dim));
    t->ndim = 2;
    t->dim[0] = 2;
    t->dim[1] = c->dim;
}

void dit_tensors(struct tensor_list *l, const struct dit_config *c, enum dtype cdt,
                 struct dit_matmul matmul)
{
    root_tensors(l, c, cdt);
    dit_block_tensors(
        l, c, "blocks.%d.", c->layers, cdt, matmul,
        (struct block_stacks){ STACK_MODULATION, STACK_TEXT, STACK_BLOCKS, STACK_KEPT, true });
    for (int i = 0; i < DIT_FEATURES_MAX && c->use[i].feature != NULL; i++)
        if (c->use[i].feature->tensors != NULL)
            c->use[i].feature->tensors(l, c, &c->use[i], cdt);
}

void dit_list_conv(struct tensor_list *l, const char *name, enum dtype cdt, const int64_t *dims)
{
    char full[WEIGHT_NAME_BYTES];

    snprintf(full, sizeof(full), "%s.weight", name);
    tensors_add(l, full, TENSORS_NO_SLOT, cdt, dims);
    snprintf(full, sizeof(full), "%s.bias", name);
    tensors_vector(l, full, TENSORS_NO_SLOT, dims[0], cdt);
}

void dit_list_attention(struct tensor_list *l, const char *prefix, int64_t dim, enum dtype cdt)
{
    static const char *const matrices[] = { "q", "k", "v", "o" };
    char name[WEIGHT_NAME_BYTES];

    for (size_t i = 0; i < COUNT(matrices); i++) {
        snprintf(name, sizeof(name), "%s%s", prefix, matrices[i]);
        tensors_linear(l, name, TENSORS_NO_SLOT, dim, dim, cdt);
    }
    snprintf(name, sizeof(name), "%snorm_q.weight", prefix);
    tensors_vector(l, name, TENSORS_NO_SLOT, dim, DT_F32);
    snprintf(name, sizeof(name), "%snorm_k.weight", prefix);
    tensors_vector(l, name, TENSORS_NO_SLOT, dim, DT_F32);
}
