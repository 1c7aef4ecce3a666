/* mojibake.h - ftfy's repair of text that was decoded with a wrong encoding ("schÃ¶n" for "schön"):
 * rules find pairs of characters that people do not write, then the encodings are tried from which
 * the text may have come. For text_clean.c.
 *
 *   mojibake.c          the repair
 *   mojibake_tables.c   rules, classes and encodings; written by make_mojibake.py
 *
 * Source: ftfy 6.3.1, Apache-2.0: badness.py, chardata.py, fixes.py, bad_codecs. */
#ifndef MODEL_TEXT_MOJIBAKE_H
#define MODEL_TEXT_MOJIBAKE_H

#include "model/text/text_internal.h"

/* ftfy.fix_encoding, in place. ST_MEMORY. */
status mojibake_repair(struct text *t);

/* ---- tables ---- */

struct mojibake_range {
    int32_t first, last;
    uint32_t classes; // that contain it
};

/* Classes that the code names. */
enum {
    MOJIBAKE_FIRST_OF_2 = 1u << 14, // what the bytes of UTF-8 became
    MOJIBAKE_FIRST_OF_3 = 1u << 15,
    MOJIBAKE_FIRST_OF_4 = 1u << 16,
    MOJIBAKE_CONTINUATION = 1u << 17,
    MOJIBAKE_STRICT = 1u << 18 // continuations that mean nothing else
};

/* Flags of a set. */
enum {
    MOJIBAKE_NOT = 1,      // all other characters
    MOJIBAKE_OPTIONAL = 2, // or nothing
    MOJIBAKE_BEGIN = 4,    // no character: the beginning of the text
    MOJIBAKE_WORD = 8,     // also letters, digits, "_"
    MOJIBAKE_SPACE = 16    // also white space
};

struct mojibake_set {
    uint32_t classes;
    int extra, extras; // ranges of mojibake_extras
    int flags;
};

struct mojibake_sequence {
    int first, count; // sets
};

struct mojibake_rules {
    const struct mojibake_set *sets;
    const struct mojibake_sequence *sequences; // alternatives; the first one that matches is used
    size_t count;
};

struct mojibake_encoding {
    const char *name;
    bool sloppy;        // byte 0x1a stands for U+FFFD
    uint16_t high[128]; // the characters of the bytes from 0x80 on
};

extern const struct mojibake_range mojibake_classes[], mojibake_extras[];
extern const int mojibake_class_count, mojibake_encoding_count;
extern const struct mojibake_rules mojibake_bad;     // of characters: text that needs repair
extern const struct mojibake_rules mojibake_altered; // of bytes: UTF-8 with 0x20 for 0xa0
extern const struct mojibake_rules mojibake_lossy;   // of bytes: UTF-8 with lost bytes, 0x1a
extern const struct mojibake_encoding mojibake_encodings[];

#endif
