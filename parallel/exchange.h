/* exchange.h - attention over several GPUs that write into each other's memory (mesh.direct).
 * Internal to parallel/.
 *
 * Each rank gets the k and v of all tokens for its heads, and the q of its ring chunk. k and q are
 * sent head by head, and one kernel computes the attention: it begins a head when its k and q have
 * arrived, and writes each row of the output to the rank that holds the token. So nothing is
 * packed, only the first head is waited for, and every row has the bits of one rank, also with a
 * ring.
 *
 *     compute   v | k          | q            | attention                         | o
 *     copies        v to heads | k, head by head | q, head by head
 *     kernel                                    writes the outputs to their ranks
 *
 * A rank's own part is copied on the device's stream: on the group's it could wait for the kernel.
 * Without Ulysses k and v are stored where the others' arrive, and q and the output stay here. */
#ifndef PARALLEL_EXCHANGE_H
#define PARALLEL_EXCHANGE_H

#include "parallel/ulysses.h"

struct exchange {
    struct tensor k, q;           // received: [n_loc, tokens, D], [n_loc, s_ring, D]
    struct tensor v;              // received: [tokens, n_loc, D]
    struct tensor k_sent, q_sent; // [N, s_loc, D]; the last three only with Ulysses
    struct transfer k_transfer, v_transfer, q_transfer, put;
};

/* Allocates from `step`; the caller releases. Local. ST_MEMORY. */
status exchange_open(struct exchange *x, const struct seq_layout *s, struct arena *step,
                     enum dtype dt);

/* Where this rank's tokens must be stored, [s_loc, N, D], strided; or `mine`, if anywhere. */
struct tensor exchange_k_place(const struct exchange *x, const struct seq_layout *s);
struct tensor exchange_v_place(const struct exchange *x, const struct seq_layout *s,
                               struct tensor mine);
struct tensor exchange_q_place(const struct exchange *x, const struct seq_layout *s,
                               struct tensor mine);

/* Start to send k, v and q, which are in those places; v: where it is. Borrowed until exchange_run
 * returns. */
status exchange_k(struct exchange *x, const struct seq_layout *s);
status exchange_v(struct exchange *x, const struct seq_layout *s, struct tensor v);
status exchange_q(struct exchange *x, const struct seq_layout *s);

/* out [s_loc, N, D] = attention. q: this rank's q without Ulysses, else unused. scratch8: of
 * op_attention8; ndim 0: exact attention. Collective. */
status exchange_run(struct exchange *x, const struct seq_layout *s, struct tensor out,
                    struct tensor q, float scale, struct tensor scratch8);

#endif
