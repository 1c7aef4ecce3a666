/* umt5.h - the text encoder, run on one rank, its blocks streamed from the file one at a time: a
 * handful of prompts costs one pass over the weights and the memory of two blocks. Or run on all
 * ranks of a group, of which each reads and keeps a slice of every block.
 * Source: Wan2.1 wan/modules/t5.py. */
#ifndef MODEL_TEXT_UMT5_H
#define MODEL_TEXT_UMT5_H

#include "kernels/ops.h"
#include "model/pipeline/config.h"
#include "parallel/weights.h"

/* Encodes `count` prompts, given as token ids (each ends in EOS, lengths 1..512).
 *   out[i]   [length[i], dim] f32 in host memory that the caller gave
 *   cdt      BF16 rounds at every step as the official bf16 module does; F32 nowhere. Matrices stay
 *            bf16 in memory when the file has them so, in both.
 *   g        NULL, or the ranks that share the weights: all call with the same prompts
 * Takes everything from `a` and gives it back. For plans `ids` and `out` are NULL: then `source` is
 * not asked for tokens and nothing is handed out. ST_FORMAT for ids beyond the vocabulary. Local,
 * or collective over g, where a status of one rank alone leaves the others waiting. */
status umt5_encode(const struct t5_config *config, struct device *dev, struct arena *a,
                   enum dtype cdt, struct weight_source source, enum dtype stored, struct group *g,
                   int count, const int *const *ids, const int *length, float *const *out);

#endif
