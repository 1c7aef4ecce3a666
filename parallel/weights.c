#include "parallel/weights_internal.h"

#include "parallel/split.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALIGN WEIGHTS_ALIGN
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
size_t weights_unit_layout(const struct weight_spec *specs, int count, size_t *offset)
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
    const size_t unit = weights_unit_layout(specs, count, NULL);

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

/* ---- layouts ---- */

static void layouts_free(struct weight_layout *l, int count)
{
    for (int i = 0; l != NULL && i < count; i++) {
        free(l[i].offset);
        free(l[i].shard);
        free(l[i].form);
    }
    free(l);
}

static status layout_init(struct weight_layout *l, int ranks, int count)
{
    *l = (struct weight_layout){ .offset = calloc((size_t)count + 1, sizeof(*l->offset)),
                                 .shard = calloc((size_t)ranks + 1, sizeof(*l->shard)),
                                 .form = calloc((size_t)count + 1, sizeof(*l->form)) };
    return l->offset != NULL && l->shard != NULL && l->form != NULL
               ? ST_OK
               : fail(ST_MEMORY, "no host memory for %d weights", count);
}

/* The layouts of the units on a rank that keeps one slice, or with `ranks` 1 all: of each unit, if
 * a tensor of any is kept in the form of its file; else *layout_count is 1. */
static status layouts_open(struct weight_layout **layouts, int *layout_count, int ranks, int rank,
                           int units, const struct weight_spec *specs, int count,
                           const struct weight_source *as_stored)
{
    const bool forms = as_stored != NULL && as_stored->form != NULL;
    struct weight_layout *l = calloc((size_t)units + 1, sizeof(*l));
    bool some = false;
    status st = ST_OK;

    if (l == NULL)
        return fail(ST_MEMORY, "no host memory for %d units of weights", units);
    for (int u = 0; u < (forms ? units : 1) && st == ST_OK; u++) {
        st = layout_init(&l[u], ranks, count);
        if (st == ST_OK && forms)
            weights_forms(as_stored, u, specs, count, l[u].form, &some);
    }
    *layout_count = some ? units : 1;
    for (int u = 0; u < units && st == ST_OK; u++) {
        if (!some) {
            free(l[u].form);
            l[u].form = NULL;
        }
        if (u >= *layout_count)
            continue;
        l[u].bytes = some ? weights_stored_layout(specs, count, l[u].form, l[u].offset)
                          : weights_unit_layout(specs, count, l[u].offset);
        for (int i = 0; i <= ranks; i++)
            l[u].shard[i] = slice_at(l[u].bytes, ranks, i);
        l[u].kept = l[u].shard[rank + 1] - l[u].shard[rank];
    }
    if (st == ST_OK)
        *layouts = l;
    else
        layouts_free(l, units);
    return st;
}

const struct weight_layout *weights_layout(const struct weights *w, int unit)
{
    return &w->layouts[w->stored != NULL ? unit : 0];
}

/* Whether tensor i of a unit is kept in the form of its file. */
static bool is_stored(const struct weight_layout *l, int i)
{
    return l->form != NULL && l->form[i].stored.count > 0;
}

/* The elements of tensor i that are in bytes [from, to) of its unit; or the bytes of its form. */
static void range_between(const struct weight_layout *l, const struct weight_spec *spec, int i,
                          size_t from, size_t to, int64_t *first, int64_t *count)
{
    if (is_stored(l, i)) {
        const size_t begin = l->offset[i], end = begin + weight_form_bytes(&l->form[i]);
        const size_t a = from > begin ? from : begin, b = to < end ? to : end;

        *first = (int64_t)(a - begin);
        *count = b > a ? (int64_t)(b - a) : 0;
    } else {
        elements_between(spec, l->offset[i], from, to, first, count);
    }
}

status weights_ranges(int ranks, int rank, int units, const struct weight_spec *specs, int count,
                      const struct weight_source *as_stored, weight_range *each, void *payload)
{
    struct weight_layout *layouts = NULL;
    int layout_count = 0;
    status st;

    TRY(layouts_open(&layouts, &layout_count, ranks, rank, units, specs, count, as_stored));
    for (int u = 0; u < units; u++) {
        const struct weight_layout *l = &layouts[u < layout_count ? u : 0];

        for (int i = 0; i < count; i++) {
            char name[NAME_BYTES];
            int64_t first, n;

            range_between(l, &specs[i], i, l->shard[rank], l->shard[rank + 1], &first, &n);
            weight_name(name, sizeof(name), &specs[i], u);
            if (n > 0)
                TRY_OUT(
                    each(payload, &specs[i], name, first, n, is_stored(l, i) ? &l->form[i] : NULL));
        }
    }
    st = ST_OK;
out:
    layouts_free(layouts, units);
    return st;
}

void weight_name(char *name, size_t size, const struct weight_spec *spec, int unit)
{
    const char *pattern = spec->name, *place = strstr(pattern, "%d");
    const int number = spec->number + unit + (unit >= spec->gap_at ? spec->gap : 0);
    int n;

    if (place == NULL)
        n = snprintf(name, size, "%s", pattern);
    else
        n = snprintf(name, size, "%.*s%d%s", (int)(place - pattern), pattern, number, place + 2);
    assert(n > 0 && n < (int)size);
    (void)n;
}

/* Reads bytes [from, to) of a unit into host memory. Padding between tensors is not written. */
static status read_bytes(void *payload, int unit, size_t from, size_t to, void *dst)
{
    const struct weights *w = payload;
    const struct weight_layout *l = weights_layout(w, unit);

    for (int i = 0; i < w->count; i++) {
        const struct weight_spec *spec = &w->specs[i];
        const size_t size = is_stored(l, i) ? 1 : dtype_size(spec->dtype);
        char name[NAME_BYTES], *at = dst;
        int64_t first, count;

        range_between(l, spec, i, from, to, &first, &count);
        if (count == 0)
            continue;
        weight_name(name, sizeof(name), spec, unit);
        at += l->offset[i] + (size_t)first * size - from;
        if (is_stored(l, i))
            TRY(w->source.read_form(w->source.payload, spec, name, (size_t)first, (size_t)count,
                                    at));
        else
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
    const struct weight_layout *l = weights_layout(w, unit);
    const size_t end = from + tensor_bytes(dst);
    size_t rest = from; // bytes from here on are not being loaded yet

    for (int i = 0; i < w->count; i++) {
        const struct weight_spec *spec = &w->specs[i];
        const size_t size = dtype_size(spec->dtype);
        size_t begin, after;
        char name[NAME_BYTES];
        int64_t first, count;
        bool loads = false;

        elements_between(spec, l->offset[i], from, end, &first, &count);
        begin = l->offset[i] + (size_t)first * size;
        after = begin + (size_t)count * size;
        if (is_stored(l, i) || count == 0 || begin % ALIGN != 0 || after % ALIGN != 0)
            continue;
        weight_name(name, sizeof(name), spec, unit);
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

        weight_name(name, sizeof(name), spec, unit);
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

/* The tensors of a unit whose bytes are in `memory`; those that are expanded, not yet. */
static void set_tensors(const struct weights *w, int unit, struct tensor memory)
{
    const size_t *offset = weights_layout(w, unit)->offset;

    for (int i = 0; i < w->count; i++) {
        const struct weight_spec *spec = &w->specs[i];
        w->tensors[i] =
            tensor_dims((char *)memory.data + offset[i], spec->dtype, spec->ndim, spec->dim);
    }
}

static status alloc_tables(struct weights *w, const struct weight_spec *specs)
{
    w->specs = calloc((size_t)w->count, sizeof(*w->specs));
    w->tensors = calloc((size_t)w->count, sizeof(*w->tensors));
    w->place = calloc((size_t)w->units, sizeof(*w->place));
    if (w->specs == NULL || w->tensors == NULL || w->place == NULL)
        return fail(ST_MEMORY, "no host memory for %d units of %d weights", w->units, w->count);
    memcpy(w->specs, specs, (size_t)w->count * sizeof(*specs)); // the caller may free its own
    if (w->dev->kind == DEVICE_CUDA || w->dev->loader != NULL)  // a test may give one to a CPU
        return loader_get(w->dev, &w->loader);
    w->staging = malloc(WEIGHTS_STAGING_BYTES);
    if (w->staging == NULL)
        return fail(ST_MEMORY, "no host memory for a staging buffer of weights");
    return ST_OK;
}

/* Sizes of the units, and where they are. */
static status lay_out(struct weights *w, const struct group *g, bool as_stored)
{
    int count = 0;

    TRY(layouts_open(&w->layouts, &count, g != NULL ? g->size : 1, g != NULL ? g->rank : 0,
                     w->units, w->specs, w->count, as_stored ? &w->source : NULL));
    if (count > 1 || w->layouts[0].form != NULL) {
        w->stored = calloc(1, sizeof(*w->stored));
        if (w->stored == NULL)
            return fail(ST_MEMORY, "no host memory for a stack of %d units", w->units);
    }
    for (int u = 0; u < w->units; u++) {
        struct weight_layout *l = &w->layouts[u < count ? u : 0];
        const bool stays =
            w->mode == WEIGHTS_RESIDENT || w->mode == WEIGHTS_SHARDED || weights_stays(w, u);
        size_t *total = stays ? &w->kept_total : &w->away_total;

        if (!w->sharded)
            l->kept = l->bytes;
        w->place[u] = *total;
        *total += l->kept;
        w->unit_bytes = l->bytes > w->unit_bytes ? l->bytes : w->unit_bytes;
        w->kept_bytes = l->kept > w->kept_bytes ? l->kept : w->kept_bytes;
    }
    return ST_OK;
}

struct tensor weights_kept(const struct weights *w, int unit)
{
    return tensor_slice(w->kept, 0, (int64_t)w->place[unit],
                        (int64_t)weights_layout(w, unit)->kept);
}

/* The slice of a unit's memory that this rank reads. */
struct tensor weights_slice(const struct weights *w, int unit, struct tensor memory)
{
    const size_t *shard = weights_layout(w, unit)->shard + w->group->rank;

    return tensor_slice(memory, 0, (int64_t)shard[0], (int64_t)(shard[1] - shard[0]));
}

/* Reads the unit that stays at `kept`, or this rank's slice of it. */
static status read_staying(struct weights *w, int unit, struct tensor kept)
{
    if (w->group == NULL)
        return weights_read(w, unit, 0, kept);
    return weights_read(w, unit, weights_layout(w, unit)->shard[w->group->rank],
                        w->sharded ? kept : weights_slice(w, unit, kept));
}

/* With a group, weights_all_gather waits for the loader. */
static status open_resident(struct weights *w, struct arena *a)
{
    w->loaded_before = w->loader != NULL ? loader_added(w->loader) : 0;
    TRY(arena_take(a, &w->kept, DT_U8, (int64_t)w->kept_total));
    for (int u = 0; u < w->units; u++)
        TRY(read_staying(w, u, weights_kept(w, u)));
    return w->group != NULL || w->source.in_memory ? ST_OK : weights_wait_loader(w);
}

/* The unit before which u units stay on the device. */
static int nth_staying(const struct weights *w, int u)
{
    int unit = 0;

    while (!weights_stays(w, unit) || weights_stay_before(w, unit) < u)
        unit++;
    return unit;
}

status weights_all_gather(struct weights *w)
{
    const int staying = w->mode == WEIGHTS_RESIDENT ? w->units : w->resident;

    if (w->group == NULL || w->sharded)
        return ST_OK;
    for (int u = 0; u < staying; u++) {
        const int unit = staying == w->units ? u : nth_staying(w, u);
        const struct tensor memory = weights_kept(w, unit);
        struct transfer t = { 0 };

        if (w->loader != NULL && w->mode == WEIGHTS_RESIDENT)
            TRY(loader_wait(w->loader, w->loaded_before + u + 1));
        TRY(group_all_gather(w->group, &t, memory.data, weights_layout(w, unit)->shard,
                             weights_slice(w, unit, memory).data));
        TRY(transfer_wait(&t));
    }
    return ST_OK;
}

status weights_open_staying(struct weights *w, struct arena *a)
{
    if (w->resident > 0)
        TRY(arena_take(a, &w->kept, DT_U8, (int64_t)w->kept_total));
    for (int u = 0; u < w->units; u++)
        if (weights_stays(w, u))
            TRY(read_staying(w, u, weights_kept(w, u)));
    TRY(weights_flush(w));
    return weights_wait_loader(w);
}

status weights_open_buffers(struct weights *w, struct arena *a)
{
    for (int b = 0; b < 2; b++)
        TRY(arena_take(a, &w->buffer[b], DT_U8, (int64_t)w->unit_bytes));
    return ST_OK;
}

static status open_sharded(struct weights *w, struct arena *a)
{
    TRY(weights_open_buffers(w, a));
    TRY(arena_take(a, &w->kept, DT_U8, (int64_t)w->kept_total));
    for (int u = 0; u < w->units; u++)
        TRY(weights_read(w, u, weights_layout(w, u)->shard[w->group->rank], weights_kept(w, u)));
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
    TRY_OUT(lay_out(w, g, store.as_stored));
    TRY_OUT(weights_stored_open(w, a));
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
    weights_stored_close(w);
    layouts_free(w->layouts, w->units);
    free(w->specs);
    free(w->tensors);
    free(w->place);
    free(w->staging);
    *w = (struct weights){ 0 };
}

/* ---- use ---- */

/* Starts to all-gather a unit from this rank's slice of it. */
static status start_gather(struct weights *w, int b, int unit)
{
    char *slice = NULL;

    if (w->mode == WEIGHTS_HOST)
        TRY(weights_host_slice(w, unit, &slice));
    else
        slice = weights_kept(w, unit).data;
    return group_all_gather(w->group, &w->gather[b], w->buffer[b].data,
                            weights_layout(w, unit)->shard, slice);
}

/* The part of buffer b that a unit needs. */
static struct tensor weights_buffer(const struct weights *w, int b, int unit)
{
    return tensor_slice(w->buffer[b], 0, 0, (int64_t)weights_layout(w, unit)->bytes);
}

/* Starts to gather or read a unit into buffer b, after waiting for a transfer into that buffer. */
static status start_fetch(struct weights *w, int b, int unit)
{
    TRY(transfer_wait(&w->gather[b]));
    w->buffer_unit[b] = -1;
    if (w->mode == WEIGHTS_STREAMED) {
        TRY(weights_wait_loader(w)); // it may still be reading a unit into this buffer that is not
                                     // used now
        TRY(weights_read(w, unit, 0, weights_buffer(w, b, unit)));
        w->dev->streamed += (double)weights_layout(w, unit)->bytes;
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

/* Sets the slots to the tensors of a unit whose bytes are in `memory`. Tensors that are joined have
 * their outer axes in common: one tensor of all their rows. */
static status use_unit(struct weights *w, int unit, struct tensor memory, void *unit_struct)
{
    const struct tensor *t = w->tensors;

    set_tensors(w, unit, memory);
    TRY(weights_expand(w, unit, memory));
    for (int i = 0; i < w->count; i++) {
        struct tensor *slot = (struct tensor *)((char *)unit_struct + w->specs[i].slot);

        assert(w->specs[i].slot != SIZE_MAX); // a tensor that is not loaded
        if (w->specs[i].joined && i > 0 && w->specs[i].slot == w->specs[i - 1].slot)
            slot->dim[0] += t[i].dim[0];
        else
            *slot = t[i];
    }
    return ST_OK;
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
    return use_unit(w, unit, w->buffer[b], unit_struct);
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
        return use_unit(w, unit, weights_kept(w, unit), unit_struct);
    }
    if (w->sharded || (w->mode == WEIGHTS_STREAMED && !weights_stays(w, unit))) {
        TRY(acquire_fetched(w, unit, next, unit_struct));
    } else {
        b = -1;
        if (w->mode == WEIGHTS_HOST)
            TRY(weights_host_acquire(w, unit, &b));
        TRY(use_unit(w, unit, b < 0 ? weights_kept(w, unit) : w->buffer[b], unit_struct));
    }
    return weights_start_next(w, next);
}
