/* part.h - a part of a model (transformer, text encoder, VAE, ...) as one row: where its files are
 * in each layout, how they are recognized, which tensors they have, and how its config is read from
 * them. The code in checkpoint/ and synth/ works on rows and depends on no particular part.
 *
 * To add a part: its files with a `const struct part part_NAME`, and a line in MODEL_PARTS of
 * ../pipeline/model.h. Then `inspect` and `synth` know it, and checkpoint_source (checkpoint.h)
 * gives its weights to the code that computes it. It is loaded by the task function or the stage
 * that uses it (../pipeline/pipeline.c), and named in the `parts` of the tasks that need it
 * (task.c). A part that only some models have sets `optional`. Sizes that must equal those of
 * another part are compared in model_check (../pipeline/model.c). */
#ifndef MODEL_CHECKPOINT_PART_H
#define MODEL_CHECKPOINT_PART_H

#include "model/checkpoint/describe.h"
#include "model/checkpoint/tensors.h"

#include <stdio.h>

struct cJSON;

/* Where files may be, relative to the model's folder. */
struct place {
    const char *folder, *name; // folder: "" or "/vae"; name NULL ends a list
    bool stem; // name + ".safetensors.index.json", ".safetensors", or its shards; else name is a
               // pattern that must match one file
};

/* Two names for the same tensor: the official one and that of diffusers or transformers. */
struct name_pair {
    const char *official, *other; // official NULL ends a list
};

/* A tensor whose axes of size 1 some files lack, and its official shape. */
enum {
    SHAPE_REST = -1, // as many as remain
    SHAPE_BIAS = -2, // as many as its bias has
    SHAPE_LAST = -3  // the last axis in the file
};
struct full_shape {
    const char *name; // a pattern of names_match; NULL ends a list
    int ndim;
    int64_t dim[TENSOR_AXES];
};

/* The config of a released model. */
struct variant {
    const char *name;   // "t2v-14B", "umt5-xxl"; NULL ends a list
    const void *config; // config_bytes, of the part's own type
};

struct part {
    const char *key;  // "dit", on the command line
    const char *name; // "transformer", in messages
    bool optional;    // some models do not have it
    bool single_file; // a checkpoint that is one file is this part
    bool may_stay;    // with --weights stored, matrices stay in memory as they are in the file
    size_t config_bytes;
    const struct variant *variants;

    /* Where its files are; the first place that has files is used. `official` also has the places
     * of ComfyUI's files. */
    const struct place *official, *diffusers;
    const char *const *folders; // names of ComfyUI's folders for it, searched for files that have
                                // the part; ends with NULL; or NULL
    /* Of two experts: `pair` is the row of the one for high noise, in that for low noise; the
     * other's names say `mark`, and are not those of this one. */
    const struct part *pair;
    const char *mark;
    bool official_config;         // official folders have its config.json
    const char *tokenizers[2];    // folders of its SentencePiece model: official, diffusers
    const char *tokenizer_tensor; // 1-D tensor of its file with the SentencePiece model; or NULL
    /* The SentencePiece model that the metadata of its file describes, malloc'ed; *bytes is NULL if
     * there is none. ST_FORMAT, ST_IO, ST_MEMORY. Or NULL. */
    status (*tokenizer)(const struct tensorfile *f, char **bytes, size_t *size);

    /* Tensor names. */
    const struct name_pair *detected_by; // a file that has one of these tensors has the part
    const struct name_pair *fallbacks;   // in diffusers files without tensor `other`, the tensor
                                         // `official` is used in its place; or NULL
    const char *const *ignored; // unknown tensors that are accepted; "decoder.": all that begin
                                // with it; ends with NULL; or NULL
    /* From and to the names of diffusers or transformers; false: it has no such name. Where a name
     * of theirs means another tensor in files that have the tensor `witness`, rename_witnessed is
     * for the names in those; else both are NULL. */
    bool (*rename)(const char *name, bool to_official, char *out, size_t size);
    const char *witness;
    bool (*rename_witnessed)(const char *name, bool to_official, char *out, size_t size);
    const struct full_shape *shapes; // or NULL

    /* Config and tensors. config: config_bytes, of this part's own type. */
    status (*describe)(const struct describing *d, void *config);
    /* Emits the list of tensors. With `file`, only the components that the file has, for a part of
     * which a file may have only some (a VAE without encoder); NULL: all. */
    void (*tensors)(struct tensor_list *l, const void *config, const struct tensorfile *file);
    status (*check)(const void *config, const char *file); // ST_FORMAT: this version cannot run it;
                                                           // or NULL
    void (*print)(FILE *out, const void *config);          // lines of `inspect`

    /* For synth. */
    void (*in_diffusers)(void *config); // makes a config that of diffusers' files, whose tensors
                                        // differ in more than names; or NULL
    const char *(*official_file)(const void *config); // name of its .pth; NULL: .safetensors
    const char *library, *class_name;                 // for model_index.json
    void (*config_json)(struct cJSON *json, const void *config, bool diffusers);
    float (*std_scale)(const void *config, const char *tensor); // factor for the standard deviation
                                                                // of a tensor's values; or NULL
    enum dtype dtype;                                           // of the released files
};

/* Writes the fingerprint of a part with this config to hex[FINGERPRINT_BYTES]. ST_MEMORY. */
status variant_fingerprint(const struct part *part, const void *config, char *hex);

/* The config of the part's variant of this name, or NULL. */
const void *part_variant(const struct part *part, const char *name);

#endif
