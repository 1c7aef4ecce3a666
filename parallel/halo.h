/* halo.h - images split over ranks by rows, and halo rows.
 *
 * The first n = min(P, H) ranks of a group hold the rows of an image of H latent rows: rank i holds
 * rows [split_at(H, n, i), split_at(H, n, i + 1)), times the scale of the current layer. A
 * convolution of height 3 needs one halo row of each neighbour, so the tensor of a rank has memory
 * for them:
 *
 *     halo row from the rank above     1 row, on rank 0 none
 *     own rows                         h rows
 *     halo row from the rank below     1 row, on rank n - 1 none */
#ifndef PARALLEL_HALO_H
#define PARALLEL_HALO_H

#include "parallel/group.h"
#include "runtime/arena.h"

struct rows {
    struct group *group;  // borrowed; all ranks
    int ranks;            // n: the first n ranks hold rows
    int64_t total;        // rows of the whole image, at scale 1
    int64_t first, count; // rows of this rank, at scale 1; count is 0 on ranks without rows
};

/* Local. */
void rows_split(struct rows *r, struct group *g, int64_t total);

/* Number of halo rows above and below this rank's rows: 1, or 0 at the edge of the image. */
static inline int halo_above(const struct rows *r)
{
    return r->group->rank > 0;
}

static inline int halo_below(const struct rows *r)
{
    return r->group->rank + 1 < r->ranks;
}

/* Memory for this rank's rows with halo rows: frames of halo_above + h + halo_below rows of w
 * columns and c channels, contiguous. The tensors *x and the result of rows_view are [t, h, w, c],
 * without the halo rows. Local.
 *   rows_bytes  bytes of this memory
 *   rows_view   the tensor in memory of rows_bytes bytes at `data`
 *   rows_take   allocates from arena `a`; ST_MEMORY */
size_t rows_bytes(const struct rows *r, enum dtype dt, int64_t t, int64_t h, int64_t w, int64_t c);
struct tensor rows_view(const struct rows *r, void *data, enum dtype dt, int64_t t, int64_t h,
                        int64_t w, int64_t c);
status rows_take(const struct rows *r, struct arena *a, struct tensor *x, enum dtype dt, int64_t t,
                 int64_t h, int64_t w, int64_t c);

/* x, from rows_take or rows_view, extended by its halo rows: above and below, or only below. */
struct tensor rows_with_halo(const struct rows *r, struct tensor x, bool above);

/* Starts the halo exchange of x, from rows_take or rows_view: the halo row above is filled with the
 * last row of the rank above, the halo row below with the first row of the rank below. `above`
 * false: only the halo row below, for windows that extend only downwards. The halo rows may be used
 * after transfer_wait; x itself may be read before. Collective over the ranks that hold rows. */
status rows_halo_exchange(const struct rows *r, struct transfer *t, struct tensor x, bool above);

/* Lets an op wait for the halo rows of a halo exchange that was just started, instead of
 * transfer_wait before it: sets *first and *last, the messages with the halo row above and the one
 * below. Where a kernel cannot wait for messages, completes the transfer. Local. */
status rows_halo_arrivals(const struct rows *r, struct transfer *t, bool above,
                          struct arrival *first, struct arrival *last);

/* Starts to gather the rows of all ranks. x: [T, h, W, C], this rank's rows, each frame contiguous;
 * out: [T, H, W, C], contiguous, the whole image, on rank `root`, or on every rank that holds rows
 * if root < 0; ignored on other ranks. x may be this rank's rows in out. scale: rows of x per row
 * at scale 1. x and out have the same dtype. Collective over the ranks that hold rows, of which
 * root is one. */
status rows_gather(const struct rows *r, struct transfer *t, struct tensor out, struct tensor x,
                   int64_t scale, int root);

#endif
