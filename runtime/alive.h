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

/* From now on alive() on the calling thread also calls `hook`, at most every `every_s` seconds.
 * NULL: no more. */
void alive_hook(void (*hook)(void), double every_s);
bool alive_hooked(void); // whether the calling thread is that one

#ifdef __cplusplus
}
#endif
#endif
