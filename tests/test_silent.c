/* Rank 1 fails between two collectives; what do the other ranks do? The argument says how it fails:
 *   silent   it stops responding: the others give ST_PEER after the deadline, with a line naming it
 *   stopped  the same while the others agree on a status, by SIGSTOP
 *   astray   it waits for something else: no rank makes progress
 *   apart    the same, while ranks 2 and 3 work: a group of ranks makes no progress
 *   blocked  it does not come back from the system: it notices that itself
 *   exit     it exits without calling MPI_Finalize
 *   kill     it is killed by a signal
 *   abort    it calls world_abort
 * In the first five the ranks end by themselves; otherwise the launcher ends them. */
#include "kernels/table.h"
#include "parallel/group.h"
#include "runtime/alive.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void fail_as(struct world *w, const char *how)
{
    if (strcmp(how, "silent") == 0 || strcmp(how, "blocked") == 0)
        for (;;)
            pause();
    while (strcmp(how, "stopped") == 0)
        raise(SIGSTOP);
    if (strcmp(how, "astray") == 0)
        world_barrier(w);
    if (strcmp(how, "exit") == 0)
        _exit(9);
    if (strcmp(how, "kill") == 0)
        kill(getpid(), SIGKILL);
    fail(ST_DEVICE, "rank %d: the device is gone", w->rank);
    fprintf(stderr, "%s\n", status_line());
    world_abort(w, ST_DEVICE);
}

/* Ranks 0 and 1 are one group, and wait for different things; the other group works. */
static int wait_apart(struct world *w)
{
    struct world part;

    if (agree(w, world_divide(&part, w, 2)) != ST_OK)
        return 1;
    w->deadline_s = 1;
    world_expect_of(w, w->rank / 2 * 2, 2);
    for (int i = 0; w->rank >= 2 && i < 6000; i++) {
        alive();
        usleep(10000);
    }
    world_barrier(w->rank == 0 ? &part : w);
    return 0; // must not be reached
}

static void complain(const char *line)
{
    fprintf(stderr, "%s\n", line);
}

int main(int argc, char **argv)
{
    struct world w;
    struct device dev;
    struct group g;
    status st = argc > 1 && strcmp(argv[1], "blocked") == 0 ? world_watch(complain, 60) : ST_OK;

    if (st == ST_OK)
        st = world_open(&w, &argc, &argv);
    if (st != ST_OK) {
        complain(status_line());
        return (int)st;
    }
    if (argc < 2)
        return 1;
    if (strcmp(argv[1], "apart") == 0)
        return wait_apart(&w);
    if (device_open_cpu(&dev, 1, &table_ref, 0) != ST_OK ||
        group_open(&g, "ulysses", &w, &dev, 0, NULL, 0) != ST_OK)
        return 1;
    for (int i = 0; i < 100; i++) {
        struct transfer t = { 0 };
        char word[4] = "";
        w.deadline_s = i < 3 ? 60 : 1; // a slow rank is given more time at first
        if (i == 3 && strcmp(argv[1], "stopped") == 0 && w.rank != 1)
            agree(&w, ST_OK);
        if (i == 3 && w.rank == 1)
            fail_as(&w, argv[1]);
        if (i == 3 && strcmp(argv[1], "blocked") == 0)
            sleep(20); // no rank waits for rank 1
        st = group_broadcast(&g, &t, word, sizeof(word), i % w.size);
        if (st == ST_OK)
            st = transfer_wait(&t);
        if (st != ST_OK) {
            sleep(3 * (unsigned)world_before(0, NULL, 0));
            complain(status_line());
            world_abort(&w, st);
        }
    }
    return 0; // must not be reached
}
