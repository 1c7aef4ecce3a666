/* progress.h - progress output of rank 0, or of the first rank of each group.
 *
 * On a terminal: one line, rewritten in place. Elsewhere (a file, or mpirun, which passes output on
 * through a pipe): plain lines, for the first and the last step, each step that takes seconds, and
 * of faster steps one every few seconds, less often in long stages. Other ranks print nothing.
 *
 *     sampling  [#########---------]  17/50  4.21 s/step  2:19 left
 *
 * With a prefix all lines are plain ones, each written at once, so that several ranks can:
 *
 *     [group 1] sampling: 17/50  4.21 s/step  2:19 left */
#ifndef LAUNCH_PROGRESS_H
#define LAUNCH_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct progress {
    FILE *out;       // NULL: no output
    char prefix[24]; // of every line
    bool terminal;
    int columns;
    double (*now)(void *payload); // seconds; tests replace it
    void *payload;

    char stage[48], unit[16];
    int64_t total, first, done; // steps; `first` is above 0 in a resumed run
    double started, printed;    // times of the stage's start and of the last output
    double first_end, last_end; // times at which the stage's first and last steps were done
    int64_t first_end_done;     // `done` at the first of them
    bool line_open;             // the terminal shows a line that will be rewritten
    bool in_stage;              // between progress_stage and progress_end
};

/* `enabled`: whether this rank prints; true on rank 0 only. Lines are written to `out`. */
void progress_init(struct progress *p, FILE *out, bool enabled);

/* Prints to `out` (NULL: nothing) from now on, each line with `prefix`. Not within a stage. */
void progress_redirect(struct progress *p, FILE *out, const char *prefix);

#define PROGRESS_BYTES "B" // a unit: counts are printed as MB or GB

/* Begins a stage and ends the previous one. `first` of `total` steps are done already; total 0: the
 * stage has no steps. `unit` is the name of a step, or PROGRESS_BYTES. */
void progress_stage(struct progress *p, const char *name, int64_t first, int64_t total,
                    const char *unit);
void progress_update(struct progress *p, int64_t done); // `done` of `total` steps are done
void progress_total(struct progress *p, int64_t total); // corrects the number of steps
void progress_tick(struct progress *p);                 // called now and then during a step
void progress_end(struct progress *p);                  // ends the stage and prints its duration

/* Prints a line, in any stage. */
void progress_print(struct progress *p, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Writes a duration as "2:19" or "1:02:03" into a buffer of 24 bytes, and returns the buffer. */
const char *progress_time(char *buffer, double seconds);

#endif
