/* ulysses.h - how attention over several ranks is distributed, and the all-to-alls between its two
 * layouts, by messages of contiguous memory. Internal to parallel/.
 *
 * Ulysses rank u of U, with s_loc tokens of its own and s_ring tokens in its ring chunk:
 *
 *     by tokens  [s_loc, N, D], rows may be strided: all heads of this rank's tokens
 *     by heads   [s_ring, n_loc, D], contiguous: all tokens of the ring chunk,
 *                heads [split_at(N, U, u), split_at(N, U, u + 1))
 * */
#ifndef PARALLEL_ULYSSES_H
#define PARALLEL_ULYSSES_H

#include "parallel/mesh.h"
#include "runtime/arena.h"

/* How a sequence and its heads are distributed, for this rank. */
struct seq_layout {
    struct mesh *m;
    struct device *dev;
    int64_t tokens, heads, depth; // S, N, D
    int64_t s_loc;                // tokens of this rank
    int64_t s_ring;               // tokens of its ring chunk
    int64_t n_first, n_loc;       // heads of this rank: [n_first, n_first + n_loc)
};

struct seq_layout seq_layout_of(struct mesh *m, struct device *dev, int64_t tokens, int64_t heads,
                                int64_t depth);

/* Number of tokens in ring chunk r. */
int64_t seq_layout_ring_tokens(const struct seq_layout *s, int r);

struct heads {
    int64_t first, count; // of all N
};

/* The heads of ulysses rank `rank`. */
struct heads seq_layout_heads(const struct seq_layout *s, int rank);

/* Bytes of the buffer `packed`: one block [s_loc, heads of rank i, D] for each other rank i. */
size_t ulysses_buffer_bytes(const struct seq_layout *s, enum dtype dt);

/* Starts the all-to-all from x [s_loc, N, D] to out [s_ring, n_loc, D]. `packed` is the send
 * buffer. The transfer borrows out and packed. Collective over the ulysses group. */
status ulysses_to_heads(const struct seq_layout *s, struct transfer *t, struct tensor out,
                        struct tensor packed, struct tensor x);

/* The all-to-all from a [s_ring, n_loc, D] to out [s_loc, N, D]; `packed` is the receive buffer.
 * Collective over the ulysses group. */
status ulysses_to_tokens(const struct seq_layout *s, struct tensor packed, struct tensor out,
                         struct tensor a);

#endif
