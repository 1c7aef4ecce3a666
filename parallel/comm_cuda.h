/* comm_cuda.h - groups of GPUs: what a group keeps, and the two ways of moving device memory.
 * Internal to parallel/.
 *
 *   peer  within a node: each rank's copy engine writes into its peers' memory. No multiprocessor
 *         is taken from what computes meanwhile.
 *   nccl  everywhere else
 *
 * comm_cuda.c orders: a group has a stream of its own, which waits for the device's stream where an
 * exchange starts; the device's stream waits for it in transfer_wait. A mover queues the messages
 * on the group's stream. */
#ifndef PARALLEL_COMM_CUDA_H
#define PARALLEL_COMM_CUDA_H

#include "parallel/comm.h"

#include <cuda.h>
#include <cuda_runtime_api.h>
#include <mpi.h>

/* Stream memory operations and the extent of an allocation: of the driver, found at run time, as a
 * program built with CUDA also runs where there is no driver. */
struct driver {
    CUresult (*write)(CUstream stream, CUdeviceptr at, cuuint32_t value, unsigned flags);
    CUresult (*wait)(CUstream stream, CUdeviceptr at, cuuint32_t value, unsigned flags);
    CUresult (*extent)(CUdeviceptr *base, size_t *bytes, CUdeviceptr p);
};

struct cuda_comm;

struct mover {
    const char *name;
    /* Collective over c->comm, and ends with the same status on every rank. */
    status (*open)(struct cuda_comm *c);
    void (*close)(struct cuda_comm *c); // collective; of a half-open one too
    /* Queues the messages on c->stream. Those between two ranks, in one direction, arrive in the
     * order in which they were sent. */
    status (*move)(struct cuda_comm *c, const struct exchange *e);
    /* The host waits for the device: has something gone wrong meanwhile? NULL: nothing to ask. */
    status (*ask)(struct cuda_comm *c);
    /* Device memory is about to be given back. NULL: nothing is kept about it. */
    void (*forget)(struct cuda_comm *c, void *p);
};

struct cuda_comm {
    struct group *g;
    MPI_Comm comm; // for setting up; MPI_COMM_NULL in a group of one
    struct driver driver;
    const struct mover *mover;
    void *impl;                        // the mover's
    cudaStream_t stream;               // the group's own
    cudaEvent_t start;                 // the device's stream where an exchange starts
    cudaEvent_t done[GROUP_IN_FLIGHT]; // the group's where it ends
    struct device_watch watch;
    uint32_t started;                 // exchanges queued
    volatile uint32_t *begun, *ended; // pinned memory: exchanges that the stream has come to
    uint32_t stuck_at;                // *ended when the host last saw it change,
    double stuck_since;               // and when that was
};

extern const struct mover mover_peer;
extern const struct mover mover_nccl;

/* Codes of CUDA as ours, with what was tried. */
status cuda_st(cudaError_t e, const char *what);

/* *at = value, once the stream is there; the stream goes on once *at has come to value. */
status stream_write(struct cuda_comm *c, volatile uint32_t *at, uint32_t value);
status stream_wait(struct cuda_comm *c, volatile uint32_t *at, uint32_t value);

/* Queues the copy of what `from` says to `at`, in the pitch of `to`. */
status stream_copy(struct cuda_comm *c, void *at, const struct message *to,
                   const struct message *from);

/* All ranks of `comm` pass their own status; ST_OK when all did, else the own one or ST_DEVICE. */
status all_of(MPI_Comm comm, status st);

#endif
