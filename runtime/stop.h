/* stop.h - whether this job was asked to end before it is finished: its machine is needed for
 * another job, its time is over, or its user interrupts it.
 *
 * A signal only sets the flag, on one rank or on all; parallel/watch.c passes it on to the other
 * ranks. Long work checks the flag where it can end without loss: loading between two reads, the
 * pipeline between two steps. */
#ifndef RUNTIME_STOP_H
#define RUNTIME_STOP_H

#include "runtime/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The first call sets the flag, later ones do nothing. On any thread, also in a signal handler. */
void stop_request(int signal_number);

int stop_requested(void);          // the number of the signal; 0: no request
double stop_requested_at(void);    // of clock_seconds
const char *stop_name(int number); // "SIGTERM"
status stop_check(void);           // ST_PREEMPTED when a stop was requested

#ifdef __cplusplus
}
#endif
#endif
