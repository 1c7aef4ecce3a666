/* select.h - the CPU's table at each level of the instruction set that this machine has. The best
 * one is what table_cpu (kernels/table.h) fills in; the others are there to be checked. */
#ifndef KERNELS_CPU_SELECT_H
#define KERNELS_CPU_SELECT_H

#include "kernels/table.h"

struct cpu_level {
    const char *name;
    void (*fill)(struct table *t);
};

/* Level `index`, counted from the plainest; `fill` is NULL behind the last. */
struct cpu_level cpu_level(int index);

#endif
