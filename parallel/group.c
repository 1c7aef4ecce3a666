#include "parallel/group.h"

#include "parallel/comm.h"

#include <assert.h>
#include <stdlib.h>

const char *const exchange_name[EXCHANGE_KINDS] = { "all-gather", "all-to-all", "exchange",
                                                    "broadcast" };

/* The part of the table, and room for offsets; members may still be unknown. */
static status open_parts(struct group *g, struct world *w, int color)
{
    TRY(g->comm->open(g, w, color));
    g->send_at = calloc((size_t)g->size + 1, sizeof(*g->send_at));
    g->recv_at = calloc((size_t)g->size + 1, sizeof(*g->recv_at));
    g->list = calloc(4 * (size_t)g->size + 1, sizeof(*g->list));
    if (g->send_at == NULL || g->recv_at == NULL || g->list == NULL)
        return fail(ST_MEMORY, "no host memory for group %s of %d ranks", g->name, g->size);
    return ST_OK;
}

static const struct comm_table *table_of(enum device_kind kind)
{
    return kind == DEVICE_PLAN ? &comm_plan : kind == DEVICE_CUDA ? &comm_cuda : &comm_mpi;
}

status group_open(struct group *g, const char *name, struct world *w, struct device *dev, int color,
                  const int *members, int count)
{
    *g = (struct group){
        .name = name,
        .dev = dev,
        .deadline_s = w->deadline_s,
        .comm = table_of(dev->kind),
    };
    if (w->described && color >= 0) {
        g->size = count;
        while (g->rank < count && members[g->rank] != w->rank)
            g->rank++;
        assert(g->rank < count); // a described rank opens the groups that it is in
    }
    return open_parts(g, w, color);
}

void group_close(struct group *g)
{
    assert(g->open == 0);
    if (g->comm != NULL)
        g->comm->close(g);
    free(g->send_at);
    free(g->recv_at);
    free(g->list);
    *g = (struct group){ 0 };
}

/* ---- an exchange as messages ---- */

static struct exchange begin(struct group *g, enum exchange_kind kind)
{
    return (struct exchange){ .kind = kind, .send = g->list, .recv = g->list + 2 * g->size };
}

/* Adds a message to others, or the part for this rank itself. */
static void add(const struct group *g, struct message *list, int *count, struct message *own,
                struct message m)
{
    if (m.peer < 0 || m.bytes == 0)
        return;
    assert(m.peer < g->size && m.count > 0 && *count < 2 * g->size);
    assert(m.peer != g->rank || own->bytes == 0);
    if (m.peer == g->rank)
        *own = m;
    else
        list[(*count)++] = m;
}

static void add_send(struct group *g, struct exchange *e, struct message m)
{
    if (m.peer != g->rank && m.peer >= 0)
        e->bytes += (double)m.bytes * (double)m.count;
    add(g, g->list, &e->sends, &e->own_from, m);
}

static void add_recv(struct group *g, struct exchange *e, struct message m)
{
    add(g, g->list + 2 * g->size, &e->recvs, &e->own_to, m);
}

static size_t part(const size_t *offset, int i)
{
    return offset[i + 1] - offset[i];
}

static struct message part_of(int peer, const void *data, const size_t *offset)
{
    return message_of(peer, (const char *)data + offset[peer], part(offset, peer));
}

static status start(struct group *g, struct transfer *t, struct exchange *e)
{
    int slot = 0;

    assert(t->group == NULL);
    while (g->open >> slot & 1)
        slot++;
    assert(slot < GROUP_IN_FLIGHT);
    if (e->own_from.bytes == 0 || e->own_to.bytes == 0 || e->own_from.data == e->own_to.data)
        e->own_from = e->own_to = (struct message){ 0 };
    assert(e->own_from.bytes == e->own_to.bytes && e->own_from.count == e->own_to.count);
    g->sent += e->bytes;
    g->messages += e->sends;
    TRY(g->comm->start(g, slot, e));
    g->open |= 1u << slot;
    *t = (struct transfer){ .group = g, .slot = slot };
    return ST_OK;
}

/* The k-th rank to send to after this one, and to receive from before it: everybody begins with
 * another one. */
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
    struct exchange e = begin(g, ALL_GATHER);

    for (int k = 0; k < g->size; k++) {
        add_send(g, &e, message_of(after(g, k), send, part(offset, g->rank)));
        add_recv(g, &e, part_of(before(g, k), recv, offset));
    }
    return start(g, t, &e);
}

status group_all_to_all(struct group *g, struct transfer *t, void *recv, const size_t *recv_offset,
                        const void *send, const size_t *send_offset)
{
    struct exchange e = begin(g, ALL_TO_ALL);

    for (int k = 0; k < g->size; k++) {
        add_send(g, &e, part_of(after(g, k), send, send_offset));
        add_recv(g, &e, part_of(before(g, k), recv, recv_offset));
    }
    return start(g, t, &e);
}

status group_exchange(struct group *g, struct transfer *t, const struct message *send, int sends,
                      const struct message *recv, int recvs)
{
    struct exchange e = begin(g, EXCHANGE);

    for (int i = 0; i < sends; i++)
        add_send(g, &e, send[i]);
    for (int i = 0; i < recvs; i++)
        add_recv(g, &e, recv[i]);
    return start(g, t, &e);
}

status group_broadcast(struct group *g, struct transfer *t, void *data, size_t bytes, int root)
{
    struct exchange e = begin(g, BROADCAST);

    assert(root >= 0 && root < g->size);
    if (g->rank != root)
        add_recv(g, &e, message_of(root, data, bytes));
    for (int k = 1; k < g->size && g->rank == root; k++)
        add_send(g, &e, message_of(after(g, k), data, bytes));
    return start(g, t, &e);
}

status transfer_wait(struct transfer *t)
{
    struct group *g = t->group;

    if (g == NULL)
        return ST_OK;
    TRY(g->comm->wait(g, t->slot));
    g->open &= ~(1u << t->slot);
    t->group = NULL;
    return ST_OK;
}
