/* loader.h - loads data to a GPU with several threads, at the speed of the host-to-GPU link.
 *
 *     fill -> [several threads: read, convert] -> pinned buffers -> [copy engine] -> GPU
 *
 * Each added range is split into chunks of a few MiB, which idle threads fill in the order in which
 * they were added. Each thread has two pinned buffers: it fills one while the other is uploaded.
 * Uploads use the device's copy queue, so they run while the device computes.
 *
 * A device has one loader, created by the first loader_get and closed by device_close. loader_add
 * and loader_finish are called by one thread. All functions are local. */
#ifndef PARALLEL_LOADER_H
#define PARALLEL_LOADER_H

#include "runtime/device.h"

#define LOADER_ALIGN 256 // chunks begin and end at multiples of it, relative to `from`

/* Callback: writes bytes [from, to) of unit `unit` to dst, host memory. Called by several threads
 * at once. */
typedef status loader_fill(void *payload, int unit, size_t from, size_t to, void *dst);

struct loader;

/* The device's loader; creates it at the first call. ST_MEMORY. */
status loader_get(struct device *dev, struct loader **l);

/* Bytes of pinned host memory of a loader with this many threads (of a fixed maximum). */
size_t loader_bytes(int threads);

/* Starts to load bytes [from, from + tensor_bytes(dst)) of a unit to dst, a contiguous u8 tensor in
 * device memory. Threads begin to fill at once; dst is written after the work that is queued on the
 * device now. `payload` is borrowed until loader_finish. ST_MEMORY. */
status loader_add(struct loader *l, loader_fill *fill, void *payload, int unit, size_t from,
                  struct tensor dst);

/* Waits until all added ranges are filled. Work queued on the device after this sees the data. If
 * `fill` or an upload fails, returns the first error; the remaining chunks are not loaded. */
status loader_finish(struct loader *l);

#endif
