/* ranks.h - test programs of several ranks: every rank checks, rank 0 prints the total counts. */
#ifndef TESTS_RANKS_H
#define TESTS_RANKS_H

#include "parallel/world.h"
#include "tests/check.h"

/* Prints the counts of all ranks and closes the world. Collective. Returns the same exit status on
 * every rank: 1 if any check failed or none was done. */
static inline int ranks_end(struct world *w, const char *name)
{
    const double done = world_sum(w, checks_done), failed = world_sum(w, checks_failed);

    if (w->rank == 0)
        printf("%s on %d ranks: %.0f checks, %.0f failed\n", name, w->size, done, failed);
    world_close(w);
    return failed > 0 || done == 0 ? 1 : 0;
}

#endif
