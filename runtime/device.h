/* device.h - where numbers are computed: memory, queues of work, and the op table
 * (kernels/table.h).
 *
 * Three kinds: the host's cores, a GPU, and "plan", which has no memory and computes nothing: the
 * code above runs on it unchanged, and the device counts the bytes and operations that a real run
 * takes. Work is queued and done in order; only device_wait and device_event_wait block. */
#ifndef RUNTIME_DEVICE_H
#define RUNTIME_DEVICE_H

#include "runtime/status.h"
#include "runtime/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

enum device_kind { DEVICE_CPU, DEVICE_CUDA, DEVICE_PLAN };

struct device;
struct rates;

/* The work of one queue is done in order. A GPU has a second queue, for copies between host and
 * device while it computes. On the other kinds every call is done when it returns. */
enum device_queue { QUEUE_WORK, QUEUE_COPIES };

struct device_event {
    void *event; // a cudaEvent_t on a GPU
};

/* The functions of one kind of device. */
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
    status (*host_register)(struct device *dev, void *p, size_t bytes);
    void (*host_unregister)(struct device *dev, void *p);
    status (*queue_upload)(struct device *dev, void *dst, const void *src, size_t bytes);
    status (*queue_download)(struct device *dev, void *dst, const void *src, size_t bytes);
    status (*event_init)(struct device *dev, struct device_event *e);
    void (*event_done)(struct device *dev, struct device_event *e);
    status (*event_record)(struct device *dev, struct device_event *e, enum device_queue q);
    status (*event_follow)(struct device *dev, struct device_event *e, enum device_queue q);
    status (*event_wait)(struct device *dev, struct device_event *e);
};

/* Callbacks about what the host does with a device, for groups of ranks (parallel/comm.h). */
struct device_watch {
    status (*waiting)(void *payload);        // while it waits; other than ST_OK ends the wait
    void (*freeing)(void *payload, void *p); // before memory is freed
    void *payload;
    struct device_watch *next;
};

struct device {
    enum device_kind kind;
    int index;   // number of the GPU on this node; 0 on other kinds
    int threads; // host threads for this rank's ops
    const struct device_api *api;
    const struct table *table;                 // the ops, kernels/table.h
    void *workspace;                           // scratch of the table, table->workspace bytes
    void *stream, *copies;                     // the queues: cudaStream_t on a GPU
    void *backend;                             // the table's state, such as library handles
    void (*backend_close)(struct device *dev); // set together with it
    void *loader;                              // the same for parallel/loader.h
    void (*loader_close)(struct device *dev);
    struct device_watch *watch; // a list
    size_t held, held_peak;     // bytes from device_alloc: now, and the maximum
    size_t limit;               // of held; 0: none but the memory that there is
    size_t used_peak;           // GPU: maximum of all memory in use, sampled when some is freed
    /* A peer does not respond, so work on the GPU may never end: nothing that would wait for it is
     * freed any more, until the process ends. */
    bool abandoned;
    int64_t stops;   // GPU: times that the host allocated, freed or waited; none in a step
    double flops;    // counted by the ops; a multiply-add is two
    double streamed; // bytes of weights copied from host memory or a file for a use, not to stay
    const struct rates
        *rates;     // plan device: borrowed (kernels/rates.h); NULL: no time is estimated
    double seconds; // plan device: estimated time of the work so far
    double waited;  // of it, spent waiting for other ranks' messages
    size_t packed;  // plan device: bytes of the largest matrix of a product so far, as f32
    int64_t head;   // plan device: size of the largest head of an attention so far
};

/* Opens the host's cores, or the plan device. `table` is borrowed until device_close; its workspace
 * is allocated here. ST_MEMORY. */
status device_open_cpu(struct device *dev, int threads, const struct table *table,
                       size_t workspace);
status device_open_plan(struct device *dev, const struct table *table, size_t workspace);

/* Opens GPU `index` of this node. ST_DEVICE, also where the program was built without CUDA. */
status device_open_cuda(struct device *dev, int index, const struct table *table, size_t workspace);

/* GPU memory that CUDA and the libraries hold in addition to device_alloc, once all have been used.
 * Measured on an H200 with driver 580, CUDA 13.0 and cuDNN 9: the context alone is 527 MiB. */
#define DEVICE_CUDA_CONTEXT ((size_t)527 << 20)
#define DEVICE_CUDA_BESIDE ((size_t)600 << 20)

/* GPU memory of a group that communicates through NCCL 2.28: of the first, and of each further. */
#define DEVICE_NCCL_FIRST ((size_t)1308 << 20)
#define DEVICE_NCCL_MORE ((size_t)868 << 20)

/* Host memory that they allocate after the device was opened: mostly their code, which is loaded at
 * first use, and buffers for other GPUs. */
#define DEVICE_CUDA_HOST ((size_t)240 << 20)

/* Number of GPUs that this process can open: 0 without CUDA or a driver. */
int device_cuda_count(void);

/* Bytes of a GPU's memory: all, and those that no process has allocated. */
status device_cuda_memory(int index, size_t *total, size_t *available);

/* Name of GPU `index`: "NVIDIA H200". */
status device_cuda_name(int index, char *text, size_t size);

/* PCI address of GPU `index`, as hwloc writes it: "0000:3b:00.0". */
status device_cuda_bus(int index, char *text, size_t size);

/* Tells compute-sanitizer's initcheck that `t` is initialized, in the order of `stream`, where it
 * cannot see the write itself: a kernel's copy by the copy engine, or a write by another GPU. Does
 * nothing without that tool. */
void device_cuda_written(void *stream, struct tensor t);

/* `watch` is borrowed until it is removed. */
void device_watch_add(struct device *dev, struct device_watch *watch);
void device_watch_remove(struct device *dev, struct device_watch *watch);

/* Calls the watches' `waiting`, for the thread that opened the device while it waits. */
status device_poll(struct device *dev);

void device_close(struct device *dev); // accepts a zeroed device

/* Memory of the device, aligned to 256 bytes, not cleared. ST_MEMORY, also beyond dev->limit. */
status device_alloc(struct device *dev, void **p, size_t bytes);
void device_free(struct device *dev, void *p, size_t bytes);

/* Host memory for fast copies to and from the device: pinned if it is a GPU, which can also access
 * it directly. */
status device_host_alloc(struct device *dev, void **p, size_t bytes);
void device_host_free(struct device *dev, void *p);

/* The same for memory that was allocated or mapped elsewhere: pins it, and ends that. */
status device_host_register(struct device *dev, void *p, size_t bytes);
void device_host_unregister(struct device *dev, void *p);

/* Copies between host memory and a contiguous tensor. upload may return before the copy is done but
 * has read `src`; download is queued, and `dst` is filled after device_wait. */
status device_upload(struct device *dev, struct tensor dst, const void *src);
status device_download(struct device *dev, void *dst, struct tensor src);
status device_copy(struct device *dev, struct tensor dst, struct tensor src); // within the device
status device_zero(struct device *dev, struct tensor dst);
status device_wait(struct device *dev);

/* Queue a copy on QUEUE_COPIES. The host memory is from device_host_alloc, and borrowed until an
 * event recorded after the copy has happened. These and the event functions may be called from any
 * thread. */
status device_queue_upload(struct device *dev, struct tensor dst, const void *src);
status device_queue_download(struct device *dev, void *dst, struct tensor src);

/* Events, as in CUDA. An event happens when everything is done that was queued on q when it was
 * recorded. event_follow makes what is queued on q from now on wait for it, event_wait the host.
 * Neither waits for an event that was never recorded. */
status device_event_init(struct device *dev, struct device_event *e);
void device_event_done(struct device *dev, struct device_event *e); // accepts a zeroed event
status device_event_record(struct device *dev, struct device_event *e, enum device_queue q);
status device_event_follow(struct device *dev, struct device_event *e, enum device_queue q);
status device_event_wait(struct device *dev, struct device_event *e);

#ifdef __cplusplus
}
#endif
#endif
