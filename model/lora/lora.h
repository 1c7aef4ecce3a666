/* lora.h - adapters (LoRA and its relatives) that are merged into a part's weights when these are
 * loaded.
 *
 *     adapter file -> modules: a name, and the factors of its change     lora_keys.c
 *     modules x the part's list of tensors -> targets and their terms    lora_match.c
 *     terms -> their factors, for some rows of a target                  lora_factors.c
 *     targets + a source of base weights -> a source of merged weights   lora_merge.c; on GPUs
 *                                                                        lora_device.c
 *
 * A tensor W with the terms 1, 2, ... (in the order of the files) becomes
 *
 *     W + strength_1 * change_1(W) + strength_2 * change_2(W + ...) + ...
 *
 * in f32, rounded once to the data type in memory. The value of an element depends neither on the
 * range in which it is read nor on the rank, so resident, sharded and streamed weights are the
 * same. So are matrices that are kept in the form of the file: if all their terms are LoRAs, the
 * factors are kept beside them, and their product is added whenever they are expanded; with other
 * terms they are kept as they are computed with.
 *
 * A file's keys are untrusted: each must have a known ending and the name and shape of a tensor of
 * the part, else the file is refused with a line that names the first of them. How the names of the
 * common trainers differ, and the formulas of each kind of adapter, are in lora_keys.c and
 * lora_merge.c. All functions are local. */
#ifndef MODEL_LORA_LORA_H
#define MODEL_LORA_LORA_H

#include "model/checkpoint/part.h"
#include "runtime/tensorfile.h"

#define LORA_FILES_MAX 64 // per transformer

/* An adapter file and how much of it is used. */
struct lora_use {
    char *path; // owned
    float strength;
    bool either; // of two transformers, the file may be for the other one alone
};

/* Parses "FILE" or "FILE:STRENGTH" (1 if it is not given; any finite number) into *use. ST_USAGE if
 * the strength is not finite; ST_MEMORY. */
status lora_parse(struct lora_use *use, const char *text);

struct lora; // the adapters of one part

struct lora_options {
    const struct part *part;
    const void *config;      // of the part
    struct tensorfile *base; // of the part, with official names; borrowed, as is `source`
    struct weight_source source;
    bool second;         // the transformer is the second of two: keys of "transformer_2."
    bool as_in_file;     // elements are read in the order of the file, not of the memory
    bool ignore_unknown; // keys that match nothing are no error
    const struct lora_use *uses;
    int count;
};

/* Opens the files and matches their keys with the part's tensors. A file of strength 0 is checked
 * and then left out. *l is NULL if no file changes anything. ST_IO, ST_FORMAT, ST_USAGE (keys that
 * match nothing), ST_MEMORY. */
status lora_open(struct lora **l, const struct lora_options *options);
void lora_close(struct lora *l); // accepts NULL

/* The base source with all changes. Several threads may read at once. Valid until lora_close. */
struct weight_source lora_source(struct lora *l);

/* Whether the tensor of this name is changed. */
bool lora_changes(const struct lora *l, const char *name);

/* A line about file `index` of the options, "cat.safetensors: ComfyUI, rank 64, 400 tensors";
 * NULL after the last. Valid until lora_close. */
const char *lora_line(const struct lora *l, int index);

/* Number of keys of all files that match nothing, with ignore_unknown. */
int lora_unknown(const struct lora *l);

/* Bytes of a GPU's memory that merging needs while the weights are loaded. */
size_t lora_device_bytes(const struct lora *l);

/* Bytes of host memory that the adapters keep, and that `threads` threads need when each reads
 * `range` bytes of merged weights at a time. */
size_t lora_host_bytes(const struct lora *l, int threads, size_t range);

/* Replaces a digest of the base weights by one that depends on the adapters too, of
 * FINGERPRINT_BYTES. l NULL: it stays. ST_IO, ST_FORMAT. */
status lora_digest(struct lora *l, char *hex);

/* ---- what a file is, without a model ---- */

struct cJSON;

/* Whether the file has keys of an adapter. A file that is not one, or cannot be read, is not. */
bool lora_is(const char *path);

/* Describes an adapter file for `inspect`: dialect, ranks, alphas, targets, those of the part's
 * `variants` that it fits, and unknown keys. *text and *json (if not NULL) are for the caller to
 * free. ST_FORMAT for a damaged file, and if some keys are unknown to all variants; ST_IO,
 * ST_MEMORY.
 */
status lora_report(const char *path, const struct part *part, const struct variant *variants,
                   bool all_keys, char **text, struct cJSON **json);

#endif
