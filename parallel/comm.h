/* comm.h - the backends of a group: one table per way to transfer bytes. Internal to parallel/.
 *
 *   comm_mpi   host memory, over MPI; a group of one needs no MPI at all
 *   comm_cuda  device memory of GPUs, by copy engines within a node and NCCL between nodes
 *   comm_plan  transfers nothing
 *
 * group.c turns each collective into lists of messages, counts the bytes sent and assigns slots
 * 0 .. GROUP_IN_FLIGHT - 1; a backend keeps the state of a transfer under its slot until `wait`.
 * The copy from a rank to itself is the backend's too, as only it knows the kind of memory.
 *
 * A backend of a device with streams does not block the host: `start` makes the communication wait
 * for the work queued on the device, `wait` makes work queued later wait for the communication.
 * There every group has a stream of its own, so that an all-gather of weights does not delay an
 * all-to-all. All ranks start the collectives of all their groups in the same order. */
#ifndef PARALLEL_COMM_H
#define PARALLEL_COMM_H

#include "parallel/group.h"

enum comm_op_kind { ALL_GATHER, ALL_TO_ALL, SEND_RECV, BROADCAST, PUT, COMM_OP_KINDS };
extern const char *const comm_op_name[COMM_OP_KINDS];

/* One collective, as the messages of this rank. */
struct comm_op {
    enum comm_op_kind kind;
    const struct message *send, *recv; // to and from other ranks; valid during start
    int sends, recvs;
    double bytes, across;                // sent to other ranks; of them, to other nodes
    struct message local_src, local_dst; // copy within this rank; 0 bytes: none
    bool by_row;                         // each row arrives by itself
};

struct comm_table {
    const char *name;
    /* Collective over the world. Sets g->rank and g->size, and allocates and sets g->on_node,
     * except on a described world, where group_open has set them. */
    status (*open)(struct group *g, struct world *w, int color);
    void (*close)(struct group *g);
    status (*start)(struct group *g, int slot, const struct comm_op *op);
    status (*wait)(struct group *g, int slot);
    /* As transfer_arrival. NULL: false. */
    bool (*arrival)(const struct group *g, int slot, int peer, struct arrival *a);
    /* As group_put, with the messages to other ranks in op, whose data and pitch it sets, and as
     * put_complete. NULL where no group is `direct`. */
    status (*put)(struct group *g, int slot, const struct comm_op *op, struct message *send);
    status (*put_complete)(struct group *g, int slot);
};

extern const struct comm_table comm_mpi;
extern const struct comm_table comm_cuda;
extern const struct comm_table comm_plan;

#endif
