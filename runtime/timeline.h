/* timeline.h - points in the order of a device's work, and when they were passed: what a piece of
 * work took is the time between the marks round it. On a GPU a mark is an event in a stream; on the
 * host, where work is done when a call returns, it is a look at the clock. */
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

/* Room for `room` marks. ST_MEMORY, ST_DEVICE. */
status timeline_open(struct timeline *m, struct device *dev, int room);
void timeline_close(struct timeline *m); // accepts a zeroed value

/* A mark behind what is queued on the device; *index is its number, from 0 on. */
status timeline_put(struct timeline *m, int *index);

/* For exchanges that run beside the device's own stream: calls `wait`, which lets what is queued
 * later wait for one, with a stream of its own as the device's; *index is passed when the exchange
 * is done, and what is queued on the device later comes behind it. */
status timeline_put_aside(struct timeline *m, status (*wait)(void *payload), void *payload,
                          int *index);

/* Seconds from mark `from` to mark `to`; the work must be done (device_wait). */
status timeline_between(const struct timeline *m, int from, int to, double *seconds);

/* All marks may be used again. */
void timeline_reset(struct timeline *m);

/* Names what is queued from here to the end for a profiler that is attached (NVTX). */
void timeline_range_begin(const char *name);
void timeline_range_end(void);

#endif
