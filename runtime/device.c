#include "runtime/device.h"

#include "runtime/device_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define ALIGN ((size_t)256)

static status cpu_alloc(struct device *dev, void **p, size_t bytes)
{
    (void)dev;
    *p = aligned_alloc(ALIGN, (bytes + ALIGN - 1) / ALIGN * ALIGN);
    if (*p == NULL)
        return fail(ST_MEMORY, "cannot allocate %.1f MiB of host memory",
                    (double)bytes / (1 << 20));
    return ST_OK;
}

static void cpu_free(struct device *dev, void *p)
{
    (void)dev;
    free(p);
}

/* Nothing is pinned for the kinds that are not GPUs. */
static status register_nothing(struct device *dev, void *p, size_t bytes)
{
    (void)dev;
    (void)p;
    (void)bytes;
    return ST_OK;
}

static void unregister_nothing(struct device *dev, void *p)
{
    (void)dev;
    (void)p;
}

static status cpu_copy(struct device *dev, void *dst, const void *src, size_t bytes)
{
    (void)dev;
    memcpy(dst, src, bytes);
    return ST_OK;
}

static status cpu_zero(struct device *dev, void *dst, size_t bytes)
{
    (void)dev;
    memset(dst, 0, bytes);
    return ST_OK;
}

static status cpu_wait(struct device *dev)
{
    (void)dev;
    return ST_OK;
}

/* Events of the kinds on which every call is done when it returns. */
static status event_nothing(struct device *dev, struct device_event *e)
{
    (void)dev;
    (void)e;
    return ST_OK;
}

static void event_done_nothing(struct device *dev, struct device_event *e)
{
    (void)dev;
    (void)e;
}

static status event_no_queue(struct device *dev, struct device_event *e, enum device_queue q)
{
    (void)dev;
    (void)e;
    (void)q;
    return ST_OK;
}

#define EVENTS_AT_ONCE                                                                             \
    .event_init = event_nothing, .event_done = event_done_nothing, .event_record = event_no_queue, \
    .event_follow = event_no_queue, .event_wait = event_nothing

static const struct device_api cpu_api = {
    .alloc = cpu_alloc,
    .free = cpu_free,
    .upload = cpu_copy,
    .download = cpu_copy,
    .copy = cpu_copy,
    .zero = cpu_zero,
    .wait = cpu_wait,
    .host_alloc = cpu_alloc,
    .host_free = cpu_free,
    .host_register = register_nothing,
    .host_unregister = unregister_nothing,
    .queue_upload = cpu_copy,
    .queue_download = cpu_copy,
    EVENTS_AT_ONCE,
};

/* An address that is never accessed, but not NULL, so that views can be computed. */
static status plan_alloc(struct device *dev, void **p, size_t bytes)
{
    (void)dev;
    (void)bytes;
    *p = (void *)ALIGN;
    return ST_OK;
}

static void plan_free(struct device *dev, void *p)
{
    (void)dev;
    (void)p;
}

static status plan_copy(struct device *dev, void *dst, const void *src, size_t bytes)
{
    (void)dev;
    (void)dst;
    (void)src;
    (void)bytes;
    return ST_OK;
}

static status plan_zero(struct device *dev, void *dst, size_t bytes)
{
    (void)dev;
    (void)dst;
    (void)bytes;
    return ST_OK;
}

static const struct device_api plan_api = {
    .alloc = plan_alloc,
    .free = plan_free,
    .upload = plan_copy,
    .download = plan_copy,
    .copy = plan_copy,
    .zero = plan_zero,
    .wait = cpu_wait,
    .host_alloc = plan_alloc,
    .host_free = plan_free,
    .host_register = register_nothing,
    .host_unregister = unregister_nothing,
    .queue_upload = plan_copy,
    .queue_download = plan_copy,
    EVENTS_AT_ONCE,
};

static status open_kind(struct device *dev, struct device start, size_t workspace)
{
    *dev = start;
    return workspace ? device_alloc(dev, &dev->workspace, workspace) : ST_OK;
}

status device_open_cpu(struct device *dev, int threads, const struct table *table, size_t workspace)
{
    return open_kind(
        dev,
        (struct device){ .kind = DEVICE_CPU, .threads = threads, .api = &cpu_api, .table = table },
        workspace);
}

status device_open_plan(struct device *dev, const struct table *table, size_t workspace)
{
    return open_kind(
        dev, (struct device){ .kind = DEVICE_PLAN, .threads = 1, .api = &plan_api, .table = table },
        workspace);
}

void device_watch_add(struct device *dev, struct device_watch *watch)
{
    watch->next = dev->watch;
    dev->watch = watch;
}

status device_poll(struct device *dev)
{
    for (struct device_watch *w = dev->watch; w != NULL; w = w->next) {
        const status st = w->waiting(w->payload);

        dev->abandoned |= st != ST_OK;
        TRY(st);
    }
    return ST_OK;
}

void device_watch_remove(struct device *dev, struct device_watch *watch)
{
    for (struct device_watch **at = &dev->watch; *at != NULL; at = &(*at)->next)
        if (*at == watch) {
            *at = watch->next;
            return;
        }
}

void device_close(struct device *dev)
{
    if (dev->abandoned)
        return;
    if (dev->loader_close != NULL)
        dev->loader_close(dev);
    if (dev->backend_close != NULL)
        dev->backend_close(dev);
    if (dev->workspace != NULL)
        dev->api->free(dev, dev->workspace);
    if (dev->kind == DEVICE_CUDA)
        device_cuda_done(dev);
    *dev = (struct device){ 0 };
}

status device_alloc(struct device *dev, void **p, size_t bytes)
{
    if (dev->limit > 0 && (dev->held > dev->limit || bytes > dev->limit - dev->held))
        return fail(ST_MEMORY,
                    "cannot allocate %.1f MiB: --vram_limit leaves %.2f GB, of which "
                    "%.2f GB are in use",
                    (double)bytes / (1 << 20), (double)dev->limit / 1e9, (double)dev->held / 1e9);
    TRY(dev->api->alloc(dev, p, bytes));
    dev->held += bytes;
    if (dev->held > dev->held_peak)
        dev->held_peak = dev->held;
    return ST_OK;
}

void device_free(struct device *dev, void *p, size_t bytes)
{
    if (p == NULL || dev->abandoned)
        return;
    for (struct device_watch *w = dev->watch; w != NULL; w = w->next)
        w->freeing(w->payload, p);
    if (dev->abandoned) // a peer may still use it
        return;
    dev->api->free(dev, p);
    dev->held -= bytes;
}

status device_upload(struct device *dev, struct tensor dst, const void *src)
{
    assert(tensor_contiguous(dst));
    return dev->api->upload(dev, dst.data, src, tensor_bytes(dst));
}

status device_download(struct device *dev, void *dst, struct tensor src)
{
    assert(tensor_contiguous(src));
    return dev->api->download(dev, dst, src.data, tensor_bytes(src));
}

status device_copy(struct device *dev, struct tensor dst, struct tensor src)
{
    assert(tensor_contiguous(dst) && tensor_contiguous(src));
    assert(tensor_bytes(dst) == tensor_bytes(src));
    return dev->api->copy(dev, dst.data, src.data, tensor_bytes(src));
}

status device_zero(struct device *dev, struct tensor dst)
{
    assert(tensor_contiguous(dst));
    return dev->api->zero(dev, dst.data, tensor_bytes(dst));
}

status device_host_alloc(struct device *dev, void **p, size_t bytes)
{
    return dev->api->host_alloc(dev, p, bytes);
}

void device_host_free(struct device *dev, void *p)
{
    if (p != NULL && !dev->abandoned)
        dev->api->host_free(dev, p);
}

status device_host_register(struct device *dev, void *p, size_t bytes)
{
    return dev->api->host_register(dev, p, bytes);
}

void device_host_unregister(struct device *dev, void *p)
{
    if (p != NULL && !dev->abandoned)
        dev->api->host_unregister(dev, p);
}

status device_wait(struct device *dev)
{
    return dev->api->wait(dev);
}

status device_queue_upload(struct device *dev, struct tensor dst, const void *src)
{
    assert(tensor_contiguous(dst));
    return dev->api->queue_upload(dev, dst.data, src, tensor_bytes(dst));
}

status device_queue_download(struct device *dev, void *dst, struct tensor src)
{
    assert(tensor_contiguous(src));
    return dev->api->queue_download(dev, dst, src.data, tensor_bytes(src));
}

status device_event_init(struct device *dev, struct device_event *e)
{
    *e = (struct device_event){ 0 };
    return dev->api->event_init(dev, e);
}

void device_event_done(struct device *dev, struct device_event *e)
{
    if (e->event != NULL)
        dev->api->event_done(dev, e);
    *e = (struct device_event){ 0 };
}

status device_event_record(struct device *dev, struct device_event *e, enum device_queue q)
{
    return dev->api->event_record(dev, e, q);
}

status device_event_follow(struct device *dev, struct device_event *e, enum device_queue q)
{
    return dev->api->event_follow(dev, e, q);
}

status device_event_wait(struct device *dev, struct device_event *e)
{
    return dev->api->event_wait(dev, e);
}
