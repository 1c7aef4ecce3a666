/* comm.h - what stands behind a group: one table per way of moving bytes. Internal to parallel/.
 *
 *   comm_mpi   host memory, over MPI; a group of one needs no MPI at all
 *   comm_cuda  device memory of GPUs, by copy engines within a node and NCCL beyond
 *   comm_plan  nothing is moved
 *
 * group.c has checked the arguments, counts what is sent and hands out the slots 0 ..
 * GROUP_IN_FLIGHT - 1; a table keeps what belongs to a transfer under its slot until `wait`. Parts
 * of 0 bytes are no messages, and the part of a rank for itself is a copy (the table's, as only it
 * knows the memory) where both sides have it.
 *
 * A table whose device has queues of its own (a stream) orders instead of waiting: a start lets the
 * exchange wait for what is queued on the device, `wait` lets what is queued later wait for the
 * exchange, and nothing above looks at the data before a download. Such a table gives every group a
 * queue of its own, so that a unit of weights on its way does not hold up an all-to-all. All ranks
 * start the exchanges of all their groups in the same order. */
#ifndef PARALLEL_COMM_H
#define PARALLEL_COMM_H

#include "parallel/group.h"

struct comm_table {
    const char *name;
    /* Collective over the world; g->rank and g->size are to be filled in where members are asked
     * and not given. */
    status (*open)(struct group *g, struct world *w, int color);
    void (*close)(struct group *g);
    status (*all_gather)(struct group *g, int slot, void *recv, const size_t *offset,
                         const void *send);
    status (*all_to_all)(struct group *g, int slot, void *recv, const size_t *recv_offset,
                         const void *send, const size_t *send_offset);
    status (*exchange)(struct group *g, int slot, int to, const void *send, size_t send_bytes,
                       int from, void *recv, size_t recv_bytes);
    status (*broadcast)(struct group *g, int slot, void *data, size_t bytes, int root);
    status (*wait)(struct group *g, int slot);
};

extern const struct comm_table comm_mpi;
extern const struct comm_table comm_cuda;
extern const struct comm_table comm_plan;

#endif
