#include "parallel/comm.h"
#include "parallel/mpi_wait.h"

#include <assert.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Point-to-point messages only, so that ranks without a part need not take part, and a silent peer
 * has a name. Messages between two ranks of one kind arrive in the order of their starts. */
struct slot {
    enum exchange_kind kind;
    int64_t number;       // of exchanges started on the group before
    int count;            // requests; those for receiving come first
    MPI_Request *request; // [4 * size]
    int *peer;            // [4 * size] rank in the group
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
        c->slot[i].request = calloc(4 * (size_t)g->size, sizeof(*c->slot[i].request));
        c->slot[i].peer = calloc(4 * (size_t)g->size, sizeof(*c->slot[i].peer));
        have = c->slot[i].request != NULL && c->slot[i].peer != NULL;
    }
    if (!have)
        return fail(ST_MEMORY, "no host memory for group %s of %d ranks", g->name, g->size);
    if (comm != MPI_COMM_NULL)
        name_members(c, w, g);
    return ST_OK;
}

/* MPI counts in int: a long piece is one element of a type made for it. */
static MPI_Datatype long_type(size_t bytes)
{
    const size_t block = (size_t)1 << 30;
    const int length[2] = { (int)(bytes / block), (int)(bytes % block) };
    const MPI_Aint at[2] = { 0, (MPI_Aint)(bytes - bytes % block) };
    MPI_Datatype type[2] = { MPI_DATATYPE_NULL, MPI_BYTE }, whole;

    MPI_Type_contiguous((int)block, MPI_BYTE, &type[0]);
    MPI_Type_create_struct(2, length, at, type, &whole);
    MPI_Type_free(&type[0]);
    return whole;
}

/* The message as one element. */
static MPI_Datatype type_of(const struct message *m)
{
    MPI_Datatype piece, whole;

    if (m->bytes > INT_MAX)
        piece = long_type(m->bytes);
    else
        MPI_Type_contiguous((int)m->bytes, MPI_BYTE, &piece);
    MPI_Type_create_hvector((int)m->count, 1, (MPI_Aint)m->pitch, piece, &whole);
    MPI_Type_commit(&whole);
    MPI_Type_free(&piece);
    return whole;
}

static void post(const struct comm_impl *c, struct slot *s, bool receive, const struct message *m)
{
    MPI_Request *request = &s->request[s->count];
    MPI_Datatype type = type_of(m);

    assert(m->count <= INT_MAX);
    if (receive)
        MPI_Irecv(m->data, 1, type, m->peer, (int)s->kind, c->comm, request);
    else
        MPI_Isend(m->data, 1, type, m->peer, (int)s->kind, c->comm, request);
    MPI_Type_free(&type);
    s->peer[s->count++] = m->peer;
}

static status mpi_start(struct group *g, int slot, const struct exchange *e)
{
    const struct message *from = &e->own_from, *to = &e->own_to;
    struct comm_impl *c = g->impl;
    struct slot *s = &c->slot[slot];

    TRY(device_wait(g->dev));
    s->kind = e->kind;
    s->count = 0;
    s->number = c->started++;
    for (int i = 0; i < e->recvs; i++)
        post(c, s, true, &e->recv[i]);
    for (int i = 0; i < e->sends; i++)
        post(c, s, false, &e->send[i]);
    for (int64_t i = 0; i < from->count && from->bytes > 0; i++)
        memcpy((char *)to->data + (size_t)i * to->pitch,
               (const char *)from->data + (size_t)i * from->pitch, from->bytes);
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
                c->world_rank[g->rank], g->deadline_s, who, exchange_name[s->kind],
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
    .start = mpi_start,
    .wait = mpi_wait_slot,
};
