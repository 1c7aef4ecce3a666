#include "launch/signals.h"

#include "launch/commands.h"
#include "runtime/clock.h"
#include "runtime/stop.h"

#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#define ANSWER_S 0.6 // for the signs of life of other ranks; mpirun kills a second after SIGTERM
#define AGAIN_S 1.0  // the launcher and the batch system may both send the same signal
#define ABORT_LIMIT_S 10

static const int handled[] = { SIGTERM, SIGINT, SIGUSR1, SIGHUP };

static sem_t arrived;
static atomic_uint pending; // bit i: handled[i]
static atomic_bool quiet;

static void on_signal(int number)
{
    stop_request(number);
    for (size_t i = 0; i < COUNT(handled); i++)
        if (handled[i] == number)
            atomic_fetch_or(&pending, 1u << i);
    sem_post(&arrived);
}

/* Says what the first signal does, unless the job has ended by then. The launcher sends SIGTERM
 * also when a rank has died. */
static void answer(int number, double now)
{
    char missing[128], line[512];

    if (now - stop_requested_at() > ANSWER_S / 2) // another rank got the signal before
        return;
    clock_sleep(now + ANSWER_S - clock_seconds());
    if (quiet || world_before(now, missing, sizeof(missing)) > 0)
        return;
    if (missing[0] != 0 && number == SIGTERM)
        snprintf(line, sizeof(line),
                 "SIGTERM, and %s: if the job was not cancelled, that rank was killed, for "
                 "instance for lack of memory",
                 missing);
    else
        snprintf(line, sizeof(line),
                 "%s: stopping after the current step; a second one ends the job at once%s%s",
                 stop_name(number), missing[0] != 0 ? "; " : "", missing);
    command_complain(line);
}

static void end_at_once(int number, double now)
{
    char line[128];

    clock_sleep(now + ANSWER_S / 2 - clock_seconds());
    snprintf(line, sizeof(line), "ended by a second %s; what was saved before is kept",
             stop_name(number));
    if (!quiet && world_before(now - AGAIN_S, NULL, 0) == 0)
        command_complain(line);
    alarm(ABORT_LIMIT_S); // MPI may be inside a call
    world_abort_anywhere(ST_PREEMPTED);
}

static void *listen(void *unused)
{
    double first_s[COUNT(handled)] = { 0 };
    bool answered = false;

    (void)unused;
    for (;;) {
        unsigned bits;

        while (sem_wait(&arrived) != 0)
            ;
        bits = atomic_exchange(&pending, 0);
        for (size_t i = 0; i < COUNT(handled); i++) {
            const double now = clock_seconds();

            if ((bits & 1u << i) == 0)
                continue;
            if (first_s[i] == 0)
                first_s[i] = now;
            else if (now - first_s[i] > AGAIN_S)
                end_at_once(handled[i], now);
            if (!answered)
                answer(handled[i], now);
            answered = true;
        }
    }
    return NULL;
}

status signals_open(void)
{
    struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_RESTART }, before;
    pthread_t thread;

    sem_init(&arrived, 0, 0);
    if (pthread_create(&thread, NULL, listen, NULL) != 0)
        return fail(ST_MEMORY, "cannot start a thread for signals");
    pthread_detach(thread);
    for (size_t i = 0; i < COUNT(handled); i++)
        if (sigaction(handled[i], NULL, &before) == 0 && before.sa_handler != SIG_IGN)
            sigaction(handled[i], &action, NULL);
    return ST_OK;
}

void signals_quiet(void)
{
    quiet = true;
}
