/* Ranks that fail in the middle: what the others do then. The argument says how:
 *   silent   rank 1 stops answering: ST_PEER after the deadline, with a line that names it
 *   exit     rank 1 leaves without a word, kill: it is killed; abort: it ends the job
 * Only `silent` ends by itself; the others must be ended by the launcher. */
#include "kernels/table.h"
#include "parallel/group.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void misbehave(struct world *w, const char *how)
{
    if (strcmp(how, "silent") == 0)
        for (;;)
            pause();
    if (strcmp(how, "exit") == 0)
        _exit(9);
    if (strcmp(how, "kill") == 0)
        kill(getpid(), SIGKILL);
    fail(ST_DEVICE, "rank %d: the device is gone", w->rank);
    fprintf(stderr, "%s\n", status_line());
    world_abort(w, ST_DEVICE);
}

int main(int argc, char **argv)
{
    struct world w;
    struct device dev;
    struct group g;
    status st = world_open(&w, &argc, &argv);

    if (st != ST_OK) {
        fprintf(stderr, "%s\n", status_line());
        return (int)st;
    }
    if (argc < 2)
        return 1;
    if (device_open_cpu(&dev, 1, &table_ref, 0) != ST_OK ||
        group_open(&g, "ulysses", &w, &dev, 0, NULL, 0) != ST_OK)
        return 1;
    for (int turn = 0; turn < 100; turn++) {
        struct transfer t = { 0 };
        char word[4] = "";
        if (turn == 3 && w.rank == 1)
            misbehave(&w, argv[1]);
        if (turn == 5 && strcmp(argv[1], "silent") == 0)
            g.deadline_s = 1; // the first broadcast from rank 1; a slow rank is given more time
        st = group_broadcast(&g, &t, word, sizeof(word), turn % w.size);
        if (st == ST_OK)
            st = transfer_wait(&t);
        if (st != ST_OK) {
            fprintf(stderr, "%s\n", status_line());
            world_abort(&w, st);
        }
    }
    return 0; // nobody may get here
}
