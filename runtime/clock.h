/* clock.h - time that has passed, in seconds. */
#ifndef RUNTIME_CLOCK_H
#define RUNTIME_CLOCK_H

#include <time.h>

#ifdef __cplusplus
extern "C" {
#endif

double clock_seconds(void);     // since some start; never goes back
double clock_cpu_seconds(void); // that all threads of this process have computed

/* Also where a signal arrives meanwhile, which ends sleep(). */
void clock_sleep(double seconds);

struct timespec clock_after_ms(int ms); // a time from now, for pthread_cond_timedwait

#ifdef __cplusplus
}
#endif
#endif
