/* A GPU as a device: one stream for work, one for copies, allocations by cudaMalloc. */
#include "runtime/alive.h"
#include "runtime/clock.h"
#include "runtime/cuda_status.h"
#include "runtime/device_internal.h"

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

static status cuda_alloc(struct device *dev, void **p, size_t bytes)
{
    const cudaError_t e = cudaMalloc(p, bytes > 0 ? bytes : 1);

    dev->stops++;
    if (e == cudaErrorMemoryAllocation) {
        size_t available = 0, total = 0;

        cudaGetLastError(); // or the next call would report it
        cudaMemGetInfo(&available, &total);
        return fail(ST_MEMORY, "cannot allocate %.1f MiB: GPU %d has %.1f of its %.1f GiB free",
                    (double)bytes / (1 << 20), dev->index, (double)available / (1 << 30),
                    (double)total / (1 << 30));
    }
    return cuda_status(e, "cudaMalloc");
}

static void cuda_free(struct device *dev, void *p)
{
    size_t available = 0, total = 0;

    dev->stops++;
    if (cudaMemGetInfo(&available, &total) == cudaSuccess && total - available > dev->used_peak)
        dev->used_peak = total - available;
    cudaFree(p);
}

/* Polls rather than blocks, so that a rank whose peer has died notices it: a GPU would wait
 * forever. Between polls it sleeps for a sixteenth of the time waited so far. */
static status cuda_wait(struct device *dev)
{
    const double spin_s = 20e-6, sleep_max_s = 0.5e-3, start = clock_seconds();

    dev->stops++;
    for (;;) {
        const cudaError_t e = cudaStreamQuery(dev->stream);
        const double idle = clock_seconds() - start;
        const double sleep_s = idle / 16 < sleep_max_s ? idle / 16 : sleep_max_s;

        if (e != cudaErrorNotReady)
            return cuda_status(e, "waiting for the GPU");
        TRY(device_poll(dev));
        if (idle > spin_s)
            nanosleep(&(struct timespec){ .tv_nsec = (long)(sleep_s * 1e9) }, NULL);
    }
}

/* From pageable memory the call returns when `src` has been read; from pinned memory we wait. */
static status cuda_upload(struct device *dev, void *dst, const void *src, size_t bytes)
{
    struct cudaPointerAttributes at;

    TRY(cuda_status(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, dev->stream),
                    "upload"));
    dev->stops++; // a copy from pageable memory waits too
    if (cudaPointerGetAttributes(&at, src) == cudaSuccess && at.type == cudaMemoryTypeHost)
        return cuda_wait(dev);
    return ST_OK;
}

static status cuda_download(struct device *dev, void *dst, const void *src, size_t bytes)
{
    return cuda_status(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, dev->stream),
                       "download");
}

static status cuda_copy(struct device *dev, void *dst, const void *src, size_t bytes)
{
    return cuda_status(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, dev->stream),
                       "copy");
}

static status cuda_zero(struct device *dev, void *dst, size_t bytes)
{
    return cuda_status(cudaMemsetAsync(dst, 0, bytes, dev->stream), "zeroing");
}

/* Allocated by us and pinned by the driver: with huge pages in half the time of cudaHostAlloc. */
static status cuda_host_alloc(struct device *dev, void **p, size_t bytes)
{
    const size_t page = bytes < HUGE_PAGE ? SMALL_PAGE : HUGE_PAGE;
    const size_t whole = ((bytes > 0 ? bytes : 1) + page - 1) / page * page;
    status st;

    dev->stops++;
    *p = aligned_alloc(page, whole);
    if (*p == NULL)
        return fail(ST_MEMORY, "cannot allocate %.1f MiB of host memory",
                    (double)bytes / (1 << 20));
    if (page == HUGE_PAGE)
        madvise(*p, whole, MADV_HUGEPAGE); // a hint
    st = cuda_status(cudaHostRegister(*p, whole, cudaHostRegisterPortable), "pinning");
    if (st != ST_OK) {
        free(*p);
        *p = NULL;
    }
    return st;
}

static status cuda_host_register(struct device *dev, void *p, size_t bytes)
{
    dev->stops++;
    return cuda_status(cudaHostRegister(p, bytes, cudaHostRegisterPortable), "pinning");
}

static void cuda_host_unregister(struct device *dev, void *p)
{
    (void)dev;
    cudaHostUnregister(p);
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

/* A thread's current GPU is the first one until it sets another. */
static status here(struct device *dev)
{
    return cuda_status(cudaSetDevice(dev->index), "cudaSetDevice");
}

static status cuda_queue_upload(struct device *dev, void *dst, const void *src, size_t bytes)
{
    TRY(here(dev));
    return cuda_status(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, dev->copies),
                       "upload");
}

static status cuda_queue_download(struct device *dev, void *dst, const void *src, size_t bytes)
{
    TRY(here(dev));
    return cuda_status(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, dev->copies),
                       "download");
}

/* A thread sleeps while it waits for an event: several loading threads do. */
static status cuda_event_init(struct device *dev, struct device_event *m)
{
    cudaEvent_t event = NULL;

    TRY(here(dev));
    TRY(cuda_status(
        cudaEventCreateWithFlags(&event, cudaEventDisableTiming | cudaEventBlockingSync),
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
    return cuda_status(cudaEventRecord(m->event, stream_of(dev, q)), "cudaEventRecord");
}

static status cuda_event_follow(struct device *dev, struct device_event *m, enum device_queue q)
{
    TRY(here(dev));
    return cuda_status(cudaStreamWaitEvent(stream_of(dev, q), m->event, 0), "cudaStreamWaitEvent");
}

/* The thread that watches the other ranks does not block. */
static status cuda_event_wait(struct device *dev, struct device_event *m)
{
    TRY(here(dev));
    while (alive_hooked() && cudaEventQuery(m->event) == cudaErrorNotReady) {
        TRY(device_poll(dev));
        nanosleep(&(struct timespec){ .tv_nsec = 20000 }, NULL);
    }
    return cuda_status(cudaEventSynchronize(m->event), "waiting for a copy");
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
    .host_register = cuda_host_register,
    .host_unregister = cuda_host_unregister,
    .queue_upload = cuda_queue_upload,
    .queue_download = cuda_queue_download,
    .event_init = cuda_event_init,
    .event_done = cuda_event_done,
    .event_record = cuda_event_record,
    .event_follow = cuda_event_follow,
    .event_wait = cuda_event_wait,
};

/* The kernels are for compute capability 9.0 only. */
static status check_capability(int index)
{
    struct cudaDeviceProp p;

    TRY(cuda_status(cudaGetDeviceProperties(&p, index), "cudaGetDeviceProperties"));
    if (p.major == 9 && p.minor == 0)
        return ST_OK;
    return fail(ST_DEVICE,
                "GPU %d is an %s of compute capability %d.%d; the kernels are for H100 and H200 "
                "(9.0): use --device cpu",
                index, p.name, p.major, p.minor);
}

static status use(int index)
{
    return cuda_status(cudaSetDevice(index), "cannot use GPU %d (--device cpu runs without one)",
                       index);
}

status device_open_cuda(struct device *dev, int index, const struct table *table, size_t workspace)
{
    cudaStream_t stream = NULL, copies = NULL;
    status st;

    *dev = (struct device){
        .kind = DEVICE_CUDA, .index = index, .threads = 1, .api = &cuda_api, .table = table
    };
    TRY_OUT(use(index));
    TRY_OUT(check_capability(index));
    TRY_OUT(
        cuda_status(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate"));
    dev->stream = stream;
    TRY_OUT(
        cuda_status(cudaStreamCreateWithFlags(&copies, cudaStreamNonBlocking), "cudaStreamCreate"));
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

    // streams that share one of the default 8 channels to the GPU would wait for each other's flags
    setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);
    return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

status device_cuda_memory(int index, size_t *total, size_t *available)
{
    TRY(use(index));
    return cuda_status(cudaMemGetInfo(available, total), "cudaMemGetInfo");
}

status device_cuda_name(int index, char *text, size_t size)
{
    struct cudaDeviceProp p;

    TRY(cuda_status(cudaGetDeviceProperties(&p, index), "cudaGetDeviceProperties"));
    snprintf(text, size, "%s", p.name);
    return ST_OK;
}

status device_cuda_bus(int index, char *text, size_t size)
{
    TRY(use(index));
    return cuda_status(cudaDeviceGetPCIBusId(text, (int)size, index), "cudaDeviceGetPCIBusId");
}

/* ---- compute-sanitizer's initcheck ---- */

#if HAVE_NVTX_MEMORY
static bool tool_attached;

static void find_tool(void)
{
    tool_attached = getenv("NVTX_INJECTION64_PATH") != NULL;
}

void device_cuda_written(void *stream, struct tensor t)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, find_tool);
    if (!tool_attached)
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
