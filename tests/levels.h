/* levels.h - the two op tables that a golden test runs on: the reference and the CPU's; or, if the
 * last argument is "cuda", a GPU's plain kernels and its fast ones; if it is "plain", the plain
 * ones only. */
#ifndef TESTS_LEVELS_H
#define TESTS_LEVELS_H

#include "kernels/table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LEVELS 2

static bool levels_cuda; // the tables are a GPU's

/* Fills the tables; removes "cuda" or "plain" from the arguments. Ends the program as skipped if a
 * GPU is needed and there is none. */
static inline void levels_open(struct table tables[LEVELS], int *argc, char **argv)
{
    const char *last = *argc > 1 ? argv[*argc - 1] : "";
    const bool plain = strcmp(last, "plain") == 0;

    levels_cuda = plain || strcmp(last, "cuda") == 0;
    if (!levels_cuda) {
        tables[0] = table_ref;
        table_cpu(&tables[1]);
        return;
    }
    (*argc)--;
    if (device_cuda_count() == 0) {
        printf("skipped: no usable GPU on this machine\n");
        exit(77);
    }
    table_cuda_plain(&tables[0]);
    (plain ? table_cuda_plain : table_cuda)(&tables[1]);
}

/* Opens the device of such a table; `index` selects the GPU. */
static inline status levels_device(struct device *dev, int index, const struct table *table)
{
    if (levels_cuda)
        return device_open_cuda(dev, index % device_cuda_count(), table, table->workspace);
    return device_open_cpu(dev, 1, table, table->workspace);
}

/* On GPUs sums of hundreds of terms are added in another order. */
static inline double levels_tolerance(double cpu)
{
    return levels_cuda ? 1e-4 : cpu;
}

#endif
