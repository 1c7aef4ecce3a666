/* world.h - all ranks of the job: start, end, agreement on errors, small host messages.
 *
 * Two kinds: a real world over MPI, and a described world (world_describe), which is only a rank
 * and a size for planning: there are no other processes, and nothing is sent. */
#ifndef PARALLEL_WORLD_H
#define PARALLEL_WORLD_H

#include "runtime/status.h"

#include <stdbool.h>
#include <stddef.h>

struct world {
    int rank, size;
    int local_rank, local_size; // among the ranks of this node
    bool described;             // made by world_describe: no MPI
    bool nccl;                  // use NCCL also between GPUs of one node
    bool direct;                // described: GPUs of one node write into each other's memory
    double deadline_s;          // a rank that shows no sign of life for so long ends the job
    void *impl;
};

#define WORLD_DEADLINE_S 120.0 // the default

/* Called before world_open: from now on a thread ends the job when this process does not come back
 * from MPI, a driver or a file system; see watch.h. `complain` prints its line, and that of a wait
 * of this module. deadline_s: until the world's is set. ST_MEMORY. */
status world_watch(void (*complain)(const char *line), double deadline_s);

/* Starts MPI; without mpirun, a world of one rank. Collective. ST_USAGE when a launcher has started
 * several processes but MPI sees only this one, so that each would do the whole job. ST_MEMORY. */
status world_open(struct world *w, int *argc, char ***argv);

/* A world for planning: this process takes the place of rank `rank` of `size`. Local. */
void world_describe(struct world *w, int rank, int size, int ranks_per_node);

void world_close(struct world *w); // collective; accepts a zeroed world

/* The first `ranks` ranks of w as a world of their own; the other ranks get a world of size 0.
 * Collective over w, also when it fails: call agree() afterwards. ST_MEMORY. world_join ends it;
 * collective over it, before w is closed; accepts a zeroed world. */
status world_split(struct world *part, struct world *w, int ranks);
void world_join(struct world *part);

/* The same for `parts` worlds of equal size, which divides w's: part i has the ranks from
 * i * w->size / parts on. */
status world_divide(struct world *part, struct world *w, int parts);

/* From now on a wait of this rank is checked for the progress of the ranks [first, first + count)
 * of the job only (watch.h), which are those that it waits for: others may work on, and hide that
 * these do not. count 0: it waits for ranks that check themselves. At first all count. Ranks that
 * give no sign of life are found in any case. */
void world_expect_of(struct world *w, int first, int count);

/* The longest time, in seconds, for which the GPUs may now compute without a sign of progress: the
 * time of a step. */
void world_expect(struct world *w, double seconds);

/* How many ranks before this one have shown signs of life from the time since_s on (of
 * clock_seconds; 0: lately): while there are any, it is their turn to print a line. More than all
 * of them if no line of this rank is wanted: a rank has ended the job with its own, or this process
 * was stopped and does not know how the others are. `missing` (NULL: not needed) gets "rank 3 on
 * HOST has ended" for the first rank without a sign, "" if there is none. Ranks need half a second
 * to show signs. Called by any thread. */
int world_before(double since_s, char *missing, size_t size);

/* Ends the processes of all ranks. Called by any rank, after it has printed its error line; prints
 * nothing. The job's exit status is `st`. Does not return. */
void world_abort(struct world *w, status st) __attribute__((noreturn));

/* The same from any thread and without a world, also before MPI is started and after its end: for
 * internal faults (launch/fault.c). */
void world_abort_anywhere(int exit_status) __attribute__((noreturn));

/* Tells the other ranks of this host that this one has printed the job's line: they print none
 * about its end. Returns this rank, -1 if it has none yet. Only for a process that ends now; may be
 * called in a signal handler. */
int world_crashing(void);

/* All ranks pass their own status; all get the status and the error line of the lowest rank that
 * failed, or ST_OK. Collective. Used during setup, so that all ranks stop with the same error. */
status agree(struct world *w, status st);

/* Small host messages, collective, at most INT_MAX bytes. They wait as long as all ranks show signs
 * of life (rank 0 may be loading the text encoder), and sleep between polls; if a rank does not,
 * they print a line, end the job and do not return. On a described world they act as with one rank:
 * gather writes only rank 0's block, and sum returns `mine`. */
void world_broadcast(struct world *w, void *data, size_t bytes, int root);
void world_gather(struct world *w, const void *mine, size_t bytes, void *all); // all: on rank 0
double world_sum(struct world *w, double mine); // in order of ranks: the same bits on all
void world_barrier(struct world *w);

#endif
