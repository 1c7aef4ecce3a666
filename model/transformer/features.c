#include "model/transformer/features.h"

#include <assert.h>

#define FEATURE_ADDRESS(name) &feature_##name,
const struct feature *const dit_features[] = { DIT_FEATURES(FEATURE_ADDRESS) NULL };

const struct sparse_kind *dit_sparse_kind(const struct dit_config *c)
{
    for (int i = 0; i < DIT_FEATURES_MAX && c->use[i].feature != NULL; i++)
        if (c->use[i].feature->sparse != NULL)
            return c->use[i].feature->sparse;
    return NULL;
}

struct dit_sparsity dit_default_sparsity(const struct dit_config *c)
{
    return (struct dit_sparsity){ .vsa = c->layers >= 40 ? 0.9 : 0.8, .sla_topk = 0.1 };
}

const struct feature_use *dit_find_feature(const struct dit_config *c,
                                           const struct feature *feature)
{
    for (int i = 0; i < DIT_FEATURES_MAX && c->use[i].feature != NULL; i++)
        if (c->use[i].feature == feature)
            return &c->use[i];
    return NULL;
}

struct feature_use *dit_add_feature(struct dit_config *c, const struct feature *feature)
{
    int i = 0;

    while (i < DIT_FEATURES_MAX && c->use[i].feature != NULL)
        i++;
    assert(i < DIT_FEATURES_MAX);
    c->use[i].feature = feature;
    return &c->use[i];
}

status dit_check_features(const struct dit_config *c, const char *file)
{
    for (int i = 0; i < DIT_FEATURES_MAX && c->use[i].feature != NULL; i++) {
        const struct feature *f = c->use[i].feature;

        if (f->hooks == NULL)
            return fail(ST_FORMAT,
                        "%s: the model has the feature '%s' (tensor %s), which this version does "
                        "not compute; use a text-to-video model",
                        file, f->name, f->detected_by);
    }
    return ST_OK;
}
