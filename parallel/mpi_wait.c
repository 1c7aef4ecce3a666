#include "parallel/mpi_wait.h"

#include <time.h>

double mpi_seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void sleep_s(double s)
{
    nanosleep(&(struct timespec){ .tv_nsec = (long)(s * 1e9) }, NULL);
}

/* MPI moves large messages only while somebody polls, and does not say whether a poll moved
 * anything. A poll that took long did; after an idle stretch we sleep for an eighth of it, so that
 * sleeping never adds much to a wait, and ranks that share a core get out of each other's way. */
bool mpi_wait(MPI_Request *request, int count, double limit_s)
{
    const double spin_s = 20e-6, moved_s = 10e-6, sleep_max_s = 1e-3;
    const double start = mpi_seconds();
    double idle_since = start, before = start;

    while (count > 0) {
        int done;

        MPI_Testall(count, request, &done, MPI_STATUSES_IGNORE);
        if (done)
            return true;

        const double now = mpi_seconds(), idle = now - idle_since;
        if (now - start > limit_s)
            return false;
        if (now - before > moved_s)
            idle_since = now;
        else if (idle > spin_s)
            sleep_s(idle / 8 < sleep_max_s ? idle / 8 : sleep_max_s);
        before = mpi_seconds();
    }
    return true; // without requests there may be no MPI at all
}
