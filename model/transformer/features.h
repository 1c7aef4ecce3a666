/* features.h - what a transformer has beside the text-to-video network: image context, VACE
 * blocks, adapters. A model has any set of them, found by their tensors.
 *
 * To add a feature: a file feature_NAME.c that defines `const struct feature feature_NAME`, and a
 * line in DIT_FEATURES. A feature without hooks is known (`inspect` and `synth` handle its tensors)
 * and refused by name where it would have to be computed. */
#ifndef MODEL_TRANSFORMER_FEATURES_H
#define MODEL_TRANSFORMER_FEATURES_H

#include "model/checkpoint/tensors.h"
#include "model/transformer/config.h"

/* Every feature, in the order in which a model's are listed and called. */
#define DIT_FEATURES(X)                                                                            \
    X(image_context)                                                                               \
    X(frame_positions)                                                                             \
    X(vace)                                                                                        \
    X(audio)                                                                                       \
    X(animate)                                                                                     \
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

/* What the forward pass calls, each NULL where there is nothing to do. `data`: FEATURE_TENSORS
 * tensors of this feature and run, zeroed before begin. */
struct feature_hooks {
    /* Adds tokens before or after the video's. */
    void (*extend)(struct segments *s, const struct dit_input *in);

    /* Once a run: memory that stays from `a`, scratch from `step`. Local. */
    status (*begin)(struct dit_run *r, struct tensor *data, const struct dit_input *in,
                    struct arena *a, struct arena *step);

    /* Once a run, in its first forward: what is made with sharded weights. Collective. */
    status (*prepare)(struct dit_run *r, struct tensor *data);

    /* x->patch [s_loc, C] has the embedded patches of the latent's rows; rows of other segments
     * are the feature's to write. */
    status (*after_patch)(struct block_ctx *x, const struct tensor *data);

    /* x->h [s_loc, C] cdt has cross attention to the text, before W_o; q [s_loc, C] its queries. */
    status (*cross_attention)(struct block_ctx *x, const struct tensor *data, int layer,
                              struct tensor q);

    /* x->x [s_loc, C] f32 is what block `layer` gives. The norm for the next block follows. */
    status (*after_block)(struct block_ctx *x, const struct tensor *data, int layer);
};

struct feature {
    const char *name; // "image context", in messages
    const char
        *witness;      // the tensor by which a file is known to have it; ends in '.': any so named
    const char *list;  // "vace_blocks.": its units are counted; or NULL
    const char *title; // of a unit, "VACE blocks"; NULL without a list

    /* Emits the tensors that it adds. NULL: known by its witness alone. */
    void (*tensors)(struct tensor_list *l, const struct dit_config *c, int units, enum dtype cdt);

    /* For synth: changes the class or type of config.json, and adds keys; or NULL. */
    void (*config)(struct cJSON *json, const struct dit_config *c, int units, bool diffusers);

    const struct feature_hooks *hooks; // NULL: this version does not compute it
};

#define DECLARE_FEATURE(name) extern const struct feature feature_##name;
DIT_FEATURES(DECLARE_FEATURE)
#undef DECLARE_FEATURE

extern const struct feature *const dit_features[]; // all, up to NULL

/* The model's use of the feature, or NULL where it does not have it. */
const struct feature_use *dit_uses(const struct dit_config *c, const struct feature *feature);

/* Appends a use. */
void dit_add_feature(struct dit_config *c, const struct feature *feature, int units);

/* ST_FORMAT naming the first feature that this version does not compute, as found in `file`. */
status dit_check_features(const struct dit_config *c, const char *file);

#endif
