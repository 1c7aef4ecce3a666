#include "parallel/group.h"

#include "parallel/comm.h"

#include <assert.h>
#include <stdlib.h>

const char *const comm_op_name[COMM_OP_KINDS] = { "all-gather", "all-to-all", "send-recv",
                                                  "broadcast", "put" };

/* Opens the backend, which may set rank and size, and allocates offsets and the message list. */
static status open_backend(struct group *g, struct world *w, int color)
{
    if (w->described && g->on_node == NULL && g->size > 0)
        return fail(ST_MEMORY, "no host memory for group %s of %d ranks", g->name, g->size);
    TRY(g->comm->open(g, w, color));
    g->send_offset = calloc((size_t)g->size + 1, sizeof(*g->send_offset));
    g->recv_offset = calloc((size_t)g->size + 1, sizeof(*g->recv_offset));
    g->list = calloc(4 * (size_t)g->size + 1, sizeof(*g->list));
    g->scratch = calloc(2 * (size_t)g->size + 1, sizeof(*g->scratch));
    if (g->send_offset == NULL || g->recv_offset == NULL || g->list == NULL || g->scratch == NULL)
        return fail(ST_MEMORY, "no host memory for group %s of %d ranks", g->name, g->size);
    return ST_OK;
}

static const struct comm_table *backend_for(enum device_kind kind)
{
    return kind == DEVICE_PLAN ? &comm_plan : kind == DEVICE_CUDA ? &comm_cuda : &comm_mpi;
}

/* For a described world, whose nodes have consecutive ranks. */
static bool on_this_node(const struct world *w, int rank)
{
    const int first = w->rank - w->local_rank;

    return rank >= first && rank < first + w->local_size;
}

status group_open(struct group *g, const char *name, struct world *w, struct device *dev, int color,
                  const int *members, int count)
{
    *g = (struct group){
        .name = name,
        .dev = dev,
        .comm = backend_for(dev->kind),
    };
    if (w->described && color >= 0) {
        g->size = count;
        while (g->rank < count && members[g->rank] != w->rank)
            g->rank++;
        assert(g->rank < count); // this rank must be in `members`
        g->on_node = calloc((size_t)count, sizeof(*g->on_node));
        for (int i = 0; i < count && g->on_node != NULL; i++)
            g->on_node[i] = on_this_node(w, members[i]);
        g->direct = w->direct && count > 1 && on_this_node(w, members[0]) &&
                    on_this_node(w, members[count - 1]);
    }
    return open_backend(g, w, color);
}

void group_close(struct group *g)
{
    assert(g->in_flight == 0 || g->dev->abandoned);
    if (g->comm != NULL)
        g->comm->close(g);
    free(g->on_node);
    free(g->send_offset);
    free(g->recv_offset);
    free(g->list);
    free(g->scratch);
    *g = (struct group){ 0 };
}

/* ---- a collective as messages ---- */

static struct comm_op begin(struct group *g, enum comm_op_kind kind)
{
    return (struct comm_op){ .kind = kind, .send = g->list, .recv = g->list + 2 * g->size };
}

static bool is_empty(struct message m)
{
    return m.peer < 0 || m.bytes == 0 || m.count == 0;
}

/* Adds a message to a list, or sets `local` if this rank is also the peer. */
static void add(const struct group *g, struct message *list, int *count, struct message *local,
                struct message m)
{
    if (is_empty(m))
        return;
    assert(m.peer < g->size && *count < 2 * g->size);
    assert(m.peer != g->rank || local->bytes == 0);
    if (m.peer == g->rank)
        *local = m;
    else
        list[(*count)++] = m;
}

static void add_send(struct group *g, struct comm_op *op, struct message m)
{
    if (m.peer != g->rank && m.peer >= 0) {
        const double bytes = (double)m.bytes * (double)m.count;

        op->bytes += bytes;
        op->across += g->on_node[m.peer] ? 0 : bytes;
    }
    add(g, g->list, &op->sends, &op->local_src, m);
}

static void add_recv(struct group *g, struct comm_op *op, struct message m)
{
    add(g, g->list + 2 * g->size, &op->recvs, &op->local_dst, m);
}

static size_t block_bytes(const size_t *offset, int i)
{
    return offset[i + 1] - offset[i];
}

static struct message block_of(int peer, const void *data, const size_t *offset)
{
    return message_of(peer, (const char *)data + offset[peer], block_bytes(offset, peer));
}

/* A free slot for *t. */
static int take_slot(struct group *g, struct transfer *t)
{
    int slot = 0;

    assert(t->group == NULL);
    while (g->in_flight >> slot & 1)
        slot++;
    assert(slot < GROUP_IN_FLIGHT);
    return slot;
}

static void started(struct group *g, struct transfer *t, int slot, const struct comm_op *op)
{
    g->sent += op->bytes;
    g->sent_across += op->across;
    g->messages += op->sends;
    g->in_flight |= 1u << slot;
    *t = (struct transfer){ .group = g, .slot = slot };
}

static status start(struct group *g, struct transfer *t, struct comm_op *op)
{
    const int slot = take_slot(g, t);

    if (op->local_src.bytes == 0 || op->local_dst.bytes == 0 ||
        op->local_src.data == op->local_dst.data)
        op->local_src = op->local_dst = (struct message){ 0 };
    assert(op->local_src.bytes == op->local_dst.bytes &&
           op->local_src.count == op->local_dst.count);
    TRY(g->comm->start(g, slot, op));
    started(g, t, slot, op);
    return ST_OK;
}

/* The k-th rank after this one, to send to, and the k-th before it, to receive from: so that in
 * each step every rank sends to a different one. */
static int after(const struct group *g, int k)
{
    return (g->rank + k) % g->size;
}

static int before(const struct group *g, int k)
{
    return (g->rank + g->size - k) % g->size;
}

status group_all_gather(struct group *g, struct transfer *t, void *recv, const size_t *offset,
                        const void *send)
{
    struct comm_op op = begin(g, ALL_GATHER);

    for (int k = 0; k < g->size; k++) {
        add_send(g, &op, message_of(after(g, k), send, block_bytes(offset, g->rank)));
        add_recv(g, &op, block_of(before(g, k), recv, offset));
    }
    return start(g, t, &op);
}

status group_all_to_all(struct group *g, struct transfer *t, void *recv, const size_t *recv_offset,
                        const void *send, const size_t *send_offset)
{
    struct comm_op op = begin(g, ALL_TO_ALL);

    for (int k = 0; k < g->size; k++) {
        add_send(g, &op, block_of(after(g, k), send, send_offset));
        add_recv(g, &op, block_of(before(g, k), recv, recv_offset));
    }
    return start(g, t, &op);
}

static struct comm_op lists(struct group *g, enum comm_op_kind kind, const struct message *send,
                            int sends, const struct message *recv, int recvs)
{
    struct comm_op op = begin(g, kind);

    for (int i = 0; i < sends; i++)
        add_send(g, &op, send[i]);
    for (int i = 0; i < recvs; i++)
        add_recv(g, &op, recv[i]);
    return op;
}

status group_send_recv(struct group *g, struct transfer *t, const struct message *send, int sends,
                       const struct message *recv, int recvs)
{
    struct comm_op op = lists(g, SEND_RECV, send, sends, recv, recvs);

    return start(g, t, &op);
}

status group_send_recv_rows(struct group *g, struct transfer *t, const struct message *send,
                            int sends, const struct message *recv, int recvs)
{
    struct comm_op op = lists(g, SEND_RECV, send, sends, recv, recvs);

    op.by_row = true;
    return start(g, t, &op);
}

status group_put(struct group *g, struct transfer *t, struct message *send, int sends,
                 const struct message *recv, int recvs)
{
    struct comm_op op = lists(g, PUT, send, sends, recv, recvs);
    const int slot = take_slot(g, t);

    assert(g->direct);
    TRY(g->comm->put(g, slot, &op, g->list));
    for (int i = 0, k = 0; i < sends; i++) {
        if (is_empty(send[i]))
            continue;

        const struct message *to = send[i].peer == g->rank ? &op.local_dst : &g->list[k++];

        send[i].data = to->data;
        send[i].pitch = to->pitch;
    }
    started(g, t, slot, &op);
    return ST_OK;
}

status put_complete(struct transfer *t)
{
    return t->group->comm->put_complete(t->group, t->slot);
}

bool transfer_arrival(const struct transfer *t, int peer, struct arrival *a)
{
    const struct group *g = t->group;

    return g != NULL && g->comm->arrival != NULL && g->comm->arrival(g, t->slot, peer, a);
}

status group_broadcast(struct group *g, struct transfer *t, void *data, size_t bytes, int root)
{
    struct comm_op op = begin(g, BROADCAST);

    assert(root >= 0 && root < g->size);
    if (g->rank != root)
        add_recv(g, &op, message_of(root, data, bytes));
    for (int k = 1; k < g->size && g->rank == root; k++)
        add_send(g, &op, message_of(after(g, k), data, bytes));
    return start(g, t, &op);
}

status transfer_wait(struct transfer *t)
{
    struct group *g = t->group;

    if (g == NULL)
        return ST_OK;
    TRY(g->comm->wait(g, t->slot));
    g->in_flight &= ~(1u << t->slot);
    t->group = NULL;
    return ST_OK;
}
