/* tokenizer.h - from a prompt to umT5's token ids: the official tokenizer's cleaning, then the
 * SentencePiece unigram model of google/umt5-xxl. Source: Wan2.1 wan/modules/tokenizers.py.
 *
 *   tokenizer.cc           token ids of a cleaned prompt
 *   charsmap.c             checks the model's normalization table
 *   tokenizer_json.c       whether the tokenizer.json beside the model says otherwise
 *   text_clean.c           the cleaning (ftfy, white space)
 *   html_unescape.c        HTML entities, used by the cleaning
 *   mojibake.h             repair of text in a wrong encoding, used by the cleaning
 *   make_html_entities.py  writes the table of entities at build time
 *   text_internal.h        shared by text_clean.c and html_unescape.c
 *   umt5.h, umt5.c         the text encoder, which follows the tokenizer */
#ifndef MODEL_TEXT_TOKENIZER_H
#define MODEL_TEXT_TOKENIZER_H

#include "runtime/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct tokenizer;

/* Opens a serialized SentencePiece model; `from` names it in error lines. ST_FORMAT, ST_MEMORY. */
status tokenizer_open(struct tokenizer **t, const void *bytes, size_t size, const char *from);
void tokenizer_close(struct tokenizer *t); // accepts NULL

long long tokenizer_pieces(const struct tokenizer *t); // of the model

/* Checks the parts of a model that SentencePiece trusts. ST_FORMAT; `from` as above. */
status charsmap_check(const void *bytes, size_t size, const char *from);

/* The table itself, in `bytes`; size 0 if the model has none. */
void charsmap_find(const void *bytes, size_t size, const uint8_t **map, size_t *map_size);

/* *differs: what the tokenizer.json beside the model `from` has that the model does not, or has
 * otherwise ("another normalization table"); NULL if it says the same, or is not there. ST_IO,
 * ST_FORMAT, ST_MEMORY. */
status tokenizer_json_compare(const char **differs, const char *from, const void *bytes,
                              size_t size);

/* That of the tokenizer's own model. */
const char *tokenizer_differs(const struct tokenizer *t);

/* Cleans and encodes the prompt, truncated to at most `max` ids of which the last is EOS. *count
 * >= 1. ids: max ints. */
status tokenizer_encode(struct tokenizer *t, const char *prompt, int max, int *ids, int *count);

/* The number of ids of the prompt, with EOS, when none is cut off. */
status tokenizer_count(const struct tokenizer *t, const char *prompt, size_t *count);

/* The cleaning alone: ftfy.fix_text, html.unescape twice, runs of
 * white space to one space, strip. UTF-8 in and out; *out is malloc'ed. ST_FORMAT if `in` is not
 * UTF-8. */
status text_clean(const char *in, char **out);

#ifdef __cplusplus
}
#endif
#endif
