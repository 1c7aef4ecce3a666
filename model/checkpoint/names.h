/* names.h - translation of tensor names with tables of name pairs. The tables are in the files of
 * the parts (../transformer/dit_names.c, ../text/umt5_part.c, ../vae/vae_names.c). */
#ifndef MODEL_CHECKPOINT_NAMES_H
#define MODEL_CHECKPOINT_NAMES_H

#include "model/checkpoint/part.h"

/* Matches a name with a pattern. A pattern that ends in '.' matches the beginning of a name,
 * another one the whole name; '%' matches a number, which is stored in *index. Returns the rest of
 * the name after the match, or NULL if it does not match. */
const char *names_match(const char *pattern, const char *name, int *index);

/* Writes prefix, pattern (with `index` for '%') and rest to out[size]; false if it is too small. */
bool names_write(char *out, size_t size, const char *prefix, const char *pattern, int index,
                 const char *rest);

/* Translates a name with the first pair that matches it, and writes `prefix` before the result. The
 * rest of a name after a pattern that ends in '.' is kept. `pairs` ends with a NULL name. False if
 * no pair matches or out[size] is too small. */
bool names_translate(const struct name_pair *pairs, bool to_official, const char *prefix,
                     const char *name, char *out, size_t size);

#endif
