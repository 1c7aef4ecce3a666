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

/* Offsets of the two sides of the exchange. Inside, parts are by tokens: those of rank i, with the
 * heads of this rank. Outside, by heads: those of rank i, of the tokens of this rank. The own part
 * never passes through the outside's buffer. */
static void inside_offsets(const struct sharing *s, size_t element, size_t *at)
{
    const int ulysses = s->m->size.ulysses, first = s->m->ring * ulysses;

    for (int i = 0; i <= ulysses; i++) {
        const int64_t tokens =
            split_at(s->tokens, mesh_seq_size(s->m), first + i) - piece_at(s, s->m->ring);
        at[i] = (size_t)(tokens * s->n_loc * s->depth) * element;
    }
}

static void outside_offsets(const struct sharing *s, size_t element, size_t *at)
{
    const int ulysses = s->m->size.ulysses;

    at[0] = 0;
    for (int i = 0; i < ulysses; i++) {
        const int64_t heads = i == s->m->ulysses ? 0 : split_count(s->heads, ulysses, i);
        at[i + 1] = at[i] + (size_t)(s->s_loc * heads * s->depth) * element;
    }
}

/* The heads of rank i in x [s_loc, N, D]. */
static struct tensor heads_of(const struct sharing *s, struct tensor x, int i)
{
    const int ulysses = s->m->size.ulysses;

    return tensor_slice(x, 1, split_at(s->heads, ulysses, i), split_count(s->heads, ulysses, i));
}

/* The tokens of this rank in x [s_piece, n_loc, D]. */
static struct tensor own_tokens(const struct sharing *s, struct tensor x)
{
    const int64_t first = split_at(s->tokens, mesh_seq_size(s->m), mesh_seq_rank(s->m));

    return tensor_slice(x, 0, first - piece_at(s, s->m->ring), s->s_loc);
}

/* Where rank i's heads lie in the outside's buffer, [s_loc, heads, D]. */
static struct tensor block_of(const struct sharing *s, struct tensor buffer, size_t at, int i)
{
    return tensor_of((char *)buffer.data + at, buffer.dtype, s->s_loc,
                     split_count(s->heads, s->m->size.ulysses, i), s->depth);
}

static status take_outside(const struct sharing *s, struct arena *step, struct tensor *buffer,
                           enum dtype dt)
{
    return arena_take(step, buffer, dt, s->s_loc, s->heads - s->n_loc, s->depth);
}

status ulysses_in(const struct sharing *s, struct transfer *t, struct arena *step, struct tensor in,
                  struct tensor x)
{
    struct group *g = &s->m->ulysses_group;
    const size_t element = dtype_size(x.dtype);
    struct tensor packed;

    outside_offsets(s, element, g->send_at);
    inside_offsets(s, element, g->recv_at);
    TRY(take_outside(s, step, &packed, x.dtype));
    for (int i = 0; i < g->size; i++)
        TRY(op_copy(s->dev,
                    i == g->rank ? own_tokens(s, in) : block_of(s, packed, g->send_at[i], i),
                    heads_of(s, x, i)));
    return group_all_to_all(g, t, in.data, g->recv_at, packed.data, g->send_at);
}

status ulysses_out(const struct sharing *s, struct arena *step, struct tensor out, struct tensor a)
{
    struct group *g = &s->m->ulysses_group;
    const size_t mark = step->used, element = dtype_size(a.dtype);
    struct transfer t = { 0 };
    struct tensor landed;
    status st;

    inside_offsets(s, element, g->send_at);
    outside_offsets(s, element, g->recv_at);
    TRY_OUT(take_outside(s, step, &landed, a.dtype));
    TRY_OUT(group_all_to_all(g, &t, landed.data, g->recv_at, a.data, g->send_at));
    TRY_OUT(op_copy(s->dev, heads_of(s, out, g->rank), own_tokens(s, a)));
    TRY_OUT(transfer_wait(&t));
    outside_offsets(s, element, g->recv_at);
    for (int i = 0; i < g->size; i++)
        if (i != g->rank)
            TRY_OUT(op_copy(s->dev, heads_of(s, out, i), block_of(s, landed, g->recv_at[i], i)));
out:
    arena_release(step, mark);
    return st;
}
