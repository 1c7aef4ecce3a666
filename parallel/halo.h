/* halo.h - images split over ranks by rows, and the rows at the seams.
 *
 * Rank i of the first min(P, H) ranks of a group holds rows [split_at(H, n, i), ...) of a picture
 * of H latent rows, times the scale of the layer at hand. A convolution of height 3 needs one row
 * of each neighbour. */
#ifndef PARALLEL_HALO_H
#define PARALLEL_HALO_H

#include "parallel/group.h"
#include "runtime/arena.h"

struct rows {
    struct group *group;  // all ranks
    int ranks;            // of which this many, the first, hold rows
    int64_t total;        // rows of the whole picture at scale 1
    int64_t first, count; // this rank's, at scale 1; count 0 on ranks without
};

void rows_split(struct rows *r, struct group *g, int64_t total);

/* Fills the seam rows of a padded frame stack x [T, 1 + h + 1, W, C], whose own rows are 1..h: row
 * 0 with the last own row of the rank above, row h+1 with the first of the rank below, zeros at the
 * picture's edges. `above` false leaves row 0 alone (it is not there for the asymmetric
 * convolution: x is then [T, h + 1, W, C] with own rows 0..h-1). Collective over the ranks that
 * hold rows. step: scratch for the packed rows, given back on return. */
status rows_halo(const struct rows *r, struct device *dev, struct arena *step, struct tensor x,
                 bool above);

/* A seam on its way. */
struct seam {
    struct tensor sent, got; // [T, 1, W, C], contiguous
    struct transfer transfer;
};

struct halo {
    struct seam up, down; // my row to that neighbour, the row of the other one to me
    size_t mark;          // of the step
};

/* rows_halo in two halves, between which other frames may be filled and other work queued. Where
 * the first one fails the second is not called. */
status rows_halo_start(const struct rows *r, struct halo *halo, struct device *dev,
                       struct arena *step, struct tensor x, bool above);
status rows_halo_finish(const struct rows *r, struct halo *halo, struct device *dev,
                        struct arena *step, struct tensor x, bool above);

/* Own rows x [T, h, W, C], contiguous, of every rank to `out` [T, H, W, C], contiguous, on every
 * rank that holds rows (or only on rank `root` when root >= 0; out is not looked at elsewhere).
 * scale: rows of x per row of the split. One dtype, any. Collective over the ranks that hold rows;
 * root is one of them. */
status rows_gather(const struct rows *r, struct tensor out, struct tensor x, int64_t scale,
                   int root);

#endif
