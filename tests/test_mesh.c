/* Which mesh sizes are chosen, which are refused, and that the groups have the right members. */
#include "kernels/table.h"
#include "parallel/mesh.h"
#include "tests/ranks.h"

#include <string.h>

/* The mesh of the same ranks for one CFG branch. */
static void check_joined(void)
{
    static const struct {
        struct mesh_shape from;
        int node, heads;
        bool direct;
        struct mesh_shape want; // cfg 0: none
    } cases[] = {
        { { 1, 1, 4 }, 8, 12, false, { 0 } },       { { 2, 1, 1 }, 8, 12, false, { 1, 1, 2 } },
        { { 2, 1, 4 }, 8, 12, false, { 1, 1, 8 } }, // uneven heads: the bits of one rank
        { { 2, 1, 8 }, 16, 12, false, { 0 } },      { { 2, 1, 8 }, 16, 12, true, { 1, 2, 8 } },
        { { 2, 2, 2 }, 8, 12, false, { 1, 4, 2 } }, { { 2, 1, 1 }, 8, 12, true, { 1, 2, 1 } },
        { { 2, 1, 4 }, 8, 40, true, { 1, 1, 8 } },  { { 2, 4, 1 }, 8, 40, true, { 1, 8, 1 } },
        { { 2, 1, 8 }, 8, 40, true, { 1, 2, 8 } }, // a branch on each of two nodes
        { { 2, 1, 1 }, 1, 40, true, { 1, 2, 1 } },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        const struct mesh_shape want = cases[i].want;
        const struct mesh_shape got =
            mesh_joined(cases[i].from, cases[i].node, cases[i].heads, cases[i].direct);

        CHECK(got.cfg == want.cfg && got.ring == want.ring && got.ulysses == want.ulysses,
              "joined, case %zu: cfg %d, ring %d, ulysses %d", i, got.cfg, got.ring, got.ulysses);
    }
}

static void check_choice(void)
{
    static const struct {
        int ranks, node, heads;
        bool guided, direct;
        struct mesh_shape asked, want; // want.cfg 0: refused
    } cases[] = {
        { 1, 1, 12, true, false, { 0 }, { 1, 1, 1 } },
        { 2, 8, 12, true, false, { 0 }, { 2, 1, 1 } },
        { 2, 8, 12, false, false, { 0 }, { 1, 1, 2 } },
        { 8, 8, 12, true, false, { 0 }, { 2, 1, 4 } },
        { 8, 8, 12, false, false, { 0 }, { 1, 2, 4 } },
        { 8, 8, 40, false, false, { 0 }, { 1, 1, 8 } },
        { 16, 8, 40, true, false, { 0 }, { 2, 1, 8 } },
        { 16, 8, 40, false, false, { 0 }, { 1, 2, 8 } },
        { 12, 6, 12, false, false, { 0 }, { 1, 2, 6 } }, // 12 would not fit a node
        { 12, 6, 40, false, false, { 0 }, { 1, 6, 2 } }, // a group of 4 would be on two nodes
        { 5, 8, 12, true, false, { 0 }, { 1, 1, 5 } },   // no size divides: uneven heads
        { 5, 4, 12, true, false, { 0 }, { 1, 5, 1 } },
        { 13, 16, 12, false, false, { 0 }, { 1, 13, 1 } },
        { 8, 8, 12, true, true, { 0 }, { 2, 4, 1 } },
        { 4, 8, 40, false, true, { 0 }, { 1, 4, 1 } },
        { 8, 8, 40, false, true, { 0 }, { 1, 1, 8 } },
        { 8, 8, 12, false, true, { 0 }, { 1, 2, 4 } },
        { 8, 8, 40, false, true, { 0, 0, 2 }, { 1, 4, 2 } },
        { 16, 8, 40, true, true, { 0 }, { 2, 1, 8 } },
        { 72, 4, 40, true, true, { 0 }, { 2, 9, 4 } },
        { 16, 8, 40, false, true, { 0 }, { 1, 2, 8 } }, // 16 are on two nodes
        { 8, 8, 12, true, false, { 1, 0, 0 }, { 1, 2, 4 } },
        { 8, 8, 12, true, false, { 0, 0, 8 }, { 1, 1, 8 } },
        { 8, 8, 12, true, false, { 0, 2, 2 }, { 2, 2, 2 } },
        { 8, 8, 12, true, false, { 0, 4, 2 }, { 1, 4, 2 } },
        { 8, 8, 12, true, false, { 0, 4, 0 }, { 2, 4, 1 } },
        { 8, 8, 12, true, false, { 2, 0, 2 }, { 2, 2, 2 } },
        { 8, 8, 12, true, false, { 0, 3, 0 }, { 0 } },
        { 8, 8, 12, true, false, { 0, 0, 16 }, { 0 } },
        { 8, 8, 12, true, false, { 1, 2, 2 }, { 0 } },
        { 8, 8, 12, true, false, { 3, 0, 0 }, { 0 } },
        { 8, 8, 12, true, false, { 0, -1, 0 }, { 0 } },
        { 8, 8, 12, false, false, { 2, 0, 0 }, { 0 } },
        { 5, 8, 12, true, false, { 2, 0, 0 }, { 0 } },
        { 8, 8, 12, true, false, { 2, 2147483647, 2147483647 }, { 0 } },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct mesh_shape got = cases[i].asked;
        const struct mesh_shape want = cases[i].want;
        const status st = mesh_choose(&got, cases[i].ranks, cases[i].node, cases[i].heads,
                                      cases[i].guided, cases[i].direct);
        if (want.cfg == 0)
            CHECK(st == ST_USAGE && strstr(status_line(), "would") != NULL, "case %zu: %s", i,
                  status_line());
        else
            CHECK(st == ST_OK && got.cfg == want.cfg && got.ring == want.ring &&
                      got.ulysses == want.ulysses,
                  "case %zu: cfg %d, ring %d, ulysses %d", i, got.cfg, got.ring, got.ulysses);
    }
}

/* Rank i of the group is world rank first + i * step, as an all-gather of world ranks shows. */
static void check_members(const char *what, struct group *g, int world_rank, int first, int step,
                          int count)
{
    const size_t one = sizeof(int);
    struct transfer t = { 0 };
    int members[64] = { 0 };

    CHECK(g->size == count && g->rank == (world_rank - first) / step, "%s: rank %d of %d", what,
          g->rank, g->size);
    for (int i = 0; i <= g->size; i++)
        g->recv_offset[i] = (size_t)i * one;
    CHECK(group_all_gather(g, &t, members, g->recv_offset, &world_rank) == ST_OK &&
              transfer_wait(&t) == ST_OK,
          "%s", status_line());
    for (int i = 0; i < g->size; i++)
        CHECK(members[i] == first + i * step, "%s: member %d is rank %d", what, i, members[i]);
}

static void check_mesh(struct world *w, struct device *dev, struct mesh_shape shape)
{
    const int seq = shape.ring * shape.ulysses, r = w->rank;
    struct world described;
    struct device plan;
    struct mesh m, p;

    CHECK(mesh_open(&m, w, dev, shape) == ST_OK, "%s", status_line());
    CHECK((m.cfg * shape.ring + m.ring) * shape.ulysses + m.ulysses == r, "rank %d", r);
    CHECK(mesh_seq_size(&m) == seq && mesh_seq_rank(&m) == r % seq, "sequence rank");
    check_members("all", &m.all, r, 0, 1, w->size);
    check_members("cfg", &m.cfg_group, r, r % seq, seq, shape.cfg);
    check_members("ring", &m.ring_group, r, m.cfg * seq + m.ulysses, shape.ulysses, shape.ring);
    check_members("ulysses", &m.ulysses_group, r, r - m.ulysses, 1, shape.ulysses);

    world_describe(&described, r, w->size, 2);
    device_open_plan(&plan, &table_plan, 0);
    CHECK(mesh_open(&p, &described, &plan, shape) == ST_OK, "%s", status_line());
    CHECK(p.cfg == m.cfg && p.ring == m.ring && p.ulysses == m.ulysses, "planned coordinates");
    CHECK(p.all.rank == m.all.rank && p.all.size == m.all.size, "planned all");
    CHECK(p.cfg_group.rank == m.cfg_group.rank && p.cfg_group.size == m.cfg_group.size, "cfg");
    CHECK(p.ring_group.rank == m.ring_group.rank && p.ring_group.size == m.ring_group.size, "ring");
    CHECK(p.ulysses_group.rank == m.ulysses_group.rank &&
              p.ulysses_group.size == m.ulysses_group.size,
          "planned ulysses");
    mesh_close(&p);
    device_close(&plan);
    mesh_close(&m);
}

int main(int argc, char **argv)
{
    struct world w;
    struct device dev;

    check_choice();
    check_joined();
    if (world_open(&w, &argc, &argv) != ST_OK)
        return 1;
    CHECK(device_open_cpu(&dev, 1, &table_ref, 0) == ST_OK, "%s", status_line());
    for (int cfg = 1; cfg <= 2; cfg++)
        for (int ring = 1; ring <= w.size; ring++)
            if (w.size % (cfg * ring) == 0)
                check_mesh(&w, &dev, (struct mesh_shape){ cfg, ring, w.size / cfg / ring });
    device_close(&dev);
    return ranks_end(&w, "mesh");
}
