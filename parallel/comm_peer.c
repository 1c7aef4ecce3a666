/* Messages between GPUs of one node: the sender's copy engine writes into the receiver's memory.
 *
 * When a collective is queued, the receiving host writes the destination of each message to a
 * mailbox in shared memory, where the sending host reads it. The GPUs synchronize through flags in
 * device memory, which one stream writes and the other stream waits for:
 *
 *     *     receiver's streams                       sender's streams
 *     earlier work that uses the buffer        earlier work that writes the data
 *     flag `ready` at the sender = n  ------>  wait for ready >= n
 *                                              copy into the receiver's memory
 *     wait for arrived >= n           <------  flag `arrived` at the receiver = n
 *
 * n counts the messages from one rank to another; `arrived` counts their rows where each row
 * arrives by itself, and is waited for by the device's stream in transfer_wait or by a kernel. The
 * group has one stream for copies and one for `ready`, so that neither waits for messages to this
 * rank.
 *
 * A put has the same flags of its own, on the device's streams: what the sender's kernel writes
 * between `ready` and `arrived` takes the place of the copy. Both kinds of message share the
 * mailboxes. An entry of a mailbox is reused DEPTH messages later, after the sender has read it. A
 * device allocation is exported to the peers (CUDA IPC) when it first receives a message, and
 * withdrawn before it is freed. */
#include "parallel/comm_cuda.h"

#include "parallel/mpi_wait.h"
#include "parallel/watch.h"
#include "runtime/clock.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define DEPTH 64
#define EXPORTS_MAX 32               // allocations of a rank that peers may write into
#define FLAG_BYTES ((size_t)2 << 20) // one page of device memory, so that IPC exports nothing else

/* The destination of message n from one rank to another. */
struct destination {
    _Atomic uint32_t number; // n, written after the other fields
    int index;               // of the allocation in `exported`
    size_t offset, pitch;
};

/* An allocation that peers may write into. */
struct exported {
    cudaIpcMemHandle_t handle;
    _Atomic uint32_t generation; // number of allocations exported in this entry so far; 0: none
    _Atomic uint32_t closing;    // == generation: peers must unmap it
    _Atomic int users;           // peers that have it mapped
};

/* In shared memory, one per rank: written by that rank, except `read` and `users`. */
struct shared_state {
    char bus[32]; // PCI address of its GPU
    cudaIpcMemHandle_t flags;
    struct exported exported[EXPORTS_MAX];
    struct mailbox {
        struct destination destination[DEPTH];
        _Atomic uint32_t read; // messages whose destination the sender has read
    } from[];                  // [size]: for messages from each rank
};

/* An exported allocation of this rank. */
struct local_memory {
    char *base; // NULL: unused entry
    size_t bytes;
};

/* Where a message goes. */
struct target {
    struct message to; // with data and pitch of the receiver
    uint32_t ready;    // the flag READY when it may be sent
};

/* The messages of a peer in a transfer, as `arrived` counts them. */
struct received {
    uint32_t before, after;
};

/* A peer's allocation, mapped in this process. */
struct mapped_memory {
    char *base; // NULL: not mapped
    uint32_t generation;
};

struct peer_comm {
    struct watch_call unmapping;
    MPI_Win window;
    struct shared_state **shared; // [size]
    struct local_memory local[EXPORTS_MAX];
    struct mapped_memory (*mapped)[EXPORTS_MAX]; // [size]
    struct target *target;                       // [2 * size] of the messages being started
    struct received *slot;                       // [GROUP_IN_FLIGHT][size]
    /* Another rank uses this rank's GPU. Copies to it take multiprocessors, which a kernel that
     * waits for a message would keep from them. */
    bool shares_gpu;
    uint32_t *flags;       // device memory [FLAGS][size]
    uint32_t **peer_flags; // [size] the peers' flags, NULL: not mapped
    struct counts {
        uint32_t sent, received;           // messages, puts included
        uint32_t rows_sent, rows_received; // arrivals of collectives
        uint32_t put_sent, put_received;   // puts started
        uint32_t put_complete, put_waited; // and those that are complete, on the stream
    } * count;                             // [size] so far
};

enum flag { READY, ARRIVED, PUT_READY, PUT_ARRIVED, FLAGS };

/* The flag at rank `at` for messages between `at` and `from`. */
static volatile uint32_t *flag_of(const struct cuda_comm *c, enum flag which, int at, int from)
{
    const struct peer_comm *p = c->impl;

    return (at == c->g->rank ? p->flags : p->peer_flags[at]) + (int)which * c->g->size + from;
}

/* ---- opening ---- */

static size_t shared_bytes(const struct group *g)
{
    const size_t bytes = sizeof(struct shared_state) + (size_t)g->size * sizeof(struct mailbox);

    return (bytes + 4095) / 4096 * 4096;
}

static status open_local(struct cuda_comm *c)
{
    const struct group *g = c->g;
    const size_t size = (size_t)g->size;
    struct peer_comm *p = calloc(1, sizeof(*p));
    void *flags;

    c->impl = p;
    if (p == NULL)
        return fail(ST_MEMORY, "no host memory for %d peers", g->size);
    p->window = MPI_WIN_NULL;
    p->shared = calloc(size, sizeof(*p->shared));
    p->mapped = calloc(size, sizeof(*p->mapped));
    p->peer_flags = calloc(size, sizeof(*p->peer_flags));
    p->count = calloc(size, sizeof(*p->count));
    p->target = calloc(2 * size, sizeof(*p->target));
    p->slot = calloc(GROUP_IN_FLIGHT * size, sizeof(*p->slot));
    if (p->shared == NULL || p->mapped == NULL || p->peer_flags == NULL || p->count == NULL ||
        p->target == NULL || p->slot == NULL)
        return fail(ST_MEMORY, "no host memory for %d peers", g->size);
    TRY(cuda_status(cudaMalloc(&flags, FLAG_BYTES), "flags"));
    p->flags = flags;
    TRY(cuda_status(cudaMemsetAsync(flags, 0, FLAG_BYTES, c->stream), "flags"));
    return cuda_status(cudaStreamSynchronize(c->stream), "flags");
}

static status open_shared(struct cuda_comm *c)
{
    const struct group *g = c->g;
    struct peer_comm *p = c->impl;
    void *segment;

    MPI_Win_allocate_shared((MPI_Aint)shared_bytes(g), 1, MPI_INFO_NULL, c->comm, &segment,
                            &p->window);
    memset(segment, 0, shared_bytes(g));
    for (int i = 0; i < g->size; i++) {
        MPI_Aint bytes;
        int unit;

        MPI_Win_shared_query(p->window, i, &bytes, &unit, &p->shared[i]);
    }
    TRY(device_cuda_bus(g->dev->index, p->shared[g->rank]->bus, sizeof(p->shared[0]->bus)));
    return cuda_status(cudaIpcGetMemHandle(&p->shared[g->rank]->flags, p->flags),
                       "exporting memory to peers");
}

static status open_flags(struct cuda_comm *c)
{
    struct peer_comm *p = c->impl;

    for (int i = 0; i < c->g->size; i++)
        if (i != c->g->rank) {
            p->shares_gpu |= strcmp(p->shared[i]->bus, p->shared[c->g->rank]->bus) == 0;
            TRY(cuda_status(cudaIpcOpenMemHandle((void **)&p->peer_flags[i], p->shared[i]->flags,
                                                 cudaIpcMemLazyEnablePeerAccess),
                            "mapping a peer's memory"));
        }
    return ST_OK;
}

/* ---- allocations ---- */

/* Unmaps allocation i of a peer, if it is mapped. */
static void unmap(struct peer_comm *p, int rank, int i)
{
    struct mapped_memory *t = &p->mapped[rank][i];

    if (t->base == NULL)
        return;
    cudaIpcCloseMemHandle(t->base);
    t->base = NULL;
    atomic_fetch_sub(&p->shared[rank]->exported[i].users, 1);
}

/* Unmaps what peers are about to free. The peer's stream has waited for our copies into it. */
static void unmap_closing(void *payload)
{
    struct cuda_comm *c = payload;
    struct peer_comm *p = c->impl;

    for (int r = 0; r < c->g->size; r++)
        for (int i = 0; i < EXPORTS_MAX && r != c->g->rank; i++)
            if (p->mapped[r][i].base != NULL &&
                atomic_load(&p->shared[r]->exported[i].closing) == p->mapped[r][i].generation)
                unmap(p, r, i);
}

static status peer_open(struct cuda_comm *c)
{
    struct peer_comm *p;

    TRY(comm_agree(c->comm, open_local(c)));
    TRY(comm_agree(c->comm, open_shared(c)));
    TRY(comm_agree(c->comm, open_flags(c)));
    p = c->impl;
    p->unmapping = (struct watch_call){ .call = unmap_closing, .payload = c };
    watch_add(&p->unmapping);
    return ST_OK;
}

static void short_sleep(void)
{
    nanosleep(&(struct timespec){ .tv_nsec = 20000 }, NULL);
}

/* Waits until no peer has allocation i mapped. Peers unmap it when they free memory themselves,
 * start their next collective, or wait for anything. */
static void withdraw(struct cuda_comm *c, int i)
{
    struct peer_comm *p = c->impl;
    struct exported *s = &p->shared[c->g->rank]->exported[i];

    cudaStreamSynchronize(c->g->dev->stream); // messages into it have arrived
    atomic_store(&s->closing, atomic_load(&s->generation));
    while (atomic_load(&s->users) > 0) {
        if (watch_wait("peers to unmap memory") != ST_OK) {
            c->g->dev->abandoned = true; // this memory is not freed either
            return;
        }
        unmap_closing(c);
        short_sleep();
    }
    p->local[i] = (struct local_memory){ 0 };
}

static void peer_before_free(struct cuda_comm *c, void *memory)
{
    struct peer_comm *p = c->impl;

    for (int i = 0; i < EXPORTS_MAX; i++)
        if (p->local[i].base == memory)
            withdraw(c, i);
    unmap_closing(c);
}

/* The index of this rank's allocation that contains `data`; exports it if it is new. */
static status find_local(struct cuda_comm *c, const char *data, int *index)
{
    struct peer_comm *p = c->impl;
    int unused = -1;

    for (int i = 0; i < EXPORTS_MAX; i++) {
        if (p->local[i].base != NULL && data >= p->local[i].base &&
            data < p->local[i].base + p->local[i].bytes) {
            *index = i;
            return ST_OK;
        }
        if (p->local[i].base == NULL && unused < 0)
            unused = i;
    }

    struct exported *s = unused < 0 ? NULL : &p->shared[c->g->rank]->exported[unused];
    CUdeviceptr base;
    size_t bytes;

    if (s == NULL)
        return fail(ST_DEVICE, "group %s receives into more than %d allocations", c->g->name,
                    EXPORTS_MAX);
    if (c->driver.address_range(&base, &bytes, (CUdeviceptr)data) != CUDA_SUCCESS)
        return fail(ST_DEVICE, "a buffer of group %s is not in GPU memory", c->g->name);
    TRY(cuda_status(cudaIpcGetMemHandle(&s->handle, (void *)base), "exporting memory to peers"));
    p->local[unused] = (struct local_memory){ (char *)base, bytes };
    atomic_fetch_add(&s->generation, 1);
    *index = unused;
    return ST_OK;
}

/* The address of a peer's allocation in this process; maps it if needed. */
static status find_mapped(struct cuda_comm *c, int rank, int i, char **base)
{
    struct peer_comm *p = c->impl;
    struct exported *s = &p->shared[rank]->exported[i];
    struct mapped_memory *t = &p->mapped[rank][i];
    const uint32_t generation = atomic_load(&s->generation);
    void *opened;

    if (t->base != NULL && t->generation != generation) // an earlier allocation, already freed
        unmap(p, rank, i);
    if (t->base == NULL) {
        atomic_fetch_add(&s->users, 1);
        TRY(cuda_status(cudaIpcOpenMemHandle(&opened, s->handle, cudaIpcMemLazyEnablePeerAccess),
                        "mapping a peer's memory"));
        *t = (struct mapped_memory){ opened, generation };
    }
    *base = t->base;
    return ST_OK;
}

/* Peers must unmap our memory before it is freed. */
static void wait_for_peers(struct cuda_comm *c)
{
    MPI_Request request;

    MPI_Ibarrier(c->comm, &request);
    mpi_wait(&request, 1, "peers to unmap memory");
}

static void peer_close(struct cuda_comm *c)
{
    struct peer_comm *p = c->impl;

    if (p == NULL) { // no host memory; the other ranks close what they have opened
        wait_for_peers(c);
        return;
    }
    watch_remove(&p->unmapping);
    cudaStreamSynchronize(c->stream);
    for (int r = 0; p->mapped != NULL && r < c->g->size; r++)
        for (int i = 0; i < EXPORTS_MAX; i++)
            unmap(p, r, i);
    for (int r = 0; p->peer_flags != NULL && r < c->g->size; r++)
        if (p->peer_flags[r] != NULL)
            cudaIpcCloseMemHandle(p->peer_flags[r]);
    wait_for_peers(c);
    cudaFree(p->flags);
    if (p->window != MPI_WIN_NULL)
        MPI_Win_free(&p->window);
    free(p->shared);
    free(p->mapped);
    free(p->peer_flags);
    free(p->count);
    free(p->target);
    free(p->slot);
    free(p);
    c->impl = NULL;
}

/* ---- messages ---- */

/* Waits until a peer's host has set *at >= number. It queues the same collectives as this host. */
static status wait_host(_Atomic uint32_t *at, uint32_t number)
{
    const double spin_s = 50e-6;
    double start = 0;

    while ((int32_t)(atomic_load_explicit(at, memory_order_acquire) - number) < 0) {
        const double now = clock_seconds();

        start = start == 0 ? now : start;
        TRY(watch_wait("a peer's host"));
        if (now - start > spin_s)
            short_sleep();
    }
    return ST_OK;
}

/* Gives the destination of a message to the sender. */
static status offer(struct cuda_comm *c, const struct message *m)
{
    struct peer_comm *p = c->impl;
    struct mailbox *box = &p->shared[c->g->rank]->from[m->peer];
    const uint32_t n = ++p->count[m->peer].received;
    struct destination *to = &box->destination[n % DEPTH];

    TRY(wait_host(&box->read, n - DEPTH));
    TRY(find_local(c, m->data, &to->index));
    to->offset = (size_t)((char *)m->data - p->local[to->index].base);
    to->pitch = m->pitch;
    atomic_store_explicit(&to->number, n, memory_order_release);
    return ST_OK;
}

/* Waits for the destination of a message: sets its data and pitch. *number: of the message. */
static status destination_of(struct cuda_comm *c, struct message *m, uint32_t *number)
{
    struct peer_comm *p = c->impl;
    struct mailbox *box = &p->shared[m->peer]->from[c->g->rank];
    const uint32_t n = *number = ++p->count[m->peer].sent;
    struct destination *to = &box->destination[n % DEPTH];
    char *base;

    TRY(wait_host(&to->number, n));
    TRY(find_mapped(c, m->peer, to->index, &base));
    m->data = base + to->offset;
    m->pitch = to->pitch;
    atomic_store_explicit(&box->read, n, memory_order_release);
    return ST_OK;
}

/* Queues a copy to a peer, and the flag that it has arrived. */
static status copy_and_tell(struct cuda_comm *c, const struct message *to,
                            const struct message *from)
{
    struct peer_comm *p = c->impl;
    const uint32_t n = ++p->count[from->peer].rows_sent;

    TRY(stream_copy(c, to->data, to, from));
    return stream_write(c, c->stream, flag_of(c, ARRIVED, from->peer, c->g->rank), n);
}

static struct message row_of(struct message m, int64_t row)
{
    return (struct message){ m.peer, (char *)m.data + (size_t)row * m.pitch, m.bytes, 1, m.bytes };
}

static int64_t arrivals(const struct comm_op *op, const struct message *m)
{
    return op->by_row ? m->count : 1;
}

/* Queues row `row` of a message, or all of it. */
static status enqueue_send(struct cuda_comm *c, const struct comm_op *op, const struct message *to,
                           const struct message *from, int64_t row)
{
    if (row >= arrivals(op, from))
        return ST_OK;
    if (!op->by_row)
        return copy_and_tell(c, to, from);

    const struct message to_row = row_of(*to, row), from_row = row_of(*from, row);

    return copy_and_tell(c, &to_row, &from_row);
}

static status enqueue_recv(struct cuda_comm *c, const struct comm_op *op, const struct message *m)
{
    struct counts *count = &((struct peer_comm *)c->impl)->count[m->peer];

    TRY(offer(c, m));
    count->rows_received += (uint32_t)arrivals(op, m);
    return stream_write(c, c->ready, flag_of(c, READY, m->peer, c->g->rank), count->received);
}

static status peer_enqueue(struct cuda_comm *c, int slot, const struct comm_op *op)
{
    struct peer_comm *p = c->impl;
    struct received *received = p->slot + slot * c->g->size;
    int64_t rows = 0;

    unmap_closing(c);
    for (int i = 0; i < c->g->size; i++)
        received[i].before = received[i].after = p->count[i].rows_received;
    for (int i = 0; i < op->recvs; i++) {
        TRY(enqueue_recv(c, op, &op->recv[i]));
        received[op->recv[i].peer].after = p->count[op->recv[i].peer].rows_received;
    }
    for (int i = 0; i < op->sends; i++) {
        p->target[i].to = op->send[i];
        TRY(destination_of(c, &p->target[i].to, &p->target[i].ready));
        rows = arrivals(op, &op->send[i]) > rows ? arrivals(op, &op->send[i]) : rows;
    }
    for (int64_t row = 0; row < rows; row++) {
        for (int i = 0; i < op->sends; i++) {
            const int peer = op->send[i].peer;

            if (row == 0)
                TRY(stream_wait(c, c->stream, flag_of(c, READY, c->g->rank, peer),
                                p->target[i].ready));
            TRY(enqueue_send(c, op, &p->target[i].to, &op->send[i], row));
        }
    }
    return op->local_src.bytes == 0 // last: it may have to wait for multiprocessors
               ? ST_OK
               : stream_copy(c, op->local_dst.data, &op->local_dst, &op->local_src);
}

static status peer_wait(struct cuda_comm *c, int slot)
{
    const struct peer_comm *p = c->impl;
    const struct received *received = p->slot + slot * c->g->size;

    for (int i = 0; i < c->g->size; i++)
        if (received[i].after != received[i].before)
            TRY(stream_wait(c, c->g->dev->stream, flag_of(c, ARRIVED, c->g->rank, i),
                            received[i].after));
    return ST_OK;
}

static bool peer_arrival(const struct cuda_comm *c, int slot, int peer, struct arrival *a)
{
    const struct peer_comm *p = c->impl;
    const struct received *received = &p->slot[slot * c->g->size + peer];

    if (p->shares_gpu || received->after == received->before)
        return false;
    *a = (struct arrival){ flag_of(c, ARRIVED, c->g->rank, peer), received->before + 1 };
    return true;
}

/* ---- puts, on the device's stream ---- */

static status peer_put(struct cuda_comm *c, const struct comm_op *op, struct message *send)
{
    struct peer_comm *p = c->impl;
    const int rank = c->g->rank;
    cudaStream_t stream = c->g->dev->stream;

    unmap_closing(c);
    for (int i = 0; i < op->recvs; i++) {
        const int peer = op->recv[i].peer;

        TRY(offer(c, &op->recv[i]));
        TRY(stream_write(c, stream, flag_of(c, PUT_READY, peer, rank),
                         ++p->count[peer].put_received));
    }
    for (int i = 0; i < op->sends; i++) {
        const int peer = send[i].peer;
        uint32_t number;

        TRY(destination_of(c, &send[i], &number));
        TRY(stream_wait(c, stream, flag_of(c, PUT_READY, rank, peer), ++p->count[peer].put_sent));
    }
    return ST_OK;
}

static status peer_put_complete(struct cuda_comm *c)
{
    struct peer_comm *p = c->impl;

    for (int i = 0; i < c->g->size; i++)
        if (p->count[i].put_complete != p->count[i].put_sent) {
            p->count[i].put_complete = p->count[i].put_sent;
            TRY(stream_write(c, c->g->dev->stream, flag_of(c, PUT_ARRIVED, i, c->g->rank),
                             p->count[i].put_sent));
        }
    return ST_OK;
}

static status peer_put_wait(struct cuda_comm *c)
{
    struct peer_comm *p = c->impl;

    for (int i = 0; i < c->g->size; i++)
        if (p->count[i].put_waited != p->count[i].put_received) {
            p->count[i].put_waited = p->count[i].put_received;
            TRY(stream_wait(c, c->g->dev->stream, flag_of(c, PUT_ARRIVED, c->g->rank, i),
                            p->count[i].put_received));
        }
    return ST_OK;
}

const struct transport transport_peer = { .name = "peer",
                                          .open = peer_open,
                                          .close = peer_close,
                                          .enqueue = peer_enqueue,
                                          .wait = peer_wait,
                                          .arrival = peer_arrival,
                                          .put = peer_put,
                                          .put_complete = peer_put_complete,
                                          .put_wait = peer_put_wait,
                                          .before_free = peer_before_free };
