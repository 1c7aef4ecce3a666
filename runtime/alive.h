/* alive.h - signs that this process makes progress, for those who watch it (parallel/watch.h).
 *
 * What can take long without waiting for another rank calls alive() again and again: the loops of
 * the CPU kernels, reading and writing of files, transfers that have ended. Any thread may. */
#ifndef RUNTIME_ALIVE_H
#define RUNTIME_ALIVE_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

void alive(void);           // costs some ten nanoseconds
uint64_t alive_count(void); // calls so far

/* What the job is doing, for error lines: a constant string, and the number of the step, or -1. */
void alive_at(const char *stage, int64_t step);
void alive_where(const char **stage, int64_t *step);

/* What a thread also does while it works or waits: alive() and alive_tick() on the thread that
 * added the hook call it, at most every `every_s` seconds. Not called from within a hook. */
struct alive_hook {
    void (*call)(void *payload);
    void *payload;
    double every_s;
    double called_s;         // time of the last call
    struct alive_hook *next; // a list
};

void alive_hook_add(struct alive_hook *h); // borrowed until it is removed
void alive_hook_remove(struct alive_hook *h);
bool alive_hooked(void); // whether the calling thread has hooks
void alive_tick(void);   // for waits, which are no sign of life

#ifdef __cplusplus
}
#endif
#endif
