#include "parallel/halo.h"

#include "parallel/split.h"

#include <assert.h>
#include <stdlib.h>

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

size_t rows_bytes(const struct rows *r, enum dtype dt, int64_t t, int64_t h, int64_t w, int64_t c)
{
    return (size_t)(t * (halo_above(r) + h + halo_below(r)) * w * c) * dtype_size(dt);
}

struct tensor rows_view(const struct rows *r, void *data, enum dtype dt, int64_t t, int64_t h,
                        int64_t w, int64_t c)
{
    const int above = halo_above(r);

    return tensor_slice(tensor_of(data, dt, t, above + h + halo_below(r), w, c), 1, above, h);
}

status rows_take(const struct rows *r, struct arena *a, struct tensor *x, enum dtype dt, int64_t t,
                 int64_t h, int64_t w, int64_t c)
{
    struct tensor memory;

    TRY(arena_take(a, &memory, DT_U8, (int64_t)rows_bytes(r, dt, t, h, w, c)));
    *x = rows_view(r, memory.data, dt, t, h, w, c);
    return ST_OK;
}

struct tensor rows_with_halo(const struct rows *r, struct tensor x, bool above)
{
    const int top = above ? halo_above(r) : 0;

    x.data = (char *)x.data - (size_t)(top * x.stride[1]) * dtype_size(x.dtype);
    x.dim[1] += top + halo_below(r);
    return x;
}

/* Row `row` of every frame of x, to or from a rank; no message if peer is -1. */
static struct message row_of(struct tensor x, int64_t row, int peer)
{
    const size_t element = dtype_size(x.dtype);

    return (struct message){ peer, (char *)x.data + row * x.stride[1] * (int64_t)element,
                             (size_t)(x.dim[2] * x.dim[3]) * element, x.dim[0],
                             (size_t)x.stride[0] * element };
}

status rows_halo_exchange(const struct rows *r, struct transfer *t, struct tensor x, bool above)
{
    const int upper = halo_above(r) ? r->group->rank - 1 : -1;
    const int lower = halo_below(r) ? r->group->rank + 1 : -1;
    const int64_t h = x.dim[1];
    const struct message send[] = { row_of(x, 0, upper), row_of(x, h - 1, above ? lower : -1) };
    const struct message recv[] = { row_of(x, h, lower), row_of(x, -1, above ? upper : -1) };

    assert(r->group->rank < r->ranks && x.ndim == 4 && h > 0);
    if (r->ranks == 1)
        return ST_OK;
    return group_send_recv(r->group, t, send, COUNT(send), recv, COUNT(recv));
}

status rows_halo_arrivals(const struct rows *r, struct transfer *t, bool above,
                          struct arrival *first, struct arrival *last)
{
    const int rank = r->group->rank;

    *first = *last = (struct arrival){ 0 };
    if ((above && halo_above(r) && !transfer_arrival(t, rank - 1, first)) ||
        (halo_below(r) && !transfer_arrival(t, rank + 1, last))) {
        *first = *last = (struct arrival){ 0 };
        return transfer_wait(t);
    }
    return ST_OK;
}

status rows_gather(const struct rows *r, struct transfer *t, struct tensor out, struct tensor x,
                   int64_t scale, int root)
{
    const int n = r->ranks, rank = r->group->rank;
    struct message *list = calloc(2 * (size_t)n, sizeof(*list));
    const size_t row_bytes = (size_t)(x.dim[2] * x.dim[3]) * dtype_size(x.dtype);
    int sends = 0, recvs = 0;
    status st;

    assert(rank < n && root < n && x.ndim == 4 && x.dim[1] == r->count * scale);
    assert(tensor_contiguous(tensor_at(x, 0)));
    if (list == NULL)
        return fail(ST_MEMORY, "no host memory for %d messages", 2 * n);
    for (int k = 0; k < n; k++) { // to the k-th rank after this one, from the k-th before
        const int to = (rank + k) % n, from = (rank + n - k) % n;
        const size_t frame_bytes = (size_t)x.dim[1] * row_bytes;

        if (root < 0 || to == root)
            list[sends++] = (struct message){ to, x.data, frame_bytes, x.dim[0],
                                              (size_t)x.stride[0] * dtype_size(x.dtype) };
        if (root < 0 || rank == root)
            list[n + recvs++] = (struct message){
                from,
                (char *)out.data + (size_t)(split_at(r->total, n, from) * scale) * row_bytes,
                (size_t)(split_count(r->total, n, from) * scale) * row_bytes,
                x.dim[0],
                (size_t)(r->total * scale) * row_bytes,
            };
    }
    st = group_send_recv(r->group, t, list, sends, list + n, recvs);
    free(list);
    return st;
}
