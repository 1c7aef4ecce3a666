#include "parallel/mpi_wait.h"

#include "parallel/watch.h"
#include "runtime/clock.h"

#include <time.h>

static void sleep_s(double s)
{
    nanosleep(&(struct timespec){ .tv_nsec = (long)(s * 1e9) }, NULL);
}

/* MPI makes progress on large messages only while a process polls, and does not report whether a
 * poll transferred data. A poll that took longer than moved_s did. After an idle period we sleep
 * for an eighth of its length: the sleeps add little to the total wait, and ranks that share a core
 * let each other run. */
status mpi_wait(MPI_Request *request, int count, const char *what)
{
    const double spin_s = 20e-6, moved_s = 10e-6, sleep_max_s = 1e-3;
    double idle_since = clock_seconds(), before = idle_since;

    while (count > 0) {
        int done;

        MPI_Testall(count, request, &done, MPI_STATUSES_IGNORE);
        if (done)
            return ST_OK;
        TRY(watch_wait(what));

        const double now = clock_seconds(), idle = now - idle_since;
        if (now - before > moved_s)
            idle_since = now;
        else if (idle > spin_s)
            sleep_s(idle / 8 < sleep_max_s ? idle / 8 : sleep_max_s);
        before = clock_seconds();
    }
    return ST_OK; // with no requests, MPI may not be initialized
}
