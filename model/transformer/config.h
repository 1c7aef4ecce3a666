/* config.h - sizes and features of one transformer, read from config.json and its tensors. */
#ifndef MODEL_TRANSFORMER_CONFIG_H
#define MODEL_TRANSFORMER_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#define DIT_FEATURES_MAX 8
#define FEATURE_TENSORS 10 // number of tensors that a feature can keep for a run
#define FEATURE_UNITS 16   // number of units whose blocks are listed
#define FEATURE_WIDTHS 13  // number of widths that only a feature's tensors have

struct feature; // features.h

/* A feature that the model has. */
struct feature_use {
    const struct feature *feature;
    int units;                     // number of its blocks, injectors or adapters; 0: not counted
    int64_t width[FEATURE_WIDTHS]; // in the order of feature->widths
    int at[FEATURE_UNITS];         // the block after which each unit is computed, if the feature
                                   // lists them
};

/* How much of sparse self attention is computed, of transformers that have it. */
struct dit_sparsity {
    double vsa;      // share of the tiles of keys that a tile of queries does not attend to
    double sla_topk; // share of the blocks of keys that a block of queries attends to
};

struct dit_config {
    int64_t in_dim, out_dim; // input channels of the patch embedding, output channels of the head
    int64_t dim, ffn_dim;    // C, and the width inside the feed forward
    int64_t freq_dim;        // width of the sinusoids of the time; even
    int64_t text_dim;        // width of the text encoder's output
    int64_t text_len;        // rows of text, padded with zeros
    int64_t image_dim;       // width of the image encoder's tokens; 0: none are used
    int64_t image_positions; // rows of the table that is added to them; 0: none
    int heads, layers;
    float eps;                                // of all norms
    struct feature_use use[DIT_FEATURES_MAX]; // ends with feature NULL, or after the last entry
};

#endif
