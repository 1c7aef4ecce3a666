/* timeline_internal.h - shared by timeline.c and the file for GPUs. */
#ifndef RUNTIME_TIMELINE_INTERNAL_H
#define RUNTIME_TIMELINE_INTERNAL_H

#include "runtime/timeline.h"

status timeline_cuda_open(struct timeline *m);
void timeline_cuda_close(struct timeline *m);
status timeline_cuda_record(struct timeline *m, int index);
status timeline_cuda_record_wait(struct timeline *m, status (*wait)(void *payload), void *payload,
                                 int index);
status timeline_cuda_between(const struct timeline *m, int from, int to, double *seconds);

#endif
