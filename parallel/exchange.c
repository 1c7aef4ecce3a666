#include "parallel/exchange.h"

#include "kernels/ops.h"
#include "parallel/split.h"

static bool uses_ulysses(const struct seq_layout *s)
{
    return s->m->size.ulysses > 1;
}

status exchange_open(struct exchange *x, const struct seq_layout *s, struct arena *step,
                     enum dtype dt)
{
    *x = (struct exchange){ 0 };
    TRY(arena_take(step, &x->k, dt, s->n_loc, s->tokens, s->depth));
    TRY(arena_take(step, &x->v, dt, s->tokens, s->n_loc, s->depth));
    if (!uses_ulysses(s))
        return ST_OK;
    TRY(arena_take(step, &x->k_sent, dt, s->heads, s->s_loc, s->depth));
    TRY(arena_take(step, &x->q_sent, dt, s->heads, s->s_loc, s->depth));
    return arena_take(step, &x->q, dt, s->n_loc, s->s_ring, s->depth);
}

/* First of all tokens that sequence rank i holds, for i up to the number of ranks. */
static int64_t token_at(const struct seq_layout *s, int i)
{
    return split_at(s->tokens, mesh_seq_size(s->m), i);
}

/* The tokens of sequence rank i along an axis of t, which starts at the tokens of rank `first`. */
static struct tensor tokens_of(const struct seq_layout *s, struct tensor t, int axis, int i,
                               int first)
{
    return tensor_slice(t, axis, token_at(s, i) - token_at(s, first),
                        token_at(s, i + 1) - token_at(s, i));
}

/* Sequence rank of rank i of this ring chunk. */
static int chunk_rank(const struct seq_layout *s, int i)
{
    return s->m->ring * s->m->size.ulysses + i;
}

/* [heads, tokens, D] seen as [tokens, heads, D]. */
static struct tensor by_tokens(struct tensor t)
{
    struct tensor view = t;

    for (int i = 0; i < 2; i++) {
        view.dim[i] = t.dim[1 - i];
        view.stride[i] = t.stride[1 - i];
    }
    return view;
}

/* This rank's k by heads, [N, s_loc, D]. */
static struct tensor own_k(const struct exchange *x, const struct seq_layout *s)
{
    return uses_ulysses(s) ? x->k_sent : tokens_of(s, x->k, 1, mesh_seq_rank(s->m), 0);
}

struct tensor exchange_k_place(const struct exchange *x, const struct seq_layout *s)
{
    return by_tokens(own_k(x, s));
}

struct tensor exchange_v_place(const struct exchange *x, const struct seq_layout *s,
                               struct tensor mine)
{
    return uses_ulysses(s) ? mine : tokens_of(s, x->v, 0, mesh_seq_rank(s->m), 0);
}

struct tensor exchange_q_place(const struct exchange *x, const struct seq_layout *s,
                               struct tensor mine)
{
    return uses_ulysses(s) ? by_tokens(x->q_sent) : mine;
}

/* Rows of `t` along its first axis, with everything else of a row as its bytes. */
static struct message rows_of(int peer, struct tensor t)
{
    const size_t e = dtype_size(t.dtype);

    return (struct message){ peer, t.data, (size_t)(t.dim[1] * t.dim[2]) * e, t.dim[0],
                             (size_t)t.stride[0] * e };
}

/* Starts to send each of the `count` sequence ranks from `first` on, of which this is one, its
 * heads of `from`, and to receive its tokens of `to`, which start at those of rank `first`: by
 * heads along axis `heads`, one after the other if that is the first. This rank's own part is
 * copied. */
static status send_heads(const struct seq_layout *s, struct transfer *t, struct tensor to,
                         struct tensor from, int heads, int first, int count)
{
    struct group *g = s->m->direct;
    const int rank = mesh_seq_rank(s->m), axis = 1 - heads;
    const struct tensor own = tokens_of(s, to, axis, rank, first);
    struct message *send = g->scratch, *recv = send + count;
    int n = 0;

    for (int i = 1; i < count; i++, n++) { // in each step every rank sends to a different one
        const int next = first + (rank - first + i) % count;
        const int previous = first + (rank - first + count - i) % count;
        const struct heads h = seq_layout_heads(s, next % s->m->size.ulysses);

        send[n] = rows_of(next, tensor_slice(from, heads, h.first, h.count));
        recv[n] = rows_of(previous, tokens_of(s, to, axis, previous, first));
    }
    if (heads == 0)
        TRY(group_send_recv_rows(g, t, send, n, recv, n));
    else
        TRY(group_send_recv(g, t, send, n, recv, n));
    return from.data == own.data
               ? ST_OK
               : op_copy(s->dev, own, tensor_slice(from, heads, s->n_first, s->n_loc));
}

status exchange_k(struct exchange *x, const struct seq_layout *s)
{
    return send_heads(s, &x->k_transfer, x->k, own_k(x, s), 0, 0, mesh_seq_size(s->m));
}

status exchange_v(struct exchange *x, const struct seq_layout *s, struct tensor v)
{
    return send_heads(s, &x->v_transfer, x->v, v, 1, 0, mesh_seq_size(s->m));
}

status exchange_q(struct exchange *x, const struct seq_layout *s)
{
    if (!uses_ulysses(s))
        return ST_OK;
    return send_heads(s, &x->q_transfer, x->q, x->q_sent, 0, chunk_rank(s, 0), s->m->size.ulysses);
}

/* Tells the ranks of this ring chunk where in `out` to write, and sets the parts of this rank's
 * attention. */
static status put_parts(struct exchange *x, const struct seq_layout *s, struct tensor out,
                        struct attention_part *part)
{
    struct group *g = s->m->direct;
    const int n = s->m->size.ulysses;
    const int64_t element = (int64_t)dtype_size(out.dtype);
    struct message *send = g->scratch, *recv = send + n;

    for (int i = 0; i < n; i++) {
        const int rank = chunk_rank(s, i);
        const struct heads h = seq_layout_heads(s, i);
        const int64_t first = token_at(s, rank), count = token_at(s, rank + 1) - first;

        part[i] = (struct attention_part){
            .first = first - token_at(s, chunk_rank(s, 0)),
            .count = count,
            .out = tensor_of(NULL, out.dtype, count, s->n_loc, s->depth),
        };
        send[i] = rows_of(rank, part[i].out);
        recv[i] = rows_of(rank, tensor_slice(out, 1, h.first, h.count));
    }
    TRY(group_put(g, &x->put, send, n, recv, n));
    for (int i = 0; i < n; i++) {
        part[i].out.data = send[i].data;
        part[i].out.stride[0] = (int64_t)send[i].pitch / element;
    }
    return ST_OK;
}

/* What the kernel must wait for. */
struct waits {
    struct arrival key[ATTENTION_PARTS];
    int keys;
};

/* Sets what the kernel waits for: k of all other ranks, and q of the other parts. False if it
 * cannot. */
static bool wait_in_kernel(const struct exchange *x, const struct seq_layout *s,
                           struct attention_part *part, struct waits *w)
{
    const int rank = mesh_seq_rank(s->m);

    w->keys = 0;
    if (!attention_waits(s->dev, x->k.dtype, s->depth))
        return false;
    for (int i = 0; i < mesh_seq_size(s->m); i++)
        if (i != rank && token_at(s, i + 1) > token_at(s, i) &&
            !transfer_arrival(&x->k_transfer, i, &w->key[w->keys++]))
            return false;
    for (int i = 0; i < s->m->size.ulysses; i++)
        if (chunk_rank(s, i) != rank && part[i].count > 0 &&
            !transfer_arrival(&x->q_transfer, chunk_rank(s, i), &part[i].arrival))
            return false;
    return true;
}

/* As wait_in_kernel, or waits here. */
static status prepare(struct exchange *x, const struct seq_layout *s, struct attention_part *part,
                      struct waits *w)
{
    if (wait_in_kernel(x, s, part, w))
        return ST_OK;
    w->keys = 0;
    for (int i = 0; i < s->m->size.ulysses; i++)
        part[i].arrival = (struct arrival){ 0 };
    TRY(transfer_wait(&x->k_transfer));
    return transfer_wait(&x->q_transfer);
}

/* Attention in 8-bit integers needs all of k and q before it begins. */
static status attend8(struct exchange *x, const struct seq_layout *s, struct attention_part *part,
                      struct tensor q, float scale, struct tensor scratch)
{
    TRY(transfer_wait(&x->k_transfer));
    TRY(transfer_wait(&x->q_transfer));
    if (s->n_loc == 0)
        return ST_OK;
    return op_attention8(s->dev, part, s->m->size.ulysses, (struct tensor){ 0 }, q, by_tokens(x->k),
                         x->v, scale, scratch);
}

static status attend(struct exchange *x, const struct seq_layout *s, struct attention_part *part,
                     struct tensor q, float scale)
{
    struct waits w;

    TRY(prepare(x, s, part, &w));
    if (s->n_loc == 0)
        return ST_OK;
    return op_attention_parts(s->dev, part, s->m->size.ulysses, w.key, w.keys, q, by_tokens(x->k),
                              x->v, scale);
}

status exchange_run(struct exchange *x, const struct seq_layout *s, struct tensor out,
                    struct tensor q, float scale, struct tensor scratch8)
{
    struct attention_part part[ATTENTION_PARTS] = { { .count = s->s_loc, .out = out } };

    TRY(transfer_wait(&x->v_transfer));
    if (uses_ulysses(s)) {
        TRY(put_parts(x, s, out, part));
        q = by_tokens(x->q);
    }
    TRY(scratch8.ndim != 0 ? attend8(x, s, part, q, scale, scratch8)
                           : attend(x, s, part, q, scale));
    if (uses_ulysses(s))
        TRY(put_complete(&x->put));
    TRY(transfer_wait(&x->k_transfer));
    TRY(transfer_wait(&x->q_transfer));
    return transfer_wait(&x->put);
}
