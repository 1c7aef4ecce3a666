/* loader.h - weights from their source to a GPU, at the speed of the link.
 *
 *     source -> [several threads: read, convert] -> pinned buffers -> [copy engine] -> GPU
 *
 * Pieces of a few MiB are read in the order in which they were added, each by whichever thread is
 * free. A thread has some buffers of its own, so that it reads while what it read before is on its
 * way. What is already queued on the device is not disturbed: uploads have a queue of their own.
 *
 * The loader belongs to its device: made when first asked for, closed with it. One thread adds and
 * finishes. */
#ifndef PARALLEL_LOADER_H
#define PARALLEL_LOADER_H

#include "runtime/device.h"

/* Where parameters come from: elements [first, first + count) of the named tensor, in row-major
 * order of the spec's dims, as dtype dt, into host memory. A loader calls `read` from several
 * threads at once. */
struct weight_source {
    status (*read)(void *payload, const char *name, int64_t first, int64_t count, enum dtype dt,
                   void *dst);
    void (*want)(void *payload, const char *name, int64_t first, int64_t count); // a hint, or NULL
    void *payload;
};

struct loader;

/* The device's loader. ST_MEMORY. */
status loader_of(struct device *dev, struct loader **l);

/* Host memory that a loader of so many threads takes, pinned. */
size_t loader_bytes(int threads);

/* Puts elements behind `first` of the source's tensor on their way to dst, which is contiguous and
 * will be written when the device has done what is queued now. Reading begins at once.
 * `source->payload` is borrowed until loader_finish. ST_MEMORY. */
status loader_add(struct loader *l, const struct weight_source *source, const char *name,
                  int64_t first, struct tensor dst);

/* Waits until everything added is read; what is queued on the device from now on finds it in place.
 * The first fault of a thread, after which the rest is not read. */
status loader_finish(struct loader *l);

#endif
