#include "parallel/exchange.h"

#include "kernels/ops.h"
#include "parallel/split.h"

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

status exchange_open(struct exchange *x, const struct seq_layout *s, struct arena *step,
                     enum dtype dt)
{
    *x = (struct exchange){ 0 };
    TRY(arena_take(step, &x->k, dt, s->tokens, s->n_loc, s->depth));
    TRY(arena_take(step, &x->v, dt, s->tokens, s->n_loc, s->depth));
    if (s->m->size.ulysses == 1)
        return ST_OK;
    TRY(arena_take(step, &x->q_sent, dt, s->heads, s->s_loc, s->depth));
    return arena_take(step, &x->q, dt, s->n_loc, s->s_ring, s->depth);
}

struct tensor exchange_q_place(const struct exchange *x)
{
    return by_tokens(x->q_sent);
}

/* First of all tokens that sequence rank i holds, for i up to the number of ranks. */
static int64_t token_at(const struct seq_layout *s, int i)
{
    return split_at(s->tokens, mesh_seq_size(s->m), i);
}

/* Rows of `t` along its first axis, with everything else of a row as its bytes. */
static struct message rows_of(int peer, struct tensor t)
{
    const size_t e = dtype_size(t.dtype);

    return (struct message){ peer, t.data, (size_t)(t.dim[1] * t.dim[2]) * e, t.dim[0],
                             (size_t)t.stride[0] * e };
}

/* The k-th rank after rank `rank` of n, and the k-th before it: in each step every rank sends to a
 * different one. */
static int after(int rank, int k, int n)
{
    return (rank + k) % n;
}

static int before(int rank, int k, int n)
{
    return (rank + n - k) % n;
}

/* The tokens of sequence rank i. */
static struct tensor tokens_of(const struct seq_layout *s, struct tensor t, int i)
{
    return tensor_slice(t, 0, token_at(s, i), token_at(s, i + 1) - token_at(s, i));
}

struct tensor exchange_kv_place(const struct seq_layout *s, struct tensor to, struct tensor mine)
{
    return s->m->size.ulysses == 1 ? tokens_of(s, to, mesh_seq_rank(s->m)) : mine;
}

status exchange_kv(const struct seq_layout *s, struct transfer *t, struct tensor to,
                   struct tensor from)
{
    struct group *g = s->m->direct;
    const struct tensor own = tokens_of(s, to, g->rank);
    struct message *send = g->scratch, *recv = send + g->size;
    int count = 0;

    for (int i = 1; i < g->size; i++, count++) {
        const int next = after(g->rank, i, g->size), previous = before(g->rank, i, g->size);
        const struct heads h = seq_layout_heads(s, next % s->m->size.ulysses);

        send[count] = rows_of(next, tensor_slice(from, 1, h.first, h.count));
        recv[count] = rows_of(previous, tokens_of(s, to, previous));
    }
    TRY(group_send_recv(g, t, send, count, recv, count));
    return from.data == own.data
               ? ST_OK
               : op_copy(s->dev, own, tensor_slice(from, 1, s->n_first, s->n_loc));
}

/* Sequence rank of rank i of this ring chunk. */
static int chunk_rank(const struct seq_layout *s, int i)
{
    return s->m->ring * s->m->size.ulysses + i;
}

/* The tokens of rank i of this ring chunk, counted from the start of the chunk. */
static int64_t chunk_token(const struct seq_layout *s, int i)
{
    return token_at(s, chunk_rank(s, i)) - token_at(s, chunk_rank(s, 0));
}

static struct tensor chunk_rows(const struct seq_layout *s, struct tensor t, int axis, int i)
{
    const int64_t first = chunk_token(s, i);

    return tensor_slice(t, axis, first, chunk_token(s, i + 1) - first);
}

status exchange_q(struct exchange *x, const struct seq_layout *s)
{
    struct group *g = s->m->direct;
    const int n = s->m->size.ulysses, u = s->m->ulysses;
    struct message *send = g->scratch, *recv = send + n;
    int count = 0;

    if (n == 1)
        return ST_OK;
    for (int i = 1; i < n; i++, count++) {
        const int next = after(u, i, n), previous = before(u, i, n);
        const struct heads h = seq_layout_heads(s, next);

        send[count] = rows_of(chunk_rank(s, next), tensor_slice(x->q_sent, 0, h.first, h.count));
        recv[count] = rows_of(chunk_rank(s, previous), chunk_rows(s, x->q, 1, previous));
    }
    TRY(group_send_recv_rows(g, &x->q_transfer, send, count, recv, count));
    return op_copy(s->dev, chunk_rows(s, x->q, 1, u),
                   tensor_slice(x->q_sent, 0, s->n_first, s->n_loc));
}

/* Tells the other ranks where in `out` to write, and sets the parts of this rank's attention. */
static status put_parts(struct exchange *x, const struct seq_layout *s, struct tensor out,
                        struct attention_part *part)
{
    struct group *g = s->m->direct;
    const int n = s->m->size.ulysses;
    const int64_t element = (int64_t)dtype_size(out.dtype);
    struct message *send = g->scratch, *recv = send + n;

    for (int i = 0; i < n; i++) {
        const struct heads h = seq_layout_heads(s, i);
        const int64_t first = chunk_token(s, i), count = chunk_token(s, i + 1) - first;

        part[i] = (struct attention_part){
            .first = first,
            .count = count,
            .out = tensor_of(NULL, out.dtype, count, s->n_loc, s->depth),
        };
        send[i] = rows_of(chunk_rank(s, i), part[i].out);
        recv[i] = rows_of(chunk_rank(s, i), tensor_slice(out, 1, h.first, h.count));
    }
    TRY(group_put(g, &x->put, send, n, recv, n));
    for (int i = 0; i < n; i++) {
        part[i].out.data = send[i].data;
        part[i].out.stride[0] = (int64_t)send[i].pitch / element;
    }
    return ST_OK;
}

/* Whether the kernel can wait for q of every part; sets what it waits for. */
static bool wait_in_kernel(const struct exchange *x, const struct seq_layout *s,
                           struct attention_part *part)
{
    if (!attention_waits(s->dev, x->q.dtype, s->depth))
        return false;
    for (int i = 0; i < s->m->size.ulysses; i++)
        if (i != s->m->ulysses && part[i].count > 0 &&
            !transfer_arrival(&x->q_transfer, chunk_rank(s, i), &part[i].arrival))
            return false;
    return true;
}

status exchange_run(struct exchange *x, const struct seq_layout *s, struct tensor out,
                    struct tensor q, float scale)
{
    struct attention_part part[ATTENTION_PARTS];

    TRY(transfer_wait(&x->kv_transfer[0]));
    TRY(transfer_wait(&x->kv_transfer[1]));
    if (s->m->size.ulysses == 1)
        return op_attention(s->dev, out, (struct tensor){ 0 }, q, x->k, x->v, scale);
    TRY(put_parts(x, s, out, part));
    if (!wait_in_kernel(x, s, part))
        TRY(transfer_wait(&x->q_transfer));
    if (s->n_loc > 0)
        TRY(op_attention_parts(s->dev, part, s->m->size.ulysses, by_tokens(x->q), x->k, x->v,
                               scale));
    TRY(put_complete(&x->put));
    TRY(transfer_wait(&x->q_transfer));
    return transfer_wait(&x->put);
}
