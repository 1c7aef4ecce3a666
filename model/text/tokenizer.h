/* tokenizer.h - from a prompt to umT5's token ids: cleaning as the official tokenizer does it, then
 * the SentencePiece unigram model of google/umt5-xxl. Source: Wan2.1 wan/modules/tokenizers.py. */
#ifndef MODEL_TEXT_TOKENIZER_H
#define MODEL_TEXT_TOKENIZER_H

#include "runtime/status.h"

#ifdef __cplusplus
extern "C" {
#endif

struct tokenizer;

status tokenizer_open(struct tokenizer **t, const char *model_file);
void tokenizer_close(struct tokenizer *t); // accepts NULL

/* Cleans, encodes, cuts so that the last of at most `max` ids is EOS. *count >= 1. ids: max ints.
 */
status tokenizer_encode(struct tokenizer *t, const char *prompt, int max, int *ids, int *count);

/* The cleaning alone: ftfy.fix_text (its deterministic part), html.unescape twice, white space runs
 * to one space, strip. UTF-8 in and out; *out is malloc'ed. ST_FORMAT when `in` is no UTF-8. */
status text_clean(const char *in, char **out);

#ifdef __cplusplus
}
#endif
#endif
