/* arena.h - a stack allocator for memory of one lifetime.
 *
 * One arena per lifetime: weights (as long as the model), step (scratch), and so on. Its size is
 * known before it is allocated, from a run on the plan device, where an arena is unbounded and only
 * counts. Under AddressSanitizer the gaps between tensors and all released memory are poisoned. */
#ifndef RUNTIME_ARENA_H
#define RUNTIME_ARENA_H

#include "runtime/device.h"

#ifdef __cplusplus
extern "C" {
#endif

struct arena {
    struct device *dev; // borrowed
    const char *name;   // for the error line when it is full
    char *base;
    size_t size, used, peak;
};

/* On the plan device `size` is ignored. ST_MEMORY. */
status arena_init(struct arena *a, struct device *dev, const char *name, size_t size);
void arena_done(struct arena *a); // accepts a zeroed arena

/* Allocates a contiguous tensor, aligned to 256 bytes, not cleared:
 *     TRY(arena_take(step, &x, DT_F32, s, c));
 * ST_MEMORY when the arena is full, which is an error of the plan that sized it. */
status arena_take_dims(struct arena *a, struct tensor *t, enum dtype dt, int ndim,
                       const int64_t *dim);
#define arena_take(a, t, dt, ...)                                                                  \
    arena_take_dims(a, t, dt, (int)(sizeof((int64_t[]){ __VA_ARGS__ }) / sizeof(int64_t)),         \
                    (int64_t[]){ __VA_ARGS__ })

/* Releases what was allocated since `used` was `mark`:
 *     size_t mark = step->used; ... arena_release(step, mark); */
void arena_release(struct arena *a, size_t mark);

#ifdef __cplusplus
}
#endif
#endif
