/* tiles.h - attention of this rank's heads, all tokens, in which each tile of queries attends to
 * some of the tiles of keys: those whose mean key has the largest product with its mean query.
 * Internal to parallel/, but for struct attention_tiles.
 *
 * Tiles are ranges of rows (op_sparse_attention). Where they are cubes of a video, q, k and v are
 * first copied into the order of the tiles, and the result is copied back.
 *
 * Source: Zhang et al. 2025, VSA; Zhang et al. 2025, SLA. */
#ifndef PARALLEL_TILES_H
#define PARALLEL_TILES_H

#include "kernels/ops.h"
#include "parallel/ulysses.h"

/* The tiles of a sequence of S tokens. Tensors are i32 on the device; borrowed. */
struct attention_tiles {
    struct tensor q_first, k_first; // [T + 1], as in struct tile_lists
    struct tensor order, place; // [S]: row r is token order[r], token s is row place[s]; ndim 0:
                                // rows are in the order of the tokens
    struct tensor tile;         // [S]: the tile of queries of token s; with `coarse`
    int q_rows, k_rows;         // most rows of a tile
    int64_t kept;               // tiles of keys that a tile of queries attends to
    bool coarse;                // also computes attention over the means of the tiles, in which
                                // case those of queries and keys are the same
};

/* One attention: its scratch. */
struct tiles_run {
    const struct attention_tiles *tiles;
    struct tensor linear_w, linear_b;   // of op_linear_attention, which is added to tokens in their
                                        // order; ndim 0: it is not
    struct tensor coarse;               // [Tq, N, D], the caller's: all heads
    struct tensor mean_q, mean_k;       // [T, n_loc, D]
    struct tensor mean_v, coarse_heads; // [T, n_loc, D], of this rank's heads; with `coarse`
    struct tensor gathered;             // the same of all ranks, one after the other
    struct tensor count, index;         // of op_tile_lists
    struct tensor spare;                // [S, n_loc, D]; unset where the caller's `out` serves
    struct tensor linear;               // scratch of op_linear_attention
    struct transfer gather;
};

/* Sets *t to `from`, of which tiles, the linear layer and coarse are set, and allocates the rest
 * from `step`; the caller releases. Local. ST_MEMORY. */
status tiles_open(struct tiles_run *t, const struct tiles_run *from, const struct seq_layout *s,
                  struct arena *step, enum dtype dt);

/* *result = attention of q, k, v [S, n_loc, D], in one of these buffers or in `out`, where it is
 * with one rank. q, k and v are overwritten. Collective over the ulysses group. */
status tiles_attention(struct tiles_run *t, const struct seq_layout *s, struct tensor *result,
                       struct tensor out, struct tensor q, struct tensor k, struct tensor v,
                       float scale);

#endif
