#include "runtime/clock.h"

static double seconds_of(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double clock_seconds(void)
{
    return seconds_of(CLOCK_MONOTONIC);
}

double clock_cpu_seconds(void)
{
    return seconds_of(CLOCK_PROCESS_CPUTIME_ID);
}

void clock_sleep(double seconds)
{
    const double until = clock_seconds() + seconds;
    double left;

    while ((left = until - clock_seconds()) > 0) {
        const time_t whole = (time_t)left;

        nanosleep(&(struct timespec){ whole, (long)((left - (double)whole) * 1e9) }, NULL);
    }
}

struct timespec clock_after_ms(int ms)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_nsec += ms % 1000 * 1000000L;
    t.tv_sec += ms / 1000 + t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    return t;
}
