/* A GPU as a device: one stream, plain allocations. */
#include "runtime/device_internal.h"

#include <cuda_runtime_api.h>

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
    (void)dev;
    cudaFree(p);
}

/* From pageable memory the runtime returns when `src` is read; pinned memory is waited for. */
static status cuda_upload(struct device *dev, void *dst, const void *src, size_t bytes)
{
    struct cudaPointerAttributes at;

    TRY(check(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, dev->stream), "upload"));
    if (cudaPointerGetAttributes(&at, src) == cudaSuccess && at.type == cudaMemoryTypeHost)
        return check(cudaStreamSynchronize(dev->stream), "upload");
    return ST_OK;
}

static status cuda_download(struct device *dev, void *dst, const void *src, size_t bytes)
{
    return check(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, dev->stream), "download");
}

static status cuda_zero(struct device *dev, void *dst, size_t bytes)
{
    return check(cudaMemsetAsync(dst, 0, bytes, dev->stream), "zeroing");
}

static status cuda_wait(struct device *dev)
{
    return check(cudaStreamSynchronize(dev->stream), "waiting for the GPU");
}

static status cuda_host_alloc(struct device *dev, void **p, size_t bytes)
{
    (void)dev;
    return check(cudaHostAlloc(p, bytes > 0 ? bytes : 1, cudaHostAllocPortable), "pinned memory");
}

static void cuda_host_free(struct device *dev, void *p)
{
    (void)dev;
    cudaFreeHost(p);
}

static const struct device_api cuda_api = {
    cuda_alloc, cuda_free, cuda_upload,     cuda_download,
    cuda_zero,  cuda_wait, cuda_host_alloc, cuda_host_free
};

status device_open_cuda(struct device *dev, int index, const struct table *table, size_t workspace)
{
    cudaStream_t stream = NULL;
    status st;

    *dev = (struct device){
        .kind = DEVICE_CUDA, .index = index, .threads = 1, .api = &cuda_api, .table = table
    };
    TRY_OUT(check(cudaSetDevice(index), "cudaSetDevice"));
    TRY_OUT(check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate"));
    dev->stream = stream;
    if (workspace > 0)
        TRY_OUT(device_alloc(dev, &dev->workspace, workspace));
out:
    if (st != ST_OK)
        device_close(dev);
    return st;
}

void device_cuda_done(struct device *dev)
{
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
    TRY(check(cudaSetDevice(index), "cudaSetDevice"));
    return check(cudaMemGetInfo(available, total), "cudaMemGetInfo");
}

status device_cuda_bus(int index, char *text, size_t size)
{
    return check(cudaDeviceGetPCIBusId(text, (int)size, index), "cudaDeviceGetPCIBusId");
}
