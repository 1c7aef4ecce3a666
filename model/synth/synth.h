/* synth.h - writes checkpoints of random weights, in the official or the -Diffusers layout, for
 * tests and for timing.
 *
 *   synth.c            the tensors, and the distribution of their values
 *   synth_files.c      the folder: shards, index, config.json
 *   synth_values.c     random values of any range of a tensor
 *   synth_tokenizer.c  a small SentencePiece model */
#ifndef MODEL_SYNTH_SYNTH_H
#define MODEL_SYNTH_SYNTH_H

#include "model/pipeline/model.h"

struct synth_options {
    struct model model;                 // borrowed configs; parts that are NULL are not written
    enum dtype dtype[MODEL_PART_COUNT]; // F32, BF16 or F16; DT_NONE: that of the released files
    const struct ggml_type *blocks;     // matrices of the transformers' blocks are in this format
                                        // of GGUF; NULL: as dtype says
    bool fp8;                           // they are e4m3, with a scale for each row
    uint64_t seed;
    int64_t shard_bytes; // maximum size of a .safetensors shard; 0: one file
    bool diffusers;      // write the "-Diffusers" layout instead of the official one
};

/* Writes a checkpoint to the folder `dir`, which must not exist or be empty. It is written to a
 * temporary folder and renamed, so that `dir` is complete or unchanged. `progress` is a callback
 * with bytes, or NULL; it may be called on any thread, by one at a time. Local. ST_USAGE, ST_IO,
 * ST_MEMORY. */
status checkpoint_synth(const char *dir, const struct synth_options *options,
                        void (*progress)(void *payload, uint64_t done, uint64_t total),
                        void *payload);

#endif
