#include "parallel/ulysses.h"

#include "kernels/ops.h"
#include "parallel/split.h"

static int64_t piece_at(const struct sharing *s, int r)
{
    return split_at(s->tokens, mesh_seq_size(s->m), r * s->m->size.ulysses);
}

int64_t sharing_piece(const struct sharing *s, int r)
{
    return piece_at(s, r + 1) - piece_at(s, r);
}

struct sharing sharing_of(struct mesh *m, struct device *dev, int64_t tokens, int64_t heads,
                          int64_t depth)
{
    struct sharing s = {
        .m = m,
        .dev = dev,
        .tokens = tokens,
        .heads = heads,
        .depth = depth,
        .s_loc = split_count(tokens, mesh_seq_size(m), mesh_seq_rank(m)),
        .n_first = split_at(heads, m->size.ulysses, m->ulysses),
        .n_loc = split_count(heads, m->size.ulysses, m->ulysses),
    };

    s.s_piece = sharing_piece(&s, m->ring);
    return s;
}

/* What an H100 or H200 computes at once of an attention: tiles of 128 queries of a head, one on
 * each of 132 multiprocessors. */
#define TILE_QUERIES 128
#define TILES_AT_ONCE 132

static int64_t turns(int64_t tokens, int64_t heads)
{
    const int64_t tiles = (tokens + TILE_QUERIES - 1) / TILE_QUERIES * heads;

    return (tiles + TILES_AT_ONCE - 1) / TILES_AT_ONCE;
}

/* How many of n heads are first, and how many last: as few as possible, but some, where that takes
 * no more turns than all at once. */
static void cut_heads(int64_t tokens, int64_t n, int64_t *first, int64_t *last)
{
    int best = 0;

    *first = *last = 0;
    for (int64_t a = 0; a <= n / 3; a++)
        for (int64_t b = 0; b <= n / 3; b++) {
            const int hides = (a > 0) + (b > 0);

            if (hides < best || (hides == best && a + b >= *first + *last) ||
                turns(tokens, a) + turns(tokens, n - a - b) + turns(tokens, b) > turns(tokens, n))
                continue;
            best = hides;
            *first = a;
            *last = b;
        }
}

struct heads sharing_heads(const struct sharing *s, int rank, int group)
{
    const int ulysses = s->m->size.ulysses;
    const struct heads all = { split_at(s->heads, ulysses, rank),
                               split_count(s->heads, ulysses, rank) };
    int64_t first = 0, last = 0;

    if (group == HEADS_ALL)
        return all;
    if (s->m->size.ring == 1) // else keys and values that go round hide them
        cut_heads(s->s_piece, all.count, &first, &last);
    switch (group) {
    case HEADS_FIRST:
        return (struct heads){ all.first, first };
    case HEADS_LAST:
        return (struct heads){ all.first + all.count - last, last };
    default:
        return (struct heads){ all.first + first, all.count - first - last };
    }
}

/* Offsets of the two sides of the exchange. Inside, parts are by tokens: those of rank i, with the
 * heads of this rank. Outside, by heads: those of rank i, of the tokens of this rank. The own part
 * never passes through the outside's buffer. */
static void inside_offsets(const struct sharing *s, int group, size_t element, size_t *at)
{
    const int ulysses = s->m->size.ulysses, first = s->m->ring * ulysses;
    const int64_t heads = sharing_heads(s, s->m->ulysses, group).count;

    for (int i = 0; i <= ulysses; i++) {
        const int64_t tokens =
            split_at(s->tokens, mesh_seq_size(s->m), first + i) - piece_at(s, s->m->ring);
        at[i] = (size_t)(tokens * heads * s->depth) * element;
    }
}

static void outside_offsets(const struct sharing *s, int group, size_t element, size_t *at)
{
    at[0] = 0;
    for (int i = 0; i < s->m->size.ulysses; i++) {
        const int64_t heads = i == s->m->ulysses ? 0 : sharing_heads(s, i, group).count;
        at[i + 1] = at[i] + (size_t)(s->s_loc * heads * s->depth) * element;
    }
}

/* The heads of rank i in x [s_loc, N, D]. */
static struct tensor heads_of(const struct sharing *s, int group, struct tensor x, int i)
{
    const struct heads h = sharing_heads(s, i, group);

    return tensor_slice(x, 1, h.first, h.count);
}

/* The tokens of this rank in x [s_piece, count, D]. */
static struct tensor own_tokens(const struct sharing *s, struct tensor x)
{
    const int64_t first = split_at(s->tokens, mesh_seq_size(s->m), mesh_seq_rank(s->m));

    return tensor_slice(x, 0, first - piece_at(s, s->m->ring), s->s_loc);
}

/* Where rank i's heads lie in the outside's buffer, [s_loc, heads, D]. */
static struct tensor block_of(const struct sharing *s, int group, enum dtype dt,
                              struct tensor buffer, size_t at, int i)
{
    return tensor_of((char *)buffer.data + at, dt, s->s_loc, sharing_heads(s, i, group).count,
                     s->depth);
}

size_t ulysses_outside(const struct sharing *s, int group, enum dtype dt)
{
    int64_t heads = 0;

    for (int i = 0; i < s->m->size.ulysses; i++)
        heads += i == s->m->ulysses ? 0 : sharing_heads(s, i, group).count;
    return (size_t)(s->s_loc * heads * s->depth) * dtype_size(dt);
}

status ulysses_in(const struct sharing *s, int group, struct transfer *t, struct tensor in,
                  struct tensor outside, struct tensor x)
{
    struct group *g = &s->m->ulysses_group;
    const size_t element = dtype_size(x.dtype);

    outside_offsets(s, group, element, g->send_at);
    inside_offsets(s, group, element, g->recv_at);
    for (int i = 0; i < g->size; i++)
        TRY(op_copy(s->dev,
                    i == g->rank ? own_tokens(s, in)
                                 : block_of(s, group, x.dtype, outside, g->send_at[i], i),
                    heads_of(s, group, x, i)));
    return group_all_to_all(g, t, in.data, g->recv_at, outside.data, g->send_at);
}

status ulysses_out(const struct sharing *s, int group, struct transfer *t, struct tensor outside,
                   struct tensor out, struct tensor a)
{
    struct group *g = &s->m->ulysses_group;
    const size_t element = dtype_size(a.dtype);

    inside_offsets(s, group, element, g->send_at);
    outside_offsets(s, group, element, g->recv_at);
    TRY(group_all_to_all(g, t, outside.data, g->recv_at, a.data, g->send_at));
    return op_copy(s->dev, heads_of(s, group, out, g->rank), own_tokens(s, a));
}

status ulysses_landed(const struct sharing *s, int group, struct transfer *t, struct tensor outside,
                      struct tensor out)
{
    struct group *g = &s->m->ulysses_group;

    TRY(transfer_wait(t));
    outside_offsets(s, group, dtype_size(out.dtype), g->recv_at);
    for (int i = 0; i < g->size; i++)
        if (i != g->rank)
            TRY(op_copy(s->dev, heads_of(s, group, out, i),
                        block_of(s, group, out.dtype, outside, g->recv_at[i], i)));
    return ST_OK;
}
