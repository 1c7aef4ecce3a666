/* crash.h - what SIGSEGV, SIGBUS, SIGILL, SIGFPE and SIGABRT do: one line that names the rank and
 * what it was doing, and the end of the whole job with status 70. Open MPI would print a stack
 * trace for them from each rank, and mpirun would end with 128 + n. */
#ifndef LAUNCH_CRASH_H
#define LAUNCH_CRASH_H

/* Once per process, on the main thread, before world_open: Open MPI keeps handlers that are there.
 * So does this: a sanitizer has its own. */
void crash_open(void);

#endif
