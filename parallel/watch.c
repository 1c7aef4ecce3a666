#include "parallel/watch.h"

#include "parallel/mpi_wait.h"
#include "runtime/alive.h"
#include "runtime/clock.h"
#include "runtime/stop.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BEAT_S 1.0   // between beats, or a tenth of the limit
#define CHECK_S 0.01 // between checks of the beats while waiting
#define ABORT_LIMIT_S 10
#define TELL_S 0.2    // at most, for the last beats
#define THREAD_S 0.2  // between two checks of the thread
#define STOPPED_S 2.0 // between two checks of the thread: the process was stopped
#define TOLD_SIGNAL SIGRTMIN
#define SILENT_S 5.0 // after which it knows again how the others are

struct beat {
    uint64_t done; // alive_count()
    int64_t step;
    int32_t stop;  // stop_requested()
    int32_t ended; // it has printed its line and ends the job
    char stage[32];
};

struct peer {
    struct beat beat, arriving;
    _Atomic double heard_s; // when the beat arrived
    MPI_Request recv, send;
    char host[64];
    pid_t process; // on this host; 0: on another one
};

static struct {
    _Atomic(struct world *) world; // NULL: not open
    MPI_Comm comm;
    struct peer *peers; // [world->size]
    struct beat mine;   // being sent
    struct watch_call *calls;
    double sent_s, checked_s;
    double since_s;             // when the current wait began
    uint64_t done;              // of this rank, when it was last checked
    double progress_s;          // when one of these ranks was last seen to have done something
    int first, count;           // of those whose progress counts, from world_expect_of
    _Atomic double expected_s;  // from world_expect
    _Atomic double polled_s;    // last call of watch_wait
    _Atomic double continued_s; // when this process went on after it had been stopped
    pthread_t thread;
    sem_t end;        // of the thread
    atomic_bool told; // a peer has ended the job, with its line
    bool threaded;
    void (*complain)(const char *line);
    double start_deadline_s; // 0: not given
} watch;

static double beat_s(void)
{
    const double tenth = watch.world->deadline_s / 10;

    return tenth < BEAT_S ? tenth : BEAT_S;
}

static double limit_s(void)
{
    const double expected = 10 * watch.expected_s;

    return expected > watch.world->deadline_s ? expected : watch.world->deadline_s;
}

/* "sampling, step 3". */
static void place_text(char *text, size_t size, const char *stage, int64_t step)
{
    if (step >= 0)
        snprintf(text, size, "%s, step %lld", stage, (long long)step);
    else
        snprintf(text, size, "%s", stage);
}

/* ---- beats ---- */

static void send_beats(double now)
{
    const char *stage;

    if (now - watch.sent_s < beat_s() && watch.mine.stop == stop_requested())
        return;
    for (int r = 0; r < watch.world->size; r++) {
        int done = 1;

        if (watch.peers[r].send != MPI_REQUEST_NULL)
            MPI_Test(&watch.peers[r].send, &done, MPI_STATUS_IGNORE);
        if (!done) // `mine` is still being read
            return;
    }
    watch.sent_s = now;
    alive_where(&stage, &watch.mine.step);
    snprintf(watch.mine.stage, sizeof(watch.mine.stage), "%s", stage);
    watch.mine.done = alive_count();
    watch.mine.stop = stop_requested();
    for (int r = 0; r < watch.world->size; r++)
        if (r != watch.world->rank)
            MPI_Isend(&watch.mine, (int)sizeof(watch.mine), MPI_BYTE, r, 0, watch.comm,
                      &watch.peers[r].send);
}

static void post_receive(int rank)
{
    struct peer *p = &watch.peers[rank];

    MPI_Irecv(&p->arriving, (int)sizeof(p->arriving), MPI_BYTE, rank, 0, watch.comm, &p->recv);
}

static void receive_beats(double now)
{
    for (int r = 0; r < watch.world->size; r++) {
        struct peer *p = &watch.peers[r];
        int done = r != watch.world->rank;

        while (done) {
            MPI_Test(&p->recv, &done, MPI_STATUS_IGNORE);
            if (!done)
                break;
            if (p->arriving.done != p->beat.done && r >= watch.first &&
                r < watch.first + watch.count)
                watch.progress_s = now;
            p->arriving.stage[sizeof(p->arriving.stage) - 1] = 0;
            p->beat = p->arriving;
            p->heard_s = now;
            if (p->beat.stop != 0)
                stop_request(p->beat.stop);
            if (p->beat.ended)
                watch.told = true;
            post_receive(r);
        }
    }
    if (alive_count() != watch.done) {
        watch.done = alive_count();
        watch.progress_s = now;
    }
}

static void exchange_beats(void *payload)
{
    const double now = clock_seconds();

    send_beats(now);
    receive_beats(now);
}

static struct alive_hook hook = { .call = exchange_beats, .every_s = BEAT_S / 4 };

/* By a signal, as a process that crashes cannot use MPI. */
int world_crashing(void)
{
    const struct world *w = atomic_load(&watch.world);

    for (int r = 0; w != NULL && r < w->size; r++)
        if (r != w->rank && watch.peers[r].process != 0)
            kill(watch.peers[r].process, TOLD_SIGNAL);
    return w != NULL ? w->rank : -1;
}

void watch_tell(void)
{
    const double start_s = clock_seconds();
    struct beat last;

    world_crashing(); // a rank that waits its turn to print receives no beats
    if (watch.world == NULL || !alive_hooked())
        return;
    last = watch.mine;
    last.ended = true;
    for (int r = 0; r < watch.world->size; r++)
        if (r != watch.world->rank)
            MPI_Isend(&last, (int)sizeof(last), MPI_BYTE, r, 0, watch.comm, &watch.peers[r].send);
    for (int r = 0; r < watch.world->size; r++)
        for (int done = r == watch.world->rank; !done && clock_seconds() - start_s < TELL_S;)
            MPI_Test(&watch.peers[r].send, &done, MPI_STATUS_IGNORE);
}

static void on_told(int number)
{
    (void)number;
    watch.told = true;
}

/* ---- checks ---- */

static status fail_silent(int rank)
{
    const struct peer *p = &watch.peers[rank];
    char place[64];

    place_text(place, sizeof(place), p->beat.stage, p->beat.step);
    return fail(ST_PEER,
                "rank %d on %s has been silent for %.0f s, last in %s: its process, machine, link "
                "or file system has stopped; --timeout gives it more time",
                rank, p->host, watch.world->deadline_s, place);
}

static status fail_stalled(const char *what)
{
    const char *stage;
    int64_t step;
    char place[64], who[48] = "no rank";

    alive_where(&stage, &step);
    place_text(place, sizeof(place), stage, step);
    if (watch.count < watch.world->size)
        snprintf(who, sizeof(who), "none of the ranks %d to %d", watch.first,
                 watch.first + watch.count - 1);
    return fail(ST_PEER,
                "%s has made progress for %.0f s; rank %d waits for %s in %s: a GPU or a link "
                "has stopped; --timeout gives it more time",
                who, limit_s(), watch.world->rank, what, place);
}

status watch_wait(const char *what)
{
    const double now = clock_seconds(), idle = now - watch.checked_s;

    if (watch.world == NULL)
        return ST_OK;
    atomic_store_explicit(&watch.polled_s, now, memory_order_relaxed);
    if (idle < CHECK_S)
        return ST_OK;
    watch.checked_s = now;
    if (idle > watch.world->deadline_s / 4) // it did something else, or the process was stopped
        watch.since_s = now;
    for (struct watch_call *c = watch.calls; c != NULL; c = c->next)
        c->call(c->payload);
    alive_tick();
    send_beats(now);
    receive_beats(now);
    for (int r = 0; r < watch.world->size; r++) {
        const double heard = watch.peers[r].heard_s;

        if (r != watch.world->rank &&
            now - (heard > watch.since_s ? heard : watch.since_s) > watch.world->deadline_s)
            return fail_silent(r);
    }
    // later, as a silent rank is the better explanation
    if (watch.count > 0 &&
        now - (watch.progress_s > watch.since_s ? watch.progress_s : watch.since_s) >
            1.25 * limit_s())
        return fail_stalled(what);
    return ST_OK;
}

void watch_add(struct watch_call *c)
{
    c->next = watch.calls;
    watch.calls = c;
}

void watch_remove(struct watch_call *c)
{
    for (struct watch_call **at = &watch.calls; *at != NULL; at = &(*at)->next)
        if (*at == c) {
            *at = c->next;
            return;
        }
}

int world_before(double since_s, char *missing, size_t size)
{
    const struct world *w = atomic_load(&watch.world);
    int before = 0;

    if (size > 0)
        missing[0] = 0;
    if (w == NULL)
        return 1;
    if (watch.told || (watch.continued_s > 0 && clock_seconds() - watch.continued_s < SILENT_S))
        return w->rank + 1;
    if (since_s == 0)
        since_s = clock_seconds() - 4 * beat_s();
    for (int r = 0; r < w->size; r++) {
        const struct peer *p = &watch.peers[r];
        const bool ended = p->process != 0 && kill(p->process, 0) != 0 && errno == ESRCH;
        const bool heard = p->heard_s >= since_s && !ended;

        before += r < w->rank && heard;
        if (r != w->rank && !heard && size > 0 && missing[0] == 0)
            snprintf(missing, size, "rank %d on %s %s", r, p->host,
                     ended ? "has ended" : "gives no sign of life");
    }
    return before;
}

void world_expect(struct world *w, double seconds)
{
    (void)w;
    watch.expected_s = seconds;
}

void world_expect_of(struct world *w, int first, int count)
{
    (void)w;
    watch.first = first;
    watch.count = count;
    watch.progress_s = clock_seconds();
}

/* ---- the thread ---- */

void watch_complain(const char *line)
{
    if (watch.complain != NULL)
        watch.complain(line);
    else
        fprintf(stderr, "%s\n", line);
}

double watch_deadline(void)
{
    return watch.start_deadline_s > 0 ? watch.start_deadline_s : WORLD_DEADLINE_S;
}

static void give_up(double idle)
{
    const struct world *w = atomic_load(&watch.world);
    const char *stage;
    int64_t step;
    char place[64], host[64] = "", rank[32] = "a rank";

    alive_where(&stage, &step);
    place_text(place, sizeof(place), stage, step);
    gethostname(host, sizeof(host) - 1);
    if (w != NULL)
        snprintf(rank, sizeof(rank), "rank %d", w->rank);
    fail(ST_PEER,
         "%s on %s has done nothing for %.0f s in %s: a file system, a driver or another rank does "
         "not respond; --timeout gives it more time",
         rank, host, idle, place);
    watch_complain(status_line());
    alarm(ABORT_LIMIT_S); // MPI may be inside a call
    world_abort_anywhere(ST_PEER);
}

/* Waits until the next check; false when the thread ends. */
static bool sleep_until_check(void)
{
    struct timespec at;
    int error;

    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_nsec += (long)(THREAD_S * 1e9);
    if (at.tv_nsec >= 1000000000) {
        at.tv_sec++;
        at.tv_nsec -= 1000000000;
    }
    do
        error = sem_clockwait(&watch.end, CLOCK_MONOTONIC, &at);
    while (error != 0 && errno == EINTR);
    return error != 0;
}

/* Later than the checks of ranks that wait, which know more; and one rank after the other. */
static void *run_thread(void *unused)
{
    uint64_t done = alive_count();
    double last = clock_seconds(), before = last;

    (void)unused;
    while (sleep_until_check()) {
        const struct world *w = atomic_load(&watch.world);
        const double now = clock_seconds(), polled = atomic_load(&watch.polled_s);
        const double limit = w != NULL ? limit_s() : watch_deadline();
        const int order = w != NULL && w->rank < 5 ? w->rank : 5;

        if (now - before > STOPPED_S)
            watch.continued_s = now;
        if (alive_count() != done || now - before > STOPPED_S)
            last = now;
        last = polled > last ? polled : last;
        done = alive_count();
        before = now;
        if (now - last > 1.5 * limit + 1 + order)
            give_up(now - last);
    }
    return NULL;
}

status world_watch(void (*complain)(const char *line), double deadline_s)
{
    watch.complain = complain;
    watch.start_deadline_s = deadline_s;
    sem_init(&watch.end, 0, 0);
    if (pthread_create(&watch.thread, NULL, run_thread, NULL) != 0)
        return fail(ST_MEMORY, "cannot start a thread that watches this rank");
    watch.threaded = true;
    return ST_OK;
}

/* ---- open, close ---- */

status watch_open(struct world *w)
{
    struct peer *peers = calloc((size_t)w->size, sizeof(*peers));
    char host[64] = "";
    pid_t process = getpid();

    sigaction(TOLD_SIGNAL, &(struct sigaction){ .sa_handler = on_told, .sa_flags = SA_RESTART },
              NULL);
    MPI_Comm_dup(world_comm(w), &watch.comm);
    if (peers == NULL)
        return fail(ST_MEMORY, "no host memory for watching %d ranks", w->size);
    gethostname(host, sizeof(host) - 1);
    for (int r = 0; r < w->size; r++)
        peers[r] = (struct peer){ .recv = MPI_REQUEST_NULL, .send = MPI_REQUEST_NULL };
    watch.peers = peers;
    watch.count = w->size;
    watch.since_s = watch.progress_s = clock_seconds();
    for (int r = 0; r < w->size; r++) {
        memcpy(peers[r].host, host, sizeof(host));
        strcpy(peers[r].beat.stage, "start");
        peers[r].beat.step = -1;
        peers[r].process = process;
        MPI_Bcast(peers[r].host, (int)sizeof(host), MPI_BYTE, r, watch.comm);
        MPI_Bcast(&peers[r].process, (int)sizeof(process), MPI_BYTE, r, watch.comm);
        if (strcmp(peers[r].host, host) != 0 || kill(peers[r].process, 0) != 0)
            peers[r].process = 0; // another host, or another name space of processes
        if (r != w->rank)
            post_receive(r);
    }
    atomic_store(&watch.world, w);
    alive_hook_add(&hook);
    return ST_OK;
}

void watch_close(void)
{
    if (watch.world == NULL)
        return;
    alive_hook_remove(&hook);
    for (int r = 0; r < watch.world->size; r++) {
        struct peer *p = &watch.peers[r];

        if (p->recv != MPI_REQUEST_NULL) {
            MPI_Cancel(&p->recv);
            MPI_Request_free(&p->recv);
        }
        if (p->send != MPI_REQUEST_NULL)
            MPI_Request_free(&p->send);
    }
    MPI_Comm_free(&watch.comm);
}

void watch_end(void)
{
    if (watch.threaded) {
        sem_post(&watch.end);
        pthread_join(watch.thread, NULL);
        watch.threaded = false;
    }
    free(watch.peers);
    watch.peers = NULL;
    watch.world = NULL;
}
