/* options.h - tables of options: one row gives the flag, its line in --help, and its JSON key.
 *
 * A row names the field of a struct that it fills. Flags are written as in the official program:
 * --sample_steps 50, --sample-steps 50, --sample_steps=50. A command passes one or more sets; each
 * is a table and the struct that it fills:
 *
 *     static const struct option rows[] = {
 *         { "layers", OPT_INT, offsetof(struct synth, layers), .value = "N", .help = "..." },
 *     };
 *     struct option_set set = { rows, COUNT(rows), &synth, NULL };
 *     TRY(options_parse("synth", 0, &set, 1, argc, argv));
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
    OPT_BOOL,   // int: with a value as in the official str2bool: True, yes, t, y, 1, ...
    OPT_INT,    // int
    OPT_I64,    // int64_t
    OPT_SEED,   // struct seed: 0 to 2^64 - 1; -1: not given
    OPT_DOUBLE, // double
    OPT_STRING, // char *
    OPT_LIST,   // char *: strings, one per use of the flag, with '\n' between them
    OPT_TEXT,   // char *: a string; as a flag, @FILE stands for the contents of the file
    OPT_CHOICE, // int: index of one of `choices`
    OPT_PAIR,   // int[2]: two numbers separated by `joint`, of at least 1 if no range is given
    OPT_SCALES, // double[2]: one number for both, or two separated by `joint`
    OPT_NUMBERS // struct number_list: numbers separated by `joint`; in JSON an array
};

#define NUMBER_LIST_MAX 64

struct number_list {
    int count;                     // 0: not given
    double value[NUMBER_LIST_MAX]; // 0 after the last
};

/* A seed of random numbers, of all 64 bits. */
struct seed {
    uint64_t value, given; // given: 0 or 1
};

#define OPTIONS_MAX 256 // maximum number of rows of a set

struct option {
    const char *name; // with '_'
    enum option_type type;
    size_t offset;
    const char *alias;   // another name, or NULL
    const char *value;   // placeholder for its value in help: "N", "FILE"
    const char *group;   // heading in help; NULL: that of the row before
    const char *choices; // "unipc|dpm++|euler"
    char joint;          // separator of OPT_PAIR, OPT_SCALES and OPT_NUMBERS: '*' or ','
    bool wide_joint;     // 'x' is accepted as separator too
    bool positional;     // set by words that are not flags, in the order of the rows
    bool hidden;         // not printed in help
    double least, most;  // range of a number; both 0: any; most 0: no upper limit
    unsigned commands;   // bits of the commands that use it, defined by the caller; 0: all
    unsigned marks;      // bits that only the caller uses
    const char *help;
};

struct option_set {
    const struct option *rows;
    int count;
    void *fields;
    bool *given; // [OPTIONS_MAX]: set to true when row i is given; NULL: not recorded
};

/* Parses argv[0 .. argc), the words after the command's name, into the structs of the sets. Only
 * rows whose `commands` have a bit of `mask` are accepted; mask 0 accepts all. ST_USAGE; for an
 * unknown flag the line names the most similar one. ST_IO for the file of @FILE, ST_MEMORY. */
status options_parse(const char *command, unsigned mask, const struct option_set *sets, int count,
                     int argc, char **argv);
void options_free(const struct option_set *set); // frees the strings and sets them to NULL

/* Writes the rows that `mask` accepts, by group, each with its value and help. */
void options_help(FILE *out, unsigned mask, const struct option_set *sets, int count);

/* Writes a set as a JSON object, with the rows' names as keys. Fields that are not set are omitted:
 * strings that are NULL, numbers below `least`, choices and switches below 0. *text is malloc'ed.
 * ST_MEMORY. */
status options_to_json(const struct option_set *set, char **text);

/* Sets the fields that the JSON object `text` names; the others keep their values. No file is read:
 * an OPT_TEXT that begins with '@' is that text. `mask` is as in options_parse. ST_USAGE for
 * unknown keys and wrong types; the line starts with `where`. An OPT_LIST is an array of strings,
 * or one string. */
status options_from_json(const struct option_set *set, unsigned mask, const char *text,
                         const char *where);

/* Copies the field of row `index`, or all fields, from one struct to another; both sets have the
 * same rows. ST_MEMORY. */
status options_copy(const struct option_set *to, const struct option_set *from, int index);
status options_copy_all(const struct option_set *to, const struct option_set *from);

/* Writes the value of row `index` as in JSON, "not given" if the field is not set; cut to `size`.
 * ST_MEMORY. */
status options_value(const struct option_set *set, int index, char *text, size_t size);

/* Whether the field of row `index` has a value, by the rule of options_to_json. */
bool options_is_set(const struct option_set *set, int index);

/* Whether the fields of row `index` are equal; doubles bit by bit. */
bool options_same(const struct option_set *a, const struct option_set *b, int index);

#endif
