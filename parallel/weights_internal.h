/* weights_internal.h - what weights.c, weights_host.c and weights_stored.c share. */
#ifndef PARALLEL_WEIGHTS_INTERNAL_H
#define PARALLEL_WEIGHTS_INTERNAL_H

#include "parallel/weights.h"

#define WEIGHTS_ALIGN ((size_t)256) // of tensors, and of the ends of slices

/* The bytes of a unit. */
struct weight_layout {
    size_t bytes, kept;
    size_t *offset;           // [count] of the tensors
    size_t *shard;            // [group size + 1] of the ranks' slices
    struct weight_form *form; // [count] tensors in the form of their file: stored.count is not 0;
                              // NULL: none
};

/* ---- weights.c ---- */

const struct weight_layout *weights_layout(const struct weights *w, int unit);

/* The memory of a unit that stays on the device. */
struct tensor weights_kept(const struct weights *w, int unit);

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
struct tensor weights_slice(const struct weights *w, int unit, struct tensor memory);

/* Sets the tensors of a unit at `at`: byte offsets as in a unit without forms. */
size_t weights_unit_layout(const struct weight_spec *specs, int count, size_t *offset);

/* ---- weights_stored.c ---- */

struct weights_stored {
    struct tensor slot; // u8, in the layout of a unit without forms
    size_t *offset;     // [count] in the slot
    struct tensor wide; // [at most CHUNK] f32: a part of a matrix before its product is added
    int unit;           // in the slot; -1: none
};

/* The forms of a unit's tensors that are kept as stored; *some: there are any. */
void weights_forms(const struct weight_source *source, int unit, const struct weight_spec *specs,
                   int count, struct weight_form *form, bool *some);

/* Bytes of a unit in these forms; writes the tensors' byte offsets to offset[count]. */
size_t weights_stored_layout(const struct weight_spec *specs, int count,
                             const struct weight_form *form, size_t *offset);

/* Allocates the slot, if a unit has tensors to expand. */
status weights_stored_open(struct weights *w, struct arena *a);
void weights_stored_close(struct weights *w);

/* Queues the expansion of a unit whose bytes are in `memory`, and sets those of w->tensors. */
status weights_expand(struct weights *w, int unit, struct tensor memory);

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
