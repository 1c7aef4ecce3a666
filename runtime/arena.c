#include "runtime/arena.h"

#include <assert.h>
#include <stdint.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define POISON(a, from, bytes)                                                                     \
    do {                                                                                           \
        if ((a)->dev->kind == DEVICE_CPU)                                                          \
            ASAN_POISON_MEMORY_REGION((a)->base + (from), bytes);                                  \
    } while (0)
#define UNPOISON(a, from, bytes)                                                                   \
    do {                                                                                           \
        if ((a)->dev->kind == DEVICE_CPU)                                                          \
            ASAN_UNPOISON_MEMORY_REGION((a)->base + (from), bytes);                                \
    } while (0)
#define GAP ((size_t)256) // between two tensors, so that an overrun of one does not reach the next
#else
#define POISON(a, from, bytes) ((void)0)
#define UNPOISON(a, from, bytes) ((void)0)
#define GAP ((size_t)0)
#endif

#define ALIGN ((size_t)256)

status arena_init(struct arena *a, struct device *dev, const char *name, size_t size)
{
    *a = (struct arena){ .dev = dev, .name = name, .size = size };
    if (dev->kind == DEVICE_PLAN)
        a->size = SIZE_MAX;
    else if (size == 0)
        return ST_OK;
    TRY(device_alloc(dev, (void **)&a->base, dev->kind == DEVICE_PLAN ? 0 : size));
    POISON(a, 0, size);
    return ST_OK;
}

void arena_done(struct arena *a)
{
    if (a->base != NULL) {
        UNPOISON(a, 0, a->size);
        device_free(a->dev, a->base, a->dev->kind == DEVICE_PLAN ? 0 : a->size);
    }
    *a = (struct arena){ 0 };
}

status arena_take_dims(struct arena *a, struct tensor *t, enum dtype dt, int ndim,
                       const int64_t *dim)
{
    struct tensor got = tensor_dims(NULL, dt, ndim, dim);
    const size_t bytes = tensor_bytes(got);
    const size_t whole = (bytes + ALIGN - 1) / ALIGN * ALIGN + GAP;

    if (whole > a->size - a->used)
        return fail(ST_MEMORY, "arena %s: %s does not fit: %.1f of %.1f MiB are free", a->name,
                    tensor_text(got), (double)(a->size - a->used) / (1 << 20),
                    (double)a->size / (1 << 20));
    got.data = a->base + a->used;
    UNPOISON(a, a->used, bytes);
    a->used += whole;
    if (a->used > a->peak)
        a->peak = a->used;
    *t = got;
    return ST_OK;
}

void arena_release(struct arena *a, size_t mark)
{
    assert(mark <= a->used);
    POISON(a, mark, a->used - mark);
    a->used = mark;
}
