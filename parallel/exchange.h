/* exchange.h - attention over several GPUs that write into each other's memory (mesh.direct).
 * Internal to parallel/.
 *
 * Each rank gets the k and v of all tokens for its heads, and the q of its ring chunk:
 *
 *     k, v  [tokens, n_loc, D]   one message from each rank of the sequence, out of strided rows
 *     q     [n_loc, s_ring, D]   from each rank of the ring chunk, head by head
 *
 * Then one kernel computes the attention. It begins a head when its q has arrived, and writes each
 * row of the output to the rank that holds the token. So nothing is packed, q of the first head is
 * all that is waited for, and every row has the bits that one rank would compute, also with a ring.
 * A rank's own part is copied on the device's stream: on the group's it could wait for the kernel.
 *
 *     compute   v | k          | q            | attention                         | o
 *     copies        v to heads | k to heads   | q, head by head
 *     kernel                                    writes the outputs to their ranks
 */
#ifndef PARALLEL_EXCHANGE_H
#define PARALLEL_EXCHANGE_H

#include "parallel/ulysses.h"

struct exchange {
    struct tensor k, v;      // of all tokens
    struct tensor q_sent, q; // by heads, only with Ulysses: of all heads, of all tokens
    struct transfer kv_transfer[2], q_transfer, put;
};

/* Allocates from `step`; the caller releases. Local. ST_MEMORY. */
status exchange_open(struct exchange *x, const struct seq_layout *s, struct arena *step,
                     enum dtype dt);

/* Where this rank's tokens of k or v are best stored, [s_loc, N, D]: in `to`, which is x->k or
 * x->v, without Ulysses; else in `mine`. */
struct tensor exchange_kv_place(const struct seq_layout *s, struct tensor to, struct tensor mine);

/* Starts to send this rank's tokens of k or v: from [s_loc, N, D], rows may be strided, borrowed
 * until exchange_run returns; to: x->k or x->v. t is one of x->kv_transfer. */
status exchange_kv(const struct seq_layout *s, struct transfer *t, struct tensor to,
                   struct tensor from);

/* Starts to send q, which is in x->q_sent, seen as exchange_q_place gives it. */
status exchange_q(struct exchange *x, const struct seq_layout *s);

/* Where this rank's q must be stored: [s_loc, N, D]. */
struct tensor exchange_q_place(const struct exchange *x);

/* out [s_loc, N, D] = attention. q: this rank's q without Ulysses, else unused. Collective. */
status exchange_run(struct exchange *x, const struct seq_layout *s, struct tensor out,
                    struct tensor q, float scale);

#endif
