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

    const struct message to = message_of((g->rank + 1) % g->size, at.k.data, pair_bytes(at));
    const struct message from =
        message_of((g->rank + g->size - 1) % g->size, next.k.data, pair_bytes(next));

    return group_exchange(g, t, &to, 1, &from, 1);
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

/* Whether anything moves between ranks. */
static bool swaps(const struct sequence *q)
{
    return q->share.m->size.ulysses > 1;
}

static bool rings(const struct sequence *q)
{
    return q->share.m->size.ring > 1;
}

status sequence_open(struct sequence *q, struct mesh *m, struct device *dev, struct arena *step,
                     enum dtype dt, int64_t tokens, int64_t heads, int64_t depth)
{
    status st = ST_OK;

    *q = (struct sequence){
        .share = sharing_of(m, dev, tokens, heads, depth),
        .step = step,
        .mark = step->used,
    };
    if (!swaps(q) && !rings(q))
        return ST_OK;
    TRY_OUT(take_pair(&q->share, step, &q->buffer[0], dt));
    if (rings(q))
        TRY_OUT(take_pair(&q->share, step, &q->buffer[1], dt));

    const struct pair own = pair_in(&q->share, q->buffer[0], q->share.s_piece);

    q->part[SEQUENCE_K] = own.k;
    q->part[SEQUENCE_V] = own.v;
    for (int g = 0; g < HEADS_GROUPS && swaps(q); g++)
        TRY_OUT(arena_take(step, &q->q[g], dt, q->share.s_piece,
                           sharing_heads(&q->share, m->ulysses, g).count, depth));
    for (int i = 0; i < SEQUENCE_PARTS && swaps(q); i++)
        TRY_OUT(arena_take(step, &q->outside[i], DT_U8,
                           (int64_t)ulysses_outside(&q->share, HEADS_ALL, dt)));
out:
    if (st != ST_OK)
        arena_release(step, q->mark);
    return st;
}

/* A group's share of what lies outside. */
static struct tensor outside(const struct sequence *q, int part, int group)
{
    const enum dtype dt = q->q[0].dtype;
    size_t at = 0;

    for (int g = 0; g < group; g++)
        at += ulysses_outside(&q->share, g, dt);
    return tensor_slice(q->outside[part], 0, (int64_t)at,
                        (int64_t)ulysses_outside(&q->share, group, dt));
}

status sequence_send(struct sequence *q, int part, struct tensor x)
{
    const struct sharing *s = &q->share;

    assert(x.ndim == 3 && x.dim[0] == s->s_loc);
    if (swaps(q) && part != SEQUENCE_Q)
        return ulysses_in(s, HEADS_ALL, &q->coming[part], q->part[part], q->outside[part], x);
    for (int g = 0; g < HEADS_GROUPS && swaps(q); g++)
        TRY(ulysses_in(s, g, &q->moving[g], q->q[g], outside(q, part, g), x));
    if (rings(q) && part != SEQUENCE_Q)
        return op_copy(s->dev, q->part[part], x);
    q->part[part] = x;
    return ST_OK;
}

/* out = attention of a group's queries. */
static status attend(struct sequence *q, int group, struct tensor out, struct tensor queries,
                     struct transfer *passing)
{
    const struct sharing *s = &q->share;
    const struct heads h = sharing_heads(s, s->m->ulysses, group);
    const float scale = 1 / sqrtf((float)s->depth);
    const struct tensor none = { 0 };

    if (rings(q))
        return ring_attention(s, q->step, out, queries, q->buffer, passing, scale);
    if (s->s_piece == 0 || h.count == 0)
        return ST_OK;
    return op_attention(s->dev, out, none, queries,
                        tensor_slice(q->part[SEQUENCE_K], 1, h.first - s->n_first, h.count),
                        tensor_slice(q->part[SEQUENCE_V], 1, h.first - s->n_first, h.count), scale);
}

/* The ring starts before the queries are there; where there is one, all heads are in the middle. */
status sequence_attention(struct sequence *q, struct tensor out)
{
    const struct sharing *s = &q->share;
    struct transfer passing = { 0 };
    status st = ST_OK;

    assert(out.ndim == 3 && out.dim[0] == s->s_loc && tensor_contiguous(out));
    TRY_OUT(transfer_wait(&q->coming[SEQUENCE_K]));
    TRY_OUT(transfer_wait(&q->coming[SEQUENCE_V]));
    if (rings(q))
        TRY_OUT(pass_on(s, &passing, q->buffer, 0));
    if (!swaps(q))
        TRY_OUT(attend(q, HEADS_ALL, out, q->part[SEQUENCE_Q], &passing));
    for (int g = 0; g < HEADS_GROUPS && swaps(q); g++) {
        TRY_OUT(transfer_wait(&q->moving[g]));
        if (rings(q) && g != HEADS_MIDDLE)
            continue;
        TRY_OUT(attend(q, g, q->q[g], q->q[g], &passing));
        TRY_OUT(ulysses_out(s, g, &q->moving[g], outside(q, SEQUENCE_K, g), out, q->q[g]));
    }
    for (int g = 0; g < HEADS_GROUPS && swaps(q); g++)
        TRY_OUT(ulysses_landed(s, g, &q->moving[g], outside(q, SEQUENCE_K, g), out));
out:
    arena_release(q->step, q->mark);
    return st;
}
