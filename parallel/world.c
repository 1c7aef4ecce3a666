#include "parallel/world.h"

#include "parallel/mpi_wait.h"
#include "parallel/watch.h"
#include "runtime/clock.h"

#include <assert.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define LINE_BYTES 1024

/* How many processes the launcher started, from its environment variables; 0 without a launcher. */
static int launched_tasks(void)
{
    static const char *const variable[] = { "OMPI_COMM_WORLD_SIZE", "PMI_SIZE",
                                            "SLURM_STEP_NUM_TASKS" };
    int most = 0;

    for (size_t i = 0; i < COUNT(variable); i++) {
        const char *text = getenv(variable[i]);
        const int tasks = text != NULL ? atoi(text) : 0;
        most = tasks > most ? tasks : most;
    }
    return most;
}

/* Whether a launcher of any kind started this process: one that MPI knows, or one that it does not.
 */
static bool launched(void)
{
    static const char *const prefix[] = { "OMPI_COMM_", "OMPI_APP_", "OMPI_UNIVERSE_", "PMIX_",
                                          "PMI_",       "PMI2_",     "SLURM_STEP" };

    for (char **variable = environ; *variable != NULL; variable++)
        for (size_t i = 0; i < COUNT(prefix); i++)
            if (strncmp(*variable, prefix[i], strlen(prefix[i])) == 0)
                return true;
    return false;
}

/* Whether the system refuses to let a process read another one's memory, as a container may. Open
 * MPI reads messages of the same node so, and notices a refusal only there, with a line for each. A
 * parent reads its child: that is allowed wherever Open MPI's ranks may read each other. */
static bool reading_is_refused(void)
{
    char here = 0, there = 0;
    const struct iovec to = { &here, 1 }, from = { &there, 1 };
    const pid_t child = fork();
    ssize_t n;

    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            pause();
    }
    if (child < 0)
        return false;
    n = process_vm_readv(child, &to, 1, &from, 1, 0);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    return n != 1;
}

/* Sets ranks, sizes and the node from the communicator. */
static void set_ranks(struct world *w)
{
    struct world_impl *impl = w->impl;
    MPI_Comm node;

    MPI_Comm_rank(world_comm(w), &w->rank);
    MPI_Comm_size(world_comm(w), &w->size);
    MPI_Comm_split_type(world_comm(w), MPI_COMM_TYPE_SHARED, w->rank, MPI_INFO_NULL, &node);
    MPI_Comm_rank(node, &w->local_rank);
    MPI_Comm_size(node, &w->local_size);
    MPI_Comm_group(node, &impl->node);
    MPI_Comm_free(&node);
}

bool *world_on_node(const struct world *w, MPI_Comm comm)
{
    const struct world_impl *impl = w->impl;
    MPI_Group group;
    bool *on_node;
    int size;

    MPI_Comm_group(comm, &group);
    MPI_Group_size(group, &size);
    on_node = calloc((size_t)size, sizeof(*on_node));
    for (int rank = 0; on_node != NULL && rank < size; rank++) {
        int local;

        MPI_Group_translate_ranks(group, 1, &rank, impl->node, &local);
        on_node[rank] = local != MPI_UNDEFINED;
    }
    MPI_Group_free(&group);
    return on_node;
}

status world_open(struct world *w, int *argc, char ***argv)
{
    struct world_impl *impl = calloc(1, sizeof(*impl));
    int provided;

    *w = (struct world){ .deadline_s = watch_deadline() };
    if (impl == NULL)
        return fail(ST_MEMORY, "no host memory for starting MPI");

    // Without mpirun, Open MPI would start a daemon, which is needed only by MPI_Comm_spawn; load
    // what drives networks, with two libraries that measure the clock for 0.1 s each; and make a
    // folder that all such processes of a user share, and that the first one to end removes.
    setenv("OMPI_MCA_ess_singleton_isolated", "1", 0);
    if (!launched()) {
        setenv("OMPI_MCA_pml", "ob1", 0);
        setenv("OMPI_MCA_btl", "self", 0);
        setenv("OMPI_MCA_orte_create_session_dirs", "0", 0);
    }
    if (reading_is_refused())
        setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 0);
    MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_dup(MPI_COMM_WORLD, &impl->comm);
    w->impl = impl;
    set_ranks(w);
    if (w->size == 1 && launched_tasks() > 1) { // each process would do the whole job
        world_close(w);
        return fail(ST_USAGE,
                    "started as one of %d tasks, but MPI sees only this one: start with the mpirun "
                    "of the Open MPI that this program was built with, or srun --mpi=pmix",
                    launched_tasks());
    }
    return watch_open(w);
}

void world_describe(struct world *w, int rank, int size, int ranks_per_node)
{
    const int node = rank / ranks_per_node * ranks_per_node;

    assert(ranks_per_node > 0 && rank >= 0 && rank < size);
    *w = (struct world){
        .rank = rank,
        .size = size,
        .local_rank = rank - node,
        .local_size = size - node < ranks_per_node ? size - node : ranks_per_node,
        .described = true,
        .deadline_s = WORLD_DEADLINE_S,
    };
}

void world_close(struct world *w)
{
    if (w->impl != NULL) {
        struct world_impl *impl = w->impl;
        world_barrier(w); // it sleeps while it waits; MPI_Finalize would keep a core busy
        watch_close();
        MPI_Group_free(&impl->node);
        MPI_Comm_free(&impl->comm);
        MPI_Finalize();
        watch_end();
        free(impl);
    }
    *w = (struct world){ 0 };
}

/* The ranks of the same color as a world; MPI_UNDEFINED: no world. */
static status split(struct world *part, struct world *w, int color)
{
    struct world_impl *impl = calloc(1, sizeof(*impl));
    MPI_Comm comm;

    *part = (struct world){ .nccl = w->nccl, .deadline_s = w->deadline_s };
    MPI_Comm_split(world_comm(w), color, w->rank, &comm);
    if (impl == NULL) // the communicator is not freed, but then the job ends
        return fail(ST_MEMORY, "no host memory for a part of the ranks");
    impl->comm = comm;
    part->impl = impl;
    if (comm != MPI_COMM_NULL)
        set_ranks(part);
    return ST_OK;
}

status world_split(struct world *part, struct world *w, int ranks)
{
    return split(part, w, w->rank < ranks ? 0 : MPI_UNDEFINED);
}

status world_divide(struct world *part, struct world *w, int parts)
{
    assert(w->size % parts == 0);
    return split(part, w, w->rank / (w->size / parts));
}

void world_join(struct world *part)
{
    struct world_impl *impl = part->impl;

    if (impl != NULL && impl->comm != MPI_COMM_NULL) {
        MPI_Group_free(&impl->node);
        MPI_Comm_free(&impl->comm);
    }
    free(impl);
    *part = (struct world){ 0 };
}

void world_abort(struct world *w, status st)
{
    int size = 1;

    fflush(stdout);
    fflush(stderr);
    watch_tell();
    if (w->impl != NULL)
        MPI_Comm_size(MPI_COMM_WORLD, &size); // w may be a part
    if (size > 1)
        MPI_Abort(MPI_COMM_WORLD, (int)st);
    if (w->impl != NULL)
        MPI_Finalize(); // one rank: MPI_Abort would print a banner
    _Exit((int)st);
}

/* MPI was told that only one thread calls it. A dying process may: it only asks the launcher. */
void world_abort_anywhere(int exit_status)
{
    int started = 0, ended = 0, size = 1;

    MPI_Initialized(&started);
    MPI_Finalized(&ended);
    if (started && !ended)
        MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (size > 1)
        MPI_Abort(MPI_COMM_WORLD, exit_status);
    _Exit(exit_status); // alone: MPI_Abort would print a banner
}

/* Without an answer there is nothing that the ranks could still agree on. */
void world_wait(struct world *w, MPI_Request request, const char *what)
{
    const status st = mpi_wait(&request, 1, what);

    if (st == ST_OK)
        return;
    clock_sleep(3 * world_before(0, NULL, 0));
    watch_complain(status_line());
    world_abort(w, st);
}

static void min_int(struct world *w, int mine, int *min)
{
    MPI_Request request;

    MPI_Iallreduce(&mine, min, 1, MPI_INT, MPI_MIN, world_comm(w), &request);
    world_wait(w, request, "an agreement");
}

status agree(struct world *w, status st)
{
    struct {
        int st;
        char line[LINE_BYTES];
    } first = { .st = (int)st };
    int failed;

    if (w->impl == NULL)
        return st;
    min_int(w, st == ST_OK ? w->size : w->rank, &failed);
    if (failed == w->size)
        return ST_OK;
    if (failed == w->rank)
        snprintf(first.line, sizeof(first.line), "%s", status_line());
    world_broadcast(w, &first, sizeof(first), failed);
    return fail((status)first.st, "%s", first.line);
}

void world_broadcast(struct world *w, void *data, size_t bytes, int root)
{
    MPI_Request request;

    assert(bytes <= INT_MAX && root >= 0 && root < w->size);
    if (w->impl == NULL)
        return;
    MPI_Ibcast(data, (int)bytes, MPI_BYTE, root, world_comm(w), &request);
    world_wait(w, request, "a broadcast");
}

void world_gather(struct world *w, const void *mine, size_t bytes, void *all)
{
    MPI_Request request;

    assert(bytes <= INT_MAX);
    if (w->impl == NULL) {
        if (w->rank == 0)
            memcpy(all, mine, bytes);
        return;
    }
    MPI_Igather(mine, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE, 0, world_comm(w), &request);
    world_wait(w, request, "a gather");
}

double world_sum(struct world *w, double mine)
{
    double sum = 0, next = mine;

    if (w->impl == NULL)
        return mine;
    for (int i = 0; i < w->size; i++) {
        next = mine;
        world_broadcast(w, &next, sizeof(next), i);
        sum += next;
    }
    return sum;
}

void world_barrier(struct world *w)
{
    MPI_Request request;

    if (w->impl == NULL)
        return;
    MPI_Ibarrier(world_comm(w), &request);
    world_wait(w, request, "a barrier");
}
