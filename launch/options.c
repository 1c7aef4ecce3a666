#include "launch/options_internal.h"
#include "runtime/nearest.h"
#include "runtime/readfile.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NAME_MAX_LEN 64

void *option_field(const struct option_set *set, const struct option *row)
{
    return (char *)set->fields + row->offset;
}

bool option_is_used(const struct option *row, unsigned mask)
{
    return mask == 0 || row->commands == 0 || (row->commands & mask) != 0;
}

static bool is_string(const struct option *row)
{
    return row->type == OPT_STRING || row->type == OPT_LIST || row->type == OPT_TEXT;
}

static bool has_value(const struct option *row)
{
    return row->type != OPT_SWITCH;
}

void option_mark_given(const struct option_set *set, const struct option *row)
{
    assert(set->count <= OPTIONS_MAX);
    if (set->given != NULL)
        set->given[row - set->rows] = true;
}

const char *option_nearest(const char *name, unsigned mask, const struct option_set *sets,
                           int count)
{
    const char *known[4 * OPTIONS_MAX];
    int n = 0;

    for (int s = 0; s < count; s++) {
        for (int i = 0; i < sets[s].count && n < (int)COUNT(known); i++) {
            const struct option *row = &sets[s].rows[i];
            if (option_is_used(row, mask) && !row->positional && !row->hidden)
                known[n++] = row->name;
        }
    }
    return nearest_word(name, known, n);
}

const struct option *option_find(const struct option_set *set, unsigned mask, const char *name)
{
    const struct option *found = NULL;
    int best = 0;

    for (int i = 0; i < set->count; i++) {
        const struct option *row = &set->rows[i];
        const bool own = strcmp(row->name, name) == 0;
        const int rank = 1 + own + 2 * option_is_used(row, mask);

        if (!row->positional && rank > best &&
            (own || (row->alias != NULL && strcmp(row->alias, name) == 0))) {
            found = row;
            best = rank;
        }
    }
    return found;
}

/* Writes "unipc, dpm++ or euler" for "unipc|dpm++|euler". */
static void choices_text(const char *choices, char *out, size_t size)
{
    const char *last = strrchr(choices, '|');
    size_t used = 0;

    for (const char *c = choices; *c != 0 && used + 5 < size; c++) {
        if (*c == '|')
            used += (size_t)snprintf(out + used, size - used, "%s", c == last ? " or " : ", ");
        else
            out[used++] = *c;
    }
    out[used] = 0;
}

static int choice_index(const char *choices, const char *word)
{
    const size_t length = strlen(word);

    for (int index = 0;; index++) {
        const size_t n = strcspn(choices, "|");
        if (n == length && memcmp(choices, word, n) == 0)
            return index;
        if (choices[n] == 0)
            return -1;
        choices += n + 1;
    }
}

void option_choice(const char *choices, int index, char *out, size_t size)
{
    for (; index > 0; index--)
        choices += strcspn(choices, "|") + 1;
    snprintf(out, size, "%.*s", (int)strcspn(choices, "|"), choices);
}

/* 1 or 0 for the words that the official str2bool accepts, else -1. */
static int bool_of(const char *word)
{
    static const char *const yes[] = { "yes", "true", "t", "y", "1" };
    static const char *const no[] = { "no", "false", "f", "n", "0" };

    for (size_t i = 0; i < COUNT(yes); i++) {
        if (strcasecmp(word, yes[i]) == 0)
            return 1;
        if (strcasecmp(word, no[i]) == 0)
            return 0;
    }
    return -1;
}

static bool whole_number(const char *word, long long *value)
{
    char *end = NULL;

    errno = 0;
    *value = strtoll(word, &end, 10);
    return end != word && *end == 0 && errno == 0;
}

/* `what` is the flag or key as the user wrote it. */
static status check_range(const struct option *row, const char *what, double value)
{
    if (row->least == 0 && row->most == 0)
        return ST_OK;
    if (value < row->least && row->most == 0)
        return fail(ST_USAGE, "%s %g: must be at least %g", what, value, row->least);
    if (value < row->least || (row->most != 0 && value > row->most))
        return fail(ST_USAGE, "%s %g: must be %g to %g", what, value, row->least, row->most);
    return ST_OK;
}

static status set_string(char **to, const char *from)
{
    char *copy = strdup(from);

    if (copy == NULL)
        return fail(ST_MEMORY, "cannot allocate %zu bytes of host memory for a text",
                    strlen(from) + 1);
    free(*to);
    *to = copy;
    return ST_OK;
}

/* Adds an item to a list. */
static status add_string(char **to, const char *item)
{
    char *whole = NULL;

    if (*to == NULL)
        return set_string(to, item);
    if (asprintf(&whole, "%s\n%s", *to, item) < 0)
        return fail(ST_MEMORY, "cannot allocate %zu bytes of host memory for a text",
                    strlen(*to) + strlen(item) + 2);
    free(*to);
    *to = whole;
    return ST_OK;
}

/* A flag's text: "@FILE" stands for the contents of the file, without line ends at its end. */
static status set_text(const char *what, char **to, const char *word)
{
    char *text = NULL;

    if (word[0] != '@')
        return set_string(to, word);
    if (word[1] == 0)
        return fail(ST_USAGE, "%s @: a file name must follow the @", what);
    TRY(readfile_text(word + 1, 1 << 20, &text));
    for (size_t n = strlen(text); n > 0 && (text[n - 1] == '\n' || text[n - 1] == '\r'); n--)
        text[n - 1] = 0;
    free(*to);
    *to = text;
    return ST_OK;
}

static status set_seed(const char *what, struct seed *seed, const char *word)
{
    char *end = NULL;

    errno = 0;
    *seed = (struct seed){ strtoull(word, &end, 10), 1 };
    if (strcmp(word, "-1") == 0)
        *seed = (struct seed){ 0 };
    else if (word[0] < '0' || word[0] > '9' || *end != 0 || errno != 0) // strtoull takes "-2" too
        return fail(ST_USAGE, "%s %s: expected a whole number from 0 to 2^64-1, or -1", what, word);
    return ST_OK;
}

static status set_pair(const struct option *row, const char *what, int *pair, const char *word)
{
    const char joints[] = { row->joint, row->wide_joint ? 'x' : row->joint, 0 };
    const size_t n = strcspn(word, joints);
    char first[16] = "";
    const double least = row->most > 0 ? row->least : 1;
    const double most = row->most > 0 ? row->most : INT32_MAX;
    long long a = 0, b = 0;

    if (word[n] == 0 || n >= sizeof(first))
        return fail(ST_USAGE, "%s %s: write %s", what, word, row->value);
    memcpy(first, word, n);
    if (!whole_number(first, &a) || !whole_number(word + n + 1, &b) || (double)a < least ||
        (double)b < least || (double)a > most || (double)b > most)
        return fail(ST_USAGE, "%s %s: write %s, two whole numbers", what, word, row->value);
    pair[0] = (int)a;
    pair[1] = (int)b;
    return ST_OK;
}

/* Reads a number that ends at `joint` or at the end of the word; *end is the character after it. */
static status read_number(const struct option *row, const char *what, const char *word, char joint,
                          const char **end, double *value)
{
    char *last = NULL;

    *value = strtod(word, &last);
    if (last == word || (*last != 0 && *last != joint) || !isfinite(*value))
        return fail(ST_USAGE, "%s %s: expected %s", what, word,
                    row->type == OPT_NUMBERS ? "numbers with a comma between them"
                    : joint != 0             ? "a number, or two with a comma between them"
                                             : "a number");
    *end = last;
    return check_range(row, what, *value);
}

static status set_scales(const struct option *row, const char *what, double *scales,
                         const char *word)
{
    const char *end = NULL;
    double first, second;

    TRY(read_number(row, what, word, row->joint, &end, &first));
    second = first;
    if (*end != 0)
        TRY(read_number(row, what, end + 1, 0, &end, &second));
    scales[0] = first;
    scales[1] = second;
    return ST_OK;
}

/* Each number is in the row's range. */
static status set_numbers(const struct option *row, const char *what, struct number_list *list,
                          const char *word)
{
    struct number_list read = { 0 };

    for (const char *end = word; *end != 0 || read.count == 0;) {
        if (read.count == NUMBER_LIST_MAX)
            return fail(ST_USAGE, "%s: more than %d numbers", what, NUMBER_LIST_MAX);
        if (read.count > 0)
            end++; // the joint
        if (*end == 0)
            return fail(ST_USAGE, "%s %s: expected numbers with a comma between them", what, word);
        TRY(read_number(row, what, end, row->joint, &end, &read.value[read.count++]));
    }
    *list = read;
    return ST_OK;
}

status option_set_word(const struct option_set *set, const struct option *row, const char *what,
                       const char *word)
{
    void *to = option_field(set, row);
    long long whole = 0;
    const char *end = NULL;
    double value;
    char names[256];

    switch (row->type) {
    case OPT_SWITCH:
    case OPT_BOOL:
        if (bool_of(word) < 0)
            return fail(ST_USAGE, "%s %s: expected True or False", what, word);
        *(int *)to = bool_of(word);
        break;
    case OPT_INT:
    case OPT_I64:
        if (!whole_number(word, &whole) ||
            (row->type == OPT_INT && (whole > INT32_MAX || whole < INT32_MIN)))
            return fail(ST_USAGE, "%s %s: expected a whole number", what, word);
        TRY(check_range(row, what, (double)whole));
        if (row->type == OPT_INT)
            *(int *)to = (int)whole;
        else
            *(int64_t *)to = whole;
        break;
    case OPT_SEED:
        return set_seed(what, to, word);
    case OPT_DOUBLE:
        TRY(read_number(row, what, word, 0, &end, &value));
        *(double *)to = value;
        break;
    case OPT_STRING:
    case OPT_LIST:
        if (word[0] == 0)
            return fail(ST_USAGE, "%s is empty; expected %s", what, row->value);
        return row->type == OPT_LIST ? add_string(to, word) : set_string(to, word);
    case OPT_TEXT:
        return set_string(to, word);
    case OPT_CHOICE:
        if (choice_index(row->choices, word) < 0) {
            choices_text(row->choices, names, sizeof(names));
            return fail(ST_USAGE, "%s %s: choose %s", what, word, names);
        }
        *(int *)to = choice_index(row->choices, word);
        break;
    case OPT_PAIR:
        return set_pair(row, what, to, word);
    case OPT_SCALES:
        return set_scales(row, what, to, word);
    case OPT_NUMBERS:
        return set_numbers(row, what, to, word);
    }
    return ST_OK;
}

static status unknown(const char *command, const char *flag, const char *name, unsigned mask,
                      const struct option_set *sets, int count)
{
    const char *near = option_nearest(name, mask, sets, count);

    if (near != NULL)
        return fail(ST_USAGE, "%s has no flag %s; did you mean --%s?", command, flag, near);
    return fail(ST_USAGE, "%s has no flag %s; see wanmpi %s --help", command, flag, command);
}

/* Parses the flag at argv[*i], and its value if it has one; *i is then the index of the last word
 * that was used. */
static status parse_flag(const char *command, unsigned mask, const struct option_set *sets,
                         int count, int argc, char **argv, int *i)
{
    const char *word = argv[*i] + 2, *equals = strchr(word, '=');
    const size_t length = equals != NULL ? (size_t)(equals - word) : strlen(word);
    char name[NAME_MAX_LEN + 1] = "", flag[NAME_MAX_LEN + 3];

    if (length > NAME_MAX_LEN)
        return fail(ST_USAGE, "%s has no flag --%.20s...; see wanmpi %s --help", command, word,
                    command);
    snprintf(flag, sizeof(flag), "--%.*s", (int)length, word);
    for (size_t c = 0; c < length; c++)
        name[c] = word[c] == '-' ? '_' : word[c];
    for (int s = 0; s < count; s++) {
        const struct option *row = option_find(&sets[s], mask, name);
        const char *value = equals != NULL ? equals + 1 : NULL;
        if (row == NULL)
            continue;
        if (!option_is_used(row, mask))
            return fail(ST_USAGE, "%s does not use %s; see wanmpi %s --help", command, flag,
                        command);
        option_mark_given(&sets[s], row);
        if (row->type == OPT_SWITCH && value == NULL) {
            *(int *)option_field(&sets[s], row) = 1;
            return ST_OK;
        }
        if (value == NULL) {
            if (*i + 1 >= argc || strncmp(argv[*i + 1], "--", 2) == 0)
                return fail(ST_USAGE, "%s needs a value: %s", flag,
                            row->value != NULL ? row->value : row->choices);
            value = argv[++*i];
        }
        if (row->type == OPT_TEXT)
            return set_text(flag, option_field(&sets[s], row), value);
        return option_set_word(&sets[s], row, flag, value);
    }
    return unknown(command, flag, name, mask, sets, count);
}

/* Stores a word that is not a flag in the first positional row that has no value yet. */
static status parse_word(const char *command, unsigned mask, const struct option_set *sets,
                         int count, const char *word)
{
    for (int s = 0; s < count; s++) {
        for (int i = 0; i < sets[s].count; i++) {
            const struct option *row = &sets[s].rows[i];
            if (row->positional && option_is_used(row, mask) &&
                *(char **)option_field(&sets[s], row) == NULL) {
                option_mark_given(&sets[s], row);
                return option_set_word(&sets[s], row, row->value, word);
            }
        }
    }
    return fail(ST_USAGE, "%s: unexpected argument '%s'; put quotes around a text of several words",
                command, word);
}

status options_parse(const char *command, unsigned mask, const struct option_set *sets, int count,
                     int argc, char **argv)
{
    for (int i = 0; i < argc; i++) {
        if (strncmp(argv[i], "--", 2) == 0 && argv[i][2] != 0)
            TRY(parse_flag(command, mask, sets, count, argc, argv, &i));
        else if (argv[i][0] == '-' && argv[i][1] != 0)
            return fail(ST_USAGE, "%s has no flag %s; flags start with two dashes", command,
                        argv[i]);
        else
            TRY(parse_word(command, mask, sets, count, argv[i]));
    }
    return ST_OK;
}

void options_free(const struct option_set *set)
{
    for (int i = 0; i < set->count; i++) {
        if (is_string(&set->rows[i])) {
            char **string = option_field(set, &set->rows[i]);
            free(*string);
            *string = NULL;
        }
    }
}

/* Writes the words of `text` at column `indent`, with line breaks before column 96. `column` is the
 * current column of the output; if it is not left of `indent`, the text starts on a new line. */
static void write_wrapped(FILE *out, const char *text, int column, int indent)
{
    if (column >= indent) {
        fprintf(out, "\n%*s", indent, "");
        column = indent;
    } else {
        fprintf(out, "%*s", indent - column, "");
        column = indent;
    }
    while (*text != 0) {
        const int n = (int)strcspn(text, " ");
        if (column > indent && column + 1 + n > 96) {
            fprintf(out, "\n%*s", indent, "");
            column = indent;
        } else if (column > indent) {
            fputc(' ', out);
            column++;
        }
        fprintf(out, "%.*s", n, text);
        column += n;
        text += n;
        text += *text == ' ';
    }
    fputc('\n', out);
}

void options_help(FILE *out, unsigned mask, const struct option_set *sets, int count)
{
    for (int s = 0; s < count; s++) {
        const char *group = NULL, *written = NULL;
        for (int i = 0; i < sets[s].count; i++) {
            const struct option *row = &sets[s].rows[i];
            char flag[96], names[64] = "";
            group = row->group != NULL ? row->group : group;
            if (!option_is_used(row, mask) || row->hidden)
                continue;
            if (group != NULL && group != written)
                fprintf(out, "\n%s\n", group);
            written = group;
            if (row->choices != NULL)
                snprintf(names, sizeof(names), "%s", row->choices);
            else if (has_value(row) && row->value != NULL)
                snprintf(names, sizeof(names), "%s", row->value);
            if (row->positional)
                snprintf(flag, sizeof(flag), "  %s", row->value);
            else
                snprintf(flag, sizeof(flag), "  --%s%s%s", row->name, names[0] ? " " : "", names);
            fputs(flag, out);
            write_wrapped(out, row->help, (int)strlen(flag), 30);
        }
    }
}

/* Bytes of a field that is not a string. */
static const size_t sizes[] = {
    [OPT_SWITCH] = sizeof(int),       [OPT_BOOL] = sizeof(int),
    [OPT_INT] = sizeof(int),          [OPT_I64] = sizeof(int64_t),
    [OPT_DOUBLE] = sizeof(double),    [OPT_CHOICE] = sizeof(int),
    [OPT_PAIR] = sizeof(int[2]),      [OPT_SEED] = sizeof(struct seed),
    [OPT_SCALES] = sizeof(double[2]), [OPT_NUMBERS] = sizeof(struct number_list)
};

status options_copy(const struct option_set *to, const struct option_set *from, int index)
{
    const struct option *row = &from->rows[index];
    char **target = option_field(to, row), *const *source = option_field(from, row);

    assert(to->rows == from->rows);
    if (!is_string(row)) {
        memcpy(option_field(to, row), option_field(from, row), sizes[row->type]);
        return ST_OK;
    }
    if (*source != NULL)
        return set_string(target, *source);
    free(*target);
    *target = NULL;
    return ST_OK;
}

status options_copy_all(const struct option_set *to, const struct option_set *from)
{
    for (int i = 0; i < from->count; i++)
        TRY(options_copy(to, from, i));
    return ST_OK;
}

bool options_same(const struct option_set *a, const struct option_set *b, int index)
{
    const struct option *row = &a->rows[index];

    assert(a->rows == b->rows);
    if (is_string(row)) {
        const char *x = *(char *const *)option_field(a, row),
                   *y = *(char *const *)option_field(b, row);
        return x == y || (x != NULL && y != NULL && strcmp(x, y) == 0);
    }
    return memcmp(option_field(a, row), option_field(b, row), sizes[row->type]) == 0;
}
