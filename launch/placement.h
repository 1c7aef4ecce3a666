/* placement.h - which cores of its node a rank computes on.
 *
 * Ranks that were given the same cores share them, in equal consecutive pieces, so that a rank's
 * threads stay in one socket where that is possible. With more ranks than cores each gets one
 * thread, on any of them.
 *
 * What a rank was given: mpirun binds each rank to one core (to one socket from three ranks on)
 * unless told otherwise; that default is undone, up to what mpirun itself may use. A binding that
 * somebody asked for (`mpirun --bind-to`, `srun --cpu-bind`, a control group) is kept.
 *
 * A rank with a GPU takes its cores among those beside it, as far as the machine tells which these
 * are and the rank was given some of them; its memory comes from where its threads run. */
#ifndef LAUNCH_PLACEMENT_H
#define LAUNCH_PLACEMENT_H

#include "parallel/world.h"

#include <stdint.h>

/* A node as one rank sees it, described or this one. */
struct placement_node {
    const char *topology; // hwloc's synthetic form, "pack:2 core:8 pu:2", or its XML; NULL: this
                          // machine
    char given[512];      // PUs that may be used, "0-15,32"; "": all that the machine allows
    int rank, size;       // this rank among those of the node that were given the same
    int threads;          // OMP_NUM_THREADS, 0 when there is none
};

struct placement {
    int threads;   // for this rank's ops, at least 1
    int cores;     // of this rank's share, at least 1
    int all_cores; // that it is a share of
    char pus[512]; // the share, "0-7,32-39"
};

/* This machine. gpu: where this rank's GPU sits, "0000:3b:00.0", or NULL. Collective; the ranks
 * agree on the status. ST_DEVICE. */
status placement_here(struct world *w, const char *gpu, struct placement_node *node);

/* Leaves of node->given the PUs beside the PCI device `gpu`; all of them where none is known to be
 * beside it. */
status placement_beside(struct placement_node *node, const char *gpu);

/* threads: what the user wants; 0 for OMP_NUM_THREADS or else one a core. ST_USAGE, ST_DEVICE. */
status placement_choose(struct placement *p, const struct placement_node *node, int threads);

/* Binds the calling thread, and so the threads that it will make. */
status placement_bind(const struct placement *p);

/* Host memory that the ranks of this node may still take together, in bytes: what is available,
 * within the limit of the control group. */
int64_t placement_memory(void);

#endif
