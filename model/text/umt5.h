/* umt5.h - the text encoder. On one rank its blocks are streamed from the file: encoding some
 * prompts needs one pass over the weights and the memory of two blocks. On a group of ranks each
 * rank reads and keeps a slice of every block. Source: Wan2.1 wan/modules/t5.py. */
#ifndef MODEL_TEXT_UMT5_H
#define MODEL_TEXT_UMT5_H

#include "kernels/ops.h"
#include "model/checkpoint/tensors.h"

struct t5_config {
    int64_t vocab, dim, attn_dim, ffn_dim;
    int heads, layers, buckets; // buckets: 32 in every release
};

/* Emits every tensor: vectors in cdt, matrices in `matrix`. */
void umt5_tensors(struct tensor_list *l, const struct t5_config *config, enum dtype cdt,
                  enum dtype matrix);

/* ST_FORMAT when these numbers, found in `file`, are none that the encoder can run. */
status umt5_check(const struct t5_config *config, const char *file);

/* Encodes `count` prompts, given as token ids (each ends in EOS, lengths 1..512).
 *   out[i]   [length[i], dim] f32, host memory of the caller
 *   cdt      BF16: rounds after every step, as the official bf16 module does. F32: no rounding.
 *            With both, matrices stay bf16 in memory if the file has them in bf16.
 *   g        NULL, or the ranks that share the weights: all call with the same prompts
 * Allocates from `a` and releases everything before it returns. For plans `ids` and `out` are NULL:
 * then no embeddings are read from `source` and no results are written. ST_FORMAT for ids outside
 * the vocabulary. Local, or collective over g; if then only one rank fails, the others hang. */
status umt5_encode(const struct t5_config *config, struct device *dev, struct arena *a,
                   enum dtype cdt, struct weight_source source, enum dtype stored, struct group *g,
                   int count, const int *const *ids, const int *length, float *const *out);

#endif
