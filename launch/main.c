/* wanmpi: the program. One table of commands; faults come back here as a status with one line. */
#include "launch/commands.h"
#include "launch/crash.h"
#include "launch/signals.h"
#include "runtime/nearest.h"

#include <malloc.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct command {
    const char *name, *summary;
    status (*run)(struct world *w, int argc, char **argv);
    void (*help)(FILE *out);
    bool stops; // a signal stops it after what it is doing, and it can go on later
} commands[] = {
    { "generate", "make one video or image from a prompt", cmd_generate, help_generate, true },
    { "batch", "run many requests, loading the models once", cmd_batch, help_batch, true },
    { "plan", "memory, work and time of a request, without running it", cmd_plan, help_plan,
      false },
    { "inspect", "what a checkpoint contains, and what is missing", cmd_inspect, help_inspect,
      false },
    { "convert", "merge LoRAs into a checkpoint, or change its data type", cmd_convert,
      help_convert, false },
    { "synth", "write a checkpoint of random weights", cmd_synth, help_synth, false },
    { "bench", "time the parts of a generation on this machine", cmd_bench, help_bench, false },
};

static void help(FILE *out)
{
    fprintf(out, "wanmpi %s: the Wan2.1 video models on one or many processes (MPI)\n\n",
            WANMPI_VERSION);
    for (size_t i = 0; i < COUNT(commands); i++)
        fprintf(out, "  wanmpi %-10s %s\n", commands[i].name, commands[i].summary);
    fputs(
        "\n'wanmpi COMMAND --help' lists the flags of a command. To use several GPUs or nodes,\n"
        "start wanmpi with mpirun or srun, one process (rank) per GPU:\n\n"
        "    mpirun -n 4 wanmpi generate --ckpt_dir Wan2.1-T2V-1.3B \\\n"
        "        --prompt \"A cat surfs\" --save_file cat.mp4\n\n"
        "Exit status: 0 done, 1 wrong use, 2 a file cannot be read or written, 3 the contents of\n"
        "a file are wrong, 4 not enough memory, 5 a GPU failed, 6 a rank failed or does not\n"
        "respond, 70 internal fault, 75 asked to stop by a signal: start it again to go on.\n",
        out);
}

static bool is_help(const char *word)
{
    return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
}

static const struct command *find(const char *name)
{
    for (size_t i = 0; i < COUNT(commands); i++) {
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    }
    return NULL;
}

static status unknown(const char *name)
{
    const char *names[COUNT(commands)], *near;

    for (size_t i = 0; i < COUNT(commands); i++)
        names[i] = commands[i].name;
    near = nearest_word(name, names, COUNT(commands));
    if (near != NULL)
        return fail(ST_USAGE, "no command %s; did you mean %s?", name, near);
    return fail(ST_USAGE, "no command %s; wanmpi --help lists them", name);
}

static status run(struct world *w, int argc, char **argv)
{
    const struct command *command = argc > 1 ? find(argv[1]) : NULL;
    FILE *out = w->rank == 0 ? stdout : NULL;

    if (argc < 2)
        return fail(ST_USAGE, "a command is needed; wanmpi --help lists them");
    if (is_help(argv[1]) || strcmp(argv[1], "help") == 0) {
        if (out != NULL)
            help(out);
        return ST_OK;
    }
    if (strcmp(argv[1], "--version") == 0) {
        if (out != NULL)
            fprintf(out, "wanmpi %s\n", WANMPI_VERSION);
        return ST_OK;
    }
    if (command == NULL)
        return unknown(argv[1]);
    for (int i = 2; i < argc; i++) {
        if (is_help(argv[i])) {
            if (out != NULL)
                command->help(out);
            return ST_OK;
        }
    }
    return command->run(w, argc - 2, argv + 2);
}

/* --timeout, which holds on every rank from the start; the flags are parsed by rank 0 only. 0: not
 * given, or not a number. */
static double early_timeout(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *value = strncmp(argv[i], "--timeout", 9) == 0 ? argv[i] + 9 : NULL;

        if (value != NULL && *value == '=')
            return atof(value + 1);
        if (value != NULL && *value == 0 && i + 1 < argc)
            return atof(argv[i + 1]);
    }
    return 0;
}

int main(int argc, char **argv)
{
    const struct command *command = argc > 1 ? find(argv[1]) : NULL;
    struct world world;

    mallopt(M_MMAP_THRESHOLD,
            256 << 10);                 // fixed: what is freed goes back to the system, as the plan
    mallopt(M_TRIM_THRESHOLD, 4 << 20); // counts it
    crash_open();
    signal(SIGXFSZ, SIG_IGN); // a write beyond the limit of file sizes is an error with a line
    status st = world_watch(command_last_line, early_timeout(argc, argv));

    if (st == ST_OK && command != NULL && command->stops)
        st = signals_open();
    if (st == ST_OK)
        st = world_open(&world, &argc, &argv);
    if (st != ST_OK) {
        command_complain(status_line());
        return st;
    }
    st = run(&world, argc, argv);
    signals_quiet();
    if (st != ST_OK && world.rank == 0) // all ranks have agreed on it
        command_complain(status_line());
    world_close(&world);
    return st;
}
