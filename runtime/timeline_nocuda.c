/* The events of a GPU in a program built without CUDA: never called, as no GPU can be opened. */
#include "runtime/timeline_internal.h"

static status without(void)
{
    return fail(ST_DEVICE, "this program was built without CUDA");
}

status timeline_cuda_open(struct timeline *m)
{
    return without();
}

void timeline_cuda_close(struct timeline *m)
{
}

status timeline_cuda_record(struct timeline *m, int index)
{
    return without();
}

status timeline_cuda_record_wait(struct timeline *m, status (*wait)(void *payload), void *payload,
                                 int index)
{
    return without();
}

status timeline_cuda_between(const struct timeline *m, int from, int to, double *seconds)
{
    return without();
}

void timeline_range_begin(const char *name)
{
}

void timeline_range_end(void)
{
}
