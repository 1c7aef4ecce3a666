/* part.h - a part of a model (transformer, text encoder, VAE, ...) as one row: where its files are
 * in each layout, how they are recognised, what their tensors are, how its numbers are read from
 * them. Everything in checkpoint/ and synth/ works on rows and knows no part by name.
 *
 * To add a part: its files with a `const struct part part_NAME`, and a line in MODEL_PARTS of
 * ../pipeline/model.h. */
#ifndef MODEL_CHECKPOINT_PART_H
#define MODEL_CHECKPOINT_PART_H

#include "model/checkpoint/describe.h"
#include "model/checkpoint/tensors.h"

#include <stdio.h>

struct cJSON;

/* Where files may be, relative to the model's folder. A stem stands for an index, one .safetensors
 * file, or shards; a pattern must match one file. */
struct place {
    const char *folder, *name; // "" or "/vae"; name NULL ends a list
    bool stem;
};

/* Two names for the same tensor: the official one and that of diffusers or transformers. */
struct name_pair {
    const char *official, *other; // NULL ends a list
};

/* A released set of numbers. */
struct variant {
    const char *name; // "t2v-14B", "umt5-xxl"; NULL ends a list
    const void *config;
};

struct part {
    const char *key;  // "dit": on the command line
    const char *name; // "transformer": in messages
    bool optional;    // some models have none
    bool single_file; // the part that a path to one file stands for
    size_t config_bytes;
    const struct variant *variants;

    /* Where its files are. First match wins. */
    const struct place *official, *diffusers;
    bool official_config;         // an official folder has a config.json of it
    const char *tokenizers[2];    // folders of its SentencePiece model: official, diffusers
    const char *tokenizer_tensor; // which some files hold it in instead (U8)

    /* Names. */
    const struct name_pair *anchors;   // a file with one of them has the part
    const struct name_pair *fallbacks; // the first name stands for the second where a file lacks it
    const char *const *ignored;        // unneeded tensors; "decoder.": all that begin so. NULL ends
    bool (*rename)(const char *name, bool to_official, char *out, size_t size);

    /* Numbers and tensors. config: config_bytes, of this part's own type. */
    status (*describe)(const struct describing *d, void *config);
    /* `file`: of which part of the list is wanted (half a VAE is a useful file), or NULL for all */
    void (*tensors)(struct tensor_list *l, const void *config, const struct tensorfile *file);
    status (*check)(const void *config, const char *file); // ST_FORMAT: this version cannot run it
    void (*print)(FILE *out, const void *config);          // lines of `inspect`

    /* For synth. */
    const char *(*official_file)(const void *config); // a .pth; NULL: shards of .safetensors
    const char *library, *class_name;                 // of model_index.json
    void (*config_json)(struct cJSON *json, const void *config, bool diffusers);
    float (*spread)(const void *config, const char *tensor); // factor of its deviation; or NULL
    enum dtype dtype;                                        // of the released files
};

/* The fingerprint of a part with these numbers, FINGERPRINT_BYTES. ST_MEMORY. */
status variant_fingerprint(const struct part *part, const void *config, char *hex);

/* The variant's numbers, or NULL. */
const void *part_variant(const struct part *part, const char *name);

#endif
