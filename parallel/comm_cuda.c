#include "parallel/comm_cuda.h"

#include "parallel/mpi_wait.h"
#include "parallel/watch.h"
#include "runtime/alive.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static status find_function(const char *name, void **function)
{
    enum cudaDriverEntryPointQueryResult found;

    TRY(cuda_status(
        cudaGetDriverEntryPointByVersion(name, function, 12000, cudaEnableDefault, &found), "%s",
        name));
    return found == cudaDriverEntryPointSuccess
               ? ST_OK
               : fail(ST_DEVICE, "the CUDA driver has no %s: update the driver", name);
}

static status find_driver(struct driver *d)
{
    TRY(find_function("cuStreamWriteValue32", (void **)&d->write));
    TRY(find_function("cuStreamWaitValue32", (void **)&d->wait));
    return find_function("cuMemGetAddressRange", (void **)&d->address_range);
}

static status driver_st(CUresult e, const char *what)
{
    return e == CUDA_SUCCESS ? ST_OK : fail(ST_DEVICE, "%s: CUDA driver error %d", what, (int)e);
}

status stream_write(struct cuda_comm *c, cudaStream_t stream, volatile uint32_t *flag,
                    uint32_t value)
{
    return driver_st(c->driver.write(stream, (CUdeviceptr)flag, value, 0), "writing a flag");
}

status stream_wait(struct cuda_comm *c, cudaStream_t stream, volatile uint32_t *flag,
                   uint32_t value)
{
    return driver_st(c->driver.wait(stream, (CUdeviceptr)flag, value, CU_STREAM_WAIT_VALUE_GEQ),
                     "waiting for a flag");
}

status stream_copy(struct cuda_comm *c, void *dst, const struct message *to,
                   const struct message *from)
{
    if (from->count == 1)
        return cuda_status(
            cudaMemcpyAsync(dst, from->data, from->bytes, cudaMemcpyDeviceToDevice, c->stream),
            "copying between GPUs");
    return cuda_status(cudaMemcpy2DAsync(dst, to->pitch, from->data, from->pitch, from->bytes,
                                         (size_t)from->count, cudaMemcpyDeviceToDevice, c->stream),
                       "copying between GPUs");
}

status comm_agree(MPI_Comm comm, status st)
{
    int mine = st == ST_OK, all = mine;

    if (comm != MPI_COMM_NULL)
        MPI_Allreduce(&mine, &all, 1, MPI_INT, MPI_MIN, comm);
    return st != ST_OK || all ? st : fail(ST_DEVICE, "setup failed on another rank's GPU");
}

/* ---- callbacks of the device (struct device_watch) ---- */

/* While the host waits for the device. A transfer that has ended is a sign of life. */
static status check_peers(void *payload)
{
    struct cuda_comm *c = payload;

    if (c->transport->check_error != NULL)
        TRY(c->transport->check_error(c));
    if (*c->progress.ended != c->progress.seen) {
        c->progress.seen = *c->progress.ended;
        alive();
    }
    return watch_wait("the GPU");
}

static void before_free(void *payload, void *p)
{
    struct cuda_comm *c = payload;

    if (c->transport->before_free != NULL)
        c->transport->before_free(c, p);
}

/* ---- opening ---- */

static status open_local(struct cuda_comm *c, struct group *g)
{
    int least, most;
    void *pinned;

    TRY(find_driver(&c->driver));
    TRY(cuda_status(cudaDeviceGetStreamPriorityRange(&least, &most), "streams"));
    TRY(cuda_status(cudaStreamCreateWithPriority(&c->stream, cudaStreamNonBlocking, most),
                    "streams"));
    TRY(cuda_status(cudaStreamCreateWithPriority(&c->ready, cudaStreamNonBlocking, most),
                    "streams"));
    TRY(cuda_status(cudaEventCreateWithFlags(&c->start, cudaEventDisableTiming), "events"));
    for (int i = 0; i < GROUP_IN_FLIGHT; i++)
        TRY(cuda_status(cudaEventCreateWithFlags(&c->done[i], cudaEventDisableTiming), "events"));
    c->put_slot = -1;
    TRY(device_host_alloc(g->dev, &pinned, sizeof(uint32_t)));
    memset(pinned, 0, sizeof(uint32_t));
    c->progress.ended = pinned;
    return ST_OK;
}

/* Whether all ranks of the group are on one node. */
static bool one_node(const struct group *g)
{
    for (int i = 0; i < g->size; i++)
        if (!g->on_node[i])
            return false;
    return true;
}

static status open_transport(struct cuda_comm *c, const struct transport *transport)
{
    status st;

    c->transport = transport;
    st = transport->open(c);
    if (st != ST_OK) {
        transport->close(c);
        c->transport = NULL;
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
    if (comm != MPI_COMM_NULL)
        g->on_node = world_on_node(w, comm);
    st = c == NULL || g->on_node == NULL ? fail(ST_MEMORY, "no host memory for group %s", g->name)
                                         : ST_OK;
    if (c != NULL) {
        c->g = g;
        c->comm = comm;
        st = st == ST_OK ? open_local(c, g) : st;
    }
    TRY(comm_agree(comm, st)); // without c the communicator is not freed, but then the job ends
    if (g->size == 1)
        return ST_OK;
    if (!one_node(g) || w->nccl) {
        TRY(open_transport(c, &transport_nccl));
    } else if (open_transport(c, &transport_peer) != ST_OK) {
        g->fallback = true;
        TRY(open_transport(c, &transport_nccl));
    }
    g->direct = c->transport->put != NULL;
    c->watch =
        (struct device_watch){ .waiting = check_peers, .freeing = before_free, .payload = c };
    device_watch_add(g->dev, &c->watch);
    return ST_OK;
}

static void cuda_close(struct group *g)
{
    struct cuda_comm *c = g->impl;

    if (c == NULL || g->dev->abandoned)
        return;
    if (c->transport != NULL) {
        c->transport->close(c);
        device_watch_remove(g->dev, &c->watch);
    }
    for (int i = 0; i < GROUP_IN_FLIGHT; i++)
        if (c->done[i] != NULL)
            cudaEventDestroy(c->done[i]);
    if (c->start != NULL)
        cudaEventDestroy(c->start);
    if (c->stream != NULL)
        cudaStreamDestroy(c->stream);
    if (c->ready != NULL)
        cudaStreamDestroy(c->ready);
    device_host_free(g->dev, (void *)c->progress.ended);
    if (c->comm != MPI_COMM_NULL)
        MPI_Comm_free(&c->comm);
    free(c);
    g->impl = NULL;
}

/* ---- collectives ---- */

static struct tensor tensor_of_message(const struct message *m)
{
    struct tensor t = tensor_of(m->data, DT_U8, m->count, (int64_t)m->bytes);

    t.stride[0] = (int64_t)m->pitch;
    return t;
}

/* Without peers there is only the local copy. */
static status enqueue(struct cuda_comm *c, int slot, const struct comm_op *op)
{
    if (c->transport == NULL)
        return op->local_src.bytes == 0
                   ? ST_OK
                   : stream_copy(c, op->local_dst.data, &op->local_dst, &op->local_src);
    return c->transport->enqueue(c, slot, op);
}

static status cuda_start(struct group *g, int slot, const struct comm_op *op)
{
    struct cuda_comm *c = g->impl;

    TRY(cuda_status(cudaEventRecord(c->start, g->dev->stream), "event"));
    TRY(cuda_status(cudaStreamWaitEvent(c->stream, c->start, 0), "event"));
    TRY(cuda_status(cudaStreamWaitEvent(c->ready, c->start, 0), "event"));
    TRY(enqueue(c, slot, op));
    for (int i = 0; i < op->recvs; i++)
        device_cuda_written(c->stream, tensor_of_message(&op->recv[i]));
    return cuda_status(cudaEventRecord(c->done[slot], c->stream), "event");
}

static status cuda_wait(struct group *g, int slot)
{
    struct cuda_comm *c = g->impl;

    if (slot == c->put_slot) {
        c->put_slot = -1;
        TRY(c->transport->put_wait(c));
    } else {
        TRY(cuda_status(cudaStreamWaitEvent(g->dev->stream, c->done[slot], 0), "event"));
        if (c->transport != NULL && c->transport->wait != NULL)
            TRY(c->transport->wait(c, slot));
    }
    c->progress.waited++;
    return c->transport == NULL
               ? ST_OK
               : stream_write(c, g->dev->stream, c->progress.ended, c->progress.waited);
}

static bool cuda_arrival(const struct group *g, int slot, int peer, struct arrival *a)
{
    const struct cuda_comm *c = g->impl;

    return c->transport != NULL && c->transport->arrival != NULL &&
           c->transport->arrival(c, slot, peer, a);
}

static status cuda_put(struct group *g, int slot, const struct comm_op *op, struct message *send)
{
    struct cuda_comm *c = g->impl;

    assert(c->put_slot < 0);
    c->put_slot = slot;
    TRY(c->transport->put(c, op, send));
    for (int i = 0; i < op->recvs; i++)
        device_cuda_written(g->dev->stream, tensor_of_message(&op->recv[i]));
    return ST_OK;
}

static status cuda_put_complete(struct group *g, int slot)
{
    struct cuda_comm *c = g->impl;

    assert(c->put_slot == slot);
    return c->transport->put_complete(c);
}

const struct comm_table comm_cuda = {
    .name = "cuda",
    .open = cuda_open,
    .close = cuda_close,
    .start = cuda_start,
    .wait = cuda_wait,
    .arrival = cuda_arrival,
    .put = cuda_put,
    .put_complete = cuda_put_complete,
};
