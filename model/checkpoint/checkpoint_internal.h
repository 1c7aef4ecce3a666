/* checkpoint_internal.h - what the files behind checkpoint.h share: the list of tensors that an
 * architecture has, their other names, and where the parts of a model lie on disk. */
#ifndef MODEL_CHECKPOINT_CHECKPOINT_INTERNAL_H
#define MODEL_CHECKPOINT_CHECKPOINT_INTERNAL_H

#include "model/checkpoint/checkpoint.h"

#include <stdio.h>

/* spec.c: what a part consists of, under official names. */
struct spec_tensor {
    char name[120];
    int ndim;
    int64_t dim[TENSOR_AXES];
};

struct spec {
    struct spec_tensor *tensors;
    int count, room;
};

/* Appends all tensors of the part. The VAE's halves are one network each: encoder.* with conv1,
 * decoder.* with conv2. ST_MEMORY. */
status spec_dit(struct spec *s, const struct dit_config *config);
status spec_t5(struct spec *s, const struct t5_config *config);
status spec_vae(struct spec *s, const struct vae_config *config, bool encoder, bool decoder);
status spec_part(struct spec *s, const struct model_config *config, enum part part);
void spec_sort(struct spec *s); // by name
void spec_done(struct spec *s); // accepts zeroed values
int64_t spec_parameters(const struct spec *s);

/* DiffSynth-Studio's fingerprint of a list of names and shapes: 32 hex digits and a '\0'. ST_MEMORY
 */
#define FINGERPRINT_BYTES 33
status spec_fingerprint(const struct spec *s, char *hex);

/* names.c: other names for the same tensors. */

/* Between the official name and diffusers' (for T5: transformers'). False when the name is not in
 * the part's table; `out` is then untouched. */
bool name_to_official(enum part part, const char *name, char *out, size_t size);
bool name_from_official(enum part part, const char *name, char *out, size_t size);

/* Renames an opened part to official names: takes a known prefix away, then translates. `prefix`
 * gets what was taken away, "" mostly. ST_FORMAT when the names become equal. */
status names_make_official(struct tensorfile *f, enum part part, const char **prefix);

/* layout.c: the files that a part consists of. Strings are owned by the list. */
struct path_list {
    char **path;
    int count, room;
};

status path_list_add(struct path_list *list, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void path_list_done(struct path_list *list);
bool path_is_file(const char *path);
bool path_is_folder(const char *path);

/* ST_IO naming what was tried when the part is not there; ST_FORMAT when shards are missing. */
status layout_files(const struct checkpoint *c, enum part part, struct path_list *files);

/* After opening: every tensor that the index names must be in the shard that it names. */
status layout_check_index(const struct checkpoint *c, enum part part, const struct tensorfile *f);

/* The part's config.json, or NULL when this layout has none for it. The caller frees it. */
char *layout_config(const struct checkpoint *c, enum part part);

/* A small text file, '\0' behind it. ST_IO, ST_FORMAT when it is larger than `limit`. */
status read_text(const char *path, size_t limit, char **text);

/* describe.c: the part's numbers from tensors and config.json, into c->config; where both have one
 * and they differ, ST_FORMAT naming both. `kind` checks are the caller's. */
status describe_part(struct checkpoint *c, enum part part);

/* Compares the opened tensors with the spec of the described config. ST_FORMAT with one line that
 * names the first missing, wrong and unknown tensors; all of them go to `full` when it is not NULL.
 */
status compare_part(const struct checkpoint *c, enum part part, FILE *full);

/* Opens, renames, and describes the part, but does not compare it with what it should be. */
status part_open(struct checkpoint *c, enum part part);

extern const char *const part_names[PART_COUNT]; // "transformer", ...

/* synth_tokenizer.c: a small SentencePiece model of at most `vocab` pieces, serialized. *bytes is
 * the caller's to free. ST_USAGE when so few pieces are no alphabet. */
status synth_tokenizer(int64_t vocab, char **bytes, size_t *size);

/* synth_values.c: random values. */
struct synth_tensor {
    char name[120]; // as the file has it
    struct tensor shape;
    uint64_t key;    // of its random numbers
    float mean, std; // of its values
};

/* Values [first, first + count) of a tensor of type F32, BF16 or F16: nearly normal, and the same
 * whatever the pieces and threads. */
void synth_values(const struct synth_tensor *t, int64_t first, int64_t count, void *dst);

/* md5.c */
void md5_hex(const void *data, size_t size, char *hex); // 32 digits and '\0'

#endif
