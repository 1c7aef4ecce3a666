#include "parallel/weights_internal.h"

#include "parallel/split.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALIGN ((size_t)256)                 // of tensors, and of the ends of slices
#define NAME_BYTES (WEIGHT_NAME_BYTES + 16) // with a unit's number

static size_t spec_bytes(const struct weight_spec *spec)
{
    return tensor_bytes(tensor_dims(NULL, spec->dtype, spec->ndim, spec->dim));
}

static size_t align_up(size_t bytes)
{
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

/* Bytes of a unit, a multiple of 256. Writes the tensors' byte offsets to offset[count] if not
 * NULL. */
static size_t unit_layout(const struct weight_spec *specs, int count, size_t *offset)
{
    size_t at = 0;

    for (int i = 0; i < count; i++) {
        if (!specs[i].joined)
            at = align_up(at);
        assert(at % dtype_size(specs[i].dtype) == 0); // joined after a narrower dtype
        if (offset != NULL)
            offset[i] = at;
        at += spec_bytes(&specs[i]);
    }
    return align_up(at);
}

/* Where the slice of rank `rank` begins; rank = ranks gives the end of the unit. */
static size_t slice_at(size_t unit_bytes, int ranks, int rank)
{
    return (size_t)split_at((int64_t)(unit_bytes / ALIGN), ranks, rank) * ALIGN;
}

size_t weights_bytes(enum weights_mode mode, int ranks, int rank, int units,
                     const struct weight_spec *specs, int count)
{
    const size_t unit = unit_layout(specs, count, NULL);

    if (mode == WEIGHTS_RESIDENT)
        return (size_t)units * unit;
    if (mode == WEIGHTS_STREAMED)
        return 2 * unit;
    return 2 * unit +
           (size_t)units * (slice_at(unit, ranks, rank + 1) - slice_at(unit, ranks, rank));
}

/* The elements [first, first + count) of the tensor at byte `begin` of a unit that are in bytes
 * [from, to) of the unit. from and to are multiples of 256, so no element is cut; `begin` is a
 * multiple of the element size too. */
static void elements_between(const struct weight_spec *spec, size_t begin, size_t from, size_t to,
                             int64_t *first, int64_t *count)
{
    const size_t size = dtype_size(spec->dtype), end = begin + spec_bytes(spec);
    const size_t a = from > begin ? from : begin, b = to < end ? to : end;

    *first = (int64_t)((a - begin) / size);
    *count = b > a ? (int64_t)((b - a) / size) : 0;
}

status weights_ranges(int ranks, int rank, int units, const struct weight_spec *specs, int count,
                      weight_range *each, void *payload)
{
    size_t *offset = calloc((size_t)count + 1, sizeof(*offset));
    status st = ST_OK;

    if (offset == NULL)
        return fail(ST_MEMORY, "no host memory for %d weights", count);

    const size_t unit_bytes = unit_layout(specs, count, offset);
    const size_t from = slice_at(unit_bytes, ranks, rank);
    const size_t to = slice_at(unit_bytes, ranks, rank + 1);

    for (int u = 0; u < units && st == ST_OK; u++) {
        for (int i = 0; i < count && st == ST_OK; i++) {
            char name[NAME_BYTES];
            int64_t first, n;

            elements_between(&specs[i], offset[i], from, to, &first, &n);
            weight_name(name, sizeof(name), specs[i].name, u);
            if (n > 0)
                st = each(payload, &specs[i], name, first, n);
        }
    }
    free(offset);
    return st;
}

void weight_name(char *name, size_t size, const char *pattern, int unit)
{
    const char *number = strstr(pattern, "%d");
    int n;

    if (number == NULL)
        n = snprintf(name, size, "%s", pattern);
    else
        n = snprintf(name, size, "%.*s%d%s", (int)(number - pattern), pattern, unit, number + 2);
    assert(n > 0 && n < (int)size);
    (void)n;
}

/* Reads bytes [from, to) of a unit into host memory. Padding between tensors is not written. */
static status read_bytes(void *payload, int unit, size_t from, size_t to, void *dst)
{
    const struct weights *w = payload;

    for (int i = 0; i < w->count; i++) {
        const struct weight_spec *spec = &w->specs[i];
        char name[NAME_BYTES], *at = dst;
        int64_t first, count;

        elements_between(spec, w->offset[i], from, to, &first, &count);
        if (count == 0)
            continue;
        weight_name(name, sizeof(name), spec->name, unit);
        at += w->offset[i] + (size_t)first * dtype_size(spec->dtype) - from;
        TRY(w->source.read(w->source.payload, spec, name, first, count, at));
    }
    return ST_OK;
}

/* Whether the source loads tensors by itself. */
static bool source_loads(const struct weights *w)
{
    return w->loader != NULL && w->source.load != NULL && w->mode != WEIGHTS_STREAMED;
}

/* Loads bytes [from, from + tensor_bytes(dst)) of a unit with a source that loads some of the
 * tensors by itself: those whose bytes begin and end at multiples of ALIGN. The loader reads the
 * rest. */
static status load_unit(struct weights *w, int unit, size_t from, struct tensor dst)
{
    const size_t end = from + tensor_bytes(dst);
    size_t rest = from; // bytes from here on are not being loaded yet

    for (int i = 0; i < w->count; i++) {
        const struct weight_spec *spec = &w->specs[i];
        const size_t size = dtype_size(spec->dtype);
        size_t begin, after;
        char name[NAME_BYTES];
        int64_t first, count;
        bool loads = false;

        elements_between(spec, w->offset[i], from, end, &first, &count);
        begin = w->offset[i] + (size_t)first * size;
        after = begin + (size_t)count * size;
        if (count == 0 || begin % ALIGN != 0 || after % ALIGN != 0)
            continue;
        weight_name(name, sizeof(name), spec->name, unit);
        TRY(w->source.load(w->source.payload, w->loader, w->dev, spec, name, first, count,
                           tensor_of((char *)dst.data + (begin - from), spec->dtype, count),
                           &loads));
        if (!loads)
            continue;
        if (begin > rest)
            TRY(loader_add(w->loader, read_bytes, w, unit, rest,
                           tensor_slice(dst, 0, (int64_t)(rest - from), (int64_t)(begin - rest))));
        rest = after;
    }
    if (end == rest)
        return ST_OK;
    return loader_add(w->loader, read_bytes, w, unit, rest,
                      tensor_slice(dst, 0, (int64_t)(rest - from), (int64_t)(end - rest)));
}

status weights_read(struct weights *w, int unit, size_t from, struct tensor dst)
{
    const size_t bytes = tensor_bytes(dst);

    if (w->dev->kind == DEVICE_PLAN) // it has no memory to read into
        return ST_OK;
    if (source_loads(w))
        return load_unit(w, unit, from, dst);
    if (w->loader != NULL)
        return loader_add(w->loader, read_bytes, w, unit, from, dst);
    for (size_t done = 0; done < bytes; done += WEIGHTS_STAGING_BYTES) {
        const size_t now =
            bytes - done < WEIGHTS_STAGING_BYTES ? bytes - done : WEIGHTS_STAGING_BYTES;

        TRY(read_bytes(w, unit, from + done, from + done + now, w->staging));
        TRY(device_upload(w->dev, tensor_slice(dst, 0, (int64_t)done, (int64_t)now), w->staging));
    }
    return ST_OK;
}

/* After this, work queued on the device finds what read_unit read in device memory. */
status weights_wait_loader(struct weights *w)
{
    return w->loader != NULL ? loader_finish(w->loader) : ST_OK;
}

status weights_flush(struct weights *w)
{
    if (!source_loads(w) || w->dev->kind == DEVICE_PLAN)
        return ST_OK;
    TRY(w->source.flush(w->source.payload));
    return weights_wait_loader(w);
}

static void prefetch_unit(struct weights *w, int unit)
{
    for (int i = 0; i < w->count && w->source.prefetch != NULL; i++) {
        const struct weight_spec *spec = &w->specs[i];
        char name[NAME_BYTES];

        weight_name(name, sizeof(name), spec->name, unit);
        w->source.prefetch(w->source.payload, name, 0,
                           tensor_count(tensor_dims(NULL, spec->dtype, spec->ndim, spec->dim)));
    }
}

bool weights_stays(const struct weights *w, int unit)
{
    return weights_stay_before(w, unit + 1) > weights_stay_before(w, unit);
}

int weights_stay_before(const struct weights *w, int unit)
{
    return (int)((int64_t)unit * w->resident / w->units);
}

int weights_next_away(const struct weights *w, int unit)
{
    while (unit < w->units && weights_stays(w, unit))
        unit++;
    return unit < w->units ? unit : -1;
}

/* The tensors of a unit that is stored in `unit`. */
static void set_tensors(const struct weights *w, struct tensor *out, struct tensor unit)
{
    for (int i = 0; i < w->count; i++) {
        const struct weight_spec *spec = &w->specs[i];
        out[i] = tensor_dims((char *)unit.data + w->offset[i], spec->dtype, spec->ndim, spec->dim);
    }
}

static status alloc_tables(struct weights *w, const struct weight_spec *specs)
{
    const size_t stored = w->mode == WEIGHTS_RESIDENT ? (size_t)w->units : 3;
    const size_t ranks = w->group != NULL ? (size_t)w->group->size : 1;

    w->specs = calloc((size_t)w->count, sizeof(*w->specs));
    w->tensors = calloc(stored * (size_t)w->count, sizeof(*w->tensors));
    w->offset = calloc((size_t)w->count, sizeof(*w->offset));
    w->shard_offset = calloc(ranks + 1, sizeof(*w->shard_offset));
    if (w->specs == NULL || w->tensors == NULL || w->offset == NULL || w->shard_offset == NULL)
        return fail(ST_MEMORY, "no host memory for %zu units of %d weights", stored, w->count);
    memcpy(w->specs, specs, (size_t)w->count * sizeof(*specs)); // the caller may free its own
    if (w->dev->kind == DEVICE_CUDA || w->dev->loader != NULL)  // a test may give one to a CPU
        return loader_get(w->dev, &w->loader);
    w->staging = malloc(WEIGHTS_STAGING_BYTES);
    if (w->staging == NULL)
        return fail(ST_MEMORY, "no host memory for a staging buffer of weights");
    return ST_OK;
}

/* The slice of a unit's memory that this rank reads. */
struct tensor weights_slice(const struct weights *w, struct tensor unit)
{
    const size_t from = w->shard_offset[w->group->rank], to = w->shard_offset[w->group->rank + 1];

    return tensor_slice(unit, 0, (int64_t)from, (int64_t)(to - from));
}

/* Reads the unit that stays at `kept`, or this rank's slice of it. */
static status read_staying(struct weights *w, int unit, struct tensor kept)
{
    if (w->group == NULL)
        return weights_read(w, unit, 0, kept);
    return weights_read(w, unit, w->shard_offset[w->group->rank],
                        w->sharded ? kept : weights_slice(w, kept));
}

/* With a group, weights_all_gather waits for the loader. */
static status open_resident(struct weights *w, struct arena *a)
{
    w->loaded_before = w->loader != NULL ? loader_added(w->loader) : 0;
    TRY(arena_take(a, &w->kept, DT_U8, w->units, (int64_t)w->unit_bytes));
    for (int u = 0; u < w->units; u++) {
        set_tensors(w, &w->tensors[u * w->count], tensor_at(w->kept, u));
        TRY(read_staying(w, u, tensor_at(w->kept, u)));
    }
    return w->group != NULL || w->source.in_memory ? ST_OK : weights_wait_loader(w);
}

status weights_all_gather(struct weights *w)
{
    const int staying = w->mode == WEIGHTS_RESIDENT ? w->units : w->resident;

    if (w->group == NULL || w->sharded)
        return ST_OK;
    for (int u = 0; u < staying; u++) {
        struct tensor unit = tensor_at(w->kept, u);
        struct transfer t = { 0 };

        if (w->loader != NULL && w->mode == WEIGHTS_RESIDENT)
            TRY(loader_wait(w->loader, w->loaded_before + u + 1));
        TRY(group_all_gather(w->group, &t, unit.data, w->shard_offset,
                             weights_slice(w, unit).data));
        TRY(transfer_wait(&t));
    }
    return ST_OK;
}

status weights_open_staying(struct weights *w, struct arena *a)
{
    if (w->resident > 0)
        TRY(arena_take(a, &w->kept, DT_U8, w->resident, (int64_t)w->kept_bytes));
    for (int u = 0; u < w->units; u++)
        if (weights_stays(w, u))
            TRY(read_staying(w, u, tensor_at(w->kept, weights_stay_before(w, u))));
    TRY(weights_flush(w));
    return weights_wait_loader(w);
}

status weights_open_buffers(struct weights *w, struct arena *a)
{
    for (int b = 0; b < 2; b++) {
        TRY(arena_take(a, &w->buffer[b], DT_U8, (int64_t)w->unit_bytes));
        set_tensors(w, &w->tensors[b * w->count], w->buffer[b]);
    }
    return ST_OK;
}

static status open_sharded(struct weights *w, struct arena *a)
{
    const size_t from = w->shard_offset[w->group->rank];

    TRY(weights_open_buffers(w, a));
    TRY(arena_take(a, &w->kept, DT_U8, w->units, (int64_t)w->kept_bytes));
    for (int u = 0; u < w->units; u++)
        TRY(weights_read(w, u, from, tensor_at(w->kept, u)));
    return weights_wait_loader(w);
}

status weights_open(struct weights *w, struct arena *a, enum weights_mode mode, struct group *g,
                    int units, const struct weight_spec *specs, int count,
                    struct weight_source source)
{
    return weights_open_store(w, a, (struct weights_store){ .mode = mode }, g, units, specs, count,
                              source);
}

static status open_stored(struct weights *w, struct arena *a, struct host_memory *host)
{
    switch (w->mode) {
    case WEIGHTS_RESIDENT:
        return open_resident(w, a);
    case WEIGHTS_SHARDED:
        return open_sharded(w, a);
    case WEIGHTS_STREAMED:
        if (w->resident < w->units)
            TRY(weights_open_buffers(w, a));
        return weights_open_staying(w, a);
    case WEIGHTS_HOST:
        return weights_host_open(w, a, host);
    }
    return ST_OK;
}

status weights_open_store(struct weights *w, struct arena *a, struct weights_store store,
                          struct group *g, int units, const struct weight_spec *specs, int count,
                          struct weight_source source)
{
    const enum weights_mode mode = store.mode;
    const bool sharded = mode == WEIGHTS_SHARDED || (mode == WEIGHTS_HOST && store.sharded);
    status st;

    assert((mode != WEIGHTS_STREAMED || g == NULL) && (!sharded || g != NULL));
    assert(store.resident >= 0 && store.resident <= units);
    *w = (struct weights){
        .mode = mode,
        .sharded = sharded,
        .resident = store.resident,
        .units = units,
        .count = count,
        .dev = a->dev,
        .group = g != NULL && (sharded || g->size > 1) ? g : NULL,
        .buffer_unit = { -1, -1 },
        .source = source,
    };
    TRY_OUT(alloc_tables(w, specs));
    w->kept_bytes = w->unit_bytes = unit_layout(specs, count, w->offset);
    for (int i = 0; g != NULL && i <= g->size; i++)
        w->shard_offset[i] = slice_at(w->unit_bytes, g->size, i);
    if (sharded)
        w->kept_bytes = w->shard_offset[g->rank + 1] - w->shard_offset[g->rank];
    TRY_OUT(open_stored(w, a, store.host));
    TRY_OUT(weights_flush(w)); // the ranges are not one for each unit
    if (mode != WEIGHTS_STREAMED) {
        free(w->staging);
        w->staging = NULL;
    }
out:
    if (st != ST_OK)
        weights_close(w);
    return st;
}

void weights_close(struct weights *w)
{
    if (w->loader != NULL)
        loader_finish(w->loader); // the caller may close the source after this
    transfer_wait(&w->gather[0]);
    transfer_wait(&w->gather[1]);
    weights_host_close(w);
    free(w->specs);
    free(w->tensors);
    free(w->offset);
    free(w->shard_offset);
    free(w->staging);
    *w = (struct weights){ 0 };
}

/* ---- use ---- */

/* Starts to all-gather a unit from this rank's slice of it. */
static status start_gather(struct weights *w, int b, int unit)
{
    char *slice = (char *)w->kept.data + (size_t)unit * w->kept_bytes;

    if (w->mode == WEIGHTS_HOST)
        TRY(weights_host_slice(w, unit, &slice));
    return group_all_gather(w->group, &w->gather[b], w->buffer[b].data, w->shard_offset, slice);
}

/* Starts to gather or read a unit into buffer b, after waiting for a transfer into that buffer. */
static status start_fetch(struct weights *w, int b, int unit)
{
    TRY(transfer_wait(&w->gather[b]));
    w->buffer_unit[b] = -1;
    if (w->mode == WEIGHTS_STREAMED) {
        TRY(weights_wait_loader(w)); // it may still be reading a unit into this buffer that is not
                                     // used now
        TRY(weights_read(w, unit, 0, w->buffer[b]));
        w->dev->streamed += (double)w->unit_bytes;
    } else {
        TRY(start_gather(w, b, unit));
    }
    w->buffer_unit[b] = unit;
    return ST_OK;
}

/* The buffer that holds the unit. If none does: the buffer that was not used last, or, if that
 * already holds `next`, the other one. */
static int choose_buffer(const struct weights *w, int unit, int next)
{
    const int older = 1 - w->last_buffer;

    for (int b = 0; b < 2; b++)
        if (w->buffer_unit[b] == unit)
            return b;
    return next >= 0 && w->buffer_unit[older] == next ? w->last_buffer : older;
}

/* Tensors that are joined have their outer axes in common: one tensor of all their rows. */
static void fill_slots(const struct weights *w, const struct tensor *t, void *unit_struct)
{
    for (int i = 0; i < w->count; i++) {
        struct tensor *slot = (struct tensor *)((char *)unit_struct + w->specs[i].slot);

        assert(w->specs[i].slot != SIZE_MAX); // a tensor that is not loaded
        if (w->specs[i].joined && i > 0 && w->specs[i].slot == w->specs[i - 1].slot)
            slot->dim[0] += t[i].dim[0];
        else
            *slot = t[i];
    }
}

/* A unit of a streamed or host stack that stays on the device. */
static void fill_staying(struct weights *w, int unit, void *unit_struct)
{
    struct tensor *t = &w->tensors[2 * w->count];

    set_tensors(w, t, tensor_at(w->kept, weights_stay_before(w, unit)));
    fill_slots(w, t, unit_struct);
}

status weights_start_next(struct weights *w, int next)
{
    const int b = w->last_buffer;

    if (w->mode == WEIGHTS_RESIDENT || next < 0)
        return ST_OK;
    if (w->mode == WEIGHTS_HOST && !w->sharded)
        return weights_host_start_next(w, next);
    if (w->mode == WEIGHTS_STREAMED)
        next = weights_next_away(w, next);
    if (next < 0 || w->buffer_unit[b] == next || w->buffer_unit[1 - b] == next)
        return ST_OK;
    if (w->mode == WEIGHTS_STREAMED && w->loader == NULL) {
        prefetch_unit(w, next);
        return ST_OK;
    }
    TRY(start_fetch(w, 1 - b, next));
    return w->mode == WEIGHTS_HOST ? weights_host_start_next(w, (next + 1) % w->units) : ST_OK;
}

/* A unit that is gathered or read into one of the buffers. */
static status acquire_fetched(struct weights *w, int unit, int next, void *unit_struct)
{
    const int b = choose_buffer(w, unit, next);

    w->last_buffer = b;
    if (w->buffer_unit[b] != unit)
        TRY(start_fetch(w, b, unit));
    TRY(transfer_wait(&w->gather[b]));
    TRY(weights_wait_loader(w));
    if (w->mode == WEIGHTS_HOST)
        TRY(weights_host_gathered(w, unit));
    fill_slots(w, &w->tensors[b * w->count], unit_struct);
    return ST_OK;
}

status weights_acquire(struct weights *w, int unit, int next, void *unit_struct)
{
    int b;

    assert(unit >= 0 && unit < w->units && next >= -1 && next < w->units);
    if (w->mode == WEIGHTS_RESIDENT) {
        if (w->source.in_memory && w->loader != NULL && w->group == NULL && unit >= w->ready) {
            TRY(loader_wait(w->loader, w->loaded_before + unit + 1));
            w->ready = unit + 1;
        }
        fill_slots(w, &w->tensors[unit * w->count], unit_struct);
        return ST_OK;
    }
    if (w->sharded || (w->mode == WEIGHTS_STREAMED && !weights_stays(w, unit))) {
        TRY(acquire_fetched(w, unit, next, unit_struct));
    } else if (w->mode == WEIGHTS_STREAMED) {
        fill_staying(w, unit, unit_struct);
    } else {
        TRY(weights_host_acquire(w, unit, &b));
        if (b < 0)
            fill_staying(w, unit, unit_struct);
        else
            fill_slots(w, &w->tensors[b * w->count], unit_struct);
    }
    return weights_start_next(w, next);
}
