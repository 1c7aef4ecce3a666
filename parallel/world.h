/* world.h - all ranks of the job: start, end, failing together, small host messages.
 *
 * Two kinds: the real one over MPI, and a described one (world_describe) of any size, in which one
 * rank at a time is planned and nothing is sent. */
#ifndef PARALLEL_WORLD_H
#define PARALLEL_WORLD_H

#include "runtime/status.h"

#include <stdbool.h>
#include <stddef.h>

struct world {
    int rank, size;
    int local_rank, local_size; // among the ranks of this node
    bool described;             // no MPI behind it
    bool nccl;                  // GPUs of a node exchange through NCCL too
    double deadline_s;          // how long the groups opened on it wait for a silent peer
    void *impl;
};

#define WORLD_DEADLINE_S 600.0

/* Starts MPI (or takes the singleton world when started without mpirun). ST_USAGE when a launcher
 * that MPI does not understand has started many of us, which would all do the whole job. */
status world_open(struct world *w, int *argc, char ***argv);
void world_describe(struct world *w, int rank, int size, int ranks_per_node);
void world_close(struct world *w); // collective; accepts a zeroed world

/* Ends all ranks at once, from any rank, after the caller has printed its line; the job's exit
 * status is `st`. Prints nothing itself. Does not return. */
void world_abort(struct world *w, status st) __attribute__((noreturn));

/* All ranks pass their own status; all get the status and the line of the lowest rank that failed,
 * or ST_OK. Collective: the way ranks fail together while setting up. */
status agree(struct world *w, status st);

/* Small host messages, collective. They wait as long as it takes (rank 0 may be reading a text
 * encoder), without keeping a core busy. On a described world a rank hears only itself. */
void world_broadcast(struct world *w, void *data, size_t bytes, int root);
void world_gather(struct world *w, const void *mine, size_t bytes, void *all); // all: on rank 0
double world_sum(struct world *w, double mine); // added in order of ranks
void world_barrier(struct world *w);

#endif
