/* select.h - the CPU's table at each level of the instruction set that this machine supports.
 * table_cpu (kernels/table.h) uses the highest; the others are for tests. */
#ifndef KERNELS_CPU_SELECT_H
#define KERNELS_CPU_SELECT_H

#include "kernels/table.h"

struct cpu_level {
    const char *name;
    void (*fill)(struct table *t);
};

/* Level `index`, in ascending order; `fill` is NULL after the last. */
struct cpu_level cpu_level(int index);

#endif
