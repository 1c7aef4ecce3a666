/* mpi_wait.h - MPI behind the world, and waiting for it without burning the core that a peer may
 * need. Internal to parallel/, with MPI's types in it. */
#ifndef PARALLEL_MPI_WAIT_H
#define PARALLEL_MPI_WAIT_H

#include "parallel/world.h"

#include <mpi.h>

struct world_impl {
    MPI_Comm comm;
};

/* The communicator of a world that is not described. */
static inline MPI_Comm world_comm(const struct world *w)
{
    return ((const struct world_impl *)w->impl)->comm;
}

double mpi_seconds(void); // a clock that only goes forward

/* Waits until all requests are done; false when they are not after limit_s seconds. */
bool mpi_wait(MPI_Request *request, int count, double limit_s);

#endif
