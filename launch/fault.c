/* Replaces the C library's handler of failed asserts, in C and C++, in our code and in libraries:
 * it prints one line and ends the whole job. The default handler raises SIGABRT, for which MPI
 * prints a stack trace and the system may write a core file.
 *
 * Linked into the program only, not into a library: test programs keep the default handler. */
#include "parallel/world.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define ABORT_LIMIT_S 10 // after this time the process is killed by SIGALRM

/* The path of a source file relative to the root of the sources. __FILE__ is the path that the
 * compiler was given, and has a prefix that depends on the build folder. */
static const char *from_root(const char *file)
{
    static const char here[] = __FILE__, relative[] = "launch/fault.c";
    const size_t prefix = sizeof(here) - sizeof(relative);

    return strncmp(file, here, prefix) == 0 ? file + prefix : file;
}

/* Called by glibc's assert, on any thread. The first thread ends the job; others wait until the
 * process ends. */
void __assert_fail(const char *condition, const char *file, unsigned line, const char *function)
{
    static atomic_flag ending = ATOMIC_FLAG_INIT;
    char text[512];
    int length;

    (void)function;
    while (atomic_flag_test_and_set(&ending))
        pause();
    alarm(ABORT_LIMIT_S); // MPI may be inside a call, or another thread may hold a lock
    fflush(stdout);
    length = snprintf(text, sizeof(text), "%swanmpi: internal fault: %s:%u: %s; please report it\n",
                      isatty(STDERR_FILENO) ? "\r\033[K" : "", from_root(file), line, condition);
    if (length >= (int)sizeof(text)) {
        length = sizeof(text) - 1;
        text[length - 1] = '\n';
    }
    if (write(STDERR_FILENO, text, (size_t)length) < 0) // one call: other ranks may print too
        _exit(ST_INTERNAL);
    world_crashing();
    world_abort_anywhere(ST_INTERNAL);
}
