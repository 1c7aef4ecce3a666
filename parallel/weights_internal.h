/* weights_internal.h - what weights.c and weights_host.c share. */
#ifndef PARALLEL_WEIGHTS_INTERNAL_H
#define PARALLEL_WEIGHTS_INTERNAL_H

#include "parallel/weights.h"

/* ---- weights.c ---- */

/* Reads tensor_bytes(dst) bytes of a unit, from byte `from` on, into device memory dst. With a
 * loader this only starts the reading; weights_wait_loader waits for it. */
status weights_read(struct weights *w, int unit, size_t from, struct tensor dst);

/* After this, work queued on the device finds what weights_read read in device memory. */
status weights_wait_loader(struct weights *w);

/* With a source that loads tensors by itself: completes what weights_read has begun. */
status weights_flush(struct weights *w);

/* Whether a unit of a streamed or host stack stays on the device, and how many before it do. */
bool weights_stays(const struct weights *w, int unit);
int weights_stay_before(const struct weights *w, int unit);

/* The first unit from `unit` on that does not stay on the device; -1: none. */
int weights_next_away(const struct weights *w, int unit);

/* Allocates and reads the units that stay on the device; allocates the two buffers. */
status weights_open_staying(struct weights *w, struct arena *a);
status weights_open_buffers(struct weights *w, struct arena *a);

/* The slice of a unit's memory that this rank reads. */
struct tensor weights_slice(const struct weights *w, struct tensor unit);

/* ---- weights_host.c ---- */

status weights_host_open(struct weights *w, struct arena *a, struct host_memory *host);
void weights_host_close(struct weights *w); // waits for copies; does nothing for other stacks

/* Not sharded: *buffer is the buffer that holds the unit for work queued from now on; -1: it stays
 * on the device. */
status weights_host_acquire(struct weights *w, int unit, int *buffer);

/* Starts copies of the first units from `next` on that are in host memory, into buffers that no
 * unit in use is in. */
status weights_host_start_next(struct weights *w, int next);

/* Sharded: this rank's slice of the unit in device memory, for a gather that is started next. After
 * the gather, weights_host_gathered. */
status weights_host_slice(struct weights *w, int unit, char **slice);
status weights_host_gathered(struct weights *w, int unit);

#endif
