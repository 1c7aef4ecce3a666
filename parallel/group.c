#include "parallel/group.h"

#include "parallel/comm.h"

#include <assert.h>
#include <stdlib.h>

/* The part of the table, and room for offsets; members may still be unknown. */
static status open_parts(struct group *g, struct world *w, int color)
{
    TRY(g->comm->open(g, w, color));
    g->send_at = calloc((size_t)g->size + 1, sizeof(*g->send_at));
    g->recv_at = calloc((size_t)g->size + 1, sizeof(*g->recv_at));
    if (g->send_at == NULL || g->recv_at == NULL)
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
    *g = (struct group){ 0 };
}

static size_t part(const size_t *offset, int i)
{
    return offset[i + 1] - offset[i];
}

static void count_message(struct group *g, int to, size_t bytes)
{
    if (to != g->rank && bytes > 0) {
        g->sent += (double)bytes;
        g->messages++;
    }
}

static int take_slot(const struct group *g)
{
    int slot = 0;

    while (g->open >> slot & 1)
        slot++;
    assert(slot < GROUP_IN_FLIGHT);
    return slot;
}

static status started(struct group *g, struct transfer *t, int slot)
{
    g->open |= 1u << slot;
    *t = (struct transfer){ .group = g, .slot = slot };
    return ST_OK;
}

status group_all_gather(struct group *g, struct transfer *t, void *recv, const size_t *offset,
                        const void *send)
{
    const int slot = take_slot(g);

    assert(t->group == NULL);
    for (int i = 0; i < g->size; i++)
        count_message(g, i, part(offset, g->rank));
    TRY(g->comm->all_gather(g, slot, recv, offset, send));
    return started(g, t, slot);
}

status group_all_to_all(struct group *g, struct transfer *t, void *recv, const size_t *recv_offset,
                        const void *send, const size_t *send_offset)
{
    const size_t own_sent = part(send_offset, g->rank), own_got = part(recv_offset, g->rank);
    const int slot = take_slot(g);

    assert(t->group == NULL);
    assert(own_sent == own_got || own_sent == 0 || own_got == 0);
    for (int i = 0; i < g->size; i++)
        count_message(g, i, part(send_offset, i));
    TRY(g->comm->all_to_all(g, slot, recv, recv_offset, send, send_offset));
    return started(g, t, slot);
}

status group_exchange(struct group *g, struct transfer *t, int to, const void *send,
                      size_t send_bytes, int from, void *recv, size_t recv_bytes)
{
    const int slot = take_slot(g);

    assert(t->group == NULL && to >= -1 && to < g->size && from >= -1 && from < g->size);
    assert(to != g->rank || (from == to && send_bytes == recv_bytes));
    if (to >= 0)
        count_message(g, to, send_bytes);
    TRY(g->comm->exchange(g, slot, to, send, send_bytes, from, recv, recv_bytes));
    return started(g, t, slot);
}

status group_broadcast(struct group *g, struct transfer *t, void *data, size_t bytes, int root)
{
    const int slot = take_slot(g);

    assert(t->group == NULL && root >= 0 && root < g->size);
    for (int i = 0; i < g->size && g->rank == root; i++)
        count_message(g, i, bytes);
    TRY(g->comm->broadcast(g, slot, data, bytes, root));
    return started(g, t, slot);
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
