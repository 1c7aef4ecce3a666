#include "parallel/comm.h"
#include "parallel/mpi_wait.h"

#include <assert.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Point-to-point messages only, so that ranks without a part need not take part, and a silent peer
 * has a name. Messages between two ranks of one kind arrive in the order of their starts. */
enum kind { ALL_GATHER, ALL_TO_ALL, EXCHANGE, BROADCAST };

static const char *const kind_name[] = { "all-gather", "all-to-all", "exchange", "broadcast" };

struct slot {
    enum kind kind;
    int64_t number;       // of exchanges started on the group before
    int count;            // requests; those for receiving come first
    MPI_Request *request; // [2 * size]
    int *peer;            // [2 * size] rank in the group
};

struct comm_impl {
    MPI_Comm comm;
    int *world_rank; // [size] of the members
    int64_t started;
    struct slot slot[GROUP_IN_FLIGHT];
};

static void mpi_close(struct group *g)
{
    struct comm_impl *c = g->impl;

    if (c == NULL)
        return;
    if (c->comm != MPI_COMM_NULL)
        MPI_Comm_free(&c->comm);
    for (int i = 0; i < GROUP_IN_FLIGHT; i++) {
        free(c->slot[i].request);
        free(c->slot[i].peer);
    }
    free(c->world_rank);
    free(c);
    g->impl = NULL;
}

/* Who the members are in the world's counting, for error lines. */
static void name_members(struct comm_impl *c, struct world *w, const struct group *g)
{
    MPI_Group mine, all;

    MPI_Comm_group(c->comm, &mine);
    MPI_Comm_group(world_comm(w), &all);
    for (int i = 0; i < g->size; i++)
        MPI_Group_translate_ranks(mine, 1, &i, all, &c->world_rank[i]);
    MPI_Group_free(&mine);
    MPI_Group_free(&all);
}

static status mpi_open(struct group *g, struct world *w, int color)
{
    struct comm_impl *c;
    MPI_Comm comm = MPI_COMM_NULL;
    bool have;

    if (!w->described) { // before anything that may fail here and not there
        MPI_Comm_split(world_comm(w), color < 0 ? MPI_UNDEFINED : color, w->rank, &comm);
        if (comm != MPI_COMM_NULL) {
            MPI_Comm_rank(comm, &g->rank);
            MPI_Comm_size(comm, &g->size);
        }
    }
    assert(!w->described || g->size <= 1); // there is nobody to exchange with
    if (g->size == 0)
        return ST_OK;

    g->impl = c = calloc(1, sizeof(*c));
    have = c != NULL;
    if (have) {
        c->comm = comm;
        c->world_rank = calloc((size_t)g->size, sizeof(*c->world_rank));
        have = c->world_rank != NULL;
    }
    for (int i = 0; have && i < GROUP_IN_FLIGHT; i++) {
        c->slot[i].request = calloc(2 * (size_t)g->size, sizeof(*c->slot[i].request));
        c->slot[i].peer = calloc(2 * (size_t)g->size, sizeof(*c->slot[i].peer));
        have = c->slot[i].request != NULL && c->slot[i].peer != NULL;
    }
    if (!have)
        return fail(ST_MEMORY, "no host memory for group %s of %d ranks", g->name, g->size);
    if (comm != MPI_COMM_NULL)
        name_members(c, w, g);
    return ST_OK;
}

static struct slot *slot_begin(struct group *g, int slot, enum kind kind)
{
    struct comm_impl *c = g->impl;

    c->slot[slot].kind = kind;
    c->slot[slot].count = 0;
    c->slot[slot].number = c->started++;
    return &c->slot[slot];
}

/* MPI counts in int: a longer message is one element of a type made for it. */
static MPI_Datatype long_type(size_t bytes)
{
    const size_t block = (size_t)1 << 30;
    const int length[2] = { (int)(bytes / block), (int)(bytes % block) };
    const MPI_Aint at[2] = { 0, (MPI_Aint)(bytes - bytes % block) };
    MPI_Datatype type[2] = { MPI_DATATYPE_NULL, MPI_BYTE }, whole;

    MPI_Type_contiguous((int)block, MPI_BYTE, &type[0]);
    MPI_Type_create_struct(2, length, at, type, &whole);
    MPI_Type_commit(&whole);
    MPI_Type_free(&type[0]);
    return whole;
}

static void post(struct group *g, struct slot *s, bool receive, int peer, void *data, size_t bytes)
{
    const struct comm_impl *c = g->impl;
    MPI_Request *request = &s->request[s->count];
    MPI_Datatype type = bytes > INT_MAX ? long_type(bytes) : MPI_BYTE;
    const int count = bytes > INT_MAX ? 1 : (int)bytes;

    if (bytes == 0)
        return;
    if (receive)
        MPI_Irecv(data, count, type, peer, (int)s->kind, c->comm, request);
    else
        MPI_Isend(data, count, type, peer, (int)s->kind, c->comm, request);
    if (type != MPI_BYTE)
        MPI_Type_free(&type);
    s->peer[s->count++] = peer;
}

static void post_recv(struct group *g, struct slot *s, int from, void *data, size_t bytes)
{
    post(g, s, true, from, data, bytes);
}

static void post_send(struct group *g, struct slot *s, int to, const void *data, size_t bytes)
{
    post(g, s, false, to, (void *)data, bytes);
}

static void copy_own(void *to, const void *from, size_t bytes)
{
    if (to != from && bytes > 0)
        memcpy(to, from, bytes);
}

static status mpi_all_gather(struct group *g, int slot, void *recv, const size_t *offset,
                             const void *send)
{
    const size_t own = offset[g->rank + 1] - offset[g->rank];
    struct slot *s = slot_begin(g, slot, ALL_GATHER);

    TRY(device_wait(g->dev));
    for (int i = 0; i < g->size; i++)
        if (i != g->rank)
            post_recv(g, s, i, (char *)recv + offset[i], offset[i + 1] - offset[i]);
    for (int i = 0; i < g->size; i++)
        if (i != g->rank)
            post_send(g, s, i, send, own);
    copy_own((char *)recv + offset[g->rank], send, own);
    return ST_OK;
}

static status mpi_all_to_all(struct group *g, int slot, void *recv, const size_t *recv_offset,
                             const void *send, const size_t *send_offset)
{
    const int r = g->rank;
    struct slot *s = slot_begin(g, slot, ALL_TO_ALL);

    TRY(device_wait(g->dev));
    for (int i = 0; i < g->size; i++)
        if (i != r)
            post_recv(g, s, i, (char *)recv + recv_offset[i], recv_offset[i + 1] - recv_offset[i]);
    for (int i = 0; i < g->size; i++)
        if (i != r)
            post_send(g, s, i, (const char *)send + send_offset[i],
                      send_offset[i + 1] - send_offset[i]);
    if (recv_offset[r + 1] > recv_offset[r])
        copy_own((char *)recv + recv_offset[r], (const char *)send + send_offset[r],
                 send_offset[r + 1] - send_offset[r]);
    return ST_OK;
}

static status mpi_exchange(struct group *g, int slot, int to, const void *send, size_t send_bytes,
                           int from, void *recv, size_t recv_bytes)
{
    struct slot *s = slot_begin(g, slot, EXCHANGE);

    TRY(device_wait(g->dev));
    if (from >= 0 && from != g->rank)
        post_recv(g, s, from, recv, recv_bytes);
    if (to >= 0 && to != g->rank)
        post_send(g, s, to, send, send_bytes);
    else if (to == g->rank)
        copy_own(recv, send, send_bytes);
    return ST_OK;
}

static status mpi_broadcast(struct group *g, int slot, void *data, size_t bytes, int root)
{
    struct slot *s = slot_begin(g, slot, BROADCAST);

    TRY(device_wait(g->dev));
    if (g->rank != root)
        post_recv(g, s, root, data, bytes);
    else
        for (int i = 0; i < g->size; i++)
            if (i != root)
                post_send(g, s, i, data, bytes);
    return ST_OK;
}

/* One line that names the exchange and the ranks which it still waits for. */
static status silent(struct group *g, struct slot *s)
{
    struct comm_impl *c = g->impl;
    char who[128] = "";
    size_t n = 0;

    for (int i = 0; i < s->count && n < sizeof(who) - 16; i++) {
        int done;
        bool named = false;

        MPI_Test(&s->request[i], &done, MPI_STATUS_IGNORE);
        for (int j = 0; j < i; j++) // received from and sent to: once is enough
            named |= s->peer[j] == s->peer[i] && s->request[j] != MPI_REQUEST_NULL;
        if (!done && !named)
            n += (size_t)snprintf(who + n, sizeof(who) - n, " %d", c->world_rank[s->peer[i]]);
    }
    return fail(ST_PEER,
                "rank %d waited %.0f s for rank%s in %s %lld of group %s (%d ranks): see what "
                "became of it, or allow more time",
                c->world_rank[g->rank], g->deadline_s, who, kind_name[s->kind],
                (long long)s->number, g->name, g->size);
}

static status mpi_wait_slot(struct group *g, int slot)
{
    struct comm_impl *c = g->impl;
    struct slot *s = &c->slot[slot];

    return mpi_wait(s->request, s->count, g->deadline_s) ? ST_OK : silent(g, s);
}

const struct comm_table comm_mpi = {
    .name = "mpi",
    .open = mpi_open,
    .close = mpi_close,
    .all_gather = mpi_all_gather,
    .all_to_all = mpi_all_to_all,
    .exchange = mpi_exchange,
    .broadcast = mpi_broadcast,
    .wait = mpi_wait_slot,
};
