/* timeline.h - events in a device's queue of work, and the times between them. On a GPU they are
 * CUDA events in the stream; on the host, where work is done when a call returns, readings of the
 * clock.
 */
#ifndef RUNTIME_TIMELINE_H
#define RUNTIME_TIMELINE_H

#include "runtime/device.h"

struct timeline {
    struct device *dev; // borrowed
    int count, room;
    double *time;  // host: seconds
    void **events; // GPU: cudaEvent_t
    void *aside;   // GPU: a second stream
};

/* For at most `room` events. ST_MEMORY, ST_DEVICE. */
status timeline_open(struct timeline *m, struct device *dev, int room);
void timeline_close(struct timeline *m); // accepts a zeroed value

/* Records an event after what is queued on the device; *index is its number, from 0. */
status timeline_record(struct timeline *m, int *index);

/* For collectives that run on a stream of their own: calls `wait`, which makes the device's stream
 * wait for one, with a second stream in place of the device's, and records the event there, when
 * the collective is done. What is queued on the device later waits for the event. */
status timeline_record_wait(struct timeline *m, status (*wait)(void *payload), void *payload,
                            int *index);

/* Seconds from event `from` to event `to`; the work must be done (device_wait). */
status timeline_between(const struct timeline *m, int from, int to, double *seconds);

/* Forgets all events. */
void timeline_reset(struct timeline *m);

/* Names what is queued between the two calls, for a profiler (NVTX). */
void timeline_range_begin(const char *name);
void timeline_range_end(void);

#endif
