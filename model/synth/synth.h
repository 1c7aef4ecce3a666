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

/* Formats of quantized matrices, as choices of an option: the first one is e4m3 with a scale for
 * each row, the others are types of GGUF. */
#define SYNTH_QUANTIZED "fp8|q8_0|q6_k|q5_k|q5_1|q5_0|q4_k|q4_1|q4_0|iq4_xs|iq4_nl|q3_k|q2_k"

/* Random numbers of e4m3, without NaN, and their root mean square. */
void synth_e4m3(uint64_t key, int64_t first, int64_t count, uint8_t *dst);
float synth_rms_e4m3(void);

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
