/* A library for LD_PRELOAD with which a job on one machine takes each NODES_RANKS of its ranks for
 * a node of their own:
 *
 *     NODES_RANKS  number of ranks of a node
 *     NODES_GPUS   the GPUs of each node, as in CUDA_VISIBLE_DEVICES, nodes separated by ";": its
 *                  ranks see no others. Unset: all of the machine
 *     NODES_LOG    a file to which each rank appends a line at its end, "RANK BYTES FILES": bytes
 *                  that its groups have sent to other nodes through MPI_Isend and ncclSend;
 *                  number of files in memory that it has created, which the ranks of a node share
 *
 * MPI_COMM_TYPE_SHARED then means such a node. For NCCL each rank is a host of its own, so that all
 * its messages go through its network transport, and ranks may share a GPU. */
#include <dlfcn.h>
#include <fcntl.h>
#include <mpi.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RANKS_MAX 64
#define COMMS_MAX 64

static double across; // bytes to other nodes so far
static int files;
static MPI_Comm last_split; // of it, parallel/comm_nccl.c makes a communicator of NCCL

static struct nccl_comm {
    void *comm;
    int world_rank[RANKS_MAX];
} nccl[COMMS_MAX];
static int nccl_count;

static int number(const char *name)
{
    const char *value = getenv(name);

    return value != NULL ? atoi(value) : 0;
}

/* Before CUDA and NCCL are used. */
__attribute__((constructor)) static void set_variables(void)
{
    const char *rank = getenv("OMPI_COMM_WORLD_RANK"), *gpus = getenv("NODES_GPUS");
    char list[256];

    if (rank == NULL || number("NODES_RANKS") == 0) // mpirun itself, a shell
        return;
    setenv("NCCL_HOSTID", rank, 1);
    setenv("NCCL_NET", "Socket", 1);
    for (int node = atoi(rank) / number("NODES_RANKS"); gpus != NULL && node > 0; node--)
        gpus = strchr(gpus, ';') != NULL ? strchr(gpus, ';') + 1 : NULL;
    if (gpus != NULL) {
        snprintf(list, sizeof(list), "%.*s", (int)strcspn(gpus, ";"), gpus);
        setenv("CUDA_VISIBLE_DEVICES", list, 1);
    }
}

static int node_of(int world_rank)
{
    return world_rank / number("NODES_RANKS");
}

static int this_rank(void)
{
    int rank;

    PMPI_Comm_rank(MPI_COMM_WORLD, &rank);
    return rank;
}

static int world_rank_of(MPI_Comm comm, int rank)
{
    MPI_Group from, to;
    int result;

    PMPI_Comm_group(comm, &from);
    PMPI_Comm_group(MPI_COMM_WORLD, &to);
    PMPI_Group_translate_ranks(from, 1, &rank, to, &result);
    PMPI_Group_free(&from);
    PMPI_Group_free(&to);
    return result;
}

static void count(int world_rank, double bytes)
{
    if (node_of(world_rank) != node_of(this_rank()))
        across += bytes;
}

int MPI_Comm_split_type(MPI_Comm comm, int type, int key, MPI_Info info, MPI_Comm *out)
{
    MPI_Comm machine;
    int e = PMPI_Comm_split_type(comm, type, key, info, &machine);

    if (e != MPI_SUCCESS || type != MPI_COMM_TYPE_SHARED || number("NODES_RANKS") == 0) {
        *out = machine;
        return e;
    }
    e = PMPI_Comm_split(machine, node_of(this_rank()), key, out);
    PMPI_Comm_free(&machine);
    return e;
}

int MPI_Comm_split(MPI_Comm comm, int color, int key, MPI_Comm *out)
{
    const int e = PMPI_Comm_split(comm, color, key, out);

    if (e == MPI_SUCCESS && *out != MPI_COMM_NULL)
        last_split = *out;
    return e;
}

int MPI_Isend(const void *data, int n, MPI_Datatype type, int to, int tag, MPI_Comm comm,
              MPI_Request *request)
{
    MPI_Count bytes;

    PMPI_Type_size_x(type, &bytes);
    // Only messages of groups have derived types. The number of the others depends on timing: signs
    // of life and answers of a queue (parallel/watch.h, queue.h).
    if (type != MPI_BYTE && type != MPI_INT)
        count(world_rank_of(comm, to), (double)bytes * n);
    return PMPI_Isend(data, n, type, to, tag, comm, request);
}

int memfd_create(const char *name, unsigned flags)
{
    files++;
    return (int)syscall(SYS_memfd_create, name, flags);
}

int MPI_Finalize(void)
{
    const char *log = getenv("NODES_LOG");
    const int fd = log != NULL ? open(log, O_WRONLY | O_CREAT | O_APPEND, 0666) : -1;
    char line[64];

    if (fd >= 0) {
        const int length = snprintf(line, sizeof(line), "%d %.0f %d\n", this_rank(), across, files);

        if (write(fd, line, (size_t)length) != length)
            perror(log);
        close(fd);
    }
    return PMPI_Finalize();
}

/* ---- NCCL, whose header is not needed: handles are pointers, enums are ints ---- */

struct nccl_id {
    char bytes[128];
};

typedef int init_fn(void **comm, int ranks, struct nccl_id id, int rank);
typedef int send_fn(const void *data, size_t n, int type, int peer, void *comm, void *stream);

init_fn ncclCommInitRank;
send_fn ncclSend;

int ncclCommInitRank(void **comm, int ranks, struct nccl_id id, int rank)
{
    init_fn *real = (init_fn *)dlsym(RTLD_NEXT, "ncclCommInitRank");
    const int e = real(comm, ranks, id, rank);

    if (e == 0 && nccl_count < COMMS_MAX && ranks <= RANKS_MAX) {
        struct nccl_comm *c = &nccl[nccl_count++];

        c->comm = *comm;
        for (int i = 0; i < ranks; i++)
            c->world_rank[i] = world_rank_of(last_split, i);
    }
    return e;
}

/* The bytes of one element are those of ncclUint8, the only type that is sent. */
int ncclSend(const void *data, size_t n, int type, int peer, void *comm, void *stream)
{
    send_fn *real = (send_fn *)dlsym(RTLD_NEXT, "ncclSend");

    for (int i = nccl_count - 1; i >= 0; i--)
        if (nccl[i].comm == comm) { // the last one with this address
            count(nccl[i].world_rank[peer], (double)n);
            break;
        }
    return real(data, n, type, peer, comm, stream);
}
