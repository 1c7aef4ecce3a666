/* config.h - the numbers that make one transformer, as config.json and the tensors tell them. */
#ifndef MODEL_TRANSFORMER_CONFIG_H
#define MODEL_TRANSFORMER_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#define DIT_FEATURES_MAX 8
#define FEATURE_TENSORS 4 // that a feature can keep for a run

struct feature; // features.h

/* A feature that the model has, and how many blocks, injectors or adapters of it (0: not counted).
 */
struct feature_use {
    const struct feature *feature;
    int units;
};

struct dit_config {
    int64_t in_dim, out_dim; // channels that the patch embedding takes, and that the head gives
    int64_t dim, ffn_dim, freq_dim, text_dim, text_len;
    int heads, layers;
    float eps;
    struct feature_use use[DIT_FEATURES_MAX]; // up to the first without a feature
};

#endif
