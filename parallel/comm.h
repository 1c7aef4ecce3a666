/* comm.h - what stands behind a group: one table per way of moving bytes. Internal to parallel/.
 *
 *   comm_mpi   host memory, over MPI; a group of one needs no MPI at all
 *   comm_cuda  device memory of GPUs, by copy engines within a node and NCCL beyond
 *   comm_plan  nothing is moved
 *
 * group.c turns every exchange into lists of messages, counts what is sent and hands out the slots
 * 0 .. GROUP_IN_FLIGHT - 1; a table keeps what belongs to a transfer under its slot until `wait`.
 * What a rank has for itself is a copy, the table's, as only it knows the memory.
 *
 * A table whose device has queues of its own (a stream) orders instead of waiting: a start lets the
 * exchange wait for what is queued on the device, `wait` lets what is queued later wait for the
 * exchange, and nothing above looks at the data before a download. Such a table gives every group a
 * queue of its own, so that a unit of weights on its way does not hold up an all-to-all. All ranks
 * start the exchanges of all their groups in the same order. */
#ifndef PARALLEL_COMM_H
#define PARALLEL_COMM_H

#include "parallel/group.h"

enum exchange_kind { ALL_GATHER, ALL_TO_ALL, EXCHANGE, BROADCAST, EXCHANGE_KINDS };
extern const char *const exchange_name[EXCHANGE_KINDS];

struct exchange {
    enum exchange_kind kind;
    const struct message *send, *recv; // to and from others; borrowed during the start
    int sends, recvs;
    double bytes;                    // of all that is sent
    struct message own_from, own_to; // the copy; of no bytes where there is none
};

struct comm_table {
    const char *name;
    /* Collective over the world; g->rank and g->size are to be filled in where members are asked
     * and not given. */
    status (*open)(struct group *g, struct world *w, int color);
    void (*close)(struct group *g);
    status (*start)(struct group *g, int slot, const struct exchange *e);
    status (*wait)(struct group *g, int slot);
};

extern const struct comm_table comm_mpi;
extern const struct comm_table comm_cuda;
extern const struct comm_table comm_plan;

#endif
