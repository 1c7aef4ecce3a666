/* mpi_wait.h - the MPI communicator of a world, and waiting for MPI requests with short sleeps, so
 * that a peer on the same core can run. Internal to parallel/: exposes MPI types. */
#ifndef PARALLEL_MPI_WAIT_H
#define PARALLEL_MPI_WAIT_H

#include "parallel/world.h"

#include <mpi.h>

struct world_impl {
    MPI_Comm comm;
    MPI_Group node; // its ranks on this rank's node
};

/* The communicator of a world opened by world_open; not for a described world. */
static inline MPI_Comm world_comm(const struct world *w)
{
    return ((const struct world_impl *)w->impl)->comm;
}

/* For each rank of a communicator of this world, whether it is on this rank's node, to be freed by
 * the caller; NULL: no memory. Local. */
bool *world_on_node(const struct world *w, MPI_Comm comm);

/* Waits until all `count` requests are complete. ST_PEER from watch_wait, with the reason `what`;
 * then some stay active. */
status mpi_wait(MPI_Request *request, int count, const char *what);

/* Waits for one request. If that fails, prints a line and ends the job. */
void world_wait(struct world *w, MPI_Request request, const char *what);

#endif
