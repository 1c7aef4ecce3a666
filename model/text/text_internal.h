/* text_internal.h - text as code points, and HTML entities; for text_clean.c, html_unescape.c
 * and mojibake.c. */
#ifndef MODEL_TEXT_TEXT_INTERNAL_H
#define MODEL_TEXT_TEXT_INTERNAL_H

#include "runtime/status.h"

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Code points. A pass reads one text and writes another, which is first given enough capacity: a
 * pass writes at most TEXT_GROWTH code points for each one that it reads. */
struct text {
    int32_t *cp; // malloc'ed
    size_t count, capacity;
};

#define TEXT_GROWTH 4

status text_begin(struct text *t, size_t capacity); // clears the text; ST_MEMORY

static inline void text_put(struct text *t, int32_t cp)
{
    assert(t->count < t->capacity);
    t->cp[t->count++] = cp;
}

bool text_is_space(int32_t c); // as Python's str.isspace

/* The Windows-1252 characters that HTML uses for the C1 controls, U+0080 to U+009F. */
extern const uint16_t windows_1252[32];

enum {
    HTML_BARE = 1, // valid without the semicolon too
    HTML_FTFY = 2, // in capitals, known to ftfy only
};

struct html_entity {
    const char *name; // without & and semicolon; the table is sorted by it
    const char *text; // UTF-8, at most three code points
    int kind;
};

extern const struct html_entity html_entities[];
extern const int html_entity_count;

/* As Python's html.unescape. */
status html_unescape(struct text *to, const struct text *from);

/* As ftfy: only entities with a semicolon, and also HTML_FTFY. */
status html_unescape_strict(struct text *to, const struct text *from);

#endif
