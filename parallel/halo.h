/* halo.h - images split over ranks by rows, and the rows at the seams.
 *
 * Rank i of the first min(P, H) ranks of a group holds rows [split_at(H, n, i), ...) of a picture
 * of H latent rows, times the scale of the layer at hand. A convolution of height 3 needs one row
 * of each neighbour: its input has room for it where there is one. */
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

/* Rows that the neighbours above and below give: 1, or 0 where there is none. */
static inline int rows_above(const struct rows *r)
{
    return r->group->rank > 0;
}

static inline int rows_below(const struct rows *r)
{
    return r->group->rank + 1 < r->ranks;
}

/* Own rows *x [t, h, w, c] in memory that has room for the seam rows around them: frames of
 * rows_above + h + rows_below rows. rows_bytes: of that memory. */
status rows_take(const struct rows *r, struct arena *a, struct tensor *x, enum dtype dt, int64_t t,
                 int64_t h, int64_t w, int64_t c);
struct tensor rows_in(const struct rows *r, void *data, enum dtype dt, int64_t t, int64_t h,
                      int64_t w, int64_t c);
size_t rows_bytes(const struct rows *r, enum dtype dt, int64_t t, int64_t h, int64_t w, int64_t c);

/* The same rows of such an x with the seam rows; `above` false: without the one above. */
struct tensor rows_around(const struct rows *r, struct tensor x, bool above);

/* Starts to fill the seam rows of such an x: the first with the last own row of the rank above, the
 * last with the first own row of the rank below. `above` false: only the latter, for windows that
 * look down only. They have come after transfer_wait; own rows may be read meanwhile. Collective
 * over the ranks that hold rows. */
status rows_halo(const struct rows *r, struct transfer *t, struct tensor x, bool above);

/* Own rows x [T, h, W, C], frames contiguous, of every rank to `out` [T, H, W, C], contiguous, on
 * every rank that holds rows (or only on rank `root` when root >= 0; out is not looked at
 * elsewhere). scale: rows of x per row of the split. One dtype, any. Collective over the ranks that
 * hold rows; root is one of them. */
status rows_gather(const struct rows *r, struct tensor out, struct tensor x, int64_t scale,
                   int root);

#endif
