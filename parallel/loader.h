/* loader.h - loads data to a GPU with several threads, at the speed of the host-to-GPU link.
 *
 *     fill -> [several threads: read, convert] -> pinned buffers -> [copy engine] -> GPU
 *
 * Each added range is split into chunks of the size of a buffer, which idle threads fill in the
 * order in which they were added. Each thread has two pinned buffers: it fills one while the other
 * is uploaded.
 * Uploads use the device's copy queue, so they run while the device computes.
 *
 * A device has one loader, created by the first loader_get and closed by device_close. The
 * functions are called by one thread. All functions are local. */
#ifndef PARALLEL_LOADER_H
#define PARALLEL_LOADER_H

#include "runtime/device.h"

#include <stdint.h>

#define LOADER_ALIGN 256 // chunks begin and end at multiples of it, relative to `from`

/* Callback: writes bytes [from, to) of unit `unit` to dst, host memory. Called by several threads
 * at once. */
typedef status loader_fill(void *payload, int unit, size_t from, size_t to, void *dst);

struct loader;

struct loader_shape {
    int threads;
    int buffers;  // per thread
    size_t bytes; // of a buffer
};

/* Creates the device's loader, which it must not have. ST_MEMORY. */
status loader_open(struct device *dev, struct loader_shape shape, struct loader **l);

/* The device's loader; creates it at the first call, with a thread for each core that this process
 * may use, up to a fixed maximum. ST_MEMORY. */
status loader_get(struct device *dev, struct loader **l);

/* Bytes of pinned host memory of a loader with this many threads (of a fixed maximum). */
size_t loader_bytes(int threads);

/* Starts to load bytes [from, from + tensor_bytes(dst)) of a unit to dst, a contiguous u8 tensor in
 * device memory. Threads begin to fill at once; dst is written after the work that is queued on the
 * device now. `payload` is borrowed until the range is filled. ST_MEMORY. */
status loader_add(struct loader *l, loader_fill *fill, void *payload, int unit, size_t from,
                  struct tensor dst);

/* Number of ranges added so far. */
int64_t loader_added(const struct loader *l);

/* Waits until the first `ranges` of all ranges added so far are filled. Work queued on the device
 * after this sees their data. If `fill` or an upload fails, returns the first error; the remaining
 * chunks of all ranges are not loaded. */
status loader_wait(struct loader *l, int64_t ranges);

/* Waits until all added ranges are filled: loader_wait(l, loader_added(l)). */
status loader_finish(struct loader *l);

/* What the threads did since the last call, in seconds, summed over the threads; the rest of their
 * time they had nothing to load. Called while nothing is being loaded. */
struct loader_times {
    double fill;   // reading and converting
    double wait;   // for a buffer to be uploaded
    double upload; // queueing uploads
    double end;    // clock_seconds() when the last upload was queued
};

struct loader_times loader_times(struct loader *l);

#endif
