/* group.h - ranks that exchange tensors, and the exchanges.
 *
 * A group sits on a comm table: `mpi` moves host memory, `cuda` device memory on a stream, `plan`
 * moves nothing. Every exchange is started and later waited for, so that ops can be queued in
 * between: the data is read after what was queued on the device before the start, and may be used
 * by what is queued after transfer_wait. Buffers are borrowed until then, offsets only during the
 * start. At most GROUP_IN_FLIGHT transfers of one group are open.
 *
 * Sizes are in bytes. Offsets are arrays of size+1: part i is bytes [offset[i], offset[i+1]). A
 * part of 0 bytes is no message. What a rank has for itself is copied, and not counted as sent. */
#ifndef PARALLEL_GROUP_H
#define PARALLEL_GROUP_H

#include "parallel/world.h"
#include "runtime/device.h"

#include <stdint.h>

#define GROUP_IN_FLIGHT 8

struct comm_table;

struct group {
    const char *name; // for the line when a peer is silent; borrowed
    int rank, size;
    struct device *dev;
    double deadline_s;         // from the world; may be changed
    size_t *send_at, *recv_at; // [size + 1] each: room for the offsets of the exchange at hand
    struct message *list;      // [4 * size]: its messages
    double sent, messages;     // bytes this rank sent to others, and in how many messages
    const struct comm_table *comm;
    void *impl;
    unsigned open; // bit i: slot i is in flight
};

struct transfer {
    struct group *group; // NULL: nothing in flight
    int slot;
};

/* What goes to a rank or comes from one: pieces of memory of one size. Both ends see the same
 * number and size of them, each with a pitch of its own. */
struct message {
    int peer; // rank in the group; -1: no message
    void *data;
    size_t bytes;  // of a piece; 0: no message
    int64_t count; // of pieces,
    size_t pitch;  // so many bytes apart
};

/* One piece. */
static inline struct message message_of(int peer, const void *data, size_t bytes)
{
    return (struct message){ peer, (void *)data, bytes, 1, bytes };
}

/* Splits the world: ranks with equal color form a group, in order of world rank; color < 0 stays
 * out and gets a group of size 0. Collective over the world, also where it fails (ST_MEMORY): agree
 * afterwards. On a described world `members` (sorted world ranks with my color) says who belongs,
 * as nobody can be asked; elsewhere it is not looked at. */
status group_open(struct group *g, const char *name, struct world *w, struct device *dev, int color,
                  const int *members, int count);
void group_close(struct group *g); // collective; accepts a zeroed group

/* Everybody's part to everybody. send: part [rank] of the layout; recv: the whole; send may lie in
 * its place in recv. */
status group_all_gather(struct group *g, struct transfer *t, void *recv, const size_t *offset,
                        const void *send);

/* Part i of send goes to rank i; part i of recv comes from rank i. A rank's part for itself may be
 * left empty on either side: then nothing is copied. */
status group_all_to_all(struct group *g, struct transfer *t, void *recv, const size_t *recv_offset,
                        const void *send, const size_t *send_offset);

/* Any messages, all at once; those between two ranks arrive in the order in which they were sent.
 * Only the ranks at their ends take part. What a rank sends itself is one message. At most 2 * size
 * either way; the lists are the caller's. */
status group_exchange(struct group *g, struct transfer *t, const struct message *send, int sends,
                      const struct message *recv, int recvs);

/* Root's bytes to everybody, in place. */
status group_broadcast(struct group *g, struct transfer *t, void *data, size_t bytes, int root);

/* The one place where the host waits for others: gives up with ST_PEER when a peer is silent for
 * the deadline of the group. Does nothing on a transfer that was not started. */
status transfer_wait(struct transfer *t);

#endif
