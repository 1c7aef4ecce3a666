/* The events of a timeline as CUDA events. */
#include "runtime/cuda_status.h"
#include "runtime/timeline_internal.h"

#include <stdlib.h>
#if __has_include(<nvtx3/nvToolsExt.h>)
#include <nvtx3/nvToolsExt.h>
#define HAVE_NVTX 1
#else
#define HAVE_NVTX 0
#endif

status timeline_cuda_open(struct timeline *m)
{
    cudaStream_t aside = NULL;

    m->events = calloc((size_t)m->room, sizeof(*m->events));
    if (m->events == NULL)
        return fail(ST_MEMORY, "no host memory for %d events", m->room);
    for (int i = 0; i < m->room; i++) {
        cudaEvent_t event = NULL;

        TRY(cuda_status(cudaEventCreate(&event), "cudaEventCreate"));
        m->events[i] = event;
    }
    TRY(cuda_status(cudaStreamCreateWithFlags(&aside, cudaStreamNonBlocking), "cudaStreamCreate"));
    m->aside = aside;
    return ST_OK;
}

void timeline_cuda_close(struct timeline *m)
{
    for (int i = 0; m->events != NULL && i < m->room; i++)
        if (m->events[i] != NULL)
            cudaEventDestroy(m->events[i]);
    if (m->aside != NULL)
        cudaStreamDestroy(m->aside);
    free(m->events);
}

status timeline_cuda_record(struct timeline *m, int index)
{
    return cuda_status(cudaEventRecord(m->events[index], m->dev->stream), "cudaEventRecord");
}

status timeline_cuda_record_wait(struct timeline *m, status (*wait)(void *payload), void *payload,
                                 int index)
{
    void *const own = m->dev->stream;
    status st;

    m->dev->stream = m->aside;
    st = wait(payload);
    if (st == ST_OK)
        st = cuda_status(cudaEventRecord(m->events[index], m->aside), "cudaEventRecord");
    m->dev->stream = own;
    TRY(st);
    return cuda_status(cudaStreamWaitEvent(own, m->events[index], 0), "cudaStreamWaitEvent");
}

status timeline_cuda_between(const struct timeline *m, int from, int to, double *seconds)
{
    float ms = 0;

    TRY(cuda_status(cudaEventElapsedTime(&ms, m->events[from], m->events[to]),
                    "cudaEventElapsedTime"));
    *seconds = (double)ms * 1e-3;
    return ST_OK;
}

void timeline_range_begin(const char *name)
{
#if HAVE_NVTX
    nvtxRangePushA(name);
#endif
}

void timeline_range_end(void)
{
#if HAVE_NVTX
    nvtxRangePop();
#endif
}
