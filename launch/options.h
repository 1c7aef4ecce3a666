/* options.h - tables of options: one row gives the flag, its line in --help, and its JSON key.
 *
 * A row says which field of which struct it fills. Flags are written as the official program takes
 * them: --sample_steps 50, --sample-steps 50, --sample_steps=50. A command passes one or more sets,
 * each a table with the struct that it fills:
 *
 *     static const struct option rows[] = {
 *         { "layers", OPT_INT, offsetof(struct synth, layers), .value = "N", .help = "..." },
 *     };
 *     struct option_set set = { rows, COUNT(rows), &synth };
 *     TRY(options_parse("synth", &set, 1, argc, argv));
 *
 * Strings are malloc'ed and belong to the struct; options_free frees those of a set. */
#ifndef LAUNCH_OPTIONS_H
#define LAUNCH_OPTIONS_H

#include "runtime/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum option_type {
    OPT_SWITCH, // int: no value, sets 1; --x=False sets 0
    OPT_BOOL,   // int: a value, as the official str2bool takes it: True, yes, t, y, 1, ...
    OPT_INT,    // int
    OPT_I64,    // int64_t
    OPT_DOUBLE, // double
    OPT_STRING, // char *
    OPT_TEXT,   // char *: a string; @FILE takes the file's content
    OPT_CHOICE, // int: index of one of `choices`
    OPT_PAIR    // int[2]: two numbers joined by `joint`
};

#define OPTIONS_MAX 256 // rows of a set, at most

struct option {
    const char *name; // with '_'
    enum option_type type;
    size_t offset;
    const char *alias;   // another name, or NULL
    const char *value;   // its place holder in help: "N", "FILE"
    const char *group;   // heading in help; NULL: that of the row before
    const char *choices; // "unipc|dpm++|euler"
    char joint;          // of OPT_PAIR: '*' or ','
    bool wide_joint;     // 'x' joins too
    bool positional;     // taken from the words that are no flags, in the order of the rows
    bool hidden;         // left out of help
    double least, most;  // of numbers; both 0: any
    unsigned commands;   // commands that take it, a mask of the caller's; 0: all
    unsigned marks;      // for the caller
    const char *help;
};

struct option_set {
    const struct option *rows;
    int count;
    void *fields;
    bool *given; // [OPTIONS_MAX] whether row i was given; NULL: not recorded
};

/* Reads argv[0 .. argc): the words behind the command. `mask` is held against the rows' commands.
 * ST_USAGE, with the nearest known flag for one that is unknown. */
status options_parse(const char *command, unsigned mask, const struct option_set *sets, int count,
                     int argc, char **argv);
void options_free(const struct option_set *set);

/* Writes the rows that `mask` takes, by group, each with its value and help. */
void options_help(FILE *out, unsigned mask, const struct option_set *sets, int count);

/* A set as a JSON object, its fields under their names; strings that are NULL are left out, and
 * numbers that are below `least` (which means: not set). *text is malloc'ed. */
status options_to_json(const struct option_set *set, char **text);

/* Lays an object over the fields. Unknown keys and wrong types are ST_USAGE; the line starts with
 * `where`. The masks are as in options_parse. */
status options_from_json(const struct option_set *set, unsigned mask, const char *text,
                         const char *where);

/* Copies a field of `from` to `to` (same rows): that of row `index`; or all of them. ST_MEMORY. */
status options_copy(const struct option_set *to, const struct option_set *from, int index);
status options_copy_all(const struct option_set *to, const struct option_set *from);

/* Whether both hold the same in row `index`; doubles to the bit. */
bool options_same(const struct option_set *a, const struct option_set *b, int index);

#endif
