/* ulysses.h - heads for tokens and back. Internal to parallel/.
 *
 * Ulysses rank u of U. Outside it holds its own tokens with all heads; inside, all tokens of the
 * ring piece with its own heads, [split_at(N, U, u), split_at(N, U, u + 1)):
 *
 *     outside  [s_loc, N, D], rows strided      inside  [s_piece, n_loc, D], contiguous */
#ifndef PARALLEL_ULYSSES_H
#define PARALLEL_ULYSSES_H

#include "parallel/mesh.h"
#include "runtime/arena.h"

/* How a sequence and its heads lie on this rank. */
struct sharing {
    struct mesh *m;
    struct device *dev;
    int64_t tokens, heads, depth; // S, N, D
    int64_t s_loc;                // tokens of this rank
    int64_t s_piece;              // tokens of its ring piece
    int64_t n_first, n_loc;       // heads of this rank
};

struct sharing sharing_of(struct mesh *m, struct device *dev, int64_t tokens, int64_t heads,
                          int64_t depth);

/* Tokens of ring piece r. */
int64_t sharing_piece(const struct sharing *s, int r);

/* in [s_piece, n_loc, D] from x [s_loc, N, D]. Takes the scratch that the transfer borrows. */
status ulysses_in(const struct sharing *s, struct transfer *t, struct arena *step, struct tensor in,
                  struct tensor x);

/* out [s_loc, N, D] from a [s_piece, n_loc, D]; waits. */
status ulysses_out(const struct sharing *s, struct arena *step, struct tensor out, struct tensor a);

#endif
