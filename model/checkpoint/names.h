/* names.h - other names for the same tensors: translation by tables of pairs, for the parts' own
 * tables (../transformer/dit_names.c, ../text/umt5_part.c, ../vae/vae_names.c). */
#ifndef MODEL_CHECKPOINT_NAMES_H
#define MODEL_CHECKPOINT_NAMES_H

#include "model/checkpoint/part.h"

/* A pattern matches a whole name, or when it ends in '.', the beginning of one. '%' stands for a
 * number, which *index gets. What follows the match in the name, or NULL. */
const char *names_match(const char *pattern, const char *name, int *index);

/* Writes prefix, pattern (with the number for '%') and rest; false when they do not fit. */
bool names_write(char *out, size_t size, const char *prefix, const char *pattern, int index,
                 const char *rest);

/* The first pair of the list that matches `name` is applied, and prefix put before it. The rest of
 * a name that a pattern ending in '.' matched is kept. False when no pair matches. */
bool names_translate(const struct name_pair *pairs, bool to_official, const char *prefix,
                     const char *name, char *out, size_t size);

#endif
