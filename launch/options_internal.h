/* options_internal.h - rows and their fields, for words (options.c) and JSON (options_json.c). */
#ifndef LAUNCH_OPTIONS_INTERNAL_H
#define LAUNCH_OPTIONS_INTERNAL_H

#include "launch/options.h"

void *option_field(const struct option_set *set, const struct option *row);
void option_mark_given(const struct option_set *set, const struct option *row);

/* Whether the commands of `mask` use the row. */
bool option_is_used(const struct option *row, unsigned mask);

/* The row of a name or alias, if possible one that the commands of `mask` use; NULL: none. */
const struct option *option_find(const struct option_set *set, unsigned mask, const char *name);

/* The most similar name; NULL: none is. */
const char *option_nearest(const char *name, unsigned mask, const struct option_set *sets,
                           int count);

/* Writes the choice of this index. */
void option_choice(const char *choices, int index, char *out, size_t size);

/* Sets the field from a word. `what` is the flag or key as the user wrote it. */
status option_set_word(const struct option_set *set, const struct option *row, const char *what,
                       const char *word);

#endif
