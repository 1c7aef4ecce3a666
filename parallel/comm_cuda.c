#include "parallel/comm_cuda.h"

#include "parallel/mpi_wait.h"

#include <stdlib.h>
#include <string.h>

status cuda_st(cudaError_t e, const char *what)
{
    if (e == cudaSuccess)
        return ST_OK;
    return fail(e == cudaErrorMemoryAllocation ? ST_MEMORY : ST_DEVICE, "%s: %s", what,
                cudaGetErrorString(e));
}

static status entry(const char *name, void **function)
{
    enum cudaDriverEntryPointQueryResult found;

    TRY(cuda_st(cudaGetDriverEntryPointByVersion(name, function, 12000, cudaEnableDefault, &found),
                name));
    return found == cudaDriverEntryPointSuccess ? ST_OK
                                                : fail(ST_DEVICE, "the driver has no %s", name);
}

static status driver_find(struct driver *d)
{
    TRY(entry("cuStreamWriteValue32", (void **)&d->write));
    TRY(entry("cuStreamWaitValue32", (void **)&d->wait));
    return entry("cuMemGetAddressRange", (void **)&d->extent);
}

static status driver_st(CUresult e, const char *what)
{
    return e == CUDA_SUCCESS ? ST_OK : fail(ST_DEVICE, "%s: code %d of the driver", what, (int)e);
}

status stream_write(struct cuda_comm *c, volatile uint32_t *at, uint32_t value)
{
    return driver_st(c->driver.write(c->stream, (CUdeviceptr)at, value, 0), "writing a flag");
}

status stream_wait(struct cuda_comm *c, volatile uint32_t *at, uint32_t value)
{
    return driver_st(c->driver.wait(c->stream, (CUdeviceptr)at, value, CU_STREAM_WAIT_VALUE_GEQ),
                     "waiting for a flag");
}

status stream_copy(struct cuda_comm *c, void *at, const struct message *to,
                   const struct message *from)
{
    if (from->count == 1)
        return cuda_st(
            cudaMemcpyAsync(at, from->data, from->bytes, cudaMemcpyDeviceToDevice, c->stream),
            "copying between GPUs");
    return cuda_st(cudaMemcpy2DAsync(at, to->pitch, from->data, from->pitch, from->bytes,
                                     (size_t)from->count, cudaMemcpyDeviceToDevice, c->stream),
                   "copying between GPUs");
}

status all_of(MPI_Comm comm, status st)
{
    int mine = st == ST_OK, all = mine;

    if (comm != MPI_COMM_NULL)
        MPI_Allreduce(&mine, &all, 1, MPI_INT, MPI_MIN, comm);
    return st != ST_OK || all ? st : fail(ST_DEVICE, "another rank's GPU could not be set up");
}

/* ---- what the host asks while it waits ---- */

/* A stream that has come to an exchange, and is still in it after the deadline, waits for a peer
 * that will not come. */
static status waiting(void *payload)
{
    struct cuda_comm *c = payload;
    const struct group *g = c->g;
    const uint32_t begun = *c->begun, ended = *c->ended;
    const double now = mpi_seconds();

    if (c->mover->ask != NULL)
        TRY(c->mover->ask(c));
    if (begun == ended || ended != c->stuck_at || c->stuck_since == 0) {
        c->stuck_at = ended;
        c->stuck_since = now;
        return ST_OK;
    }
    if (now - c->stuck_since < g->deadline_s)
        return ST_OK;
    return fail(
        ST_PEER,
        "rank %d of group %s (%d ranks) waited %.0f s for the others in exchange %u between "
        "GPUs: see what became of them, or allow more time",
        g->rank, g->name, g->size, g->deadline_s, (unsigned)ended);
}

static void freeing(void *payload, void *p)
{
    struct cuda_comm *c = payload;

    if (c->mover->forget != NULL)
        c->mover->forget(c, p);
}

/* ---- opening ---- */

static status open_local(struct cuda_comm *c, struct group *g)
{
    int least, most;
    void *pinned;

    TRY(driver_find(&c->driver));
    TRY(cuda_st(cudaDeviceGetStreamPriorityRange(&least, &most), "streams"));
    TRY(cuda_st(cudaStreamCreateWithPriority(&c->stream, cudaStreamNonBlocking, most), "streams"));
    TRY(cuda_st(cudaEventCreateWithFlags(&c->start, cudaEventDisableTiming), "events"));
    for (int i = 0; i < GROUP_IN_FLIGHT; i++)
        TRY(cuda_st(cudaEventCreateWithFlags(&c->done[i], cudaEventDisableTiming), "events"));
    TRY(device_host_alloc(g->dev, &pinned, 2 * sizeof(uint32_t)));
    memset(pinned, 0, 2 * sizeof(uint32_t));
    c->begun = pinned;
    c->ended = c->begun + 1;
    return ST_OK;
}

/* Whether the whole group is on one node. */
static bool one_node(const struct cuda_comm *c)
{
    MPI_Comm node;
    int size;

    MPI_Comm_split_type(c->comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node);
    MPI_Comm_size(node, &size);
    MPI_Comm_free(&node);
    return all_of(c->comm, size == c->g->size ? ST_OK : ST_PEER) == ST_OK;
}

static status open_mover(struct cuda_comm *c, const struct mover *mover)
{
    status st;

    c->mover = mover;
    st = mover->open(c);
    if (st != ST_OK) {
        mover->close(c);
        c->mover = NULL;
    }
    return st;
}

static status cuda_open(struct group *g, struct world *w, int color)
{
    struct cuda_comm *c;
    MPI_Comm comm = MPI_COMM_NULL;
    status st;

    if (!w->described) {
        MPI_Comm_split(world_comm(w), color < 0 ? MPI_UNDEFINED : color, w->rank, &comm);
        if (comm != MPI_COMM_NULL) {
            MPI_Comm_rank(comm, &g->rank);
            MPI_Comm_size(comm, &g->size);
        }
    }
    if (g->size == 0)
        return ST_OK;
    g->impl = c = calloc(1, sizeof(*c));
    st = c == NULL ? fail(ST_MEMORY, "no host memory for group %s", g->name) : ST_OK;
    if (c != NULL) {
        c->g = g;
        c->comm = comm;
        st = open_local(c, g);
    }
    TRY(all_of(comm, st)); // without a c the communicator is lost, but so is the job
    if (g->size == 1)
        return ST_OK;
    if (!one_node(c) || w->nccl || open_mover(c, &mover_peer) != ST_OK)
        TRY(open_mover(c, &mover_nccl));
    c->watch = (struct device_watch){ .waiting = waiting, .freeing = freeing, .payload = c };
    device_watch_add(g->dev, &c->watch);
    return ST_OK;
}

static void cuda_close(struct group *g)
{
    struct cuda_comm *c = g->impl;

    if (c == NULL)
        return;
    if (c->mover != NULL) {
        c->mover->close(c);
        device_watch_remove(g->dev, &c->watch);
    }
    for (int i = 0; i < GROUP_IN_FLIGHT; i++)
        if (c->done[i] != NULL)
            cudaEventDestroy(c->done[i]);
    if (c->start != NULL)
        cudaEventDestroy(c->start);
    if (c->stream != NULL)
        cudaStreamDestroy(c->stream);
    device_host_free(g->dev, (void *)c->begun);
    if (c->comm != MPI_COMM_NULL)
        MPI_Comm_free(&c->comm);
    free(c);
    g->impl = NULL;
}

/* ---- exchanges ---- */

static struct tensor pieces_of(const struct message *m)
{
    struct tensor t = tensor_of(m->data, DT_U8, m->count, (int64_t)m->bytes);

    t.stride[0] = (int64_t)m->pitch;
    return t;
}

static status cuda_start(struct group *g, int slot, const struct exchange *e)
{
    struct cuda_comm *c = g->impl;
    const bool others = e->sends + e->recvs > 0;

    TRY(cuda_st(cudaEventRecord(c->start, g->dev->stream), "event"));
    TRY(cuda_st(cudaStreamWaitEvent(c->stream, c->start, 0), "event"));
    if (others) {
        c->started++;
        TRY(stream_write(c, c->begun, c->started));
        TRY(c->mover->move(c, e));
    }
    for (int i = 0; i < e->recvs; i++)
        device_cuda_written(c->stream, pieces_of(&e->recv[i]));
    if (e->own_from.bytes > 0)
        TRY(stream_copy(c, e->own_to.data, &e->own_to, &e->own_from));
    TRY(cuda_st(cudaEventRecord(c->done[slot], c->stream), "event"));
    return others ? stream_write(c, c->ended, c->started) : ST_OK;
}

static status cuda_wait(struct group *g, int slot)
{
    struct cuda_comm *c = g->impl;

    return cuda_st(cudaStreamWaitEvent(g->dev->stream, c->done[slot], 0), "event");
}

const struct comm_table comm_cuda = {
    .name = "cuda",
    .open = cuda_open,
    .close = cuda_close,
    .start = cuda_start,
    .wait = cuda_wait,
};
