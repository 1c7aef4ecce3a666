/* placement.h - which cores of its node a rank computes on.
 *
 * The ranks of a node share the cores that the job was given there, in equal consecutive pieces, so
 * that a rank's threads stay in one socket where that is possible. With more ranks than cores each
 * gets one thread and is not bound.
 *
 * What the job was given: mpirun binds each rank to one core (to one socket from three ranks on)
 * unless told otherwise; that default is undone, down to what mpirun itself may use. A binding that
 * the user asked for (`mpirun --bind-to`, `--cpu-bind` of srun) stays as it is. */
#ifndef LAUNCH_PLACEMENT_H
#define LAUNCH_PLACEMENT_H

#include "runtime/status.h"

#include <stdbool.h>
#include <stdint.h>

/* A node, described or this one. */
struct placement_node {
    const char *topology; // hwloc's synthetic form, "pack:2 core:8 pu:2"; NULL: this machine
    const char *given;    // PUs that may be used, "0-15,32"; NULL: all that the machine allows
    bool fixed;           // `given` is this rank's own share already
    int local_rank, local_size;
};

struct placement {
    int threads;    // for this rank's ops, at least 1
    int cores;      // of this rank's share, at least 1
    int node_cores; // that the ranks of the node share
    bool bind;      // whether placement_bind has something to do
    char pus[512];  // this rank's share, "0-7,32-39"
};

/* This machine as this rank sees it; *given is malloc'ed. Local. */
status placement_here(struct placement_node *node, int local_rank, int local_size, char **given);

/* threads: what the user wants, 0 for one a core of the share. ST_USAGE, ST_DEVICE. Local. */
status placement_choose(struct placement *p, const struct placement_node *node, int threads);

/* Binds the calling thread, and so the threads it will make. */
status placement_bind(const struct placement *p);

/* Host memory that the ranks of this node may still take together, in bytes: what is available,
 * within the limit of the control group. */
int64_t placement_memory(void);

#endif
