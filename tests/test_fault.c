/* Asserts that fail on one rank, in every place there is. The argument says where:
 *   main      in C, on the main thread, while the other ranks wait for a message
 *   thread    on another thread, while the main thread is inside MPI
 *   threads   on many threads at once
 *   cxx       in C++
 *   early     before MPI is started */
#include "parallel/world.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

void fault_in_cxx(int ranks);

static void *fault_here(void *payload)
{
    const struct world *w = payload;

    assert(w->size == 0);
    return NULL;
}

int main(int argc, char **argv)
{
    const char *how = argc > 1 ? argv[1] : "";
    struct world w = { .size = 1 };
    pthread_t threads[8];
    int count = 0;

    if (strcmp(how, "early") == 0)
        fault_here(&w);
    if (world_open(&w, &argc, &argv) != ST_OK)
        return 1;
    if (w.rank == w.size - 1) {
        printf("what was printed before\n"); // and is still in a buffer
        if (strcmp(how, "main") == 0)
            fault_here(&w);
        if (strcmp(how, "cxx") == 0)
            fault_in_cxx(w.size);
        count = strcmp(how, "threads") == 0 ? 8 : 1;
        for (int i = 0; i < count; i++)
            pthread_create(&threads[i], NULL, fault_here, &w);
    }
    for (;;) // the rank at fault waits in MPI too while its threads fail
        world_broadcast(&w, &count, sizeof(count), 0);
}
