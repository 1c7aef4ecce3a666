#include "launch/commands.h"

#include <stdio.h>
#include <unistd.h>

void command_complain(const char *line)
{
    fflush(stdout);
    if (isatty(STDERR_FILENO))
        fputs("\r\033[K", stderr); // erases a progress line
    fprintf(stderr, "wanmpi: %s\n", line);
    fflush(stderr);
}

void command_abort(struct world *w, status st)
{
    if (st == ST_PEER)
        sleep(2 + 3 * (unsigned)world_alive_before(w));
    else if (st == ST_PREEMPTED)
        sleep(3 * (unsigned)world_alive_before(w));
    command_complain(status_line());
    world_abort(w, st);
}
