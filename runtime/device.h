/* device.h - where numbers are computed: memory, order of work, and the op table (kernels/table.h).
 *
 * Three kinds: the host's own cores, a GPU, and "plan", which has no memory and computes nothing:
 * everything above runs on it unchanged, and leaves behind how many bytes and operations it would
 * have taken. Work is queued in order; only device_wait (parallel/group.h calls it) blocks. */
#ifndef RUNTIME_DEVICE_H
#define RUNTIME_DEVICE_H

#include "runtime/status.h"
#include "runtime/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

enum device_kind { DEVICE_CPU, DEVICE_CUDA, DEVICE_PLAN };

struct device;

/* What is queued on a device is done in order; a GPU has a second queue for copies from and to the
 * host while it computes. On the other kinds everything is done at once. */
enum device_queue { QUEUE_WORK, QUEUE_COPIES };

struct device_event {
    void *event; // the kind's own handle; a cudaEvent_t
};

/* What a kind of device can do with memory. */
struct device_api {
    status (*alloc)(struct device *dev, void **p, size_t bytes);
    void (*free)(struct device *dev, void *p);
    status (*upload)(struct device *dev, void *dst, const void *src, size_t bytes);
    status (*download)(struct device *dev, void *dst, const void *src, size_t bytes);
    status (*copy)(struct device *dev, void *dst, const void *src, size_t bytes);
    status (*zero)(struct device *dev, void *dst, size_t bytes);
    status (*wait)(struct device *dev);
    status (*host_alloc)(struct device *dev, void **p, size_t bytes);
    void (*host_free)(struct device *dev, void *p);
    status (*queue_upload)(struct device *dev, void *dst, const void *src, size_t bytes);
    status (*queue_download)(struct device *dev, void *dst, const void *src, size_t bytes);
    status (*event_init)(struct device *dev, struct device_event *m);
    void (*event_done)(struct device *dev, struct device_event *m);
    status (*event_record)(struct device *dev, struct device_event *m, enum device_queue q);
    status (*event_follow)(struct device *dev, struct device_event *m, enum device_queue q);
    status (*event_wait)(struct device *dev, struct device_event *m);
};

/* Who wants to know what the host does with a device: groups of ranks (parallel/comm.h). */
struct device_watch {
    status (*waiting)(void *payload); // it waits for the device; other than ST_OK ends the waiting
    void (*freeing)(void *payload, void *p); // it is about to give memory back
    void *payload;
    struct device_watch *next;
};

struct device {
    enum device_kind kind;
    int index;   // GPU number on this node, 0 else
    int threads; // host threads for this rank's ops
    const struct device_api *api;
    const struct table *table;                 // the ops, kernels/table.h
    void *workspace;                           // scratch of the table, table->workspace bytes
    void *stream, *copies;                     // the queues: the kind's own, cudaStream_t
    void *backend;                             // what the table keeps: library handles and plans
    void (*backend_close)(struct device *dev); // set with it
    void *loader;                              // the same for parallel/loader.h
    void (*loader_close)(struct device *dev);
    struct device_watch *watch; // asked in turn
    size_t held, held_peak;     // bytes from device_alloc, now and at most
    size_t used_peak;           // of a GPU: most that was in use at all when memory was given back
    int64_t stops; // of a GPU: times the host allocated, freed or waited; none in a step
    double flops;  // counted by the ops: multiply and add are two
};

/* Opens the host as a device, or the device that only plans. `table` stays borrowed; its workspace
 * is allocated here. ST_MEMORY. */
status device_open_cpu(struct device *dev, int threads, const struct table *table,
                       size_t workspace);
status device_open_plan(struct device *dev, const struct table *table, size_t workspace);

/* Opens GPU `index` of this node. ST_DEVICE, also where the program was built without CUDA. */
status device_open_cuda(struct device *dev, int index, const struct table *table, size_t workspace);

/* What CUDA and the libraries hold on a GPU beside device_alloc, once all of them have been used.
 * Measured on an H200 with driver 580, CUDA 13.0 and cuDNN 9: the context alone is 527 MiB. */
#define DEVICE_CUDA_CONTEXT ((size_t)527 << 20)
#define DEVICE_CUDA_BESIDE ((size_t)600 << 20)

/* What they come to hold of the host after the device was opened: mostly their code, as it is
 * loaded, and what reaches the other GPUs. */
#define DEVICE_CUDA_HOST ((size_t)240 << 20)

/* GPUs that this process can open: 0 without CUDA or a driver. Bytes of one's memory, and those of
 * them that nobody holds now. */
int device_cuda_count(void);
status device_cuda_memory(int index, size_t *total, size_t *available);

/* Where GPU `index` sits, as hwloc names it: "0000:3b:00.0". */
status device_cuda_bus(int index, char *text, size_t size);

/* Tells compute-sanitizer's initcheck what was written where it does not look, behind what is
 * queued on `stream`: by copies that kernels ask the copy engine for, or by another GPU. Nothing
 * without that tool. */
void device_cuda_written(void *stream, struct tensor t);

/* `watch` stays the caller's. */
void device_watch_add(struct device *dev, struct device_watch *watch);
void device_watch_remove(struct device *dev, struct device_watch *watch);

void device_close(struct device *dev); // accepts a zeroed device

/* Memory of the device, aligned to 256 bytes, not cleared. */
status device_alloc(struct device *dev, void **p, size_t bytes);
void device_free(struct device *dev, void *p, size_t bytes);

/* Host memory that copies to and from the device go through at full speed: pinned beside a GPU,
 * which can also read and write it directly. */
status device_host_alloc(struct device *dev, void **p, size_t bytes);
void device_host_free(struct device *dev, void *p);

/* Copies between host memory and a contiguous tensor. upload may return before the copy is done but
 * has read `src`; download is queued, and `dst` is filled after device_wait. */
status device_upload(struct device *dev, struct tensor dst, const void *src);
status device_download(struct device *dev, void *dst, struct tensor src);
status device_copy(struct device *dev, struct tensor dst, struct tensor src); // within the device
status device_zero(struct device *dev, struct tensor dst);
status device_wait(struct device *dev);

/* Queues a copy on QUEUE_COPIES. The host's memory is of device_host_alloc, and borrowed until a
 * mark that is set behind the copy is reached. These, and the marks, from any thread. */
status device_queue_upload(struct device *dev, struct tensor dst, const void *src);
status device_queue_download(struct device *dev, void *dst, struct tensor src);

/* A place in a queue: behind everything that is queued there when the mark is set. What is queued
 * later on the queue that follows it waits for it; event_wait makes the host wait. A mark that was
 * not set yet holds nobody up. */
status device_event_init(struct device *dev, struct device_event *m);
void device_event_done(struct device *dev, struct device_event *m); // accepts a zeroed mark
status device_event_record(struct device *dev, struct device_event *m, enum device_queue q);
status device_event_follow(struct device *dev, struct device_event *m, enum device_queue q);
status device_event_wait(struct device *dev, struct device_event *m);

#ifdef __cplusplus
}
#endif
#endif
