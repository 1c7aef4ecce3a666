/* levels.h - the op tables that a golden test goes through: the reference and the CPU's or, where
 * the word "cuda" stands behind its other arguments, a GPU's plain kernels and its fast ones; with
 * "plain" the plain ones alone. */
#ifndef TESTS_LEVELS_H
#define TESTS_LEVELS_H

#include "kernels/table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LEVELS 2

static bool levels_cuda; // whether the tables are a GPU's

/* Takes "cuda" or "plain" off the end of the arguments. Ends the program as skipped where there is
 * no GPU. */
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
        printf("skipped: no GPU can be opened here\n");
        exit(77);
    }
    table_cuda_plain(&tables[0]);
    (plain ? table_cuda_plain : table_cuda)(&tables[1]);
}

/* The device of such a table; `index` chooses among GPUs. */
static inline status levels_device(struct device *dev, int index, const struct table *table)
{
    if (levels_cuda)
        return device_open_cuda(dev, index % device_cuda_count(), table, table->workspace);
    return device_open_cpu(dev, 1, table, table->workspace);
}

/* On GPUs sums of hundreds of terms come in quite other orders. */
static inline double levels_tolerance(double cpu)
{
    return levels_cuda ? 1e-4 : cpu;
}

#endif
