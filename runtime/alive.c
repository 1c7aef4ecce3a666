#include "runtime/alive.h"

#include "runtime/clock.h"

#include <stdatomic.h>
#include <stddef.h>

static _Atomic uint64_t calls;
static _Atomic(const char *) current_stage = "start";
static _Atomic int64_t current_step = -1;

static _Thread_local struct alive_hook *hooks;
static _Thread_local bool in_hook;

void alive_tick(void)
{
    if (hooks == NULL || in_hook)
        return;

    const double now = clock_seconds();

    in_hook = true;
    for (struct alive_hook *h = hooks; h != NULL; h = h->next) {
        if (now - h->called_s < h->every_s)
            continue;
        h->called_s = now;
        h->call(h->payload);
    }
    in_hook = false;
}

void alive(void)
{
    atomic_fetch_add_explicit(&calls, 1, memory_order_relaxed);
    alive_tick();
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
    return hooks != NULL;
}

void alive_hook_add(struct alive_hook *h)
{
    h->next = hooks;
    hooks = h;
}

void alive_hook_remove(struct alive_hook *h)
{
    for (struct alive_hook **at = &hooks; *at != NULL; at = &(*at)->next)
        if (*at == h) {
            *at = h->next;
            return;
        }
}
