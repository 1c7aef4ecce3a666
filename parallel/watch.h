/* watch.h - finds ranks that have stopped, so that nobody waits for them for ever.
 *
 *   - Each rank sends the others a beat about once a second, from alive() (runtime/alive.h) and
 *     while it waits: how much it has done, and where it is.
 *   - While a rank waits, it checks the beats. A rank without a beat for the limit is silent: its
 *     process or machine has stopped, or does not come back from a file system. If all ranks send
 *     beats but none has done anything for the limit, they wait for each other.
 *   - A thread of each rank notices when that rank itself neither works nor waits in one of our
 *     loops: inside MPI, a driver, or the file system.
 *
 * One per process; the thread is started by world_watch, the rest opened with its world. The limit
 * is world.deadline_s; where the GPUs compute without a sign, ten times the longest time that they
 * may (world_expect), if that is longer. */
#ifndef PARALLEL_WATCH_H
#define PARALLEL_WATCH_H

#include "parallel/world.h"

/* Collective, before anything else is sent: `w` is borrowed until watch_end. ST_MEMORY. */
status watch_open(struct world *w);
void watch_close(void); // no more beats; before MPI_Finalize
void watch_end(void);   // ends the thread; afterwards

/* Called again and again while this rank waits, at least every few milliseconds, on the thread that
 * opened the world. `what`: what for. ST_PEER with a line that names the silent rank, its host, and
 * where it was last. */
status watch_wait(const char *what);

/* Tells the other ranks that this one has printed its line and ends the job: they print none. Does
 * nothing on another thread than that which opened the world. */
void watch_tell(void);

/* What world_watch was given, or the defaults. */
void watch_complain(const char *line);
double watch_deadline(void);

/* Called while this rank waits, until it is removed. Borrowed. */
struct watch_call {
    void (*call)(void *payload);
    void *payload;
    struct watch_call *next;
};

void watch_add(struct watch_call *c);
void watch_remove(struct watch_call *c); // does nothing if it was not added

#endif
