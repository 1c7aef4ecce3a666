/* json.h - JSON texts, by cJSON, with a lack of memory told apart from a damaged text.
 *
 * cJSON gives NULL for both, and an object to which a value could not be added is printed without
 * it. Its allocations are counted here instead: a lack of memory is remembered, for each thread,
 * until it is reported by one of these functions. They take the place of cJSON_Parse and
 * cJSON_Print. */
#ifndef RUNTIME_JSON_H
#define RUNTIME_JSON_H

#include "runtime/status.h"

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct cJSON;

/* Parses one value at the start of a text of `length` bytes. *json, for cJSON_Delete, is NULL if
 * there is none. *end (NULL: not needed): after the value, or where the text is wrong. ST_MEMORY,
 * with a line that begins with `where`. */
status json_parse(struct cJSON **json, const char *text, size_t length, const char **end,
                  const char *where);

/* The text of an object that this thread has made, malloc'ed, `indented` or on one line. NULL when
 * memory was lacking for the text, or for a part of an object; also for json NULL. */
char *json_text(const struct cJSON *json, bool indented);

#ifdef __cplusplus
}
#endif
#endif
