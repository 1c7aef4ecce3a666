/* checkpoint.h - a model on disk, in any layout its users have, under one set of names.
 *
 * Layouts: official folder (config.json, diffusion_pytorch_model*.safetensors, *.pth, google/), the
 * "-Diffusers" folder (transformer/, vae/, text_encoder/, tokenizer/), a single .safetensors file
 * of the transformer with or without a prefix. Names become the official ones (Wan2.1 wan/modules).
 * Parts are opened on demand; a part that is missing is named with the paths that were tried.
 *
 *   checkpoint.c  open, parts, comparison with the list of tensors, source of weights
 *   layout.c      which files a part consists of, in each layout
 *   names.c       names of other layouts, prefixes of single files
 *   describe.c    numbers from shapes and config.json
 *   tensors.c     the list of an architecture's tensors, and its fingerprint
 *   part.h        a part as one row
 *   report.c      what `wanmpi inspect` prints */
#ifndef MODEL_CHECKPOINT_CHECKPOINT_H
#define MODEL_CHECKPOINT_CHECKPOINT_H

#include "model/checkpoint/part.h"
#include "runtime/tensorfile.h"

#define LAYOUT_OFFICIAL "official"
#define LAYOUT_DIFFUSERS "diffusers"
#define LAYOUT_FILE "single file"

struct checkpoint_part {
    const struct part *row;
    struct tensorfile file; // count 0 until opened
    const char *prefix;     // what the names in the file begin with, mostly ""
    void *config;           // row->config_bytes, once opened
};

struct checkpoint {
    char *path;         // as it was given
    char *folder;       // the folder that it is, or which the single file is in
    const char *layout; // one of the three above
    int count;
    struct checkpoint_part *parts; // one per row of the table
    char *tokenizer;               // the SentencePiece model's file; NULL when there is none
};

/* Finds the layout; opens nothing but config.json. `parts`: the table of parts, up to NULL. ST_IO,
 * ST_FORMAT, ST_MEMORY. */
status checkpoint_open(struct checkpoint *c, const char *path, const struct part *const *parts);
void checkpoint_close(struct checkpoint *c);

/* Opens one part's files, reads headers, reads its numbers from config.json and the tensors'
 * shapes, and checks that every tensor the architecture needs is there with its shape, and that
 * this version can run it; unknown tensors are an error that names them. Opening twice is nothing.
 * ST_IO, ST_FORMAT, ST_MEMORY. */
status checkpoint_part(struct checkpoint *c, const struct part *part);

/* Whether the files of the part are there; nothing is opened. */
bool checkpoint_has(const struct checkpoint *c, const struct part *part);

/* Of an opened part: its numbers, its tensors. NULL while it is not opened. */
const void *checkpoint_config(const struct checkpoint *c, const struct part *part);
struct tensorfile *checkpoint_file(struct checkpoint *c, const struct part *part);

/* A source for weights_open over an opened part: reads tensors by official name, in the order that
 * the spec has in memory. */
struct weight_source checkpoint_source(struct checkpoint *c, const struct part *part);

/* The SentencePiece model's bytes, from its file or from the tensor that some text encoders' files
 * hold it in, whose part is opened for that; *from names it for messages and belongs to the
 * checkpoint. *bytes is the caller's to free. ST_FORMAT with one line where there is none. */
status checkpoint_tokenizer(struct checkpoint *c, char **bytes, size_t *size, const char **from);

/* The fingerprint of an opened part's tensors, FINGERPRINT_BYTES. ST_MEMORY. */
status checkpoint_fingerprint(const struct checkpoint *c, const struct part *part, char *hex);

/* What `wanmpi inspect` prints: layout, parts, config, tensors by dtype, missing and unknown names,
 * fingerprint, which release it is. Parts that are missing or damaged are reported as such, and are
 * no error. *text is the caller's to free. */
status checkpoint_report(struct checkpoint *c, char **text, bool all_tensors);

#endif
