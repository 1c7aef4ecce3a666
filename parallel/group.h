/* group.h - groups of ranks and their collectives: all-gather, all-to-all, send and receive,
 * broadcast.
 *
 * A group uses one backend (comm.h): `mpi` transfers host memory, `cuda` device memory on a stream,
 * `plan` only counts bytes. Every collective is asynchronous: a group_ function starts it, and
 * transfer_wait completes it. It reads its data after the work that was queued on the device before
 * the start; work that is queued after transfer_wait may use the result. Buffers are borrowed until
 * then, offset arrays and message lists only during the start. At most GROUP_IN_FLIGHT transfers of
 * a group are in flight. All ranks of a group start its collectives in the same order.
 *
 * Sizes are in bytes. Offsets are arrays [size + 1]: block i is bytes [offset[i], offset[i + 1]).
 * A block of 0 bytes is not sent. The block of a rank for itself is copied, and not counted. */
#ifndef PARALLEL_GROUP_H
#define PARALLEL_GROUP_H

#include "kernels/ops.h"
#include "parallel/world.h"
#include "runtime/device.h"

#include <stdint.h>

#define GROUP_IN_FLIGHT 8

struct comm_table;

struct group {
    const char *name; // for error messages; borrowed
    int rank, size;
    struct device *dev;
    size_t *send_offset, *recv_offset; // [size + 1] each: memory for a caller's offsets
    struct message *scratch;           // [2 * size]: memory for a caller's messages
    struct message *list;              // [4 * size] messages of the collective being started
    bool *on_node;                     // [size] whether each rank is on this rank's node
    double sent, messages;             // to other ranks so far: bytes, and number of messages
    double sent_across;                // of `sent`, bytes to other nodes
    const struct comm_table *comm;
    void *impl;
    unsigned in_flight; // bit i: slot i is in use
    bool direct;        // GPUs that write into each other's memory; else false
    bool fallback;      // GPUs of one node for which that failed, so that NCCL is used
};

/* A collective in flight, like an MPI_Request. Zeroed: none. */
struct transfer {
    struct group *group; // NULL: none
    int slot;
};

/* Memory to send to a rank or to receive from one: `count` rows of `bytes` bytes, as in
 * cudaMemcpy2D. Sender and receiver give the same count and bytes; their pitches may differ. With
 * a count of 0 or 0 bytes there is no message. */
struct message {
    int peer; // rank in the group; -1: no message
    void *data;
    size_t bytes;  // of a row
    int64_t count; // rows
    size_t pitch;  // bytes from one row to the next
};

/* A message of one row: `bytes` contiguous bytes. */
static inline struct message message_of(int peer, const void *data, size_t bytes)
{
    return (struct message){ peer, (void *)data, bytes, 1, bytes };
}

/* Splits the world, like MPI_Comm_split: ranks with equal color form a group, in order of world
 * rank; a rank with color < 0 is in no group and gets one of size 0.
 *
 * Collective over the world, also when it fails on a rank: call agree() afterwards. `name` and
 * `dev` are borrowed. members: on a described world, where there are no other processes, the sorted
 * world ranks with this rank's color; else ignored. ST_MEMORY, ST_DEVICE, ST_USAGE (two ranks on
 * one GPU with NCCL). */
status group_open(struct group *g, const char *name, struct world *w, struct device *dev, int color,
                  const int *members, int count);
void group_close(struct group *g); // collective; accepts a zeroed group

/* Every rank gets the blocks of all ranks. send: this rank's block, offset[rank + 1] - offset[rank]
 * bytes; recv: all blocks, at `offset`. In place: send may be this rank's block in recv. */
status group_all_gather(struct group *g, struct transfer *t, void *recv, const size_t *offset,
                        const void *send);

/* Block i of send goes to rank i; block i of recv comes from rank i. The block of a rank for itself
 * may be empty in send or in recv: then it is not copied. */
status group_all_to_all(struct group *g, struct transfer *t, void *recv, const size_t *recv_offset,
                        const void *send, const size_t *send_offset);

/* Sends and receives lists of messages, all at once; messages from one rank to another match in
 * list order. Only ranks that send or receive call it. At most 2 * size messages in each list, and
 * at most one message of a rank to itself. */
status group_send_recv(struct group *g, struct transfer *t, const struct message *send, int sends,
                       const struct message *recv, int recvs);

/* The same, but each row of a message arrives by itself, so that a kernel can wait for it
 * (transfer_arrival): first row 0 of all messages, then row 1, ... */
status group_send_recv_rows(struct group *g, struct transfer *t, const struct message *send,
                            int sends, const struct message *recv, int recvs);

/* Sends what a kernel writes straight into the receivers' memory; for groups with `direct`. At most
 * one at a time, with at most one message from one rank to another.
 *
 *     group_put     sets data and pitch of each `send` to the receiver's memory; ops that are
 *                   queued from now on may write there. A message of a rank to itself too.
 *     put_complete  after those ops have been queued: their writes are complete when it is reached
 *
 * The transfer is completed by transfer_wait, after which `recv` may be read. */
status group_put(struct group *g, struct transfer *t, struct message *send, int sends,
                 const struct message *recv, int recvs);
status put_complete(struct transfer *t);

/* Every rank gets root's `bytes` bytes at data, in place. */
status group_broadcast(struct group *g, struct transfer *t, void *data, size_t bytes, int root);

/* Completes a transfer: on a CPU the host waits; on a GPU the device's stream will wait.
 * ST_PEER when a rank shows no sign of life (watch.h), on a GPU in a later device_wait. Does
 * nothing if t->group is NULL. */
status transfer_wait(struct transfer *t);

/* Whether a kernel can wait for the messages of `peer`, another rank, in a transfer that is in
 * flight, instead of transfer_wait before it; then sets *a for the first of them, and those after
 * it have value + 1, value + 2, ... The transfer must still be completed by transfer_wait, after
 * the kernel. */
bool transfer_arrival(const struct transfer *t, int peer, struct arrival *a);

#endif
