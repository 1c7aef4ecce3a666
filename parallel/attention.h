/* attention.h - attention over a sequence that is spread over ring x ulysses ranks.
 *
 * Outside, a rank holds all heads of its own tokens. Ulysses: one all-to-all per q, k, v leads to
 * all tokens of a ring piece for some heads (split_at(N, U, u): uneven where U does not divide N),
 * one leads back. Ring: k and v of the pieces go round; each rank's queries meet every piece, and
 * the parts are joined by their log-sum-exp (op_attention_merge).
 *
 * Source: Jacobs et al. 2023, DeepSpeed Ulysses; Liu et al. 2023, Ring Attention. */
#ifndef PARALLEL_ATTENTION_H
#define PARALLEL_ATTENTION_H

#include "parallel/mesh.h"
#include "runtime/arena.h"

/* out = softmax(q k^T / sqrt(D)) v over all S tokens of the mesh's sequence.
 *
 * Collective over the mesh's ring and ulysses groups; queued on dev.
 *   q, k, v  [S/P, N, D] f32 or bf16; rows may be strided (views of one [S/P, 3C] matrix)
 *   out      [S/P, N, D], contiguous; may not overlap them
 *   tokens   S
 *   step     scratch, given back on return
 * With ring size 1 the result of a row has the same bits whatever the ulysses size. */
status sequence_attention(struct mesh *m, struct device *dev, struct arena *step, struct tensor out,
                          struct tensor q, struct tensor k, struct tensor v, int64_t tokens);

#endif
