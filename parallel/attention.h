/* attention.h - attention over a sequence that is split over ring x ulysses ranks.
 *
 * Before and after, a rank holds all heads of its own tokens. In between, it computes attention of
 * some heads (split_at(N, U, u): uneven if U does not divide N) for the queries of its ring chunk.
 *
 * GPUs of one node get the keys and values of all chunks at once and write into each other's memory
 * (exchange.h). Otherwise all-to-alls within a chunk (ulysses.h) change the layout and back, those
 * of v and k while k and q are computed, and in between ranks pass the k and v of the chunks around
 * the ring: each computes attention of its queries over each chunk, and merges the results by their
 * log-sum-exp (op_attention_merge).
 *
 * In 8-bit integers (op_attention8) a rank quantizes all keys of its heads after they have arrived,
 * so the bits are those of one rank; with messages around a ring each chunk for itself.
 *
 * With tiles (tiles.h) each tile of queries attends to some tiles of keys, chosen for each head
 * from all tokens: without a ring only, and by all-to-alls also where GPUs write into each other's
 * memory.
 *
 * Source: Jacobs et al. 2023, DeepSpeed Ulysses; Liu et al. 2023, Ring Attention. */
#ifndef PARALLEL_ATTENTION_H
#define PARALLEL_ATTENTION_H

#include "parallel/exchange.h"
#include "parallel/tiles.h"

enum { ATTENTION_K, ATTENTION_V, ATTENTION_Q, ATTENTION_INPUTS };

/* How attention is computed; zeroed: exact, over all keys. */
struct attention_method {
    bool eight;                          // in 8-bit integers; not with tiles
    const struct attention_tiles *tiles; // NULL: over all keys. Borrowed until it has run
    struct tensor linear_w, linear_b; // of op_linear_attention, which is added; ndim 0: it is not
    struct tensor coarse;             // with tiles->coarse: [Tq, N, D], gets the coarse attention
};

struct parallel_attention {
    struct seq_layout layout;
    struct arena *step;
    size_t mark;                            // step->used before parallel_attention_open
    struct exchange x;                      // with mesh.direct; else the rest
    struct tensor input[ATTENTION_INPUTS];  // of the attention: by heads with Ulysses
    struct tensor buffer[2];                // k and v of a ring chunk: used alternately in the ring
    struct tensor scratch8;                 // of op_attention8; ndim 0: exact attention
    struct tiles_run tiles;                 // with tiles
    struct tensor packed[ATTENTION_INPUTS]; // all-to-all buffers; that of k also receives outputs
    struct transfer transfer[ATTENTION_INPUTS]; // all-to-alls
};

/* Prepares attention over all S = `tokens` tokens of the mesh's sequence, N = `heads` heads of size
 * D = `depth`, in `dt`, f32 or bf16. Allocates scratch from `step`; parallel_attention_run releases
 * it, or this call if it fails. Local. ST_MEMORY. */
status parallel_attention_open(struct parallel_attention *pa, struct mesh *m, struct device *dev,
                               struct arena *step, enum dtype dt, struct attention_method method,
                               int64_t tokens, int64_t heads, int64_t depth);

/* Where an input is best stored for parallel_attention_send: [S/P, N, D], strided; or `mine`, the
 * caller's own memory of that shape. v's rows are contiguous there. */
struct tensor parallel_attention_place(const struct parallel_attention *pa, int input,
                                       struct tensor mine);

/* Passes this rank's tokens of one input (ATTENTION_K, _V or _Q), once each, in any order as long
 * as it is the same on all ranks: x [S/P, N, D], rows may be strided. Starts its all-to-all, which
 * runs while the next input is computed. It is copied if it is not where parallel_attention_place
 * said.
 * x is borrowed until parallel_attention_run returns, and with tiles in an order of their own it is
 * overwritten. Collective over the mesh's ulysses group or mesh.direct. */
status parallel_attention_send(struct parallel_attention *pa, int input, struct tensor x);

/* out = softmax(q k^T / sqrt(D)) v; [S/P, N, D], contiguous, must not overlap the inputs. Queued on
 * the device. With ring size 1, or mesh.direct, each row has the bits of one rank. Collective over
 * the mesh's ulysses and ring groups or mesh.direct. */
status parallel_attention_run(struct parallel_attention *pa, struct tensor out);

#endif
