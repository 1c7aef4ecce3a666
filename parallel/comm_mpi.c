#include "parallel/comm.h"
#include "parallel/mpi_wait.h"

#include <assert.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Only point-to-point messages: ranks that neither send nor receive need not call. The tag is the
 * kind of collective; messages with one tag from one rank to another match in the order of their
 * starts. */
struct slot {
    enum comm_op_kind kind;
    int64_t number;       // collectives started on the group before this one
    int count;            // requests; receives first
    MPI_Request *request; // [4 * size]
};

struct comm_impl {
    MPI_Comm comm;
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
    for (int i = 0; i < GROUP_IN_FLIGHT; i++)
        free(c->slot[i].request);
    free(c);
    g->impl = NULL;
}

static status mpi_open(struct group *g, struct world *w, int color)
{
    struct comm_impl *c;
    MPI_Comm comm = MPI_COMM_NULL;
    bool allocated;

    if (!w->described) { // collective, so before anything that may fail on one rank only
        MPI_Comm_split(world_comm(w), color < 0 ? MPI_UNDEFINED : color, w->rank, &comm);
        if (comm != MPI_COMM_NULL) {
            MPI_Comm_rank(comm, &g->rank);
            MPI_Comm_size(comm, &g->size);
        }
    }
    assert(!w->described || g->size <= 1); // there are no other processes
    if (g->size == 0)
        return ST_OK;

    g->impl = c = calloc(1, sizeof(*c));
    if (comm != MPI_COMM_NULL)
        g->on_node = world_on_node(w, comm);
    allocated = c != NULL && g->on_node != NULL;
    if (c != NULL)
        c->comm = comm;
    for (int i = 0; allocated && i < GROUP_IN_FLIGHT; i++) {
        c->slot[i].request = calloc(4 * (size_t)g->size, sizeof(*c->slot[i].request));
        allocated = c->slot[i].request != NULL;
    }
    if (!allocated)
        return fail(ST_MEMORY, "no host memory for group %s of %d ranks", g->name, g->size);
    return ST_OK;
}

/* MPI counts are int: a row of more bytes is one element of a derived type. */
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

/* A derived type for the whole message. */
static MPI_Datatype type_of(const struct message *m)
{
    MPI_Datatype row, whole;

    if (m->bytes > INT_MAX)
        row = long_type(m->bytes);
    else
        MPI_Type_contiguous((int)m->bytes, MPI_BYTE, &row);
    MPI_Type_create_hvector((int)m->count, 1, (MPI_Aint)m->pitch, row, &whole);
    MPI_Type_commit(&whole);
    MPI_Type_free(&row);
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
    s->count++;
}

static status mpi_start(struct group *g, int slot, const struct comm_op *op)
{
    const struct message *from = &op->local_src, *to = &op->local_dst;
    struct comm_impl *c = g->impl;
    struct slot *s = &c->slot[slot];

    TRY(device_wait(g->dev));
    s->kind = op->kind;
    s->count = 0;
    s->number = c->started++;
    for (int i = 0; i < op->recvs; i++)
        post(c, s, true, &op->recv[i]);
    for (int i = 0; i < op->sends; i++)
        post(c, s, false, &op->send[i]);
    for (int64_t i = 0; i < from->count && from->bytes > 0; i++)
        memcpy((char *)to->data + (size_t)i * to->pitch,
               (const char *)from->data + (size_t)i * from->pitch, from->bytes);
    return ST_OK;
}

static status mpi_wait_slot(struct group *g, int slot)
{
    struct comm_impl *c = g->impl;
    struct slot *s = &c->slot[slot];
    char what[96];

    snprintf(what, sizeof(what), "%s %lld of group %s (%d ranks)", comm_op_name[s->kind],
             (long long)s->number, g->name, g->size);
    return mpi_wait(s->request, s->count, what);
}

const struct comm_table comm_mpi = {
    .name = "mpi",
    .open = mpi_open,
    .close = mpi_close,
    .start = mpi_start,
    .wait = mpi_wait_slot,
};
