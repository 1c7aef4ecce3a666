/* signals.h - what SIGTERM, SIGINT, SIGUSR1 and SIGHUP do to `generate` and `batch`: the first one
 * asks the job to stop (runtime/stop.h), the same one again, more than a second later, ends it at
 * once.
 *
 * The launcher also sends SIGTERM when another rank has died. If that leaves no rank time to say
 * so, a thread of the first rank that is left does. */
#ifndef LAUNCH_SIGNALS_H
#define LAUNCH_SIGNALS_H

#include "runtime/status.h"

/* Signals that the process was started to ignore stay ignored. Once per process, before
 * world_open. ST_MEMORY. */
status signals_open(void);

void signals_quiet(void); // from now on, signals print nothing; before the command's last line

#endif
