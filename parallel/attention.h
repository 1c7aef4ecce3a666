/* attention.h - attention over a sequence that is spread over ring x ulysses ranks.
 *
 * Outside, a rank holds all heads of its own tokens. Ulysses: all-to-alls lead to all tokens of a
 * ring piece for some heads (split_at(N, U, u): uneven where U does not divide N), and back. Ring:
 * k and v of the pieces go round; each rank's queries meet every piece, and the parts are joined by
 * their log-sum-exp (op_attention_merge).
 *
 * What can be on its way is, while something else is computed:
 *
 *     compute   v | k | q | attention: first heads | most heads   | last heads
 *     exchange      v | k | first q, then the rest | first's out  | most's out  | last's
 *
 * Source: Jacobs et al. 2023, DeepSpeed Ulysses; Liu et al. 2023, Ring Attention. */
#ifndef PARALLEL_ATTENTION_H
#define PARALLEL_ATTENTION_H

#include "parallel/ulysses.h"

enum { SEQUENCE_K, SEQUENCE_V, SEQUENCE_Q, SEQUENCE_PARTS };

struct sequence {
    struct sharing share;
    struct arena *step;
    size_t mark;                           // of the step
    struct tensor part[SEQUENCE_PARTS];    // as brought; with Ulysses or a ring k and v inside
    struct tensor buffer[2];               // keys, then values: the own piece, and what goes round
    struct tensor q[HEADS_GROUPS];         // with Ulysses: q inside, and what becomes of it
    struct tensor outside[SEQUENCE_PARTS]; // what leaves; where keys were, answers land
    struct transfer coming[2];             // k and v,
    struct transfer moving[HEADS_GROUPS];  // q, and the answers
};

/* Attention over all S tokens of the mesh's sequence, of heads [N, D] in `dt`, f32 or bf16. Takes
 * scratch, which sequence_attention gives back; where this fails, it has. Collective over the
 * mesh's ring and ulysses groups, as are the two below. */
status sequence_open(struct sequence *q, struct mesh *m, struct device *dev, struct arena *step,
                     enum dtype dt, int64_t tokens, int64_t heads, int64_t depth);

/* This rank's rows of q, k or v, [S/P, N, D], which may be strided. Each is brought once; it is on
 * its way while the next is computed. Borrowed until sequence_attention. */
status sequence_send(struct sequence *q, int part, struct tensor x);

/* out = softmax(q k^T / sqrt(D)) v; [S/P, N, D], contiguous, may not overlap what was brought.
 * Queued. With ring size 1 the result of a row has the same bits whatever the ulysses size. */
status sequence_attention(struct sequence *q, struct tensor out);

#endif
