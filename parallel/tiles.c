#include "parallel/tiles.h"

#include <assert.h>

static bool is_alone(const struct seq_layout *s)
{
    return s->m->size.ulysses == 1;
}

static int64_t q_tiles(const struct attention_tiles *tiles)
{
    return tiles->q_first.dim[0] - 1;
}

static int64_t k_tiles(const struct attention_tiles *tiles)
{
    return tiles->k_first.dim[0] - 1;
}

static status open_coarse(struct tiles_run *t, const struct seq_layout *s, struct arena *step,
                          enum dtype dt)
{
    const int64_t count = q_tiles(t->tiles);

    assert(t->coarse.ndim == 3 && t->coarse.dim[0] == count && t->coarse.dim[1] == s->heads);
    TRY(arena_take(step, &t->mean_v, dt, count, s->n_loc, s->depth));
    t->coarse_heads = t->coarse;
    if (is_alone(s))
        return ST_OK;
    TRY(arena_take(step, &t->coarse_heads, dt, count, s->n_loc, s->depth));
    return arena_take(step, &t->gathered, dt, count * s->heads, s->depth);
}

status tiles_open(struct tiles_run *t, const struct tiles_run *from, const struct seq_layout *s,
                  struct arena *step, enum dtype dt)
{
    const struct attention_tiles *tiles = from->tiles;
    const int64_t tq = q_tiles(tiles), tk = k_tiles(tiles);
    // the coarse attention reads the means as it reads tokens; else they only choose the tiles
    const enum dtype means = tiles->coarse ? dt : DT_F32;

    assert(s->m->size.ring == 1 && (tiles->order.ndim == 0 || from->linear_w.ndim == 0));
    *t = *from;
    TRY(arena_take(step, &t->mean_q, means, tq, s->n_loc, s->depth));
    TRY(arena_take(step, &t->mean_k, means, tk, s->n_loc, s->depth));
    if (tiles->coarse)
        TRY(open_coarse(t, s, step, dt));
    TRY(arena_take(step, &t->count, DT_I32, s->n_loc, tq));
    TRY(arena_take(step, &t->index, DT_I32, s->n_loc, tq, tiles->kept));
    if (t->linear_w.ndim != 0)
        TRY(arena_take(step, &t->linear, DT_U8,
                       (int64_t)linear_attention_scratch(s->tokens, s->n_loc, s->depth)));
    return is_alone(s) ? ST_OK : arena_take(step, &t->spare, dt, s->tokens, s->n_loc, s->depth);
}

/* Starts to gather the heads of the coarse attention. */
static status start_gather(struct tiles_run *t, const struct seq_layout *s)
{
    struct group *g = &s->m->ulysses_group;
    const size_t head = (size_t)(q_tiles(t->tiles) * s->depth) * dtype_size(t->coarse_heads.dtype);

    if (is_alone(s))
        return ST_OK;
    for (int i = 0; i < g->size; i++)
        g->recv_offset[i] = (size_t)seq_layout_heads(s, i).first * head;
    g->recv_offset[g->size] = (size_t)s->heads * head;
    return group_all_gather(g, &t->gather, t->gathered.data, g->recv_offset, t->coarse_heads.data);
}

/* coarse = the gathered heads, which are [count, heads of rank i, D] for each rank i. */
static status end_gather(struct tiles_run *t, const struct seq_layout *s)
{
    const int64_t count = q_tiles(t->tiles);

    TRY(transfer_wait(&t->gather));
    for (int i = 0; i < s->m->size.ulysses && !is_alone(s); i++) {
        const struct heads h = seq_layout_heads(s, i);
        const struct tensor block = tensor_slice(t->gathered, 0, count * h.first, count * h.count);

        TRY(op_copy(s->dev, tensor_slice(t->coarse, 1, h.first, h.count),
                    tensor_reshape(block, count, h.count, s->depth)));
    }
    return ST_OK;
}

/* out = attention of q to its tiles of k and v, all in the order of the tiles; out may be q. */
static status attend(struct tiles_run *t, const struct seq_layout *s, struct tensor out,
                     struct tensor q, struct tensor k, struct tensor v, float scale)
{
    const struct attention_tiles *tiles = t->tiles;
    const struct tile_lists lists = {
        .q_first = tiles->q_first,
        .k_first = tiles->k_first,
        .count = t->count,
        .index = t->index,
        .q_rows = tiles->q_rows,
        .k_rows = tiles->k_rows,
        .keys = (double)s->tokens * (double)tiles->kept / (double)k_tiles(tiles),
    };

    TRY(op_tile_means(s->dev, t->mean_q, q, tiles->q_first));
    TRY(op_tile_means(s->dev, t->mean_k, k, tiles->k_first));
    if (tiles->coarse) {
        TRY(op_tile_means(s->dev, t->mean_v, v, tiles->k_first));
        TRY(op_attention(s->dev, t->coarse_heads, (struct tensor){ 0 }, t->mean_q, t->mean_k,
                         t->mean_v, scale));
        TRY(start_gather(t, s));
    }
    TRY(op_tile_lists(s->dev, t->count, t->index, t->mean_q, t->mean_k));
    return op_sparse_attention(s->dev, out, (struct tensor){ 0 }, q, k, v, scale, &lists);
}

/* A buffer is free for the next one's copy as soon as its own has been made. */
static status attend_in_order(struct tiles_run *t, const struct seq_layout *s,
                              struct tensor *result, struct tensor spare, struct tensor q,
                              struct tensor k, struct tensor v, float scale)
{
    const struct tensor order = t->tiles->order;

    TRY(op_take_rows(s->dev, spare, v, order));
    TRY(op_take_rows(s->dev, v, k, order));
    TRY(op_take_rows(s->dev, k, q, order));
    TRY(attend(t, s, q, k, v, spare, scale));
    TRY(op_take_rows(s->dev, spare, q, t->tiles->place));
    *result = spare;
    return ST_OK;
}

status tiles_attention(struct tiles_run *t, const struct seq_layout *s, struct tensor *result,
                       struct tensor out, struct tensor q, struct tensor k, struct tensor v,
                       float scale)
{
    const struct tensor spare = is_alone(s) ? out : t->spare;

    if (s->n_loc == 0) { // a rank without heads takes part in the collectives only
        *result = spare;
        if (t->tiles->coarse)
            TRY(start_gather(t, s));
    } else if (t->tiles->order.ndim != 0) {
        TRY(attend_in_order(t, s, result, spare, q, k, v, scale));
    } else {
        TRY(attend(t, s, spare, q, k, v, scale));
        if (t->linear_w.ndim != 0)
            TRY(op_linear_attention(s->dev, spare, q, k, v, t->linear_w, t->linear_b, t->linear));
        *result = spare;
    }
    return t->tiles->coarse ? end_gather(t, s) : ST_OK;
}
