#include "runtime/timeline_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <time.h>

status timeline_open(struct timeline *m, struct device *dev, int room)
{
    status st = ST_OK;

    *m = (struct timeline){ .dev = dev, .room = room };
    m->time = calloc((size_t)room, sizeof(*m->time));
    if (m->time == NULL)
        TRY_OUT(fail(ST_MEMORY, "no host memory for %d marks", room));
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

static void look(struct timeline *m, int index)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    m->time[index] = (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

status timeline_put(struct timeline *m, int *index)
{
    assert(m->count < m->room);
    *index = m->count++;
    if (m->dev->kind == DEVICE_CUDA)
        return timeline_cuda_put(m, *index);
    look(m, *index);
    return ST_OK;
}

status timeline_put_aside(struct timeline *m, status (*wait)(void *payload), void *payload,
                          int *index)
{
    assert(m->count < m->room);
    *index = m->count++;
    if (m->dev->kind == DEVICE_CUDA)
        return timeline_cuda_put_aside(m, wait, payload, *index);
    TRY(wait(payload));
    look(m, *index);
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
