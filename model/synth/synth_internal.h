/* synth_internal.h - structs and functions that the .c files of synth.h share. */
#ifndef MODEL_SYNTH_SYNTH_INTERNAL_H
#define MODEL_SYNTH_SYNTH_INTERNAL_H

#include "model/synth/synth.h"

struct synth_tensor {
    char name[WEIGHT_NAME_BYTES];  // in the file
    struct tensor shape;           // dtype and dims in the file; data is NULL
    uint64_t key;                  // selects its random numbers
    float mean, std;               // of its values
    const struct ggml_type *block; // its format in a GGUF file; NULL: plain numbers
};

/* The tensors of one part. */
struct synth_part {
    const struct part *row;
    const void *config;
    void *own; // the memory of `config`, if it is not that of the options
    struct synth_tensor *tensors;
    int count;
};

struct synth {
    const struct synth_options *options;
    char *folder; // the temporary folder
    int count;
    struct synth_part parts[MODEL_PART_COUNT];
    void (*progress)(void *payload, uint64_t done, uint64_t total); // or NULL
    void *payload;
    uint64_t done, total; // bytes of tensors
};

/* synth_files.c: writes all parts into s->folder. */
status synth_write(struct synth *s);

/* synth.c: bytes of the first `count` values of a tensor in its file. */
uint64_t synth_bytes(const struct synth_tensor *t, int64_t count);

/* synth_values.c: writes values [first, first + count) of a tensor, of type F32, BF16 or F16, to
 * dst. They are approximately normally distributed, and do not depend on ranges or threads. Blocks,
 * and numbers of type F8_E4M3, have random bits. */
void synth_values(const struct synth_tensor *t, int64_t first, int64_t count, void *dst);

/* synth_tokenizer.c: makes a small SentencePiece model of at most `vocab` pieces, serialized.
 * *bytes is malloc'ed; the caller frees it. ST_USAGE if vocab is too small for all ASCII
 * characters. */
status synth_tokenizer(int64_t vocab, char **bytes, size_t *size);

#endif
