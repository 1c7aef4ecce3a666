/* sparse.h - self attention in which each tile of tokens attends to some of the tiles only. A
 * feature of the transformer's weights says how the tokens are divided and how many tiles are
 * chosen. */
#ifndef MODEL_TRANSFORMER_SPARSE_H
#define MODEL_TRANSFORMER_SPARSE_H

#include "model/transformer/config.h"

struct sparse_tiles {
    int64_t q, k, kept; // number of tiles of queries and of keys; keys' tiles that are chosen
    int q_rows, k_rows; // most tokens of a tile: of queries, of keys
};

/* At least one of `count` tiles, and at most all. */
static inline int64_t sparse_kept(int64_t wanted, int64_t count)
{
    return wanted < 1 ? 1 : wanted < count ? wanted : count;
}

/* A way of sparse attention. */
struct sparse_kind {
    const char *name;  // "VSA"
    const char *title; // "video sparse attention"
    const char *flag;  // the option that says how much of it: "vsa_sparsity"

    /* The tiles of a grid of f x h x w tokens. */
    struct sparse_tiles (*count)(struct dit_sparsity s, int64_t f, int64_t h, int64_t w);
};

#endif
