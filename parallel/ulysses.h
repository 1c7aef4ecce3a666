/* ulysses.h - heads for tokens and back. Internal to parallel/.
 *
 * Ulysses rank u of U. Outside it holds its own tokens with all heads; inside, all tokens of the
 * ring piece with its own heads, [split_at(N, U, u), split_at(N, U, u + 1)):
 *
 *     outside  [s_loc, N, D], rows strided      inside  [s_piece, n_loc, D], contiguous
 *
 * Keys and values go inside as one, queries and answers in groups of heads. */
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

/* A rank's heads in three groups, whose attention comes one after the other: while the first is
 * computed the queries of the others arrive, while the last is the answers of the others leave.
 * Groups may be empty. */
enum { HEADS_FIRST, HEADS_MIDDLE, HEADS_LAST, HEADS_GROUPS, HEADS_ALL = HEADS_GROUPS };

struct heads {
    int64_t first, count; // of all N
};

struct heads sharing_heads(const struct sharing *s, int rank, int group);

/* Bytes of a group of the other ranks' heads, [s_loc, heads of rank i, D] for each: what leaves on
 * the way in and lands on the way out. */
size_t ulysses_outside(const struct sharing *s, int group, enum dtype dt);

/* in [s_piece, count, D], the heads of one group, from x [s_loc, N, D]. The transfer borrows `in`
 * and `outside`, where what leaves is packed. */
status ulysses_in(const struct sharing *s, int group, struct transfer *t, struct tensor in,
                  struct tensor outside, struct tensor x);

/* The way back of a group's answers a [s_piece, count, D], to out [s_loc, N, D]: they leave, and
 * those of the others land in `outside`; then, in ulysses_landed, they are waited for and put into
 * place. */
status ulysses_out(const struct sharing *s, int group, struct transfer *t, struct tensor outside,
                   struct tensor out, struct tensor a);
status ulysses_landed(const struct sharing *s, int group, struct transfer *t, struct tensor outside,
                      struct tensor out);

#endif
