/* spiece.h - writes SentencePiece models, without the protobuf library. The messages are those of
 * sentencepiece_model.proto. Zero a struct spiece, add its pieces, and finish it.
 *
 *   spiece.c       the messages
 *   spiece_gguf.c  from the metadata of a GGUF file */
#ifndef MODEL_TEXT_SPIECE_H
#define MODEL_TEXT_SPIECE_H

#include "runtime/tensorfile.h"

enum piece_type { PIECE_NORMAL = 1, PIECE_UNKNOWN = 2, PIECE_CONTROL = 3, PIECE_BYTE = 6 };

struct spiece {
    char *data;
    size_t size, capacity;
    int64_t count;  // of pieces
    bool has_bytes; // pieces of PIECE_BYTE
    bool failed;    // memory could not be allocated; later data is discarded
};

struct spiece_normalizer {
    const char *name;
    const void *charsmap; // the table, or NULL
    size_t charsmap_size;
    bool add_space, remove_spaces; // before the text; that are repeated
};

void spiece_add(struct spiece *s, const char *text, size_t length, float score,
                enum piece_type type);

/* *bytes, malloc'ed, becomes the caller's. Frees what `s` holds. ST_MEMORY. */
status spiece_finish(struct spiece *s, const struct spiece_normalizer *n, char **bytes,
                     size_t *size);

/* The model that the metadata of a GGUF file describes; *bytes is NULL if it describes none.
 * ST_FORMAT: not the tokenizer of a T5, or incomplete; ST_IO, ST_MEMORY. */
status spiece_of_gguf(const struct tensorfile *f, char **bytes, size_t *size);

#endif
