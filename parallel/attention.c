#include "parallel/attention.h"

#include "kernels/ops.h"

#include <assert.h>
#include <math.h>

/* Keys and values of one ring chunk, stored one after the other, so that one message sends both. */
struct kv {
    struct tensor k, v; // [tokens, n_loc, D]
};

/* k and v of a chunk of `tokens` tokens, stored at the start of a buffer for the largest chunk. */
static struct kv kv_view(const struct seq_layout *s, struct tensor buffer, int64_t tokens)
{
    const struct tensor both = tensor_of(buffer.data, buffer.dtype, 2 * tokens, s->n_loc, s->depth);

    return (struct kv){ tensor_slice(both, 0, 0, tokens), tensor_slice(both, 0, tokens, tokens) };
}

static size_t kv_bytes(struct kv p)
{
    return tensor_bytes(p.k) + tensor_bytes(p.v);
}

static status alloc_kv(const struct seq_layout *s, struct arena *step, struct tensor *buffer,
                       enum dtype dt)
{
    int64_t max = 0;

    for (int r = 0; r < s->m->size.ring; r++)
        max = seq_layout_ring_tokens(s, r) > max ? seq_layout_ring_tokens(s, r) : max;
    return arena_take(step, buffer, dt, 2 * max, s->n_loc, s->depth);
}

/* Attention over the ring chunks so far. */
struct merged {
    struct tensor acc, lse;       // f32 [s_ring, n_loc, D] and [s_ring, n_loc]
    struct tensor part, part_lse; // the same of one chunk, in q's dtype and f32
    bool any;                     // false before the first chunk
};

/* Attention over one set of keys, exact or in 8-bit integers. */
static status attend_to(const struct parallel_attention *pa, struct tensor out, struct tensor lse,
                        struct tensor q, struct kv p, float scale)
{
    const struct attention_part all = { .count = q.dim[0], .out = out };
    struct device *dev = pa->layout.dev;

    if (pa->scratch8.ndim != 0)
        return op_attention8(dev, &all, 1, lse, q, p.k, p.v, scale, pa->scratch8);
    return op_attention(dev, out, lse, q, p.k, p.v, scale);
}

/* Computes attention of q over one chunk and merges it. */
static status merge_chunk(const struct parallel_attention *pa, struct merged *j, struct tensor q,
                          struct kv p, float scale)
{
    const struct seq_layout *s = &pa->layout;

    if (p.k.dim[0] == 0)
        return ST_OK;
    TRY(attend_to(pa, j->part, j->any ? j->part_lse : j->lse, q, p, scale));
    if (j->any)
        return op_attention_merge(s->dev, j->acc, j->lse, j->part, j->part_lse);
    j->any = true;
    return op_copy(s->dev, j->acc, j->part);
}

static status alloc_merged(const struct seq_layout *s, struct arena *step, struct merged *j,
                           enum dtype dt)
{
    *j = (struct merged){ 0 };
    TRY(arena_take(step, &j->acc, DT_F32, s->s_ring, s->n_loc, s->depth));
    TRY(arena_take(step, &j->lse, DT_F32, s->s_ring, s->n_loc));
    TRY(arena_take(step, &j->part, dt, s->s_ring, s->n_loc, s->depth));
    return arena_take(step, &j->part_lse, DT_F32, s->s_ring, s->n_loc);
}

/* This rank's chunk in ring step `step`: that of ring rank (ring - step), in buffer step % 2. */
static struct kv kv_at_step(const struct seq_layout *s, struct tensor *buffer, int step)
{
    const int size = s->m->size.ring, rank = (s->m->ring + size - step) % size;

    return kv_view(s, buffer[step % 2], seq_layout_ring_tokens(s, rank));
}

/* Starts to send the chunk of ring step `step` to the next rank, and to receive that of step + 1.
 * Nothing to do in the last step. */
static status start_ring_step(const struct seq_layout *s, struct transfer *t, struct tensor *buffer,
                              int step)
{
    struct group *g = &s->m->ring_group;
    const struct kv now = kv_at_step(s, buffer, step), next = kv_at_step(s, buffer, step + 1);

    if (step + 1 >= g->size)
        return ST_OK;

    const struct message to = message_of((g->rank + 1) % g->size, now.k.data, kv_bytes(now));
    const struct message from =
        message_of((g->rank + g->size - 1) % g->size, next.k.data, kv_bytes(next));

    return group_send_recv(g, t, &to, 1, &from, 1);
}

/* out = attention of q over all chunks, in the order of ranks ring, ring - 1, ... This rank's chunk
 * is in buffer[0], and start_ring_step(0) was called. */
static status ring_attention(struct parallel_attention *pa, struct tensor out, struct tensor q,
                             struct transfer *ring_transfer, float scale)
{
    const struct seq_layout *s = &pa->layout;
    struct arena *step = pa->step;
    struct tensor *buffer = pa->buffer;
    const size_t mark = step->used;
    struct merged j;
    status st;

    TRY_OUT(alloc_merged(s, step, &j, q.dtype));
    for (int i = 0; i < s->m->size.ring; i++) {
        TRY_OUT(merge_chunk(pa, &j, q, kv_at_step(s, buffer, i), scale));
        TRY_OUT(transfer_wait(ring_transfer));
        TRY_OUT(start_ring_step(s, ring_transfer, buffer, i + 1));
    }
    TRY_OUT(op_copy(s->dev, out, j.acc));
out:
    arena_release(step, mark);
    return st;
}

static bool uses_ulysses(const struct parallel_attention *pa)
{
    return pa->layout.m->size.ulysses > 1;
}

static bool uses_ring(const struct parallel_attention *pa)
{
    return pa->layout.m->size.ring > 1;
}

static status open_messages(struct parallel_attention *pa, enum dtype dt, int64_t depth)
{
    struct arena *step = pa->step;
    const struct seq_layout *s = &pa->layout;

    if (!uses_ulysses(pa) && !uses_ring(pa))
        return ST_OK;
    TRY(alloc_kv(s, step, &pa->buffer[0], dt));
    if (uses_ring(pa))
        TRY(alloc_kv(s, step, &pa->buffer[1], dt));

    const struct kv local = kv_view(s, pa->buffer[0], s->s_ring);

    pa->input[ATTENTION_K] = local.k;
    pa->input[ATTENTION_V] = local.v;
    if (!uses_ulysses(pa))
        return ST_OK;
    TRY(arena_take(step, &pa->input[ATTENTION_Q], dt, s->s_ring, s->n_loc, depth));
    for (int i = 0; i < ATTENTION_INPUTS; i++)
        TRY(arena_take(step, &pa->packed[i], DT_U8, (int64_t)ulysses_buffer_bytes(s, dt)));
    return ST_OK;
}

/* Scratch of op_attention8 for this rank's queries and the most keys of one call. */
static status alloc_scratch8(struct parallel_attention *pa)
{
    const struct seq_layout *s = &pa->layout;
    int64_t keys = s->m->direct != NULL ? s->tokens : 0;

    for (int r = 0; r < s->m->size.ring; r++)
        keys = seq_layout_ring_tokens(s, r) > keys ? seq_layout_ring_tokens(s, r) : keys;
    return arena_take(pa->step, &pa->scratch8, DT_U8,
                      (int64_t)attention8_scratch(s->s_ring, keys, s->n_loc, s->depth));
}

static bool uses_tiles(const struct parallel_attention *pa)
{
    return pa->tiles.tiles != NULL;
}

/* GPUs write into each other's memory head by head; the tiles of a head need all its tokens. */
static bool is_direct(const struct parallel_attention *pa)
{
    return pa->layout.m->direct != NULL && !uses_tiles(pa);
}

status parallel_attention_open(struct parallel_attention *pa, struct mesh *m, struct device *dev,
                               struct arena *step, enum dtype dt, struct attention_method method,
                               int64_t tokens, int64_t heads, int64_t depth)
{
    status st;

    *pa = (struct parallel_attention){
        .layout = seq_layout_of(m, dev, tokens, heads, depth),
        .step = step,
        .mark = step->used,
        .tiles.tiles = method.tiles,
    };
    st =
        is_direct(pa) ? exchange_open(&pa->x, &pa->layout, step, dt) : open_messages(pa, dt, depth);
    if (st == ST_OK && method.eight)
        st = alloc_scratch8(pa);
    if (st == ST_OK && uses_tiles(pa))
        st = tiles_open(&pa->tiles,
                        &(struct tiles_run){ .tiles = method.tiles,
                                             .linear_w = method.linear_w,
                                             .linear_b = method.linear_b,
                                             .coarse = method.coarse },
                        &pa->layout, step, dt);
    if (st != ST_OK)
        arena_release(step, pa->mark);
    return st;
}

struct tensor parallel_attention_place(const struct parallel_attention *pa, int input,
                                       struct tensor mine)
{
    const struct seq_layout *s = &pa->layout;

    if (!is_direct(pa))
        return mine;
    return input == ATTENTION_K   ? exchange_k_place(&pa->x, s)
           : input == ATTENTION_V ? exchange_v_place(&pa->x, s, mine)
                                  : exchange_q_place(&pa->x, s, mine);
}

static status send_direct(struct parallel_attention *pa, int input, struct tensor x)
{
    const struct tensor place = parallel_attention_place(pa, input, x);

    pa->input[input] = x;
    if (place.data != x.data)
        TRY(op_copy(pa->layout.dev, place, x));
    return input == ATTENTION_K   ? exchange_k(&pa->x, &pa->layout)
           : input == ATTENTION_V ? exchange_v(&pa->x, &pa->layout, place)
                                  : exchange_q(&pa->x, &pa->layout);
}

status parallel_attention_send(struct parallel_attention *pa, int input, struct tensor x)
{
    const struct seq_layout *s = &pa->layout;

    assert(x.ndim == 3 && x.dim[0] == s->s_loc);
    if (is_direct(pa))
        return send_direct(pa, input, x);
    if (uses_ulysses(pa))
        return ulysses_to_heads(s, &pa->transfer[input], pa->input[input], pa->packed[input], x);
    if (uses_ring(pa) && input != ATTENTION_Q)
        return op_copy(s->dev, pa->input[input], x);
    pa->input[input] = x;
    return ST_OK;
}

/* Attention of this rank's heads, by messages. */
static status attend(struct parallel_attention *pa, struct tensor out, struct tensor q,
                     struct transfer *ring_transfer, float scale)
{
    const struct seq_layout *s = &pa->layout;

    if (uses_ring(pa))
        return ring_attention(pa, out, q, ring_transfer, scale);
    if (s->s_ring == 0 || s->n_loc == 0)
        return ST_OK;
    return attend_to(pa, out, (struct tensor){ 0 }, q,
                     (struct kv){ pa->input[ATTENTION_K], pa->input[ATTENTION_V] }, scale);
}

/* The first ring step starts before q has arrived. */
static status run_messages(struct parallel_attention *pa, struct tensor out, float scale)
{
    const struct seq_layout *s = &pa->layout;
    const struct tensor q = pa->input[ATTENTION_Q];
    struct transfer ring_transfer = { 0 };

    TRY(transfer_wait(&pa->transfer[ATTENTION_K]));
    TRY(transfer_wait(&pa->transfer[ATTENTION_V]));
    if (uses_ring(pa))
        TRY(start_ring_step(s, &ring_transfer, pa->buffer, 0));
    TRY(transfer_wait(&pa->transfer[ATTENTION_Q]));
    if (uses_tiles(pa)) {
        struct tensor result;

        TRY(tiles_attention(&pa->tiles, s, &result, out, q, pa->input[ATTENTION_K],
                            pa->input[ATTENTION_V], scale));
        return uses_ulysses(pa) ? ulysses_to_tokens(s, pa->packed[ATTENTION_K], out, result)
                                : ST_OK;
    }
    if (!uses_ulysses(pa))
        return attend(pa, out, q, &ring_transfer, scale);
    TRY(attend(pa, q, q, &ring_transfer, scale));
    return ulysses_to_tokens(s, pa->packed[ATTENTION_K], out, q);
}

status parallel_attention_run(struct parallel_attention *pa, struct tensor out)
{
    const struct seq_layout *s = &pa->layout;
    const float scale = 1 / sqrtf((float)s->depth);
    status st;

    assert(out.ndim == 3 && out.dim[0] == s->s_loc && tensor_contiguous(out));
    st = is_direct(pa) ? exchange_run(&pa->x, s, out, pa->input[ATTENTION_Q], scale, pa->scratch8)
                       : run_messages(pa, out, scale);
    arena_release(pa->step, pa->mark);
    return st;
}
