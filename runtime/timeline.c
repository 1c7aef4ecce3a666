#include "runtime/clock.h"
#include "runtime/timeline_internal.h"

#include <assert.h>
#include <stdlib.h>

status timeline_open(struct timeline *m, struct device *dev, int room)
{
    status st = ST_OK;

    *m = (struct timeline){ .dev = dev, .room = room };
    m->time = calloc((size_t)room, sizeof(*m->time));
    if (m->time == NULL)
        TRY_OUT(fail(ST_MEMORY, "no host memory for %d events", room));
    if (dev->kind == DEVICE_CUDA)
        TRY_OUT(timeline_cuda_open(m));
out:
    if (st != ST_OK)
        timeline_close(m);
    return st;
}

void timeline_close(struct timeline *m)
{
    if (m->dev != NULL && m->dev->kind == DEVICE_CUDA)
        timeline_cuda_close(m);
    free(m->time);
    *m = (struct timeline){ 0 };
}

status timeline_record(struct timeline *m, int *index)
{
    assert(m->count < m->room);
    *index = m->count++;
    if (m->dev->kind == DEVICE_CUDA)
        return timeline_cuda_record(m, *index);
    m->time[*index] = clock_seconds();
    return ST_OK;
}

status timeline_record_wait(struct timeline *m, status (*wait)(void *payload), void *payload,
                            int *index)
{
    assert(m->count < m->room);
    *index = m->count++;
    if (m->dev->kind == DEVICE_CUDA)
        return timeline_cuda_record_wait(m, wait, payload, *index);
    TRY(wait(payload));
    m->time[*index] = clock_seconds();
    return ST_OK;
}

status timeline_between(const struct timeline *m, int from, int to, double *seconds)
{
    assert(from < m->count && to < m->count);
    if (m->dev->kind == DEVICE_CUDA)
        return timeline_cuda_between(m, from, to, seconds);
    *seconds = m->time[to] - m->time[from];
    return ST_OK;
}

void timeline_reset(struct timeline *m)
{
    m->count = 0;
}
