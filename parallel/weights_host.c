/* Units in pinned host memory. Two places in device memory take copies of them: the two buffers, or
 * with sharded weights two of the size of a slice, from which the buffers are gathered.
 *
 *     copy queue:  wait(used[p]) copy unit -> place p, record(copied[p])
 *     work queue:                              wait(copied[p]) work, record(used[p])
 *
 * so that neither queue waits for the host, and the host waits for none. */
#include "parallel/weights_internal.h"

#include "parallel/split.h"

#include <assert.h>
#include <stdlib.h>

#define PLACES 2

struct weights_host {
    char *memory; // of the units, away_total bytes
    struct tensor place[PLACES];
    int unit[PLACES];                   // in each place; -1 none
    bool busy[PLACES];                  // it is in use: by the current unit, or by a gather
    struct device_event copied[PLACES]; // the copy into the place is done
    struct device_event used[PLACES];   // the work that used the place is done
};

/* Of unit `unit`, or of this rank's slice of it. */
static char *stored(const struct weights *w, int unit)
{
    return w->in_host->memory + w->place[unit];
}

/* ---- open ---- */

/* The bytes of a stored unit that this rank reads: the ranks that share the memory read a part
 * each. */
static void part_of(const struct weights *w, int unit, const struct host_memory *host, size_t *from,
                    size_t *to)
{
    const int64_t lines = (int64_t)(weights_layout(w, unit)->kept / LOADER_ALIGN);

    *from = (size_t)split_at(lines, host->ranks, host->rank) * LOADER_ALIGN;
    *to = (size_t)split_at(lines, host->ranks, host->rank + 1) * LOADER_ALIGN;
}

/* Reads units by way of the two places in device memory, one into a place while the other goes to
 * host memory. */
static status fill_host(struct weights *w, const struct host_memory *host)
{
    struct weights_host *h = w->in_host;
    int before = -1, count = 0;

    if (w->dev->kind == DEVICE_PLAN)
        return ST_OK;
    for (int u = weights_next_away(w, 0);; u = weights_next_away(w, u + 1)) {
        const int64_t ranges = w->loader != NULL ? loader_added(w->loader) : 0;
        size_t from, to;

        if (u >= 0) {
            const struct weight_layout *l = weights_layout(w, u);

            part_of(w, u, host, &from, &to);
            if (from < to)
                TRY(weights_read(
                    w, u, (w->sharded ? l->shard[w->group->rank] : 0) + from,
                    tensor_slice(h->place[count % PLACES], 0, 0, (int64_t)(to - from))));
        }
        TRY(weights_flush(w));
        if (before >= 0) {
            part_of(w, before, host, &from, &to);
            if (w->loader != NULL)
                TRY(loader_wait(w->loader, ranges));
            if (from < to)
                TRY(device_download(
                    w->dev, stored(w, before) + from,
                    tensor_slice(h->place[(count + 1) % PLACES], 0, 0, (int64_t)(to - from))));
        }
        if (u < 0)
            break;
        before = u;
        count++;
    }
    return device_wait(w->dev);
}

status weights_host_open(struct weights *w, struct arena *a, struct host_memory *host)
{
    const int away = w->units - w->resident;
    struct weights_host *h;

    w->in_host = h = calloc(1, sizeof(*h));
    if (h == NULL)
        return fail(ST_MEMORY, "no host memory for a stack of %d units", w->units);
    for (int p = 0; p < PLACES; p++)
        h->unit[p] = -1;
    if (w->sharded || away > 0)
        TRY(weights_open_buffers(w, a));
    for (int p = 0; p < PLACES && away > 0; p++) {
        TRY(device_event_init(w->dev, &h->copied[p]));
        TRY(device_event_init(w->dev, &h->used[p]));
        if (w->sharded)
            TRY(arena_take(a, &h->place[p], DT_U8, (int64_t)w->kept_bytes));
        else
            h->place[p] = w->buffer[p];
    }
    TRY(host_memory_take(host, &h->memory, w->away_total));
    if (away > 0)
        TRY(fill_host(w, host));
    return weights_open_staying(w, a);
}

void weights_host_close(struct weights *w)
{
    struct weights_host *h = w->in_host;

    for (int p = 0; h != NULL && p < PLACES; p++) {
        if (h->copied[p].event != NULL)
            device_event_wait(w->dev, &h->copied[p]);
        device_event_done(w->dev, &h->copied[p]);
        device_event_done(w->dev, &h->used[p]);
    }
    free(h);
    w->in_host = NULL;
}

/* ---- use ---- */

static int place_of(const struct weights_host *h, int unit)
{
    for (int p = 0; p < PLACES; p++)
        if (h->unit[p] == unit)
            return p;
    return -1;
}

/* Starts to copy a unit into place p, after the work that uses the place. */
static status start_copy(struct weights *w, int p, int unit)
{
    const int64_t bytes = (int64_t)weights_layout(w, unit)->kept;
    struct weights_host *h = w->in_host;

    TRY(device_event_follow(w->dev, &h->used[p], QUEUE_COPIES));
    if (w->dev->kind != DEVICE_PLAN)
        TRY(device_queue_upload(w->dev, tensor_slice(h->place[p], 0, 0, bytes), stored(w, unit)));
    TRY(device_event_record(w->dev, &h->copied[p], QUEUE_COPIES));
    w->dev->streamed += (double)bytes;
    h->unit[p] = unit;
    return ST_OK;
}

/* The work queued so far was the last that uses place p. */
static status release(struct weights *w, int p)
{
    struct weights_host *h = w->in_host;

    if (!h->busy[p])
        return ST_OK;
    h->busy[p] = false;
    return device_event_record(w->dev, &h->used[p], QUEUE_WORK);
}

/* The place of a unit, which from now on is in use; work queued from now on finds the unit there.
 */
static status use_unit(struct weights *w, int unit, int *place)
{
    struct weights_host *h = w->in_host;
    int p = place_of(h, unit);

    if (p < 0) {
        p = h->busy[0] ? 1 : 0;
        assert(!h->busy[p]);
        TRY(start_copy(w, p, unit));
    }
    h->busy[p] = true;
    *place = p;
    return device_event_follow(w->dev, &h->copied[p], QUEUE_WORK);
}

status weights_host_start_next(struct weights *w, int next)
{
    struct weights_host *h = w->in_host;
    bool taken[PLACES];

    for (int p = 0; p < PLACES; p++)
        taken[p] = h->busy[p];
    for (int i = 0, u = weights_next_away(w, next); i < PLACES && u >= 0; i++) {
        int p = place_of(h, u);

        for (int k = 0; k < PLACES && p < 0; k++)
            if (!taken[k]) {
                TRY(start_copy(w, k, u));
                p = k;
            }
        if (p < 0)
            break;
        taken[p] = true;
        u = weights_next_away(w, u + 1);
    }
    return ST_OK;
}

status weights_host_acquire(struct weights *w, int unit, int *buffer)
{
    *buffer = -1;
    for (int p = 0; p < PLACES; p++)
        TRY(release(w, p));
    return weights_stays(w, unit) ? ST_OK : use_unit(w, unit, buffer);
}

status weights_host_slice(struct weights *w, int unit, char **slice)
{
    struct weights_host *h = w->in_host;
    int p;

    if (weights_stays(w, unit)) {
        *slice = weights_kept(w, unit).data;
        return ST_OK;
    }
    if (h->busy[0] && h->busy[1]) { // by gathers of units that were not acquired
        for (p = 0; p < PLACES; p++) {
            TRY(transfer_wait(&w->gather[p]));
            TRY(release(w, p));
        }
    }
    TRY(use_unit(w, unit, &p));
    *slice = w->in_host->place[p].data;
    return ST_OK;
}

status weights_host_gathered(struct weights *w, int unit)
{
    const int p = place_of(w->in_host, unit);

    return p >= 0 ? release(w, p) : ST_OK;
}
