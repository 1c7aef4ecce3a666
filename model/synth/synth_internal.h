/* synth_internal.h - what the files of synth.h share. */
#ifndef MODEL_SYNTH_SYNTH_INTERNAL_H
#define MODEL_SYNTH_SYNTH_INTERNAL_H

#include "model/synth/synth.h"

struct synth_tensor {
    char name[WEIGHT_NAME_BYTES]; // as the file has it
    struct tensor shape;
    uint64_t key;    // of its random numbers
    float mean, std; // of its values
};

/* The tensors of one part. */
struct synth_part {
    const struct part *row;
    const void *config;
    struct synth_tensor *tensors;
    int count;
};

struct synth {
    const struct synth_options *options;
    char *folder; // temporary, beside the final one
    int count;
    struct synth_part parts[MODEL_PART_COUNT];
    void (*progress)(void *payload, uint64_t done, uint64_t total); // or NULL
    void *payload;
    uint64_t done, total; // bytes
};

/* synth_files.c: writes all parts into s->folder. */
status synth_write(struct synth *s);

/* synth_values.c: values [first, first + count) of a tensor of type F32, BF16 or F16: nearly
 * normal, and the same for any ranges and threads. */
void synth_values(const struct synth_tensor *t, int64_t first, int64_t count, void *dst);

/* synth_tokenizer.c: a small SentencePiece model of at most `vocab` pieces, serialized. *bytes is
 * the caller's to free. ST_USAGE when so few pieces are no alphabet. */
status synth_tokenizer(int64_t vocab, char **bytes, size_t *size);

#endif
