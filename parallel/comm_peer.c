/* Messages between GPUs of one node: the sender's copy engine writes into the receiver's memory.
 *
 * Hosts tell each other where messages go, through a board of shared memory, when the exchange is
 * queued; the GPUs tell each other when, through flags in device memory that one writes and the
 * other's stream waits for:
 *
 *     receiver's stream                        sender's stream
 *     what used the buffer before              what fills the message
 *     flag `ready` at the sender = n  ------>  wait for ready >= n
 *     wait for arrived >= n                    copy into the receiver's memory
 *                                     <------  flag `arrived` at the receiver = n
 *
 * n counts the messages from one rank to another. A place on the board is used again DEPTH messages
 * later, once the sender has read it. A device allocation is shown to the peers when the first
 * message goes into it, and taken back before it is freed. */
#include "parallel/comm_cuda.h"

#include "parallel/mpi_wait.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define DEPTH 64
#define SHOWN 32                     // allocations of a rank that peers may write into
#define FLAG_BYTES ((size_t)2 << 20) // an allocation that shares its pages with no other
#define CLOSE_S 5.0                  // for peers to let go of memory that is to be freed

/* Where message n of a pair of ranks goes. */
struct place {
    _Atomic uint32_t number; // n, when the rest is there
    int shown;
    size_t offset, pitch;
};

/* An allocation that peers may write into. */
struct shown {
    cudaIpcMemHandle_t handle;
    _Atomic uint32_t made;    // counts the allocations that were shown here; 0: none yet
    _Atomic uint32_t closing; // == made: not to be used any more
    _Atomic int users;        // peers that have it open
};

/* What one rank tells the others; in shared memory. */
struct board {
    cudaIpcMemHandle_t flags;
    struct shown shown[SHOWN];
    struct pair {
        struct place place[DEPTH];
        _Atomic uint32_t taken; // messages whose place the sender has read
    } from[];                   // [size]
};

/* Of this rank's own allocations, and of a peer's as opened here. */
struct mine {
    char *base; // NULL: free
    size_t bytes;
};

struct theirs {
    char *base; // NULL: not open
    uint32_t made;
};

struct peer_comm {
    MPI_Win window;
    struct board **board; // [size]
    struct mine mine[SHOWN];
    struct theirs (*theirs)[SHOWN]; // [size]
    uint32_t *flags;                // device memory [2][size]: ready, arrived
    uint32_t **peer_flags;          // [size] the same of the others, NULL: not open
    uint32_t *sent, *received;      // [size] messages so far
};

static volatile uint32_t *ready_flag(const struct cuda_comm *c, int at, int from)
{
    const struct peer_comm *p = c->impl;

    return (at == c->g->rank ? p->flags : p->peer_flags[at]) + from;
}

static volatile uint32_t *arrived_flag(const struct cuda_comm *c, int at, int from)
{
    return ready_flag(c, at, from) + c->g->size;
}

/* ---- opening ---- */

static size_t board_bytes(const struct group *g)
{
    const size_t bytes = sizeof(struct board) + (size_t)g->size * sizeof(struct pair);

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
    p->board = calloc(size, sizeof(*p->board));
    p->theirs = calloc(size, sizeof(*p->theirs));
    p->peer_flags = calloc(size, sizeof(*p->peer_flags));
    p->sent = calloc(size, sizeof(*p->sent));
    p->received = calloc(size, sizeof(*p->received));
    if (p->board == NULL || p->theirs == NULL || p->peer_flags == NULL || p->sent == NULL ||
        p->received == NULL)
        return fail(ST_MEMORY, "no host memory for %d peers", g->size);
    TRY(cuda_st(cudaMalloc(&flags, FLAG_BYTES), "flags"));
    p->flags = flags;
    TRY(cuda_st(cudaMemsetAsync(flags, 0, FLAG_BYTES, c->stream), "flags"));
    return cuda_st(cudaStreamSynchronize(c->stream), "flags");
}

static status open_boards(struct cuda_comm *c)
{
    const struct group *g = c->g;
    struct peer_comm *p = c->impl;
    void *own;

    MPI_Win_allocate_shared((MPI_Aint)board_bytes(g), 1, MPI_INFO_NULL, c->comm, &own, &p->window);
    memset(own, 0, board_bytes(g));
    for (int i = 0; i < g->size; i++) {
        MPI_Aint bytes;
        int unit;

        MPI_Win_shared_query(p->window, i, &bytes, &unit, &p->board[i]);
    }
    return cuda_st(cudaIpcGetMemHandle(&p->board[g->rank]->flags, p->flags), "sharing memory");
}

static status open_flags(struct cuda_comm *c)
{
    struct peer_comm *p = c->impl;

    for (int i = 0; i < c->g->size; i++)
        if (i != c->g->rank)
            TRY(cuda_st(cudaIpcOpenMemHandle((void **)&p->peer_flags[i], p->board[i]->flags,
                                             cudaIpcMemLazyEnablePeerAccess),
                        "reaching a peer's memory"));
    return ST_OK;
}

static status peer_open(struct cuda_comm *c)
{
    TRY(all_of(c->comm, open_local(c)));
    TRY(all_of(c->comm, open_boards(c)));
    TRY(all_of(c->comm, open_flags(c)));
    return ST_OK;
}

/* ---- allocations ---- */

static bool let_go(struct peer_comm *p, int rank, int i)
{
    struct theirs *t = &p->theirs[rank][i];

    if (t->base == NULL)
        return false;
    cudaIpcCloseMemHandle(t->base);
    t->base = NULL;
    atomic_fetch_sub(&p->board[rank]->shown[i].users, 1);
    return true;
}

/* Closes what peers are about to free. Copies into it are over on the peer's side, so also here. */
static void let_go_closing(struct cuda_comm *c)
{
    struct peer_comm *p = c->impl;

    for (int r = 0; r < c->g->size; r++)
        for (int i = 0; i < SHOWN && r != c->g->rank; i++)
            if (p->theirs[r][i].base != NULL &&
                atomic_load(&p->board[r]->shown[i].closing) == p->theirs[r][i].made)
                let_go(p, r, i);
}

static void nap(void)
{
    nanosleep(&(struct timespec){ .tv_nsec = 20000 }, NULL);
}

/* Takes an allocation back from the peers, which come to let go of it when they free their own
 * counterpart, or in their next exchange. Ranks do the same things in the same order, so that is
 * soon; where it is not, the memory stays in use until they do. */
static void withdraw(struct cuda_comm *c, int i)
{
    struct peer_comm *p = c->impl;
    struct shown *s = &p->board[c->g->rank]->shown[i];
    const double start = mpi_seconds();

    cudaStreamSynchronize(c->stream);
    atomic_store(&s->closing, atomic_load(&s->made));
    while (atomic_load(&s->users) > 0 && mpi_seconds() - start < CLOSE_S) {
        let_go_closing(c);
        nap();
    }
    p->mine[i] = (struct mine){ 0 };
}

static void peer_forget(struct cuda_comm *c, void *memory)
{
    struct peer_comm *p = c->impl;

    for (int i = 0; i < SHOWN; i++)
        if (p->mine[i].base == memory)
            withdraw(c, i);
    let_go_closing(c);
}

/* Which of this rank's allocations `data` is in; a new one is shown to the peers. */
static status find_mine(struct cuda_comm *c, const char *data, int *index)
{
    struct peer_comm *p = c->impl;
    int unused = -1;

    for (int i = 0; i < SHOWN; i++) {
        if (p->mine[i].base != NULL && data >= p->mine[i].base &&
            data < p->mine[i].base + p->mine[i].bytes) {
            *index = i;
            return ST_OK;
        }
        if (p->mine[i].base == NULL && unused < 0)
            unused = i;
    }

    struct shown *s = unused < 0 ? NULL : &p->board[c->g->rank]->shown[unused];
    CUdeviceptr base;
    size_t bytes;

    if (s == NULL)
        return fail(ST_DEVICE, "more than %d allocations take part in group %s", SHOWN, c->g->name);
    if (c->driver.extent(&base, &bytes, (CUdeviceptr)data) != CUDA_SUCCESS)
        return fail(ST_DEVICE, "what group %s exchanges is not on the GPU", c->g->name);
    TRY(cuda_st(cudaIpcGetMemHandle(&s->handle, (void *)base), "sharing memory"));
    p->mine[unused] = (struct mine){ (char *)base, bytes };
    atomic_fetch_add(&s->made, 1);
    *index = unused;
    return ST_OK;
}

/* Where a peer's allocation is in this process. */
static status find_theirs(struct cuda_comm *c, int rank, int i, char **base)
{
    struct peer_comm *p = c->impl;
    struct shown *s = &p->board[rank]->shown[i];
    struct theirs *t = &p->theirs[rank][i];
    const uint32_t made = atomic_load(&s->made);
    void *opened;

    if (t->base != NULL && t->made != made) // an earlier one, freed without us
        let_go(p, rank, i);
    if (t->base == NULL) {
        atomic_fetch_add(&s->users, 1);
        TRY(cuda_st(cudaIpcOpenMemHandle(&opened, s->handle, cudaIpcMemLazyEnablePeerAccess),
                    "reaching a peer's memory"));
        *t = (struct theirs){ opened, made };
    }
    *base = t->base;
    return ST_OK;
}

static void peer_close(struct cuda_comm *c)
{
    struct peer_comm *p = c->impl;
    MPI_Request request;

    if (p == NULL)
        return;
    cudaStreamSynchronize(c->stream);
    for (int r = 0; p->theirs != NULL && r < c->g->size; r++)
        for (int i = 0; i < SHOWN; i++)
            let_go(p, r, i);
    for (int r = 0; p->peer_flags != NULL && r < c->g->size; r++)
        if (p->peer_flags[r] != NULL)
            cudaIpcCloseMemHandle(p->peer_flags[r]);
    MPI_Ibarrier(c->comm, &request); // before anything is freed that a peer had open
    mpi_wait(&request, 1, c->g->deadline_s);
    cudaFree(p->flags);
    if (p->window != MPI_WIN_NULL)
        MPI_Win_free(&p->window);
    free(p->board);
    free(p->theirs);
    free(p->peer_flags);
    free(p->sent);
    free(p->received);
    free(p);
    c->impl = NULL;
}

/* ---- messages ---- */

/* Waits until a peer's host has come to `number`; it queues the same exchanges as this one. */
static status wait_host(struct cuda_comm *c, int peer, _Atomic uint32_t *at, uint32_t number)
{
    const double spin_s = 50e-6;
    double start = 0;

    while ((int32_t)(atomic_load_explicit(at, memory_order_acquire) - number) < 0) {
        const double now = mpi_seconds();

        start = start == 0 ? now : start;
        if (now - start > c->g->deadline_s)
            return fail(ST_PEER,
                        "rank %d of group %s (%d ranks) waited %.0f s for rank %d to come to "
                        "message %u: see what became of it, or allow more time",
                        c->g->rank, c->g->name, c->g->size, c->g->deadline_s, peer,
                        (unsigned)number);
        if (now - start > spin_s)
            nap();
    }
    return ST_OK;
}

/* Tells `m->peer` where its next message goes, and when. */
static status invite(struct cuda_comm *c, const struct message *m)
{
    struct peer_comm *p = c->impl;
    struct pair *pair = &p->board[c->g->rank]->from[m->peer];
    const uint32_t n = ++p->received[m->peer];
    struct place *place = &pair->place[n % DEPTH];

    TRY(wait_host(c, m->peer, &pair->taken, n - DEPTH));
    TRY(find_mine(c, m->data, &place->shown));
    place->offset = (size_t)((char *)m->data - p->mine[place->shown].base);
    place->pitch = m->pitch;
    atomic_store_explicit(&place->number, n, memory_order_release);
    return stream_write(c, ready_flag(c, m->peer, c->g->rank), n);
}

static status deliver(struct cuda_comm *c, const struct message *m)
{
    struct peer_comm *p = c->impl;
    struct pair *pair = &p->board[m->peer]->from[c->g->rank];
    const uint32_t n = ++p->sent[m->peer];
    struct place *place = &pair->place[n % DEPTH];
    struct message to = *m;
    char *base;

    TRY(wait_host(c, m->peer, &place->number, n));
    TRY(find_theirs(c, m->peer, place->shown, &base));
    base += place->offset;
    to.pitch = place->pitch;
    atomic_store_explicit(&pair->taken, n, memory_order_release);
    TRY(stream_wait(c, ready_flag(c, c->g->rank, m->peer), n));
    TRY(stream_copy(c, base, &to, m));
    return stream_write(c, arrived_flag(c, m->peer, c->g->rank), n);
}

static status peer_move(struct cuda_comm *c, const struct exchange *e)
{
    const struct peer_comm *p = c->impl;

    let_go_closing(c);
    for (int i = 0; i < e->recvs; i++)
        TRY(invite(c, &e->recv[i]));
    for (int i = 0; i < e->sends; i++)
        TRY(deliver(c, &e->send[i]));
    for (int i = 0; i < e->recvs; i++)
        TRY(stream_wait(c, arrived_flag(c, c->g->rank, e->recv[i].peer),
                        p->received[e->recv[i].peer]));
    return ST_OK;
}

const struct mover mover_peer = {
    .name = "peer", .open = peer_open, .close = peer_close, .move = peer_move, .forget = peer_forget
};
