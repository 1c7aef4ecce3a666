#include "runtime/alive.h"

#include "runtime/clock.h"

#include <stdatomic.h>
#include <stddef.h>

static _Atomic uint64_t calls;
static _Atomic(const char *) current_stage = "start";
static _Atomic int64_t current_step = -1;

static _Thread_local void (*thread_hook)(void);
static double hook_every_s, hook_called_s; // used by the thread with the hook only

void alive(void)
{
    atomic_fetch_add_explicit(&calls, 1, memory_order_relaxed);
    if (thread_hook == NULL)
        return;

    const double now = clock_seconds();

    if (now - hook_called_s >= hook_every_s) {
        hook_called_s = now;
        thread_hook();
    }
}

uint64_t alive_count(void)
{
    return atomic_load_explicit(&calls, memory_order_relaxed);
}

void alive_at(const char *stage, int64_t step)
{
    atomic_store(&current_stage, stage);
    atomic_store(&current_step, step);
    alive();
}

void alive_where(const char **stage, int64_t *step)
{
    *stage = atomic_load(&current_stage);
    *step = atomic_load(&current_step);
}

bool alive_hooked(void)
{
    return thread_hook != NULL;
}

void alive_hook(void (*hook)(void), double every_s)
{
    hook_every_s = every_s;
    thread_hook = hook;
}
