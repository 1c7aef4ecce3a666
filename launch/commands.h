/* commands.h - the commands of the program: each is one function and one row of the table in
 * main.c.
 *
 * argv[0 .. argc) are the words after the command's name; --help has been handled before. All ranks
 * call the function (collective), and only rank 0 prints. A command that fails returns the same
 * status on all ranks (agree), or ends the job with command_abort. */
#ifndef LAUNCH_COMMANDS_H
#define LAUNCH_COMMANDS_H

#include "launch/options.h"
#include "parallel/mesh.h"
#include "parallel/world.h"

struct cJSON;

status cmd_generate(struct world *w, int argc, char **argv);
status cmd_batch(struct world *w, int argc, char **argv);
status cmd_plan(struct world *w, int argc, char **argv);
status cmd_inspect(struct world *w, int argc, char **argv);
status cmd_synth(struct world *w, int argc, char **argv);
status cmd_convert(struct world *w, int argc, char **argv);
status cmd_bench(struct world *w, int argc, char **argv);

/* Write the --help text of a command. */
void help_tasks(FILE *out);   // a table of the tasks' defaults
void help_fast(FILE *out);    // what --fast sets
void help_presets(FILE *out); // a table of the presets of distilled models
void help_generate(FILE *out);
void help_batch(FILE *out);
void help_plan(FILE *out);
void help_inspect(FILE *out);
void help_synth(FILE *out);
void help_convert(FILE *out);
void help_bench(FILE *out);

/* Prints this rank's error line and ends all ranks. For an error inside a step, where the ranks
 * cannot agree. With ST_PEER it first waits for the rank that caused the failure to print its line,
 * then for the ranks before this one. */
void command_abort(struct world *w, status st) __attribute__((noreturn));

/* Prints JSON, indented, to stdout. ST_MEMORY; ST_IO if it cannot be written. */
status command_print_json(const struct cJSON *json);

/* Adds the mesh's sizes to an object, as an object `key`, which it returns; NULL without memory. */
struct cJSON *command_json_mesh(struct cJSON *json, const char *key, struct mesh_shape m);

/* Print "wanmpi: LINE" to stderr. After command_last_line signals print nothing: the job ends. */
void command_complain(const char *line);
void command_last_line(const char *line);

#endif
