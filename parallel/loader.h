/* loader.h - bytes from wherever they are to a GPU, at the speed of the link.
 *
 *     fill -> [several threads: read, convert] -> pinned buffers -> [copy engine] -> GPU
 *
 * Runs are cut into pieces of a few MiB, filled in the order in which they were added, each by
 * whichever thread is free. A thread has two buffers of its own, so that it fills one while the
 * other is on its way. What is already queued on the device is not disturbed: uploads have a queue
 * of their own.
 *
 * The loader belongs to its device: made when first asked for, closed with it. One thread adds and
 * finishes. */
#ifndef PARALLEL_LOADER_H
#define PARALLEL_LOADER_H

#include "runtime/device.h"

#define LOADER_ALIGN 256 // pieces begin and end at multiples of it, counted from the run's `from`

/* Puts bytes [from, to) of unit `unit` into dst. Called by several threads at once. */
typedef status loader_fill(void *payload, int unit, size_t from, size_t to, void *dst);

struct loader;

/* The device's loader. ST_MEMORY. */
status loader_of(struct device *dev, struct loader **l);

/* Host memory that a loader of so many threads takes, pinned. */
size_t loader_bytes(int threads);

/* Puts bytes [from, from + those of dst) of a unit on their way to dst, a contiguous tensor of
 * bytes that will be written when the device has done what is queued now. Filling begins at once.
 * `payload` is borrowed until loader_finish. ST_MEMORY. */
status loader_add(struct loader *l, loader_fill *fill, void *payload, int unit, size_t from,
                  struct tensor dst);

/* Waits until everything added is filled; what is queued on the device from now on finds it in
 * place. The first fault of a thread, after which the rest is not filled. */
status loader_finish(struct loader *l);

#endif
