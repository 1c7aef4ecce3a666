/* commands.h - the commands of the program, one function and one row of main's table each.
 *
 * `argv[0 .. argc)` are the words behind the command; --help has been dealt with. All ranks call
 * it; what a command prints, rank 0 prints. A failing command returns the same status on all ranks
 * (agree) unless it ended the job itself with command_abort. */
#ifndef LAUNCH_COMMANDS_H
#define LAUNCH_COMMANDS_H

#include "launch/options.h"
#include "parallel/world.h"

status cmd_generate(struct world *w, int argc, char **argv);
status cmd_batch(struct world *w, int argc, char **argv);
status cmd_plan(struct world *w, int argc, char **argv);
status cmd_inspect(struct world *w, int argc, char **argv);
status cmd_synth(struct world *w, int argc, char **argv);
status cmd_bench(struct world *w, int argc, char **argv);

/* What --help writes about the options of a command. */
void help_tasks(FILE *out); // a table of their defaults
void help_generate(FILE *out);
void help_batch(FILE *out);
void help_plan(FILE *out);
void help_inspect(FILE *out);
void help_synth(FILE *out);
void help_bench(FILE *out);

/* Prints this rank's line and ends all ranks; for a fault inside a step, where the others cannot
 * agree. A peer's failure (ST_PEER) waits two seconds, so that the cause speaks first. */
void command_abort(struct world *w, status st) __attribute__((noreturn));

/* One line to stderr, "wanmpi: ...". */
void command_complain(const char *line);

#endif
