/* mesh.h - which rank does what: cfg x ring x ulysses, outermost first.
 *
 *     rank = (cfg * ring_size + ring) * ulysses_size + ulysses
 *
 * cfg     the two sides of guidance, 1 or 2
 * ring    pieces of the sequence; keys and values go round
 * ulysses inside an attention, heads; outside, pieces of a ring piece
 *
 * Tokens: sequence rank i = ring * ulysses_size + ulysses of P = ring_size * ulysses_size holds
 * tokens [split_at(S, P, i), split_at(S, P, i + 1)). */
#ifndef PARALLEL_MESH_H
#define PARALLEL_MESH_H

#include "parallel/group.h"

struct mesh_shape {
    int cfg, ring, ulysses; // sizes; 0 = to be chosen
};

struct mesh {
    struct mesh_shape size;
    int cfg, ring, ulysses;  // this rank's coordinates
    struct world *world;     // borrowed
    struct group all;        // every rank: weight shards, VAE rows
    struct group cfg_group;  // same tokens, the other side of guidance
    struct group ring_group; // same heads, other ring pieces
    struct group ulysses_group;
};

/* Fills in the sizes left 0 so that the product is `ranks`. Guidance off means cfg 1. Prefers cfg 2
 * (when guided and ranks is even), then the largest ulysses that divides both the rest and `heads`
 * and fits a node, then ring for the rest; when nothing divides, ulysses with uneven heads if
 * heads >= ranks, else ring. ST_USAGE with what would fit when the given sizes do not multiply to
 * `ranks` or cfg is not 1 or 2. */
status mesh_choose(struct mesh_shape *shape, int ranks, int ranks_per_node, int heads, bool guided);

/* Collective over the world. shape is complete. */
status mesh_open(struct mesh *m, struct world *w, struct device *dev, struct mesh_shape shape);
void mesh_close(struct mesh *m);

static inline int mesh_seq_size(const struct mesh *m)
{
    return m->size.ring * m->size.ulysses;
}

static inline int mesh_seq_rank(const struct mesh *m)
{
    return m->ring * m->size.ulysses + m->ulysses;
}

#endif
