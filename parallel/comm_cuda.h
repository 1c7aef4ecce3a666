/* comm_cuda.h - groups of GPUs: the state of a group, and two transports for device memory.
 * Internal to parallel/.
 *
 *   peer  within a node: each rank's copy engine writes into the peers' memory. It uses no
 *         multiprocessors, which stay free for computation.
 *   nccl  otherwise
 *
 * comm_cuda.c orders streams: each group has its own. When a collective starts, the group's streams
 * wait for the device's stream; in transfer_wait the device's stream waits for the group's, and for
 * what the transport waits for. */
#ifndef PARALLEL_COMM_CUDA_H
#define PARALLEL_COMM_CUDA_H

#include "parallel/comm.h"
#include "runtime/cuda_status.h"

#include <cuda.h>
#include <cuda_runtime_api.h>
#include <mpi.h>

/* How many of the group's transfers have ended: counted by the host and written by the device's
 * stream, so that a host that waits sees that the GPUs make progress. */
struct progress {
    uint32_t waited;          // queued by the host
    volatile uint32_t *ended; // pinned host memory
    uint32_t seen;            // *ended when it was last read
};

/* Functions of the CUDA driver API: stream memory operations, and the address range of an
 * allocation. Looked up at run time, as a program built with CUDA also runs without a driver. */
struct driver {
    CUresult (*write)(CUstream stream, CUdeviceptr flag, cuuint32_t value, unsigned flags);
    CUresult (*wait)(CUstream stream, CUdeviceptr flag, cuuint32_t value, unsigned flags);
    CUresult (*address_range)(CUdeviceptr *base, size_t *bytes, CUdeviceptr p);
};

struct cuda_comm;

struct transport {
    const char *name;
    /* Collective over c->comm; returns the same status on every rank. */
    status (*open)(struct cuda_comm *c);
    void (*close)(struct cuda_comm *c); // collective; also after a failed open
    /* Queues the messages and the local copy on the group's streams, where the start has been
     * waited for. Messages from one rank to another match in list order. */
    status (*enqueue)(struct cuda_comm *c, int slot, const struct comm_op *op);
    /* Makes the device's stream wait for what has not been received when c->stream is done. NULL:
     * nothing. */
    status (*wait)(struct cuda_comm *c, int slot);
    /* As in struct comm_table. NULL: false. */
    bool (*arrival)(const struct cuda_comm *c, int slot, int peer, struct arrival *a);
    /* As in struct comm_table, and its wait; on the device's stream. NULL: not direct. */
    status (*put)(struct cuda_comm *c, const struct comm_op *op, struct message *send);
    status (*put_complete)(struct cuda_comm *c);
    status (*put_wait)(struct cuda_comm *c);
    /* Called while the host waits for the device: returns asynchronous errors. NULL: has none. */
    status (*check_error)(struct cuda_comm *c);
    /* Called before device memory p is freed. NULL: not needed. */
    void (*before_free)(struct cuda_comm *c, void *p);
};

struct cuda_comm {
    struct group *g;
    MPI_Comm comm; // for setup; MPI_COMM_NULL in a group of one
    struct driver driver;
    const struct transport *transport;
    void *impl;                        // of the transport
    cudaStream_t stream, ready;        // of the group: messages; flags that memory may be written
    cudaEvent_t start;                 // on the device's stream, when a collective starts
    cudaEvent_t done[GROUP_IN_FLIGHT]; // on `stream`, after the collective in a slot
    int put_slot;                      // of the put in flight; -1: none
    struct device_watch watch;
    struct progress progress;
};

extern const struct transport transport_peer;
extern const struct transport transport_nccl;

/* Queue on a stream: write `value` to *flag; wait until *flag >= value. */
status stream_write(struct cuda_comm *c, cudaStream_t stream, volatile uint32_t *flag,
                    uint32_t value);
status stream_wait(struct cuda_comm *c, cudaStream_t stream, volatile uint32_t *flag,
                   uint32_t value);

/* Queues on the group's stream a copy of the rows of `from` to dst, with the pitch of `to`. */
status stream_copy(struct cuda_comm *c, void *dst, const struct message *to,
                   const struct message *from);

/* Collective over `comm`: ST_OK if st is ST_OK on all ranks; else st, or ST_DEVICE on ranks where
 * st is ST_OK. */
status comm_agree(MPI_Comm comm, status st);

#endif
