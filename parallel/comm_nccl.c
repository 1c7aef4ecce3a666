/* Messages between GPUs through NCCL. */
#include "parallel/comm_cuda.h"

#include <nccl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static status nccl_st(ncclComm_t comm, ncclResult_t e, const char *what)
{
    if (e == ncclSuccess)
        return ST_OK;
    return fail(e == ncclRemoteError ? ST_PEER : ST_DEVICE, "NCCL, %s: %s: %s", what,
                ncclGetErrorString(e), ncclGetLastError(comm));
}

/* A rank's GPU, by host name, or the name that the user gave to NCCL, and PCI address. */
struct gpu_location {
    char host[64], bus[32];
};

/* ST_USAGE if two ranks use the same GPU. Collective. */
static status check_one_rank_per_gpu(struct cuda_comm *c)
{
    const struct group *g = c->g;
    const char *host = getenv("NCCL_HOSTID");
    struct gpu_location mine = { .host = "" }, *all = calloc((size_t)g->size, sizeof(*all));
    status st = device_cuda_bus(g->dev->index, mine.bus, sizeof(mine.bus));

    if (host != NULL)
        snprintf(mine.host, sizeof(mine.host), "%s", host);
    else
        gethostname(mine.host, sizeof(mine.host) - 1);
    if (all == NULL)
        st = fail(ST_MEMORY, "no host memory for %d ranks", g->size);
    TRY_OUT(comm_agree(c->comm, st));
    MPI_Allgather(&mine, (int)sizeof(mine), MPI_BYTE, all, (int)sizeof(mine), MPI_BYTE, c->comm);
    for (int i = 0; i < g->size && st == ST_OK; i++)
        for (int j = 0; j < i && st == ST_OK; j++)
            if (memcmp(&all[i], &all[j], sizeof(mine)) == 0)
                st = fail(ST_USAGE,
                          "ranks %d and %d of group %s use the same GPU %s of %s, which NCCL does "
                          "not allow: start one rank per GPU",
                          j, i, g->name, all[i].bus, all[i].host);
out:
    free(all);
    return st;
}

static status nccl_open(struct cuda_comm *c)
{
    const struct group *g = c->g;
    ncclUniqueId id = { 0 };
    ncclComm_t comm = NULL;
    status st = ST_OK;

    TRY(check_one_rank_per_gpu(c));
    if (g->rank == 0)
        st = nccl_st(NULL, ncclGetUniqueId(&id), "opening");
    TRY(comm_agree(c->comm, st));
    MPI_Bcast(&id, (int)sizeof(id), MPI_BYTE, 0, c->comm);
    st = nccl_st(NULL, ncclCommInitRank(&comm, g->size, id, g->rank), "opening");
    c->impl = comm;
    return comm_agree(c->comm, st);
}

static void nccl_close(struct cuda_comm *c)
{
    if (c->impl != NULL)
        ncclCommDestroy(c->impl);
    c->impl = NULL;
}

static status nccl_enqueue(struct cuda_comm *c, int slot, const struct comm_op *op)
{
    ncclComm_t comm = c->impl;
    ncclResult_t e;

    (void)slot;
    if (op->local_src.bytes > 0)
        TRY(stream_copy(c, op->local_dst.data, &op->local_dst, &op->local_src));
    e = ncclGroupStart();

    for (int i = 0; i < op->sends; i++)
        for (int64_t j = 0; j < op->send[i].count && e == ncclSuccess; j++)
            e = ncclSend((char *)op->send[i].data + (size_t)j * op->send[i].pitch,
                         op->send[i].bytes, ncclUint8, op->send[i].peer, comm, c->stream);
    for (int i = 0; i < op->recvs; i++)
        for (int64_t j = 0; j < op->recv[i].count && e == ncclSuccess; j++)
            e = ncclRecv((char *)op->recv[i].data + (size_t)j * op->recv[i].pitch,
                         op->recv[i].bytes, ncclUint8, op->recv[i].peer, comm, c->stream);
    if (e == ncclSuccess)
        e = ncclGroupEnd();
    return nccl_st(comm, e, "sending");
}

static status nccl_check_error(struct cuda_comm *c)
{
    ncclResult_t e = ncclSuccess;

    TRY(nccl_st(c->impl, ncclCommGetAsyncError(c->impl, &e), "checking for errors"));
    return nccl_st(c->impl, e == ncclInProgress ? ncclSuccess : e, "sending");
}

const struct transport transport_nccl = { .name = "nccl",
                                          .open = nccl_open,
                                          .close = nccl_close,
                                          .enqueue = nccl_enqueue,
                                          .check_error = nccl_check_error };
