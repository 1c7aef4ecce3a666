/* model.h - the parts that models consist of, and the numbers of one model. */
#ifndef MODEL_PIPELINE_MODEL_H
#define MODEL_PIPELINE_MODEL_H

#include "model/checkpoint/checkpoint.h"
#include "model/text/umt5.h"
#include "model/transformer/config.h"
#include "model/vae/vae.h"

/* Every part; a new one is a line here, beside its own files (checkpoint/part.h). */
#define MODEL_PARTS(X)                                                                             \
    X(dit)                                                                                         \
    X(dit_low)                                                                                     \
    X(t5)                                                                                          \
    X(vae)

#define DECLARE_PART(name) extern const struct part part_##name;
MODEL_PARTS(DECLARE_PART)
#undef DECLARE_PART

#define COUNT_PART(name) +1
enum { MODEL_PART_COUNT = 0 MODEL_PARTS(COUNT_PART) };
#undef COUNT_PART

extern const struct part *const model_parts[MODEL_PART_COUNT + 1]; // up to NULL

/* The numbers of each part, in the order of model_parts; NULL where the model has no such part or
 * it is not opened. Borrowed from a checkpoint or a preset. */
struct model {
    const void *config[MODEL_PART_COUNT];
};

int model_index(const struct part *part); // in model_parts
const void *model_config(const struct model *m, const struct part *part);
void model_set(struct model *m, const struct part *part, const void *config);
struct model model_of_checkpoint(const struct checkpoint *c); // of the parts opened so far

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

/* ST_FORMAT when parts do not fit each other (text width, latent channels), with the sizes; parts
 * that are NULL are not checked. `path` names the model in the line. */
status model_check(const struct model *m, const char *path);

/* ---- released models ---- */

/* A released model by its official task name ("t2v-1.3B", ...), or "tiny", small sizes for tests.
 */
struct preset {
    const char *name;
    int experts; // transformers: 1 or 2; 0: not a released model
    struct {
        const struct part *part;
        const char *variant;
    } part[MODEL_PART_COUNT]; // up to the first NULL
};

const struct preset *preset_find(const char *name); // NULL when unknown
const struct preset *preset_at(int index);          // NULL after the last
struct model preset_model(const struct preset *preset);

/* The released model whose transformer has the tensors of the checkpoint's, as many experts too;
 * NULL when none has. The transformer must be opened. ST_MEMORY. */
status preset_of_checkpoint(const struct preset **preset, const struct checkpoint *c);

#endif
