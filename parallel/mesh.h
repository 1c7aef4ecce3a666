/* mesh.h - the ranks as a mesh of cfg x ring x ulysses, outermost first.
 *
 *     rank = (cfg * ring_size + ring) * ulysses_size + ulysses
 *
 * cfg      size 1, or 2: one CFG branch (cond, uncond) each
 * ring     each position holds one chunk of the sequence; attention gets the k and v of all chunks
 * ulysses  each rank holds some tokens of a ring chunk, with all heads; in attention, all tokens of
 *          the chunk, with some heads
 *
 * Tokens: sequence rank i = ring * ulysses_size + ulysses of P = ring_size * ulysses_size holds
 * tokens [split_at(S, P, i), split_at(S, P, i + 1)). */
#ifndef PARALLEL_MESH_H
#define PARALLEL_MESH_H

#include "parallel/group.h"

struct mesh_shape {
    int cfg, ring, ulysses; // sizes; 0: chosen by mesh_choose
};

struct mesh {
    struct mesh_shape size;
    int cfg, ring, ulysses;     // this rank's coordinates
    struct mesh *joined;        // owned; NULL: none. See mesh_join
    struct world *world;        // borrowed
    struct group all;           // all ranks: weight shards, VAE rows
    struct group cfg_group;     // the ranks with the same tokens in the other CFG branch
    struct group ring_group;    // the ranks with the same heads in other ring chunks
    struct group ulysses_group; // the ranks of one ring chunk
    struct group seq_group;     // the ranks of the whole sequence; only as `direct`
    /* The ranks of the whole sequence, in order, if they are GPUs that write into each other's
     * memory; else NULL. One of the three groups above. */
    struct group *direct;
};

/* Sets the sizes that are 0, so that the product of all three is `ranks`. Local.
 *   guided  whether the request uses CFG; without it cfg is 1
 *   heads   N
 *   direct  whether GPUs of one node write into each other's memory
 * Prefers cfg 2 (if guided and the ranks divide by 2), then a ring if `direct` and the remaining
 * ranks are at most 4 of a node: there it waits the least. (What a rank sends in a ring does not
 * become less with more ranks.) Else the largest ulysses size that divides the remaining ranks and
 * `heads` and fits in a node, then ring for the rest. If
 * no ulysses size above 1 divides: ulysses with uneven heads if heads >= remaining ranks and they
 * fit in a node, else ring. ST_USAGE, with sizes that fit, when the product of the given sizes
 * cannot be `ranks` or cfg is not 1 or 2. */
status mesh_choose(struct mesh_shape *shape, int ranks, int ranks_per_node, int heads, bool guided,
                   bool direct);

/* The mesh of cfg 1 in which the ranks of a mesh of cfg 2 share the sequence while only one CFG
 * branch is computed. Local; arguments as for mesh_choose. Doubles the ring if there is one, or if
 * GPUs write into each other's memory; else Ulysses, which has the bits of one rank, if the heads
 * are enough and the ranks fit in a node; else between nodes the ring. All sizes are 0 if shape.cfg
 * is 1, or if none of that is possible. */
struct mesh_shape mesh_joined(struct mesh_shape shape, int ranks_per_node, int heads, bool direct);

/* Opens the groups. Collective over the world, also when it fails: call agree() afterwards. No
 * size in shape is 0. w and dev are borrowed. ST_MEMORY, ST_DEVICE, ST_USAGE, as group_open. */
status mesh_open(struct mesh *m, struct world *w, struct device *dev, struct mesh_shape shape);
void mesh_close(struct mesh *m); // collective; accepts a zeroed mesh

/* Opens m->joined, of the shape that mesh_joined gave: it has only the groups in which ranks share
 * the sequence. Between the steps on both meshes the tokens move over m->all. Collective, errors as
 * mesh_open. `m` must stay in place. */
status mesh_join(struct mesh *m, struct device *dev, struct mesh_shape shape);

/* The groups of a mesh, those of m->joined too; returns their number. */
#define MESH_GROUPS 8
int mesh_groups(const struct mesh *m, const struct group *groups[MESH_GROUPS]);

/* Number of ranks that split the sequence, and this rank's index among them. */
static inline int mesh_seq_size(const struct mesh *m)
{
    return m->size.ring * m->size.ulysses;
}

static inline int mesh_seq_rank(const struct mesh *m)
{
    return m->ring * m->size.ulysses + m->ulysses;
}

#endif
