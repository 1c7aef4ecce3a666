/* text_internal.h - what the parts of text_clean share: text as code points, and HTML's entities.
 */
#ifndef MODEL_TEXT_TEXT_INTERNAL_H
#define MODEL_TEXT_TEXT_INTERNAL_H

#include "runtime/status.h"

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Code points. A pass over a text reads one and writes another, which is made large enough first:
 * no pass makes more than TEXT_GROWTH of one. */
struct text {
    int32_t *cp; // malloc'ed
    size_t count, room;
};

#define TEXT_GROWTH 4

status text_begin(struct text *t, size_t room); // empties it; ST_MEMORY

static inline void text_put(struct text *t, int32_t cp)
{
    assert(t->count < t->room);
    t->cp[t->count++] = cp;
}

/* Windows-1252 in the places of the C1 controls, U+0080 to U+009F, as HTML reads them. */
extern const uint16_t windows_1252[32];

enum {
    HTML_BARE = 1, // counts without its semicolon too
    HTML_FTFY = 2, // capitals that only ftfy knows
};

struct html_entity {
    const char *name; // without & and semicolon; the table is sorted by it
    const char *text; // UTF-8, at most three code points
    int mark;
};

extern const struct html_entity html_entities[];
extern const int html_entity_count;

/* Python's html.unescape. */
status html_unescape(struct text *to, const struct text *from);

/* ftfy's: only what ends in a semicolon, and its own capitals. */
status html_unescape_strict(struct text *to, const struct text *from);

#endif
