#include "model/checkpoint/tensors.h"

#include "model/checkpoint/part.h"

#include <assert.h>
#include <md5.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- emitting ---- */

static _Thread_local struct weight_spec dummy; // returned by tensors_add after an error

/* Doubles the capacity of a full array. On failure sets l->st and returns the old array. */
static void *grow(struct tensor_list *l, void *array, int count, int *capacity, size_t size)
{
    void *more;

    if (count < *capacity || l->st != ST_OK)
        return array;
    *capacity = *capacity ? 2 * *capacity : 64;
    more = realloc(array, (size_t)*capacity * size);
    if (more == NULL) {
        l->st = fail(ST_MEMORY, "cannot allocate host memory for a list of %d tensors", *capacity);
        *capacity = count;
        return array;
    }
    return more;
}

void tensors_stack(struct tensor_list *l, const char *name, const char *prefix, int units,
                   enum tensors_keep keep)
{
    struct tensor_stack *s;

    l->stacks = grow(l, l->stacks, l->stack_count, &l->stack_capacity, sizeof(*l->stacks));
    if (l->st != ST_OK)
        return;
    s = &l->stacks[l->stack_count++];
    *s = (struct tensor_stack){ .name = name, .units = units, .first = l->count, .keep = keep };
    assert(strlen(prefix) < sizeof(s->prefix));
    memcpy(s->prefix, prefix, strlen(prefix) + 1);
}

void tensors_numbers(struct tensor_list *l, int number, int gap_at, int gap)
{
    struct tensor_stack *s = &l->stacks[l->stack_count - 1];

    if (l->st != ST_OK)
        return;
    assert(s->count == 0);
    s->number = number;
    s->gap_at = gap_at;
    s->gap = gap;
}

struct weight_spec *tensors_add(struct tensor_list *l, const char *name, size_t slot,
                                enum dtype dtype, const int64_t *dims)
{
    struct tensor_stack *stack;
    struct weight_spec *t;
    int length;

    l->specs = grow(l, l->specs, l->count, &l->capacity, sizeof(*l->specs));
    if (l->st != ST_OK)
        return &dummy;
    assert(l->stack_count > 0);
    stack = &l->stacks[l->stack_count - 1];
    stack->count++;
    t = &l->specs[l->count++];
    *t = (struct weight_spec){ .dtype = dtype,
                               .slot = slot,
                               .number = stack->number,
                               .gap_at = stack->gap_at,
                               .gap = stack->gap };
    length = snprintf(t->name, sizeof(t->name), "%s%s", stack->prefix, name);
    assert(length > 0 && length < (int)sizeof(t->name));
    while (t->ndim < TENSOR_AXES && dims[t->ndim] != 0) {
        t->dim[t->ndim] = t->file_dim[t->ndim] = dims[t->ndim];
        t->ndim++;
    }
    t->file_ndim = t->ndim;
    return t;
}

/* The slot of a member at `offset` of the struct at `slot`. */
static size_t member_slot(size_t slot, size_t offset)
{
    return slot == TENSORS_NO_SLOT ? slot : slot + offset;
}

void tensors_vector(struct tensor_list *l, const char *name, size_t slot, int64_t n,
                    enum dtype dtype)
{
    tensors_add(l, name, slot, dtype, TENSOR_DIMS(n));
}

/* Emits "NAME.weight" of shape `dims` and "NAME.bias" of size dims[0]; returns the spec of the
 * weight. If `name` is "", the stack's prefix is the whole NAME and its '.'. */
static struct weight_spec *add_pair(struct tensor_list *l, const char *name, size_t slot,
                                    enum dtype dtype, const int64_t *dims, enum dtype bias)
{
    const char *dot = *name != 0 ? "." : "";
    char full[WEIGHT_NAME_BYTES];

    snprintf(full, sizeof(full), "%s%sweight", name, dot);
    tensors_add(l, full, member_slot(slot, offsetof(struct linear, w)), dtype, dims);
    snprintf(full, sizeof(full), "%s%sbias", name, dot);
    tensors_add(l, full, member_slot(slot, offsetof(struct linear, b)), bias, TENSOR_DIMS(dims[0]));
    return l->st == ST_OK ? &l->specs[l->count - 2] : &dummy;
}

void tensors_linear(struct tensor_list *l, const char *name, size_t slot, int64_t out, int64_t in,
                    enum dtype dtype)
{
    add_pair(l, name, slot, dtype, TENSOR_DIMS(out, in), dtype);
}

void tensors_fp8_linear(struct tensor_list *l, const char *name, size_t slot, int64_t out,
                        int64_t in, enum dtype bias)
{
    char full[WEIGHT_NAME_BYTES];
    struct weight_spec *t;

    snprintf(full, sizeof(full), "%s.weight", name);
    tensors_add(l, full, slot + offsetof(struct linear, w), DT_F8_E4M3, TENSOR_DIMS(out, in));
    snprintf(full, sizeof(full), "%s.weight_scale", name);
    t = tensors_add(l, full, slot + offsetof(struct linear, scale), DT_F32, TENSOR_DIMS(out, in));
    t->row_scales = true;
    t->ndim = 1;
    snprintf(full, sizeof(full), "%s.bias", name);
    tensors_add(l, full, slot + offsetof(struct linear, b), bias, TENSOR_DIMS(out));
}

void tensors_norm(struct tensor_list *l, const char *name, size_t slot, int64_t n)
{
    add_pair(l, name, slot, DT_F32, TENSOR_DIMS(n), DT_F32);
}

void tensors_conv(struct tensor_list *l, const char *name, size_t slot, int64_t out, int64_t in,
                  int64_t kt, int64_t k, enum dtype dtype)
{
    const int64_t *file = kt > 0 ? TENSOR_DIMS(out, in, kt, k, k) : TENSOR_DIMS(out, in, k, k);
    struct weight_spec *t = add_pair(l, name, slot, dtype, file, DT_F32);

    t->channels_last = true;
    t->ndim = k == 1 && kt <= 1 ? 2 : 5;
    memcpy(t->dim,
           t->ndim == 2 ? TENSOR_DIMS(out, in) : TENSOR_DIMS(out, kt > 0 ? kt : 1, k, k, in),
           sizeof(t->dim));
}

status tensors_status(const struct tensor_list *l)
{
    return l->st;
}

void tensors_done(struct tensor_list *l)
{
    free(l->stacks);
    free(l->specs);
    *l = (struct tensor_list){ 0 };
}

const struct tensor_stack *tensors_find(const struct tensor_list *l, const char *stack)
{
    for (int i = 0; i < l->stack_count; i++)
        if (strcmp(l->stacks[i].name, stack) == 0)
            return &l->stacks[i];
    return NULL;
}

const struct weight_spec *tensors_of(const struct tensor_list *l, const struct tensor_stack *s)
{
    return &l->specs[s->first];
}

/* Stacks whose units need not all be on every device. */
static bool may_move(const struct tensor_stack *s)
{
    return s->keep == TENSORS_SHARDED || s->keep == TENSORS_ONCE;
}

status tensors_open(struct weights *w, const struct tensor_list *l, const struct tensor_stack *s,
                    struct arena *a, struct group *g, struct tensors_place place,
                    struct weight_source source)
{
    const bool sharded = place.fsdp && may_move(s);
    struct weights_store store = { .mode = sharded ? WEIGHTS_SHARDED : WEIGHTS_RESIDENT };

    assert(s->keep != TENSORS_READ && !(place.fsdp && place.offload == OFFLOAD_FILE));
    if (place.offload != OFFLOAD_NONE && may_move(s))
        store = (struct weights_store){
            .mode = place.offload == OFFLOAD_HOST ? WEIGHTS_HOST : WEIGHTS_STREAMED,
            .resident =
                s->keep == TENSORS_ONCE ? 0 : (int)((int64_t)s->units * place.resident / place.of),
            .host = place.host,
            .sharded = sharded,
        };
    store.as_stored = place.as_stored && may_move(s);
    return weights_open_store(w, a, store,
                              s->keep == TENSORS_LOCAL || store.mode == WEIGHTS_STREAMED ? NULL : g,
                              s->units, tensors_of(l, s), s->count, source);
}

status tensors_ranges(const struct tensor_list *l, int ranks, int rank,
                      const struct weight_source *as_stored, weight_range *each, void *payload)
{
    TRY(tensors_status(l));
    for (int i = 0; i < l->stack_count; i++) {
        const struct tensor_stack *s = &l->stacks[i];
        const bool whole = s->keep == TENSORS_LOCAL;

        if (s->keep != TENSORS_READ)
            TRY(weights_ranges(whole ? 1 : ranks, whole ? 0 : rank, s->units, tensors_of(l, s),
                               s->count, may_move(s) ? as_stored : NULL, each, payload));
    }
    return ST_OK;
}

/* ---- all units ---- */

const struct weight_spec *tensors_nth(const struct tensor_list *l, const struct tensor_stack *s,
                                      int i, char name[WEIGHT_NAME_BYTES])
{
    const struct weight_spec *spec = &tensors_of(l, s)[i % s->count];

    weight_name(name, WEIGHT_NAME_BYTES, spec, i / s->count);
    return spec;
}

int tensors_total(const struct tensor_list *l)
{
    int total = 0;

    for (int i = 0; i < l->stack_count; i++)
        total += l->stacks[i].units * l->stacks[i].count;
    return total;
}

status inventory_expand(struct inventory *v, const struct tensor_list *l)
{
    const int total = tensors_total(l);

    *v = (struct inventory){ 0 };
    TRY(l->st);
    v->entries = calloc((size_t)total + 1, sizeof(*v->entries));
    if (v->entries == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for a list of %d tensors", total);
    for (int i = 0; i < l->stack_count; i++) {
        const struct tensor_stack *s = &l->stacks[i];

        for (int k = 0; k < s->units * s->count; k++) {
            struct inventory_entry *e = &v->entries[v->count++];
            const struct weight_spec *t = tensors_nth(l, s, k, e->name);

            e->ndim = t->file_ndim;
            memcpy(e->dim, t->file_dim, sizeof(e->dim));
        }
    }
    return ST_OK;
}

status variant_fingerprint(const struct part *part, const void *config, char *hex)
{
    struct tensor_list list = { 0 };
    struct inventory v = { 0 };
    status st;

    part->tensors(&list, config, NULL);
    st = inventory_expand(&v, &list);
    if (st == ST_OK)
        st = inventory_fingerprint(&v, hex);
    inventory_done(&v);
    tensors_done(&list);
    return st;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct inventory_entry *)a)->name,
                  ((const struct inventory_entry *)b)->name);
}

void inventory_sort(struct inventory *v)
{
    if (v->count > 0)
        qsort(v->entries, (size_t)v->count, sizeof(*v->entries), by_name);
}

void inventory_done(struct inventory *v)
{
    free(v->entries);
    *v = (struct inventory){ 0 };
}

int64_t inventory_parameters(const struct inventory *v)
{
    int64_t sum = 0;

    for (int i = 0; i < v->count; i++)
        sum += tensor_count(tensor_dims(NULL, DT_F32, v->entries[i].ndim, v->entries[i].dim));
    return sum;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

status inventory_fingerprint(const struct inventory *v, char *hex)
{
    const size_t line_bytes = 256; // enough for a name and five dims
    const size_t lines = 2 * (size_t)v->count;
    char *text = calloc(lines + 1, line_bytes);
    const char **line = calloc(lines + 1, sizeof(char *));
    MD5_CTX md5;
    status st = ST_OK;

    if (text == NULL || line == NULL) {
        st = fail(ST_MEMORY, "cannot allocate host memory for the fingerprint of %d tensors",
                  v->count);
        goto out;
    }
    for (int i = 0; i < v->count; i++) {
        const struct inventory_entry *t = &v->entries[i];
        char *name = text + 2 * (size_t)i * line_bytes, *name_shape = name + line_bytes;
        int n = snprintf(name_shape, line_bytes, "%s:", t->name);

        snprintf(name, line_bytes, "%s", t->name);
        for (int axis = 0; axis < t->ndim; axis++)
            n += snprintf(name_shape + n, line_bytes - (size_t)n, "%s%lld", axis ? "_" : "",
                          (long long)t->dim[axis]);
        line[2 * i] = name;
        line[2 * i + 1] = name_shape;
    }
    qsort(line, lines, sizeof(*line), by_text);
    MD5Init(&md5);
    for (size_t i = 0; i < lines; i++) {
        if (i > 0)
            MD5Update(&md5, (const uint8_t *)",", 1);
        MD5Update(&md5, (const uint8_t *)line[i], strlen(line[i]));
    }
    MD5End(&md5, hex);
out:
    free(text);
    free(line);
    return st;
}
