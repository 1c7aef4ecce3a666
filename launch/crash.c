#include "launch/crash.h"

#include "parallel/world.h"
#include "runtime/alive.h"

#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

static const struct {
    int number;
    const char *name;
} crashes[] = { { SIGSEGV, "SIGSEGV" },
                { SIGBUS, "SIGBUS" },
                { SIGILL, "SIGILL" },
                { SIGFPE, "SIGFPE" },
                { SIGABRT, "SIGABRT" } };

/* A line that is written in a signal handler, where snprintf is not allowed. */
struct line {
    char text[256];
    size_t length;
};

static void add(struct line *l, const char *text)
{
    while (*text != 0 && l->length < sizeof(l->text))
        l->text[l->length++] = *text++;
}

static void add_number(struct line *l, int64_t n) // n >= 0
{
    char digits[24] = "";
    size_t at = sizeof(digits) - 1;

    do {
        digits[--at] = (char)('0' + n % 10);
        n /= 10;
    } while (n > 0);
    add(l, digits + at);
}

/* Only what POSIX allows in a signal handler: the process may have crashed within malloc or MPI. It
 * does not end through MPI; the launcher ends the others, as after any other status but 0. */
static void on_crash(int number)
{
    static atomic_flag ending = ATOMIC_FLAG_INIT;
    struct line l = { .length = 0 };
    const char *stage;
    int64_t step;

    while (atomic_flag_test_and_set(&ending)) // another thread ends the process
        pause();
    const int rank = world_crashing();
    alive_where(&stage, &step);
    add(&l, isatty(STDERR_FILENO) ? "\r\033[Kwanmpi: " : "wanmpi: ");
    if (rank >= 0) {
        add(&l, "rank ");
        add_number(&l, rank);
        add(&l, ": ");
    }
    add(&l, "internal fault: crashed with ");
    for (size_t i = 0; i < COUNT(crashes); i++)
        if (crashes[i].number == number)
            add(&l, crashes[i].name);
    add(&l, " in ");
    add(&l, stage);
    if (step >= 0) {
        add(&l, ", step ");
        add_number(&l, step);
    }
    add(&l, "; please report it\n");
    (void)!write(STDERR_FILENO, l.text, l.length); // one call: other ranks may print too
    _exit(ST_INTERNAL);
}

void crash_open(void)
{
    struct sigaction action = { .sa_handler = on_crash, .sa_flags = SA_ONSTACK }, before;
    static char stack[64 << 10]; // one that has overflowed cannot hold the handler's frame
    stack_t other;

    if (sigaltstack(NULL, &other) == 0 && (other.ss_flags & SS_DISABLE) != 0)
        sigaltstack(&(stack_t){ .ss_sp = stack, .ss_size = sizeof(stack) }, NULL);
    for (size_t i = 0; i < COUNT(crashes); i++)
        if (sigaction(crashes[i].number, NULL, &before) == 0 && before.sa_handler == SIG_DFL)
            sigaction(crashes[i].number, &action, NULL);
}
