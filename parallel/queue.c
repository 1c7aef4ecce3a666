#include "parallel/queue.h"

#include "parallel/mpi_wait.h"
#include "runtime/alive.h"
#include "runtime/stop.h"

#include <stdlib.h>

#define ANSWER_S 0.05
enum { TAG_ASK, TAG_ANSWER };

struct queue_impl {
    MPI_Comm comm;
    struct alive_hook hook;
    MPI_Request asked;           // rank 0: the next question of any rank
    struct queue_result arrived; // its contents
    MPI_Request *sent;           // rank 0: the answer to each rank
    int *answer;
};

/* ---- rank 0 ---- */

static void record(struct queue *q, const struct queue_result *done)
{
    if (done->item < 0 || done->st == ST_OK)
        return;
    if (q->failed++ == 0 || done->item < q->first.item)
        q->first = *done;
}

static int take(struct queue *q)
{
    if (q->next == q->count)
        return QUEUE_EMPTY;
    return stop_requested() != 0 ? QUEUE_STOPPED : q->next++;
}

static void listen(struct queue_impl *impl)
{
    MPI_Irecv(&impl->arrived, (int)sizeof(impl->arrived), MPI_BYTE, MPI_ANY_SOURCE, TAG_ASK,
              impl->comm, &impl->asked);
}

/* alive_hook: answers those who have asked. */
static void answer_all(void *payload)
{
    struct queue *q = payload;
    struct queue_impl *impl = q->impl;

    for (;;) {
        MPI_Status from;
        int r, there = 0;

        MPI_Test(&impl->asked, &there, &from);
        if (!there)
            return;
        r = from.MPI_SOURCE;
        record(q, &impl->arrived);
        MPI_Wait(&impl->sent[r], MPI_STATUS_IGNORE); // the rank has it, as it asks again
        impl->answer[r] = take(q);
        MPI_Isend(&impl->answer[r], 1, MPI_INT, r, TAG_ANSWER, impl->comm, &impl->sent[r]);
        listen(impl);
    }
}

static status open_list(struct queue *q)
{
    struct queue_impl *impl = q->impl;
    const size_t ranks = (size_t)q->world->size;

    impl->sent = calloc(ranks, sizeof(*impl->sent));
    impl->answer = calloc(ranks, sizeof(*impl->answer));
    if (impl->sent == NULL || impl->answer == NULL)
        return fail(ST_MEMORY, "no host memory for a queue of %zu ranks", ranks);
    for (size_t r = 0; r < ranks; r++)
        impl->sent[r] = MPI_REQUEST_NULL;
    listen(impl);
    impl->hook = (struct alive_hook){ .call = answer_all, .payload = q, .every_s = ANSWER_S };
    alive_hook_add(&impl->hook);
    return ST_OK;
}

/* ---- all ranks ---- */

status queue_open(struct queue *q, struct world *w, int count)
{
    struct queue_impl *impl = calloc(1, sizeof(*impl));
    MPI_Comm comm;

    *q = (struct queue){ .world = w, .count = count, .impl = impl };
    MPI_Comm_dup(world_comm(w), &comm);
    if (impl == NULL) // the communicator is not freed, but then the job ends
        return fail(ST_MEMORY, "no host memory for a queue");
    impl->comm = comm;
    impl->asked = MPI_REQUEST_NULL;
    return w->rank == 0 && w->size > 1 ? open_list(q) : ST_OK;
}

int queue_next(struct queue *q, const struct queue_result *done)
{
    const struct queue_result none = { .item = -1 }, *mine = done != NULL ? done : &none;
    struct queue_impl *impl = q->impl;
    MPI_Request ask, answer;
    int item;

    if (q->world->rank == 0) {
        record(q, mine);
        return take(q);
    }
    MPI_Irecv(&item, 1, MPI_INT, 0, TAG_ANSWER, impl->comm, &answer);
    MPI_Isend(mine, (int)sizeof(*mine), MPI_BYTE, 0, TAG_ASK, impl->comm, &ask);
    world_wait(q->world, ask, "the queue");
    world_wait(q->world, answer, "the queue");
    return item;
}

void queue_close(struct queue *q)
{
    struct queue_impl *impl = q->impl;

    if (impl == NULL)
        return;
    if (impl->hook.call != NULL)
        alive_hook_remove(&impl->hook);
    if (impl->asked != MPI_REQUEST_NULL) {
        MPI_Cancel(&impl->asked);
        MPI_Request_free(&impl->asked);
    }
    if (impl->sent != NULL && impl->answer != NULL)
        MPI_Waitall(q->world->size, impl->sent, MPI_STATUSES_IGNORE);
    MPI_Comm_free(&impl->comm);
    free(impl->sent);
    free(impl->answer);
    free(impl);
    *q = (struct queue){ 0 };
}
