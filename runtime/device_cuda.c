/* A GPU as a device: a stream for work, one for copies, plain allocations. */
#include "runtime/device_internal.h"

#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#if __has_include(<nvtx3/nvToolsExtMemCudaRt.h>)
#include <nvtx3/nvToolsExtMemCudaRt.h>
#define HAVE_NVTX_MEMORY 1
#else
#define HAVE_NVTX_MEMORY 0
#endif

#define SMALL_PAGE ((size_t)4 << 10)
#define HUGE_PAGE ((size_t)2 << 20)

static status check(cudaError_t e, const char *what)
{
    if (e == cudaSuccess)
        return ST_OK;
    return fail(e == cudaErrorMemoryAllocation ? ST_MEMORY : ST_DEVICE, "%s: %s", what,
                cudaGetErrorString(e));
}

static status cuda_alloc(struct device *dev, void **p, size_t bytes)
{
    const cudaError_t e = cudaMalloc(p, bytes > 0 ? bytes : 1);

    dev->stops++;
    if (e == cudaErrorMemoryAllocation) {
        size_t available = 0, total = 0;

        cudaGetLastError(); // or the next call would report it
        cudaMemGetInfo(&available, &total);
        return fail(ST_MEMORY, "GPU %d has %.1f of its %.1f GiB left, %.1f MiB are wanted",
                    dev->index, (double)available / (1 << 30), (double)total / (1 << 30),
                    (double)bytes / (1 << 20));
    }
    return check(e, "cudaMalloc");
}

static void cuda_free(struct device *dev, void *p)
{
    size_t available = 0, total = 0;

    dev->stops++;
    if (cudaMemGetInfo(&available, &total) == cudaSuccess && total - available > dev->used_peak)
        dev->used_peak = total - available;
    cudaFree(p);
}

static double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Looks rather than blocks, so that a rank whose peer is gone finds out: the GPU alone would wait
 * for ever. After an idle stretch it sleeps for a sixteenth of it. */
static status cuda_wait(struct device *dev)
{
    const double spin_s = 20e-6, sleep_max_s = 0.5e-3, start = seconds();

    dev->stops++;
    for (;;) {
        const cudaError_t e = cudaStreamQuery(dev->stream);
        const double idle = seconds() - start;
        const double sleep_s = idle / 16 < sleep_max_s ? idle / 16 : sleep_max_s;

        if (e != cudaErrorNotReady)
            return check(e, "waiting for the GPU");
        for (struct device_watch *w = dev->watch; w != NULL; w = w->next)
            TRY(w->waiting(w->payload));
        if (idle > spin_s)
            nanosleep(&(struct timespec){ .tv_nsec = (long)(sleep_s * 1e9) }, NULL);
    }
}

/* From pageable memory the runtime returns when `src` is read; pinned memory is waited for. */
static status cuda_upload(struct device *dev, void *dst, const void *src, size_t bytes)
{
    struct cudaPointerAttributes at;

    TRY(check(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, dev->stream), "upload"));
    dev->stops++; // a copy from pageable memory is half a wait
    if (cudaPointerGetAttributes(&at, src) == cudaSuccess && at.type == cudaMemoryTypeHost)
        return cuda_wait(dev);
    return ST_OK;
}

static status cuda_download(struct device *dev, void *dst, const void *src, size_t bytes)
{
    return check(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, dev->stream), "download");
}

static status cuda_copy(struct device *dev, void *dst, const void *src, size_t bytes)
{
    return check(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, dev->stream), "copy");
}

static status cuda_zero(struct device *dev, void *dst, size_t bytes)
{
    return check(cudaMemsetAsync(dst, 0, bytes, dev->stream), "zeroing");
}

/* Pages that the driver then pins; large ones take half the time of cudaHostAlloc's. */
static status cuda_host_alloc(struct device *dev, void **p, size_t bytes)
{
    const size_t page = bytes < HUGE_PAGE ? SMALL_PAGE : HUGE_PAGE;
    const size_t whole = ((bytes > 0 ? bytes : 1) + page - 1) / page * page;
    status st;

    dev->stops++;
    *p = aligned_alloc(page, whole);
    if (*p == NULL)
        return fail(ST_MEMORY, "%.1f MiB of host memory are not to be had",
                    (double)bytes / (1 << 20));
    if (page == HUGE_PAGE)
        madvise(*p, whole, MADV_HUGEPAGE); // a hint
    st = check(cudaHostRegister(*p, whole, cudaHostRegisterPortable), "pinning");
    if (st != ST_OK)
        free(*p);
    return st;
}

static void cuda_host_free(struct device *dev, void *p)
{
    (void)dev;
    cudaHostUnregister(p);
    free(p);
}

static cudaStream_t stream_of(struct device *dev, enum device_queue q)
{
    return q == QUEUE_WORK ? dev->stream : dev->copies;
}

/* A thread that has not said which GPU it means is on the first. */
static status here(struct device *dev)
{
    return check(cudaSetDevice(dev->index), "cudaSetDevice");
}

static status cuda_queue_upload(struct device *dev, void *dst, const void *src, size_t bytes)
{
    TRY(here(dev));
    return check(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, dev->copies), "upload");
}

static status cuda_queue_download(struct device *dev, void *dst, const void *src, size_t bytes)
{
    TRY(here(dev));
    return check(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, dev->copies), "download");
}

/* Who waits for an event sleeps: loading has several threads that do. */
static status cuda_event_init(struct device *dev, struct device_event *m)
{
    cudaEvent_t event = NULL;

    TRY(here(dev));
    TRY(check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming | cudaEventBlockingSync),
              "cudaEventCreate"));
    m->event = event;
    return ST_OK;
}

static void cuda_event_done(struct device *dev, struct device_event *m)
{
    (void)dev;
    cudaEventDestroy(m->event);
}

static status cuda_event_record(struct device *dev, struct device_event *m, enum device_queue q)
{
    TRY(here(dev));
    return check(cudaEventRecord(m->event, stream_of(dev, q)), "cudaEventRecord");
}

static status cuda_event_follow(struct device *dev, struct device_event *m, enum device_queue q)
{
    TRY(here(dev));
    return check(cudaStreamWaitEvent(stream_of(dev, q), m->event, 0), "cudaStreamWaitEvent");
}

static status cuda_event_wait(struct device *dev, struct device_event *m)
{
    TRY(here(dev));
    return check(cudaEventSynchronize(m->event), "waiting for a copy");
}

static const struct device_api cuda_api = {
    .alloc = cuda_alloc,
    .free = cuda_free,
    .upload = cuda_upload,
    .download = cuda_download,
    .copy = cuda_copy,
    .zero = cuda_zero,
    .wait = cuda_wait,
    .host_alloc = cuda_host_alloc,
    .host_free = cuda_host_free,
    .queue_upload = cuda_queue_upload,
    .queue_download = cuda_queue_download,
    .event_init = cuda_event_init,
    .event_done = cuda_event_done,
    .event_record = cuda_event_record,
    .event_follow = cuda_event_follow,
    .event_wait = cuda_event_wait,
};

static status use(int index)
{
    const cudaError_t e = cudaSetDevice(index);

    if (e == cudaSuccess)
        return ST_OK;
    return fail(ST_DEVICE, "GPU %d cannot be used (%s); --device cpu does without", index,
                cudaGetErrorString(e));
}

status device_open_cuda(struct device *dev, int index, const struct table *table, size_t workspace)
{
    cudaStream_t stream = NULL, copies = NULL;
    status st;

    *dev = (struct device){
        .kind = DEVICE_CUDA, .index = index, .threads = 1, .api = &cuda_api, .table = table
    };
    TRY_OUT(use(index));
    TRY_OUT(check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate"));
    dev->stream = stream;
    TRY_OUT(check(cudaStreamCreateWithFlags(&copies, cudaStreamNonBlocking), "cudaStreamCreate"));
    dev->copies = copies;
    if (workspace > 0)
        TRY_OUT(device_alloc(dev, &dev->workspace, workspace));
out:
    if (st != ST_OK)
        device_close(dev);
    return st;
}

void device_cuda_done(struct device *dev)
{
    if (dev->copies != NULL)
        cudaStreamDestroy(dev->copies);
    if (dev->stream != NULL)
        cudaStreamDestroy(dev->stream);
}

int device_cuda_count(void)
{
    int count = 0;

    return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

status device_cuda_memory(int index, size_t *total, size_t *available)
{
    TRY(use(index));
    return check(cudaMemGetInfo(available, total), "cudaMemGetInfo");
}

status device_cuda_bus(int index, char *text, size_t size)
{
    TRY(use(index));
    return check(cudaDeviceGetPCIBusId(text, (int)size, index), "cudaDeviceGetPCIBusId");
}

/* ---- what initcheck is told ---- */

#if HAVE_NVTX_MEMORY
static bool listened_to; // there is a tool

static void look_for_tool(void)
{
    listened_to = getenv("NVTX_INJECTION64_PATH") != NULL;
}

void device_cuda_written(void *stream, struct tensor t)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, look_for_tool);
    if (!listened_to)
        return;
    if (!tensor_contiguous(t)) {
        for (int64_t i = 0; i < t.dim[0]; i++)
            device_cuda_written(stream, tensor_at(t, i));
        return;
    }

    const nvtxMemVirtualRangeDesc_t range = { .size = tensor_bytes(t), .ptr = t.data };
    const nvtxMemMarkInitializedBatch_t batch = {
        .extCompatID = NVTX_EXT_COMPATID_MEM,
        .structSize = sizeof(batch),
        .regionType = NVTX_MEM_TYPE_VIRTUAL_ADDRESS,
        .regionDescCount = 1,
        .regionDescElementSize = sizeof(range),
        .regionDescElements = &range,
    };

    nvtxMemCudaMarkInitialized(NULL, stream, 0, &batch);
}
#else
void device_cuda_written(void *stream, struct tensor t)
{
    (void)stream;
    (void)t;
}
#endif
