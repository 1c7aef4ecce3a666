#include "parallel/host_memory.h"

#include "parallel/mpi_wait.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 // Linux 5.14
#endif

#define ALIGN ((size_t)256)
#define PAGE ((size_t)2 << 20)
#define THREADS 8

static size_t align_up(size_t bytes)
{
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

/* The anonymous file of the first rank of a node, as the others open it. */
struct owner {
    int pid, fd; // fd -1: it could not be created
};

static status create(struct owner *o, size_t bytes)
{
    *o = (struct owner){ (int)getpid(), memfd_create("wanmpi weights", MFD_CLOEXEC) };
    if (o->fd >= 0 && ftruncate(o->fd, (off_t)bytes) == 0)
        return ST_OK;
    return fail(ST_MEMORY, "cannot allocate %.2f GB of host memory for the ranks of a node: %s",
                (double)bytes / 1e9, strerror(errno));
}

/* Another rank's file, opened through /proc; fails where ranks of a node do not see each other's
 * processes. */
static status open_other(int *fd, struct owner o)
{
    char path[64];

    snprintf(path, sizeof(path), "/proc/%d/fd/%d", o.pid, o.fd);
    *fd = open(path, O_RDWR | O_CLOEXEC);
    if (*fd >= 0)
        return ST_OK;
    return fail(ST_MEMORY,
                "cannot map the weights of another rank of this node (%s: %s): with --dit_fsdp "
                "each rank keeps its own",
                path, strerror(errno));
}

/* fd -1: private memory. */
static status map(struct host_memory *m, int fd)
{
    void *p = mmap(NULL, m->size, PROT_READ | PROT_WRITE,
                   fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, fd, 0);

    if (p == MAP_FAILED)
        return fail(ST_MEMORY, "cannot allocate %.2f GB of host memory for weights: %s",
                    (double)m->size / 1e9, strerror(errno));
    madvise(p, m->size, MADV_HUGEPAGE); // a hint
    m->base = p;
    return ST_OK;
}

static void *allocate_pages(void *payload)
{
    const struct iovec *part = payload;

    madvise(part->iov_base, part->iov_len, MADV_POPULATE_WRITE); // only faster than pinning alone
    return NULL;
}

/* Allocates this rank's part of the pages with several threads, as the driver's one thread takes
 * long for it. */
static void allocate_part(struct host_memory *m)
{
    const int64_t pages = (int64_t)((m->size + PAGE - 1) / PAGE), all = (int64_t)m->ranks * THREADS;
    pthread_t thread[THREADS];
    struct iovec part[THREADS];
    int threads = 0;

    for (int i = 0; i < THREADS; i++) {
        const int64_t index = (int64_t)m->rank * THREADS + i;
        const size_t from = (size_t)(pages * index / all) * PAGE;
        const size_t to = (size_t)(pages * (index + 1) / all) * PAGE;

        part[threads] = (struct iovec){ m->base + from, (to < m->size ? to : m->size) - from };
        if (to > from &&
            pthread_create(&thread[threads], NULL, allocate_pages, &part[threads]) == 0)
            threads++;
    }
    for (int i = 0; i < threads; i++)
        pthread_join(thread[i], NULL);
}

static status pin(struct host_memory *m)
{
    TRY(device_host_register(m->dev, m->base, m->size));
    m->pinned = true;
    return ST_OK;
}

/* Collective over the node: its first rank creates the file, the others open it. */
static status open_shared(struct host_memory *m, struct world *w)
{
    struct owner owner = { 0, -1 };
    MPI_Comm node = MPI_COMM_NULL;
    MPI_Request request;
    status st = ST_OK;
    int fd = -1;

    if (w->local_rank == 0)
        st = create(&owner, m->size);
    MPI_Comm_split_type(world_comm(w), MPI_COMM_TYPE_SHARED, w->rank, MPI_INFO_NULL, &node);
    MPI_Ibcast(&owner, (int)sizeof(owner), MPI_BYTE, 0, node, &request);
    TRY(mpi_wait(&request, 1, "memory of a node"));
    MPI_Comm_free(&node);
    if (w->local_rank == 0)
        fd = owner.fd;
    else if (owner.fd >= 0)
        st = open_other(&fd, owner);
    if (st == ST_OK && fd >= 0)
        st = map(m, fd);
    st = agree(w, st); // after it all have opened the file
    if (fd >= 0)
        close(fd);
    TRY(st);
    allocate_part(m);
    world_barrier(w);
    return agree(w, pin(m));
}

static status open_private(struct host_memory *m)
{
    TRY(map(m, -1));
    allocate_part(m);
    return pin(m);
}

status host_memory_open(struct host_memory *m, struct world *w, struct device *dev, size_t size,
                        bool shared)
{
    const bool several = shared && w->local_size > 1;
    status st = ST_OK;

    *m = (struct host_memory){ .dev = dev,
                               .size = dev->kind == DEVICE_PLAN ? SIZE_MAX : size,
                               .ranks = several ? w->local_size : 1,
                               .rank = several ? w->local_rank : 0 };
    if (dev->kind == DEVICE_PLAN || size == 0)
        return ST_OK;
    if (shared && w->size > 1) // also on nodes with one rank: it agrees
        st = open_shared(m, w);
    else
        st = open_private(m);
    if (st != ST_OK)
        host_memory_close(m);
    return st;
}

void host_memory_close(struct host_memory *m)
{
    if (m->pinned)
        device_host_unregister(m->dev, m->base);
    if (m->base != NULL && !m->dev->abandoned)
        munmap(m->base, m->size);
    *m = (struct host_memory){ 0 };
}

status host_memory_take(struct host_memory *m, char **p, size_t bytes)
{
    const size_t whole = align_up(bytes);

    if (whole > m->size - m->used)
        return fail(ST_MEMORY, "%zu bytes of weights do not fit into the host memory: %zu are free",
                    whole, m->size - m->used);
    *p = m->base != NULL ? m->base + m->used : NULL;
    m->used += whole;
    m->peak = m->used > m->peak ? m->used : m->peak;
    return ST_OK;
}

void host_memory_release(struct host_memory *m, size_t mark)
{
    assert(mark <= m->used);
    m->used = mark;
}
