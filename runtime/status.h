/* status.h - the error type, which is also the exit status of the program, and the line that
 * describes an error.
 *
 * The function that detects an error calls fail() with one line: what was found, and what to do.
 * Its callers pass the status on unchanged. The line belongs to the thread that failed. */
#ifndef RUNTIME_STATUS_H
#define RUNTIME_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    ST_OK = 0,
    ST_USAGE,  // the request cannot be met: flags, sizes, ranks
    ST_IO,     // the system reports an error on a file: missing, unreadable, disk full
    ST_FORMAT, // the contents of a file are wrong: truncated, damaged, unknown
    ST_MEMORY, // not enough memory
    ST_DEVICE, // an accelerator or one of its libraries failed
    ST_PEER,   // another rank failed or does not answer

    ST_INTERNAL = 70,  // EX_SOFTWARE of sysexits.h: a failed assert; only an exit status
    ST_PREEMPTED = 75, // EX_TEMPFAIL: the job was asked to stop; started again, it goes on
} status;

/* Stores the line and returns `st`, which is not ST_OK. */
status fail(status st, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The status of a system call on a file that failed: ST_MEMORY if errno says so, else ST_IO. */
status status_of_errno(void);

/* The line of this thread's last fail(), "" before the first. Valid until the next fail(). */
const char *status_line(void);

#define TRY(call)                                                                                  \
    do {                                                                                           \
        status try_st_ = (call);                                                                   \
        if (try_st_ != ST_OK)                                                                      \
            return try_st_;                                                                        \
    } while (0)

/* For functions that have `status st` and a label `out`. */
#define TRY_OUT(call)                                                                              \
    do {                                                                                           \
        st = (call);                                                                               \
        if (st != ST_OK)                                                                           \
            goto out;                                                                              \
    } while (0)

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#ifdef __cplusplus
}
#endif
#endif
