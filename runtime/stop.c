#include "runtime/stop.h"

#include "runtime/clock.h"

#include <signal.h>
#include <stdatomic.h>

static atomic_int requested;
static _Atomic double requested_s;

void stop_request(int signal_number)
{
    int none = 0;

    if (atomic_compare_exchange_strong(&requested, &none, signal_number))
        atomic_store(&requested_s, clock_seconds());
}

int stop_requested(void)
{
    return atomic_load_explicit(&requested, memory_order_relaxed);
}

double stop_requested_at(void)
{
    return atomic_load(&requested_s);
}

const char *stop_name(int number)
{
    static const char *const names[] = {
        [SIGHUP] = "SIGHUP", [SIGINT] = "SIGINT", [SIGTERM] = "SIGTERM", [SIGUSR1] = "SIGUSR1"
    };

    return number > 0 && number < (int)COUNT(names) && names[number] != NULL ? names[number]
                                                                             : "a signal";
}

status stop_check(void)
{
    const int number = stop_requested();

    return number == 0 ? ST_OK : fail(ST_PREEMPTED, "stopped by %s", stop_name(number));
}
