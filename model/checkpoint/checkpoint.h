/* checkpoint.h - a model on disk, in any layout its users have, under one set of names.
 *
 * Layouts: official folder (config.json, diffusion_pytorch_model*.safetensors, *.pth, google/), the
 * "-Diffusers" folder (transformer/, vae/, text_encoder/, tokenizer/), a single .safetensors file
 * of the transformer with or without a prefix. Names become the official ones (Wan2.1 wan/modules).
 * Parts are opened when wanted; a part that is missing is named with the paths that were tried. */
#ifndef MODEL_CHECKPOINT_CHECKPOINT_H
#define MODEL_CHECKPOINT_CHECKPOINT_H

#include "model/pipeline/config.h"
#include "parallel/weights.h"
#include "runtime/tensorfile.h"

enum part { PART_DIT, PART_T5, PART_VAE, PART_COUNT };

#define LAYOUT_OFFICIAL "official"
#define LAYOUT_DIFFUSERS "diffusers"
#define LAYOUT_FILE "single file"

struct checkpoint {
    char *path;                         // as it was given
    char *folder;                       // the folder that it is, or in which the single file lies
    const char *layout;                 // one of the three above
    struct tensorfile part[PART_COUNT]; // count 0 until opened
    const char *prefix[PART_COUNT];     // what the names in the file begin with, mostly ""
    struct model_config config;         // of the parts opened so far
    char *tokenizer;                    // the SentencePiece model's file; NULL when there is none
};

/* Finds the layout; opens nothing but config.json. ST_IO, ST_FORMAT. */
status checkpoint_open(struct checkpoint *c, const char *path);
void checkpoint_close(struct checkpoint *c);

/* Opens one part's files, reads headers, fills in its config from config.json and the tensors'
 * shapes, and checks that every tensor the architecture needs is there with its shape; unknown
 * tensors are an error that names them. Opening twice is nothing. */
status checkpoint_part(struct checkpoint *c, enum part part);

/* A source for weights_open over an opened part. Names may carry one of these marks, which say in
 * which order the spec's dims walk the file's tensor:
 *   "conv:NAME"   file [O, I, t, h, w] (or [O, I, h, w]) -> [O, t, h, w, I]
 *   "patch:NAME"  file [O, I, 1, ph, pw] -> [O, ph, pw, I], the order of a token's values */
struct weight_source checkpoint_source(struct checkpoint *c, enum part part);

/* What `wanmpi inspect` prints: layout, parts, config, tensors by dtype, missing and unknown names,
 * fingerprint, which preset it is. Parts that are missing or unsound are said to be, and are no
 * error. *text is the caller's to free. */
status checkpoint_report(struct checkpoint *c, char **text, bool all_tensors);

/* Writes an official-layout folder of random weights. Local. */
struct synth_options {
    struct model_config config;
    enum part parts; // bit set: 1 << PART_*; tokenizer goes with PART_T5
    enum dtype dit_dtype, t5_dtype, vae_dtype;
    uint64_t seed;
    int64_t shard_bytes; // start a new .safetensors shard beyond this; 0 for one file
    bool diffusers;      // write the "-Diffusers" layout instead
};
status checkpoint_synth(const char *dir, const struct synth_options *options,
                        void (*progress)(void *payload, uint64_t done, uint64_t total),
                        void *payload);

#endif
