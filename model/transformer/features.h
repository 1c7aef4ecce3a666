/* features.h - additions to the text-to-video network: image context, VACE blocks, adapters. A
 * model has any set of them; they are detected by their tensors.
 *
 * To add a feature: a file feature_NAME.c that defines `const struct feature feature_NAME`, and a
 * line in DIT_FEATURES. A feature without hooks is reported by `inspect` and, if it lists its
 * tensors, written by `synth`; running the model is refused with the feature's name.
 *
 * To compute a feature whose tensors are listed: give them slots in a struct instead of
 * TENSORS_NO_SLOT, so that they are loaded, add that struct to struct dit (dit_internal.h, dit.c),
 * and define its hooks. The names of its tensors in diffusers files are in dit_names.c. Tensors
 * that its hooks need in each block of the transformer belong to struct dit_block (block_tensors).
 * tests/test_features.c has a feature that uses every hook. */
#ifndef MODEL_TRANSFORMER_FEATURES_H
#define MODEL_TRANSFORMER_FEATURES_H

#include "model/checkpoint/describe.h"
#include "model/checkpoint/tensors.h"
#include "model/transformer/config.h"
#include "model/transformer/sparse.h"

/* All features. A model's features are listed, and their hooks called, in this order. */
#define DIT_FEATURES(X)                                                                            \
    X(image_context)                                                                               \
    X(frame_positions)                                                                             \
    X(vace)                                                                                        \
    X(audio)                                                                                       \
    X(animate)                                                                                     \
    X(mean_flow)                                                                                   \
    X(reference)                                                                                   \
    X(camera)                                                                                      \
    X(vsa_gate)                                                                                    \
    X(sla)

struct dit;
struct dit_input;
struct dit_run;
struct block_ctx;
struct segments;
struct cJSON;
struct describing;

/* Hooks that the forward pass calls; each may be NULL. `data`: FEATURE_TENSORS tensors of this
 * feature and run, zeroed before `begin`. Hooks with a status return errors as dit_begin or
 * dit_forward does. */
struct feature_hooks {
    /* Adds tokens before or after the video's. */
    void (*extend)(struct segments *s, const struct dit_input *in);

    /* Once per run, in dit_begin: allocates its data from `a`, scratch from `step`. Local. */
    status (*begin)(struct dit_run *r, struct tensor *data, const struct dit_input *in,
                    struct arena *a, struct arena *step);

    /* Once per run, in its first forward: work that needs sharded weights, with scratch from
     * `step`. Collective. */
    status (*prepare)(struct dit_run *r, struct tensor *data, struct arena *step);

    /* ctx->patch [s_loc, C] cdt has the patch embedding of the latent's rows. The feature writes
     * the rows of the segments that it added. */
    status (*after_patch)(struct block_ctx *ctx, const struct tensor *data);

    /* ctx->h [s_loc, C] cdt is the result of cross attention to the text, before W_o, to which the
     * feature may add; q [s_loc, C] cdt are its queries, after their norm. */
    status (*cross_attention)(struct block_ctx *ctx, const struct tensor *data, int layer,
                              struct tensor q);

    /* ctx->x [s_loc, C] f32 is the output of block `layer`, which the feature may change. The norm
     * of the next block follows; ctx->h and ctx->y are free. Called after the blocks for which
     * is_after is true; that NULL: after all. */
    status (*after_block)(struct block_ctx *ctx, const struct tensor *data, int layer);
    bool (*is_after)(const struct dit_config *c, const struct feature_use *use, int layer);

    /* Takes part in what after_block does for sharded weights, as dit_follow. Collective. */
    status (*follow)(struct dit_run *r, int step, int layer);
};

/* A width that only the feature's tensors have: the size of one axis of one of them. */
struct feature_width {
    const char *tensor; // NULL ends a list
    int ndim, axis;
    const char *key[2]; // in config.json, official and diffusers; or NULL
};

struct feature {
    const char *name;        // "image context", in messages
    const char *detected_by; // a file that has this tensor has the feature; for a name that ends in
                             // '.', any tensor that begins with it
    const char *list;  // "vace_blocks.": the list of modules whose entries are counted; or NULL
    const char *title; // name of these entries, "VACE blocks"; NULL without a list

    const struct feature_width *widths; // at most FEATURE_WIDTHS; or NULL

    /* Reads the rest of *use from the file, whose units and widths are set; or NULL. ST_FORMAT. */
    status (*describe)(const struct describing *d, const struct dit_config *c,
                       struct feature_use *use);

    /* Emits the tensors that it adds. NULL: they are not listed. */
    void (*tensors)(struct tensor_list *l, const struct dit_config *c,
                    const struct feature_use *use, enum dtype cdt);

    /* Emits the tensors that it adds to each block, in the stack of the block; or NULL. `linear`
     * emits a layer whose product is computed like those of the block. */
    void (*block_tensors)(struct tensor_list *l, const struct dit_config *c, emit_linear *linear,
                          enum dtype cdt);

    /* ST_FORMAT if config.json says what this version does not compute; or NULL. */
    status (*check)(const struct describing *d, const struct dit_config *c,
                    const struct feature_use *use);

    const struct sparse_kind *sparse; // makes self attention sparse; or NULL

    /* For synth: changes the class or type of config.json, and adds keys other than those of its
     * widths; or NULL. */
    void (*config)(struct cJSON *json, const struct dit_config *c, const struct feature_use *use,
                   bool diffusers);

    const struct feature_hooks *hooks; // NULL: this version does not compute it
    bool any_task;                     // models with and without it are for the same tasks
};

#define DECLARE_FEATURE(name) extern const struct feature feature_##name;
DIT_FEATURES(DECLARE_FEATURE)
#undef DECLARE_FEATURE

extern const struct feature *const dit_features[]; // all, up to NULL

/* The kind of the model's sparse self attention; NULL: it attends to all tokens. */
const struct sparse_kind *dit_sparse_kind(const struct dit_config *c);

/* The default: of VSA that for which the released weights of this size were trained, of SLA that of
 * TurboDiffusion's programs. Source: FastVideo scripts/inference and the model cards;
 * TurboDiffusion turbodiffusion/inference. */
struct dit_sparsity dit_default_sparsity(const struct dit_config *c);

/* The use of a feature; NULL: the model does not have it. */
const struct feature_use *dit_find_feature(const struct dit_config *c,
                                           const struct feature *feature);

/* Adds a feature to the config. The caller sets its units and widths in what is returned. */
struct feature_use *dit_add_feature(struct dit_config *c, const struct feature *feature);

/* ST_FORMAT if the model has a feature that this version does not compute; the line names the first
 * one. `file`: the path for that line. */
status dit_check_features(const struct dit_config *c, const char *file);

#endif
