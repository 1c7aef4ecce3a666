/* progress.h - what is going on, for the one who waits.
 *
 * On a terminal one line that rewrites itself; in a file plain lines: the first and last step of a
 * stage, and between them one every ten seconds. A rank that does not speak says nothing.
 *
 *     sampling  [#########---------]  17/50  4.21 s/step  2:19 left                            */
#ifndef LAUNCH_PROGRESS_H
#define LAUNCH_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct progress {
    FILE *out; // NULL: says nothing
    bool terminal;
    int columns;
    double (*now)(void *payload); // seconds; the tests bring their own
    void *payload;

    char stage[48], unit[16];
    int64_t total, first, done; // done counts from `first` (a resumed run starts behind 0)
    double started, spoke;
    double second; // when the first step of the stage was done
    int64_t at_second;
    bool open; // a rewritten line stands on the terminal
    bool in_stage;
};

/* `speaks`: this is rank 0. Lines go to `out`. */
void progress_init(struct progress *p, FILE *out, bool speaks);

/* Begins a stage, ending the one before. total 0: without steps. `unit` is one step's name. */
void progress_stage(struct progress *p, const char *name, int64_t first, int64_t total,
                    const char *unit);
void progress_done(struct progress *p, int64_t done); // so many of `total` are done
void progress_end(struct progress *p);                // of the stage; says how long it took

/* A line between, whatever the stage. */
void progress_line(struct progress *p, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* "2:19", "1:02:03"; buffer of 24. */
const char *progress_time(char *buffer, double seconds);

#endif
