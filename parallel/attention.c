#include "parallel/attention.h"

#include "kernels/ops.h"
#include "parallel/ulysses.h"

#include <assert.h>
#include <math.h>

/* Keys and values of one ring piece, one behind the other so that they travel as one message. */
struct pair {
    struct tensor k, v; // [tokens, n_loc, D]
};

/* The pair of a piece of `tokens` tokens at the front of a buffer [2, tokens of any piece, ...]. */
static struct pair pair_in(const struct sharing *s, struct tensor buffer, int64_t tokens)
{
    const struct tensor both = tensor_of(buffer.data, buffer.dtype, 2 * tokens, s->n_loc, s->depth);

    return (struct pair){ tensor_slice(both, 0, 0, tokens), tensor_slice(both, 0, tokens, tokens) };
}

static size_t pair_bytes(struct pair p)
{
    return tensor_bytes(p.k) + tensor_bytes(p.v);
}

static status take_pair(const struct sharing *s, struct arena *step, struct tensor *buffer,
                        enum dtype dt)
{
    int64_t most = 0;

    for (int r = 0; r < s->m->size.ring; r++)
        most = sharing_piece(s, r) > most ? sharing_piece(s, r) : most;
    return arena_take(step, buffer, dt, 2 * most, s->n_loc, s->depth);
}

/* Attention over the pieces met so far. */
struct joined {
    struct tensor acc, lse;       // f32 [s_piece, n_loc, D] and [s_piece, n_loc]
    struct tensor part, part_lse; // of one piece: q's dtype, f32
    bool any;
};

/* Adds the queries' attention over one piece. */
static status join(const struct sharing *s, struct joined *j, struct tensor q, struct pair p,
                   float scale)
{
    if (p.k.dim[0] == 0)
        return ST_OK;
    TRY(op_attention(s->dev, j->part, j->any ? j->part_lse : j->lse, q, p.k, p.v, scale));
    if (j->any)
        return op_attention_merge(s->dev, j->acc, j->lse, j->part, j->part_lse);
    j->any = true;
    return op_copy(s->dev, j->acc, j->part);
}

static status take_joined(const struct sharing *s, struct arena *step, struct joined *j,
                          enum dtype dt)
{
    *j = (struct joined){ 0 };
    TRY(arena_take(step, &j->acc, DT_F32, s->s_piece, s->n_loc, s->depth));
    TRY(arena_take(step, &j->lse, DT_F32, s->s_piece, s->n_loc));
    TRY(arena_take(step, &j->part, dt, s->s_piece, s->n_loc, s->depth));
    return arena_take(step, &j->part_lse, DT_F32, s->s_piece, s->n_loc);
}

/* The piece that is at this rank in turn `turn`, in the buffer where it then is. */
static struct pair pair_at(const struct sharing *s, struct tensor *buffer, int turn)
{
    const int size = s->m->size.ring, piece = (s->m->ring + size - turn) % size;

    return pair_in(s, buffer[turn % 2], sharing_piece(s, piece));
}

/* Starts the way of the pieces from turn `turn` to the next; the last turn has none. */
static status pass_on(const struct sharing *s, struct transfer *t, struct tensor *buffer, int turn)
{
    struct group *g = &s->m->ring_group;
    const struct pair at = pair_at(s, buffer, turn), next = pair_at(s, buffer, turn + 1);

    if (turn + 1 >= g->size)
        return ST_OK;
    return group_exchange(g, t, (g->rank + 1) % g->size, at.k.data, pair_bytes(at),
                          (g->rank + g->size - 1) % g->size, next.k.data, pair_bytes(next));
}

/* out = attention of q over all pieces, of which this rank's own is in buffer[0] and the first
 * exchange is on its way. Pieces are met in the order ring, ring - 1, ... */
static status ring_attention(const struct sharing *s, struct arena *step, struct tensor out,
                             struct tensor q, struct tensor *buffer, struct transfer *passing,
                             float scale)
{
    const size_t mark = step->used;
    struct joined j;
    status st;

    TRY_OUT(take_joined(s, step, &j, q.dtype));
    for (int turn = 0; turn < s->m->size.ring; turn++) {
        TRY_OUT(join(s, &j, q, pair_at(s, buffer, turn), scale));
        TRY_OUT(transfer_wait(passing));
        TRY_OUT(pass_on(s, passing, buffer, turn + 1));
    }
    TRY_OUT(op_copy(s->dev, out, j.acc));
out:
    arena_release(step, mark);
    return st;
}

/* Keys, values and queries are brought inside in the order in which they are needed, each on its
 * way while the next is packed; the ring starts before the queries are there. */
status sequence_attention(struct mesh *m, struct device *dev, struct arena *step, struct tensor out,
                          struct tensor q, struct tensor k, struct tensor v, int64_t tokens)
{
    const struct sharing s = sharing_of(m, dev, tokens, q.dim[1], q.dim[2]);
    const float scale = 1 / sqrtf((float)s.depth);
    const bool swap = m->size.ulysses > 1, ring = m->size.ring > 1;
    const struct tensor none = { 0 };
    const size_t mark = step->used;
    struct transfer coming[3] = { { 0 } }, passing = { 0 }; // k, v, q; what goes round
    struct tensor buffer[2], inside = q;
    struct pair own;
    status st;

    assert(q.ndim == 3 && q.dim[0] == s.s_loc && tensor_contiguous(out));
    if (!swap && !ring)
        return s.s_loc > 0 ? op_attention(dev, out, none, q, k, v, scale) : ST_OK;

    TRY_OUT(take_pair(&s, step, &buffer[0], q.dtype));
    own = pair_in(&s, buffer[0], s.s_piece);
    if (ring)
        TRY_OUT(take_pair(&s, step, &buffer[1], q.dtype));
    if (swap)
        TRY_OUT(arena_take(step, &inside, q.dtype, s.s_piece, s.n_loc, s.depth));
    const size_t packing = step->used;

    if (swap) {
        TRY_OUT(ulysses_in(&s, &coming[0], step, own.k, k));
        TRY_OUT(ulysses_in(&s, &coming[1], step, own.v, v));
        TRY_OUT(ulysses_in(&s, &coming[2], step, inside, q));
    } else {
        TRY_OUT(op_copy(dev, own.k, k));
        TRY_OUT(op_copy(dev, own.v, v));
    }
    TRY_OUT(transfer_wait(&coming[0]));
    TRY_OUT(transfer_wait(&coming[1]));
    if (ring)
        TRY_OUT(pass_on(&s, &passing, buffer, 0));
    TRY_OUT(transfer_wait(&coming[2]));
    arena_release(step, packing);
    if (ring)
        TRY_OUT(ring_attention(&s, step, swap ? inside : out, inside, buffer, &passing, scale));
    else if (s.s_piece > 0)
        TRY_OUT(op_attention(dev, inside, none, inside, own.k, own.v, scale));
    if (swap)
        TRY_OUT(ulysses_out(&s, step, out, inside));
out:
    arena_release(step, mark);
    return st;
}
