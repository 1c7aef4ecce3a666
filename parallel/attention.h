/* attention.h - attention over a sequence that is split over ring x ulysses ranks.
 *
 * Before and after, a rank holds all heads of its own tokens. Ulysses: all-to-alls change this to
 * all tokens of a ring chunk for some heads (split_at(N, U, u): uneven if U does not divide N), and
 * back. Ring: ranks pass the k and v of the chunks around the ring; each rank computes attention of
 * its queries over each chunk, and merges the results by their log-sum-exp (op_attention_merge).
 *
 * Transfers that overlap with computation:
 *
 *     compute     v | k | q | attention: first heads | middle heads | last heads
 *     all-to-all      v | k | first q, then the rest | first out    | middle out | last out
 *
 * Source: Jacobs et al. 2023, DeepSpeed Ulysses; Liu et al. 2023, Ring Attention. */
#ifndef PARALLEL_ATTENTION_H
#define PARALLEL_ATTENTION_H

#include "parallel/ulysses.h"

enum { ATTENTION_K, ATTENTION_V, ATTENTION_Q, ATTENTION_INPUTS };

struct parallel_attention {
    struct seq_layout layout;
    struct arena *step;
    size_t mark;                            // step->used before parallel_attention_open
    struct tensor input[ATTENTION_INPUTS];  // of the attention: k and v by heads; q without Ulysses
    struct tensor buffer[2];                // k and v of a ring chunk: used alternately in the ring
    struct tensor q[HEADS_SUBSETS];         // with Ulysses: q of a subset by heads, then its output
    struct tensor packed[ATTENTION_INPUTS]; // all-to-all buffers; that of k also receives outputs
    struct transfer kv_transfer[2];         // all-to-alls of k and v
    struct transfer q_transfer[HEADS_SUBSETS]; // of q, then of the outputs
};

/* Prepares attention over all S = `tokens` tokens of the mesh's sequence, N = `heads` heads of size
 * D = `depth`, in `dt`, f32 or bf16. Allocates scratch from `step`; parallel_attention_run releases
 * it, or this call if it fails. Local. ST_MEMORY. */
status parallel_attention_open(struct parallel_attention *pa, struct mesh *m, struct device *dev,
                               struct arena *step, enum dtype dt, int64_t tokens, int64_t heads,
                               int64_t depth);

/* Passes this rank's tokens of one input (ATTENTION_K, _V or _Q), once each, in any order as long
 * as it is the same on all ranks: x [S/P, N, D], rows may be strided. Starts its all-to-all, which
 * runs while the next input is computed. x is borrowed until parallel_attention_run returns.
 * Collective over the mesh's ulysses group. */
status parallel_attention_send(struct parallel_attention *pa, int input, struct tensor x);

/* out = softmax(q k^T / sqrt(D)) v; [S/P, N, D], contiguous, must not overlap the inputs. Queued on
 * the device. With ring size 1 each row has the same bits for any ulysses size. Collective over the
 * mesh's ulysses and ring groups. */
status parallel_attention_run(struct parallel_attention *pa, struct tensor out);

#endif
