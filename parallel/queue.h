/* queue.h - numbered items that several ranks work through: each item goes to one rank, that which
 * asks first.
 *
 *     queue_open(&q, world, 8);
 *     for (item = queue_next(&q, NULL); item >= 0; item = queue_next(&q, &done))
 *         ...                                  // work, and its result in `done`
 *
 * Rank 0 has the list. It works itself, too, and answers the others while it does or waits: from a
 * hook of alive(), a twentieth of a second after they have asked, or later where it calls alive()
 * less often. An item that was given to a rank is not given to another one: a rank that is lost
 * ends the job, and the next job begins with what is not done. */
#ifndef PARALLEL_QUEUE_H
#define PARALLEL_QUEUE_H

#include "parallel/world.h"

#define QUEUE_LINE_BYTES 700

enum {
    QUEUE_EMPTY = -1,  // all items were given out
    QUEUE_STOPPED = -2 // there are more, but the job was asked to stop (runtime/stop.h)
};

/* How a rank has ended with an item. */
struct queue_result {
    int item;
    int st; // status
    char line[QUEUE_LINE_BYTES];
};

struct queue {
    struct world *world; // borrowed
    int count, next;     // rank 0: items, and the first that is not given out

    // rank 0: how many have ended with another status than ST_OK, and the first of them in the list
    int failed;
    struct queue_result first;
    void *impl;
};

/* Collective over w, also when it fails: call agree() afterwards. The items are [0, count).
 * ST_MEMORY. */
status queue_open(struct queue *q, struct world *w, int count);

/* The next item, or QUEUE_*. `done`: the result of this rank's last item; NULL: it had none. Local:
 * any rank, whenever it likes. Waits for rank 0; if that shows no sign of life, prints a line and
 * ends the job. */
int queue_next(struct queue *q, const struct queue_result *done);

/* Collective, when no rank asks any more: after an agree(). Accepts a zeroed queue. */
void queue_close(struct queue *q);

#endif
