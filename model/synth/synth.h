/* synth.h - checkpoints of random weights, in the layouts that users have: for tests and for speed.
 *
 *   synth.c            which tensors, with which values
 *   synth_files.c      the folder: shards, index, config.json
 *   synth_values.c     random values, any range of any tensor alone
 *   synth_tokenizer.c  a small SentencePiece model */
#ifndef MODEL_SYNTH_SYNTH_H
#define MODEL_SYNTH_SYNTH_H

#include "model/pipeline/model.h"

struct synth_options {
    struct model model;                 // borrowed configs; parts that are NULL are left out
    enum dtype dtype[MODEL_PART_COUNT]; // DT_NONE: that of the released files
    uint64_t seed;
    int64_t shard_bytes; // start a new .safetensors shard beyond this; 0 for one file
    bool diffusers;      // write the "-Diffusers" layout instead of the official one
};

/* Writes a folder, complete or not at all. progress may be NULL. Local. ST_USAGE, ST_IO, ST_MEMORY.
 */
status checkpoint_synth(const char *dir, const struct synth_options *options,
                        void (*progress)(void *payload, uint64_t done, uint64_t total),
                        void *payload);

#endif
