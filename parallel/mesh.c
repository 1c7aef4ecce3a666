#include "parallel/mesh.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#define RING_MOST 4 // ranks of a node that form a ring rather than ulysses; measured up to 4

/* Whether every group of `size` consecutive ranks is on one node. */
static bool fits_node(int size, int ranks, int ranks_per_node)
{
    return ranks <= ranks_per_node || ranks_per_node % size == 0;
}

/* The ulysses size for `rest` ranks that split a sequence; ring gets the quotient. */
static int choose_ulysses(int rest, int ranks, int ranks_per_node, int heads)
{
    for (int u = rest; u > 1; u--)
        if (rest % u == 0 && heads % u == 0 && fits_node(u, ranks, ranks_per_node))
            return u;
    return heads >= rest && fits_node(rest, ranks, ranks_per_node) ? rest : 1;
}

/* Sets the sizes that are 0. False when the given sizes do not fit the ranks. */
static bool complete(struct mesh_shape *s, int ranks, int ranks_per_node, int heads, bool guided,
                     bool direct)
{
    const int64_t given = (int64_t)(s->ring ? s->ring : 1) * (s->ulysses ? s->ulysses : 1);

    if (given > ranks)
        return false;
    if (s->cfg == 0)
        s->cfg = guided && ranks % (2 * given) == 0 ? 2 : 1;
    if (ranks % (s->cfg * given) != 0)
        return false;

    const int rest = ranks / s->cfg;
    if (s->ring == 0 && s->ulysses == 0)
        s->ulysses = direct && rest <= RING_MOST && fits_node(rest, ranks, ranks_per_node)
                         ? 1
                         : choose_ulysses(rest, ranks, ranks_per_node, heads);
    if (s->ulysses == 0)
        s->ulysses = rest / s->ring;
    if (s->ring == 0)
        s->ring = rest / s->ulysses;
    return s->ring * s->ulysses == rest;
}

/* "cfg 2 x ulysses 4": the sizes that are not 0. */
static void shape_text(char *text, size_t size, struct mesh_shape s)
{
    const int value[] = { s.cfg, s.ring, s.ulysses };
    static const char *const name[] = { "cfg", "ring", "ulysses" };
    size_t n = 0;

    text[0] = 0;
    for (size_t i = 0; i < COUNT(value); i++)
        if (value[i] != 0)
            n += (size_t)snprintf(text + n, size - n, "%s%s %d", n ? " x " : "", name[i], value[i]);
}

status mesh_choose(struct mesh_shape *shape, int ranks, int ranks_per_node, int heads, bool guided,
                   bool direct)
{
    struct mesh_shape got = *shape, fits = { 0 };
    char asked_text[64], fits_text[64];
    const bool sizes = got.cfg >= 0 && got.cfg <= 2 && got.ring >= 0 && got.ulysses >= 0;

    complete(&fits, ranks, ranks_per_node, heads, guided, direct);
    shape_text(asked_text, sizeof(asked_text), *shape);
    shape_text(fits_text, sizeof(fits_text), fits);
    if (got.cfg == 2 && !guided)
        return fail(ST_USAGE, "cfg 2 needs guidance, which is off; %s would fit %d ranks",
                    fits_text, ranks);
    if (!sizes || !complete(&got, ranks, ranks_per_node, heads, guided, direct))
        return fail(ST_USAGE, "%s does not fit %d ranks; %s would", asked_text, ranks, fits_text);
    *shape = got;
    return ST_OK;
}

struct mesh_shape mesh_joined(struct mesh_shape s, int ranks_per_node, int heads, bool direct)
{
    const struct mesh_shape ring = { 1, 2 * s.ring, s.ulysses },
                            ulysses = { 1, s.ring, 2 * s.ulysses };
    const bool on_node = fits_node(2 * s.ulysses, s.cfg * s.ring * s.ulysses, ranks_per_node);

    if (s.cfg != 2)
        return (struct mesh_shape){ 0 };
    if (s.ring > 1 || (s.ulysses == 1 && direct && on_node))
        return ring;
    if (2 * s.ulysses <= heads && on_node)
        return ulysses;
    return direct || !on_node ? ring : (struct mesh_shape){ 0 };
}

/* Opens the group of the `count` world ranks first, first + step, ... */
static status open_strided(struct mesh *m, struct group *g, const char *name, struct device *dev,
                           int first, int step, int count)
{
    int *members = malloc((size_t)count * sizeof(*members));
    status st;

    for (int i = 0; members != NULL && i < count; i++)
        members[i] = first + i * step;
    // group_open is collective, so call it also without a list, which only a described world reads.
    if (members == NULL && m->world->described)
        return fail(ST_MEMORY, "no host memory for %d ranks", count);
    st = group_open(g, name, m->world, dev, first, members, count);
    free(members);
    return st;
}

/* Whether the ranks of this rank's sequence are GPUs of one node, and no other group has them all.
 * Between nodes a group more would only take memory. Nodes have consecutive ranks; where they do
 * not, group sizes tell. */
static bool needs_seq_group(const struct mesh *m, const struct device *dev)
{
    const struct world *w = m->world;
    const int first = w->rank - mesh_seq_rank(m), node = w->rank - w->local_rank;
    const bool gpus = w->described ? w->direct : dev->kind == DEVICE_CUDA && !w->nccl;

    return gpus && m->size.ring > 1 && m->size.ulysses > 1 && first >= node &&
           first + mesh_seq_size(m) <= node + w->local_size;
}

static void choose_direct(struct mesh *m)
{
    struct group *g = m->size.ring == 1      ? &m->ulysses_group
                      : m->size.ulysses == 1 ? &m->ring_group
                                             : &m->seq_group;

    if (g->direct && g->size == mesh_seq_size(m) && g->size <= ATTENTION_PARTS)
        m->direct = g;
}

static struct mesh place(struct world *w, struct mesh_shape shape)
{
    const int r = w->rank, seq = shape.ring * shape.ulysses;

    assert(shape.cfg * seq == w->size);
    return (struct mesh){
        .size = shape,
        .cfg = r / seq,
        .ring = r % seq / shape.ulysses,
        .ulysses = r % shape.ulysses,
        .world = w,
    };
}

/* Opens the groups of the ranks that share the sequence. Collective, also when it fails. */
static status open_sequence(struct mesh *m, struct device *dev)
{
    const struct mesh_shape shape = m->size;
    const int r = m->world->rank, seq = shape.ring * shape.ulysses;
    status st[3], first = ST_OK;

    st[0] = open_strided(m, &m->ring_group, "ring", dev, m->cfg * seq + m->ulysses, shape.ulysses,
                         shape.ring);
    st[1] = open_strided(m, &m->ulysses_group, "ulysses", dev, r - m->ulysses, 1, shape.ulysses);
    st[2] = open_strided(m, &m->seq_group, "sequence", dev,
                         needs_seq_group(m, dev) ? r - mesh_seq_rank(m) : -1, 1, seq);
    for (size_t i = 0; i < COUNT(st) && first == ST_OK; i++)
        first = st[i];
    if (first == ST_OK)
        choose_direct(m);
    return first;
}

status mesh_open(struct mesh *m, struct world *w, struct device *dev, struct mesh_shape shape)
{
    const int seq = shape.ring * shape.ulysses;
    status all, cfg, sequence;

    *m = place(w, shape);
    all = open_strided(m, &m->all, "all", dev, 0, 1, w->size);
    cfg = open_strided(m, &m->cfg_group, "cfg", dev, w->rank % seq, seq, shape.cfg);
    sequence = open_sequence(m, dev);
    return all != ST_OK ? all : cfg != ST_OK ? cfg : sequence;
}

status mesh_join(struct mesh *m, struct device *dev, struct mesh_shape shape)
{
    struct mesh *joined = malloc(sizeof(*joined));

    const status st =
        agree(m->world, joined != NULL ? ST_OK : fail(ST_MEMORY, "no host memory for a mesh"));

    if (st != ST_OK) {
        free(joined);
        return st;
    }
    *joined = place(m->world, shape);
    m->joined = joined;
    return open_sequence(joined, dev);
}

int mesh_groups(const struct mesh *m, const struct group *groups[MESH_GROUPS])
{
    int n = 0;

    groups[n++] = &m->all;
    groups[n++] = &m->cfg_group;
    for (; m != NULL; m = m->joined) {
        groups[n++] = &m->ring_group;
        groups[n++] = &m->ulysses_group;
        groups[n++] = &m->seq_group;
    }
    return n;
}

void mesh_close(struct mesh *m)
{
    if (m->joined != NULL)
        mesh_close(m->joined);
    free(m->joined);
    group_close(&m->seq_group);
    group_close(&m->ulysses_group);
    group_close(&m->ring_group);
    group_close(&m->cfg_group);
    group_close(&m->all);
    *m = (struct mesh){ 0 };
}
