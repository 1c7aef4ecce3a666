/* request_internal.h - the rows of request.c, for the files that compare requests. */
#ifndef LAUNCH_REQUEST_INTERNAL_H
#define LAUNCH_REQUEST_INTERNAL_H

#include "launch/request.h"

#define AT(f) offsetof(struct request, f)

enum {
    CMD_LINE = 8,   // a line of a batch file
    CMD_RECORD = 16 // a result or a run file
};

/* Bits of a row's `marks`; the bits from 8 on are the number of an input. */
enum {
    NUMBERS = 1, // the value changes the resulting latent; --resume keeps the run file's value
    JOB = 2,     // the value is the same for all requests of a batch
    VIDEO = 4,   // not used for a single image
    PIXELS = 8   // the value changes the resulting file, but not the latent
};

extern const struct option request_rows[];
extern const int request_row_count;

#endif
