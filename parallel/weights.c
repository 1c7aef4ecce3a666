#include "parallel/weights.h"

#include "parallel/split.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALIGN ((size_t)256)             // of tensors, and of the slices' ends
#define STAGING_BYTES ((size_t)4 << 20) // host memory that parameters pass through
#define NAME_BYTES 256

static size_t spec_bytes(const struct weight_spec *spec)
{
    return tensor_bytes(tensor_dims(NULL, spec->dtype, spec->ndim, spec->dim));
}

static size_t align_up(size_t bytes)
{
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

/* Bytes of a unit, a multiple of 256; offset[count], when not NULL, gets where the tensors lie. */
static size_t unit_layout(const struct weight_spec *specs, int count, size_t *offset)
{
    size_t at = 0;

    for (int i = 0; i < count; i++) {
        if (!specs[i].joined)
            at = align_up(at);
        assert(at % dtype_size(specs[i].dtype) == 0); // joined behind a narrower dtype
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

/* "blocks.%d.norm.weight" of unit 7 -> "blocks.7.norm.weight" */
static void unit_name(char *name, const char *pattern, int unit)
{
    const char *mark = strstr(pattern, "%d");
    int n;

    if (mark == NULL)
        n = snprintf(name, NAME_BYTES, "%s", pattern);
    else
        n = snprintf(name, NAME_BYTES, "%.*s%d%s", (int)(mark - pattern), pattern, unit, mark + 2);
    assert(n < NAME_BYTES);
    (void)n;
}

/* What of tensor i lies in bytes [from, to) of the unit: elements [first, first + count). Both ends
 * are multiples of 256, and so of every element's size, as is the tensor's own place. */
static void elements_between(const struct weights *w, int i, size_t from, size_t to, int64_t *first,
                             int64_t *count)
{
    const size_t size = dtype_size(w->specs[i].dtype);
    const size_t begin = w->offset[i], end = begin + spec_bytes(&w->specs[i]);
    const size_t a = from > begin ? from : begin, b = to < end ? to : end;

    *first = (int64_t)((a - begin) / size);
    *count = b > a ? (int64_t)((b - a) / size) : 0;
}

/* Reads bytes [from, to) of a unit into host memory; what lies between the tensors is left as it
 * is. */
static status read_bytes(void *payload, int unit, size_t from, size_t to, void *dst)
{
    const struct weights *w = payload;

    for (int i = 0; i < w->count; i++) {
        const struct weight_spec *spec = &w->specs[i];
        char name[NAME_BYTES], *at = dst;
        int64_t first, count;

        elements_between(w, i, from, to, &first, &count);
        if (count == 0)
            continue;
        unit_name(name, spec->name, unit);
        at += w->offset[i] + (size_t)first * dtype_size(spec->dtype) - from;
        TRY(w->source.read(w->source.payload, name, first, count, spec->dtype, at));
    }
    return ST_OK;
}

/* Reads bytes from `from` on of a unit to `dst`, device memory for them. With a loader they are
 * only on their way until loader_finish. */
static status read_unit(struct weights *w, int unit, size_t from, struct tensor dst)
{
    const size_t bytes = tensor_bytes(dst);

    if (w->dev->kind == DEVICE_PLAN) // no memory to read into
        return ST_OK;
    if (w->loader != NULL)
        return loader_add(w->loader, read_bytes, w, unit, from, dst);
    for (size_t done = 0; done < bytes; done += STAGING_BYTES) {
        const size_t now = bytes - done < STAGING_BYTES ? bytes - done : STAGING_BYTES;

        TRY(read_bytes(w, unit, from + done, from + done + now, w->staging));
        TRY(device_upload(w->dev, tensor_slice(dst, 0, (int64_t)done, (int64_t)now), w->staging));
    }
    return ST_OK;
}

/* What was read is in its place for what the device does next. */
static status finish_reading(struct weights *w)
{
    return w->loader != NULL ? loader_finish(w->loader) : ST_OK;
}

static void want_unit(struct weights *w, int unit)
{
    for (int i = 0; i < w->count && w->source.want != NULL; i++) {
        const struct weight_spec *spec = &w->specs[i];
        char name[NAME_BYTES];

        unit_name(name, spec->name, unit);
        w->source.want(w->source.payload, name, 0,
                       tensor_count(tensor_dims(NULL, spec->dtype, spec->ndim, spec->dim)));
    }
}

/* The tensors of a unit whose first byte is `unit`. */
static void place_tensors(const struct weights *w, struct tensor *out, struct tensor unit)
{
    for (int i = 0; i < w->count; i++) {
        const struct weight_spec *spec = &w->specs[i];
        out[i] = tensor_dims((char *)unit.data + w->offset[i], spec->dtype, spec->ndim, spec->dim);
    }
}

/* Specs and names outlive the caller's. */
static status copy_specs(struct weights *w, const struct weight_spec *specs)
{
    size_t bytes = 1;
    char *name;

    for (int i = 0; i < w->count; i++)
        bytes += strlen(specs[i].name) + 1;
    w->specs = calloc((size_t)w->count, sizeof(*w->specs));
    w->names = name = malloc(bytes);
    if (w->specs == NULL || name == NULL)
        return fail(ST_MEMORY, "no host memory for the names of %d weights", w->count);
    for (int i = 0; i < w->count; i++) {
        w->specs[i] = specs[i];
        w->specs[i].name = strcpy(name, specs[i].name);
        name += strlen(name) + 1;
    }
    return ST_OK;
}

static status take_tables(struct weights *w)
{
    const size_t places = w->mode == WEIGHTS_RESIDENT ? (size_t)w->units : 2;
    const size_t ranks = w->group != NULL ? (size_t)w->group->size : 1;

    w->tensors = calloc(places * (size_t)w->count, sizeof(*w->tensors));
    w->offset = calloc((size_t)w->count, sizeof(*w->offset));
    w->shard = calloc(ranks + 1, sizeof(*w->shard));
    if (w->tensors == NULL || w->offset == NULL || w->shard == NULL)
        return fail(ST_MEMORY, "no host memory for %zu units of %d weights", places, w->count);
    if (w->dev->kind == DEVICE_CUDA)
        return loader_of(w->dev, &w->loader);
    w->staging = malloc(STAGING_BYTES);
    if (w->staging == NULL)
        return fail(ST_MEMORY, "no host memory for weights to pass through");
    return ST_OK;
}

/* A unit's slice that this rank reads, in the unit's memory. */
static struct tensor own_slice(const struct weights *w, struct tensor unit)
{
    const size_t from = w->shard[w->group->rank], to = w->shard[w->group->rank + 1];

    return tensor_slice(unit, 0, (int64_t)from, (int64_t)(to - from));
}

static status open_resident(struct weights *w, struct arena *a)
{
    const size_t from = w->group != NULL ? w->shard[w->group->rank] : 0;

    TRY(arena_take(a, &w->kept, DT_U8, w->units, (int64_t)w->unit_bytes));
    for (int u = 0; u < w->units; u++) {
        const struct tensor unit = tensor_at(w->kept, u);
        const struct tensor own = w->group != NULL ? own_slice(w, unit) : unit;

        place_tensors(w, &w->tensors[u * w->count], unit);
        TRY(read_unit(w, u, from, own));
    }
    return finish_reading(w);
}

status weights_complete(struct weights *w)
{
    if (w->mode != WEIGHTS_RESIDENT || w->group == NULL)
        return ST_OK;
    for (int u = 0; u < w->units; u++) {
        struct tensor unit = tensor_at(w->kept, u);
        struct transfer t = { 0 };

        TRY(group_all_gather(w->group, &t, unit.data, w->shard, own_slice(w, unit).data));
        TRY(transfer_wait(&t));
    }
    return ST_OK;
}

static status open_buffers(struct weights *w, struct arena *a)
{
    for (int b = 0; b < 2; b++) {
        TRY(arena_take(a, &w->buffer[b], DT_U8, (int64_t)w->unit_bytes));
        place_tensors(w, &w->tensors[b * w->count], w->buffer[b]);
    }
    return ST_OK;
}

static status open_sharded(struct weights *w, struct arena *a)
{
    const size_t from = w->shard[w->group->rank];

    TRY(open_buffers(w, a));
    TRY(arena_take(a, &w->kept, DT_U8, w->units, (int64_t)w->kept_bytes));
    for (int u = 0; u < w->units; u++)
        TRY(read_unit(w, u, from, tensor_at(w->kept, u)));
    return finish_reading(w);
}

status weights_open(struct weights *w, struct arena *a, enum weights_mode mode, struct group *g,
                    int units, const struct weight_spec *specs, int count,
                    struct weight_source source)
{
    status st;

    assert(mode == WEIGHTS_RESIDENT || (g != NULL) == (mode == WEIGHTS_SHARDED));
    *w = (struct weights){
        .mode = mode,
        .units = units,
        .count = count,
        .dev = a->dev,
        .group = g != NULL && (mode == WEIGHTS_SHARDED || g->size > 1) ? g : NULL,
        .held = { -1, -1 },
        .source = source,
    };
    TRY_OUT(copy_specs(w, specs));
    TRY_OUT(take_tables(w));
    w->unit_bytes = unit_layout(specs, count, w->offset);
    w->kept_bytes = mode == WEIGHTS_RESIDENT ? w->unit_bytes : 0;
    for (int i = 0; g != NULL && i <= g->size; i++)
        w->shard[i] = slice_at(w->unit_bytes, g->size, i);
    if (mode == WEIGHTS_RESIDENT) {
        TRY_OUT(open_resident(w, a));
    } else if (mode == WEIGHTS_STREAMED) {
        TRY_OUT(open_buffers(w, a));
    } else {
        w->kept_bytes = w->shard[g->rank + 1] - w->shard[g->rank];
        TRY_OUT(open_sharded(w, a));
    }
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
        loader_finish(w->loader); // the source may go away
    transfer_wait(&w->gather[0]);
    transfer_wait(&w->gather[1]);
    free(w->specs);
    free(w->names);
    free(w->tensors);
    free(w->offset);
    free(w->shard);
    free(w->staging);
    *w = (struct weights){ 0 };
}

/* Brings a unit on its way into a buffer, whatever was on its way there. */
static status fetch(struct weights *w, int b, int unit)
{
    TRY(transfer_wait(&w->gather[b]));
    w->held[b] = -1;
    if (w->mode == WEIGHTS_STREAMED)
        TRY(read_unit(w, unit, 0, w->buffer[b]));
    else
        TRY(group_all_gather(w->group, &w->gather[b], w->buffer[b].data, w->shard,
                             (char *)w->kept.data + (size_t)unit * w->kept_bytes));
    w->held[b] = unit;
    return ST_OK;
}

/* The buffer that has the unit, else the one whose unit was used less lately, if `next` is not in
 * it. */
static int choose_buffer(const struct weights *w, int unit, int next)
{
    const int other = 1 - w->last;

    for (int b = 0; b < 2; b++)
        if (w->held[b] == unit)
            return b;
    return next >= 0 && w->held[other] == next ? w->last : other;
}

status weights_acquire(struct weights *w, int unit, int next, struct tensor *out)
{
    int b = unit;

    assert(unit >= 0 && unit < w->units && next >= -1 && next < w->units);
    if (w->mode != WEIGHTS_RESIDENT) {
        w->last = b = choose_buffer(w, unit, next);
        if (w->held[b] != unit)
            TRY(fetch(w, b, unit));
        TRY(transfer_wait(&w->gather[b]));
        TRY(finish_reading(w));
        if (next >= 0 && next != unit && w->held[1 - b] != next) {
            if (w->mode == WEIGHTS_STREAMED && w->loader == NULL)
                want_unit(w, next);
            else
                TRY(fetch(w, 1 - b, next));
        }
    }
    for (int i = 0; i < w->count; i++)
        out[i] = w->tensors[b * w->count + i];
    return ST_OK;
}
