/* What a failed assert does in this program, in C and in C++, in our code and in a library's: one
 * line and the end of the whole job, instead of SIGABRT, for which MPI prints a stack of its own
 * and the system writes a core file.
 *
 * It is part of the program and not of a library: test programs keep the C library's way. */
#include "parallel/world.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define EXIT_FAULT 70  // EX_SOFTWARE of sysexits.h; a status is smaller
#define ABORT_LIMIT 10 // seconds that ending the job may take

/* The file as seen from the root of the sources: __FILE__ is what the compiler was given. */
static const char *from_root(const char *file)
{
    static const char here[] = __FILE__, own[] = "launch/fault.c";
    const size_t prefix = sizeof(here) - sizeof(own);

    return strncmp(file, here, prefix) == 0 ? file + prefix : file;
}

/* glibc's assert calls this. Any thread: the first one ends the job, others wait for it. */
void __assert_fail(const char *condition, const char *file, unsigned line, const char *function)
{
    static atomic_flag ending = ATOMIC_FLAG_INIT;
    char text[512];
    int length;

    (void)function;
    while (atomic_flag_test_and_set(&ending))
        pause();
    alarm(ABORT_LIMIT); // MPI may be in the middle of a call, or another thread hold a lock
    fflush(stdout);
    length = snprintf(text, sizeof(text), "%swanmpi: internal fault: %s:%u: %s; please report it\n",
                      isatty(STDERR_FILENO) ? "\r\033[K" : "", from_root(file), line, condition);
    if (length >= (int)sizeof(text)) {
        length = sizeof(text) - 1;
        text[length - 1] = '\n';
    }
    if (write(STDERR_FILENO, text, (size_t)length) < 0) // in one call: other ranks print too
        _exit(EXIT_FAULT);
    world_abort_anywhere(EXIT_FAULT);
}
