/* placement.h - the cores of its node that a rank computes on.
 *
 * Ranks that are allowed the same cores divide them into equal consecutive ranges, so that a rank's
 * threads stay in one socket where possible. With more ranks than cores, each rank gets one thread,
 * on any of the cores.
 *
 * Allowed cores: by default mpirun binds each rank to one core (from three ranks on, to one
 * socket). We undo this default and allow all cores that mpirun itself may use. A binding that the
 * user requested (`mpirun --bind-to`, `srun --cpu-bind`, a control group) is kept.
 *
 * A rank with a GPU uses the cores close to that GPU, if hwloc reports them and the rank is allowed
 * some of them. Memory is allocated on the NUMA node of the threads that first write it. */
#ifndef LAUNCH_PLACEMENT_H
#define LAUNCH_PLACEMENT_H

#include "parallel/world.h"

/* A node from the view of one rank: this machine, or a description of another one. */
struct placement_node {
    const char *topology; // hwloc's synthetic form, "pack:2 core:8 pu:2", or its XML; NULL: this
                          // machine
    char allowed[512];    // PUs that may be used, "0-15,32"; "": all of the machine
    int rank, size;       // this rank among the ranks of the node with the same allowed PUs
    int threads;          // OMP_NUM_THREADS, 0 if it is not set
    double cpus;          // CPU time that this rank may use, as in cgroup.h; 0: no limit
};

struct placement {
    int threads;    // for this rank's ops, at least 1
    int cores;      // of this rank, at least 1
    int all_cores;  // of all ranks with the same allowed PUs
    char pus[512];  // of this rank, "0-7,32-39"
    char cpu[96];   // model of the first core's CPU, "AMD EPYC 9354"; "CPU" if unknown
    char note[160]; // what the user should know about the number of threads; "": nothing
};

/* Describes this machine. gpu: PCI address of this rank's GPU, "0000:3b:00.0", or NULL. Collective;
 * the ranks agree on the status. ST_DEVICE, ST_MEMORY. */
status placement_detect(struct world *w, const char *gpu, struct placement_node *node);

/* Restricts node->allowed to the PUs close to the PCI device `gpu`. Unchanged if none of them is
 * close to it, or hwloc does not report the device. ST_USAGE, ST_DEVICE, ST_MEMORY. Local. */
status placement_near_gpu(struct placement_node *node, const char *gpu);

/* Chooses this rank's PUs. threads: requested by the user; 0: OMP_NUM_THREADS, or else one per
 * core, both at most as many as there are CPUs for this rank. Local. ST_USAGE, ST_DEVICE,
 * ST_MEMORY. */
status placement_choose(struct placement *p, const struct placement_node *node, int threads);

/* Binds the calling thread, and thereby the threads that it creates later. Local. ST_DEVICE,
 * ST_MEMORY. */
status placement_bind(const struct placement *p);

#endif
