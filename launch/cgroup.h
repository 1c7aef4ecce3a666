/* cgroup.h - the memory and the CPU time that the operating system lets this process use.
 *
 * Slurm, Docker, Kubernetes and systemd limit a job through Linux control groups, of version 1 or
 * 2. The groups form a tree, and a limit holds for everything below it, so that all groups from the
 * process's own up to the root that is mounted are read:
 *
 *     /proc/self/mountinfo    where the tree is mounted, and which of its groups is at the root
 *     /proc/self/cgroup       this process's group
 *
 * `root` is "" for this machine; tests pass a folder that holds a described /proc and /sys. */
#ifndef LAUNCH_CGROUP_H
#define LAUNCH_CGROUP_H

#include <stdint.h>

/* Bytes of host memory that the processes of this node, or of this control group, can still
 * allocate. File cache counts as free: the kernel drops it. -1 if unknown. */
int64_t cgroup_memory(const char *root);

/* The number of CPUs whose time this process's control group may use, 1.5 for 150 ms in 100 ms; 0
 * if it is not limited. */
double cgroup_cpus(const char *root);

#endif
