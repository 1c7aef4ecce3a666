#include "parallel/halo.h"

#include "kernels/ops.h"
#include "parallel/split.h"

#include <assert.h>

void rows_split(struct rows *r, struct group *g, int64_t total)
{
    *r = (struct rows){
        .group = g,
        .ranks = g->size < total ? g->size : (int)total,
        .total = total,
    };
    if (g->rank < r->ranks) {
        r->first = split_at(total, r->ranks, g->rank);
        r->count = split_count(total, r->ranks, g->rank);
    }
}

/* One row of every frame: [T, 1, W, C] of x [T, rows, W, C]. */
static struct tensor row_of(struct tensor x, int64_t row)
{
    return tensor_slice(x, 1, row, 1);
}

static status zero_row(struct device *dev, struct tensor row)
{
    for (int64_t t = 0; t < row.dim[0]; t++)
        TRY(device_zero(dev, tensor_at(row, t)));
    return ST_OK;
}

static status seam_start(struct seam *s, struct group *g, struct device *dev, struct arena *step,
                         int to, struct tensor row, int from)
{
    const size_t bytes = tensor_bytes(row);

    if (to < 0 && from < 0)
        return ST_OK;
    TRY(arena_take_dims(step, &s->sent, row.dtype, row.ndim, row.dim));
    TRY(arena_take_dims(step, &s->got, row.dtype, row.ndim, row.dim));
    if (to >= 0)
        TRY(op_copy(dev, s->sent, row));
    return group_exchange(g, &s->transfer, to, s->sent.data, bytes, from, s->got.data, bytes);
}

static status seam_finish(struct seam *s, struct device *dev, int from, struct tensor row)
{
    TRY(transfer_wait(&s->transfer));
    return from >= 0 ? op_copy(dev, row, s->got) : zero_row(dev, row);
}

/* The rank above, or below; -1 at the picture's edge. */
static int upper(const struct rows *r)
{
    return r->group->rank > 0 ? r->group->rank - 1 : -1;
}

static int lower(const struct rows *r)
{
    return r->group->rank + 1 < r->ranks ? r->group->rank + 1 : -1;
}

status rows_halo_start(const struct rows *r, struct halo *halo, struct device *dev,
                       struct arena *step, struct tensor x, bool above)
{
    const int64_t first = above ? 1 : 0, below = x.dim[1] - 1;
    status st;

    assert(r->group->rank < r->ranks && x.ndim == 4 && below > first);
    *halo = (struct halo){ .mark = step->used };
    TRY_OUT(seam_start(&halo->up, r->group, dev, step, upper(r), row_of(x, first), lower(r)));
    if (above)
        TRY_OUT(
            seam_start(&halo->down, r->group, dev, step, lower(r), row_of(x, below - 1), upper(r)));
out:
    if (st != ST_OK)
        arena_release(step, halo->mark);
    return st;
}

status rows_halo_finish(const struct rows *r, struct halo *halo, struct device *dev,
                        struct arena *step, struct tensor x, bool above)
{
    status st;

    TRY_OUT(seam_finish(&halo->up, dev, lower(r), row_of(x, x.dim[1] - 1)));
    if (above)
        TRY_OUT(seam_finish(&halo->down, dev, upper(r), row_of(x, 0)));
out:
    arena_release(step, halo->mark);
    return st;
}

status rows_halo(const struct rows *r, struct device *dev, struct arena *step, struct tensor x,
                 bool above)
{
    struct halo halo;

    TRY(rows_halo_start(r, &halo, dev, step, x, above));
    return rows_halo_finish(r, &halo, dev, step, x, above);
}

/* Rows of rank i in frame t of the whole. */
static struct tensor rows_at(const struct rows *r, struct tensor out, int64_t scale, int64_t t,
                             int i)
{
    return tensor_slice(tensor_at(out, t), 0, split_at(r->total, r->ranks, i) * scale,
                        split_count(r->total, r->ranks, i) * scale);
}

status rows_gather(const struct rows *r, struct tensor out, struct tensor x, int64_t scale,
                   int root)
{
    const int n = r->ranks, rank = r->group->rank;
    struct transfer flight[GROUP_IN_FLIGHT] = { { 0 } };
    unsigned turn = 0;

    assert(rank < n && root < n && x.ndim == 4 && x.dim[1] == r->count * scale);
    assert(tensor_contiguous(x));
    // Step k: to the k-th rank after this one, from the k-th before; step 0 copies.
    for (int64_t t = 0; t < x.dim[0]; t++) {
        for (int k = 0; k < n; k++) {
            const int to = (rank + k) % n, from = (rank + n - k) % n;
            const bool gives = root < 0 || to == root, gets = root < 0 || rank == root;
            const struct tensor mine = tensor_at(x, t);
            const struct tensor place = gets ? rows_at(r, out, scale, t, from) : mine;

            if (!gives && !gets)
                continue;
            TRY(transfer_wait(&flight[turn % GROUP_IN_FLIGHT]));
            TRY(group_exchange(r->group, &flight[turn % GROUP_IN_FLIGHT], gives ? to : -1,
                               mine.data, tensor_bytes(mine), gets ? from : -1, place.data,
                               tensor_bytes(place)));
            turn++;
        }
    }
    for (int i = 0; i < GROUP_IN_FLIGHT; i++)
        TRY(transfer_wait(&flight[i]));
    return ST_OK;
}
