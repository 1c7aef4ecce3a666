/* model.h - the parts that models consist of, the configs of one model, and the released models.
 * All functions are local. */
#ifndef MODEL_PIPELINE_MODEL_H
#define MODEL_PIPELINE_MODEL_H

#include "model/audio/wav2vec2.h"
#include "model/checkpoint/checkpoint.h"
#include "model/lora/lora.h"
#include "model/text/umt5.h"
#include "model/transformer/config.h"
#include "model/vae/vae.h"
#include "model/vision/clip.h"

/* All parts. To add one: its files (checkpoint/part.h) and a line here. */
#define MODEL_PARTS(X)                                                                             \
    X(dit)                                                                                         \
    X(dit_low)                                                                                     \
    X(t5)                                                                                          \
    X(vae)                                                                                         \
    X(clip)                                                                                        \
    X(wav2vec2)                                                                                    \
    X(motion)

#define DECLARE_PART(name) extern const struct part part_##name;
MODEL_PARTS(DECLARE_PART)
#undef DECLARE_PART

#define COUNT_PART(name) +1
enum { MODEL_PART_COUNT = 0 MODEL_PARTS(COUNT_PART) };
#undef COUNT_PART

extern const struct part *const model_parts[MODEL_PART_COUNT + 1]; // ends with NULL

/* The config of each part, in the order of model_parts; NULL if the model does not have the part or
 * it is not open. Borrowed from a checkpoint or a preset. */
struct model {
    const void *config[MODEL_PART_COUNT];
    const struct lora *lora[MODEL_PART_COUNT]; // that are merged into the part's weights, or NULL
    struct weight_source source[MODEL_PART_COUNT]; // of the transformers of a checkpoint: how
                                                   // their weights are stored
};

int model_index(const struct part *part); // its index in model_parts
const void *model_config(const struct model *m, const struct part *part);
void model_set(struct model *m, const struct part *part, const void *config);
struct model model_of_checkpoint(const struct checkpoint *c); // the parts that are open

static inline const struct dit_config *model_dit(const struct model *m)
{
    return model_config(m, &part_dit);
}

static inline const struct t5_config *model_t5(const struct model *m)
{
    return model_config(m, &part_t5);
}

static inline const struct vae_config *model_vae(const struct model *m)
{
    return model_config(m, &part_vae);
}

static inline const struct clip_config *model_clip(const struct model *m)
{
    return model_config(m, &part_clip);
}

static inline const struct wav2vec2_config *model_wav2vec2(const struct model *m)
{
    return model_config(m, &part_wav2vec2);
}

/* ST_FORMAT if parts do not fit each other (text width, latent channels, image tokens); the line
 * has the sizes. Parts that are NULL are not checked. `path` names the model in the line. */
status model_check(const struct model *m, const char *path);

/* ---- released models ---- */

/* A released model, with its official task name ("t2v-1.3B", ...); or "tiny", "tiny-5B", ...,
 * with small sizes for tests. */
struct preset {
    const char *name;
    int experts; // number of transformers: 1 or 2; 0: not a released model
    struct {
        const struct part *part;
        const char *variant;  // name in part->variants
    } part[MODEL_PART_COUNT]; // ends with part NULL, or after the last entry
};

const struct preset *preset_find(const char *name);     // NULL if there is none
const struct preset *preset_at(int index);              // NULL after the last one
struct model preset_model(const struct preset *preset); // configs with static lifetime

/* Number of transformers (experts) of the model: 2 if the checkpoint has the files of two, or those
 * of one in the folder of an expert. part_dit must be open. Errors as of checkpoint_has: a model
 * without a part of its second expert is not one with one transformer. */
status model_experts(int *experts, const struct checkpoint *c);

/* Finds the released model whose transformer has the same tensors as the checkpoint's, if possible
 * one with the same number of experts; *preset is NULL if there is none. part_dit must be open.
 * Errors as of model_experts. */
status preset_of_checkpoint(const struct preset **preset, const struct checkpoint *c);

#endif
