/* Units with matrices in the form of their file. The memory of such a unit, wherever it is, has
 *
 *     [numbers, scales, factors of a LoRA] [...] [biases and norms as they are computed with] ...
 *
 * When the unit is acquired, its matrices are expanded into the slot, in the order of the work
 * queue: the work with the unit before has been queued, so one slot is enough. An expansion takes
 * the time of reading the stored bytes and writing the slot. */
#include "parallel/weights_internal.h"

#include "kernels/ops.h"

#include <assert.h>
#include <stdlib.h>

/* Values of a matrix that are expanded at a time to f32, when a product is added to them. */
#define CHUNK ((int64_t)16 << 20)

/* ---- forms ---- */

static size_t align_up(size_t bytes)
{
    return (bytes + WEIGHTS_ALIGN - 1) / WEIGHTS_ALIGN * WEIGHTS_ALIGN;
}

static int64_t rows_of(const struct weight_form *f)
{
    return f->stored.count / f->stored.row;
}

size_t weight_form_up(const struct weight_form *f)
{
    return align_up(stored_bytes(&f->stored));
}

size_t weight_form_down(const struct weight_form *f)
{
    return weight_form_up(f) + align_up((size_t)(rows_of(f) * f->rank) * sizeof(float));
}

size_t weight_form_bytes(const struct weight_form *f)
{
    if (f->rank == 0)
        return stored_bytes(&f->stored);
    return weight_form_down(f) + (size_t)(f->rank * f->stored.row) * sizeof(float);
}

/* The form of a tensor; false: it is kept as it is computed with. */
static bool form_of(const struct weight_source *source, int unit, const struct weight_spec *spec,
                    struct weight_form *form)
{
    char name[WEIGHT_NAME_BYTES + 16];

    weight_name(name, sizeof(name), spec, unit);
    *form = (struct weight_form){ .rank = 0 };
    return spec->ndim == 2 && !spec->channels_last &&
           (spec->dtype == DT_F32 || spec->dtype == DT_BF16) &&
           source->form(source->payload, spec, name, form) && form->stored.count > 0;
}

void weights_forms(const struct weight_source *source, int unit, const struct weight_spec *specs,
                   int count, struct weight_form *form, bool *some)
{
    for (int i = 0, end; i < count; i = end) { // tensors that are joined: all or none of them
        bool all = true, smaller = false;

        end = i;
        do {
            const struct weight_spec *spec = &specs[end];
            const size_t plain =
                tensor_bytes(tensor_dims(NULL, spec->dtype, spec->ndim, spec->dim));

            all = form_of(source, unit, spec, &form[end]) && all;
            smaller |= all && weight_form_bytes(&form[end]) < plain;
            end++;
        } while (end < count && specs[end].joined);
        for (int k = i; k < end && !(all && smaller); k++)
            form[k] = (struct weight_form){ .rank = 0 };
        *some |= all && smaller;
    }
}

size_t weights_stored_layout(const struct weight_spec *specs, int count,
                             const struct weight_form *form, size_t *offset)
{
    size_t at = 0;

    for (int i = 0; i < count; i++) {
        const struct weight_spec *spec = &specs[i];

        if (!spec->joined || form[i].stored.count > 0)
            at = align_up(at);
        offset[i] = at;
        at += form[i].stored.count > 0
                  ? weight_form_bytes(&form[i])
                  : tensor_bytes(tensor_dims(NULL, spec->dtype, spec->ndim, spec->dim));
    }
    return align_up(at);
}

/* ---- the slot ---- */

status weights_stored_open(struct weights *w, struct arena *a)
{
    struct weights_stored *s = w->stored;
    int64_t wide = 0;

    if (s == NULL)
        return ST_OK;
    s->unit = -1;
    s->offset = calloc((size_t)w->count, sizeof(*s->offset));
    if (s->offset == NULL)
        return fail(ST_MEMORY, "no host memory for %d weights", w->count);
    for (int u = 0; u < w->units; u++) {
        const struct weight_form *form = weights_layout(w, u)->form;

        for (int i = 0; i < w->count; i++)
            if (form[i].rank > 0 && w->specs[i].dtype != DT_F32 && form[i].stored.count > wide)
                wide = form[i].stored.count;
    }
    TRY(arena_take(a, &s->slot, DT_U8,
                   (int64_t)weights_unit_layout(w->specs, w->count, s->offset)));
    if (wide > 0)
        TRY(arena_take(a, &s->wide, DT_F32, wide < CHUNK ? wide : CHUNK));
    return ST_OK;
}

void weights_stored_close(struct weights *w)
{
    if (w->stored != NULL)
        free(w->stored->offset);
    free(w->stored);
    w->stored = NULL;
}

/* out = the matrix at `stored` with its product, rounded once. */
static status expand_changed(struct weights *w, struct tensor out, const struct weight_form *f,
                             char *stored)
{
    const int64_t cols = f->stored.row, rows = rows_of(f), count = f->stored.count;
    const struct tensor up = tensor_of(stored + weight_form_up(f), DT_F32, rows, f->rank);
    const struct tensor down = tensor_of(stored + weight_form_down(f), DT_F32, f->rank, cols);
    const int64_t most = out.dtype == DT_F32 ? count : w->stored->wide.dim[0];

    for (int64_t first = 0, n; first < count; first += n) {
        const int64_t row = first / cols;
        struct tensor part, wide;

        n = count - first < most ? count - first : most;
        part = tensor_slice(out, 0, first, n);
        wide = out.dtype == DT_F32 ? part : tensor_slice(w->stored->wide, 0, 0, n);
        TRY(op_expand(w->dev, wide, &f->stored, stored, first));
        TRY(op_add_product(w->dev, part, wide, first % cols,
                           tensor_slice(up, 0, row, (first + n - 1) / cols + 1 - row), down));
    }
    return ST_OK;
}

status weights_expand(struct weights *w, int unit, struct tensor memory)
{
    struct weights_stored *s = w->stored;
    const struct weight_layout *l;

    if (s == NULL)
        return ST_OK;
    l = weights_layout(w, unit);
    for (int i = 0; i < w->count; i++) {
        const struct weight_form *f = &l->form[i];
        char *stored = (char *)memory.data + l->offset[i];
        struct tensor out;

        if (f->stored.count == 0)
            continue;
        w->tensors[i].data = (char *)s->slot.data + s->offset[i];
        if (s->unit == unit)
            continue;
        out = tensor_reshape(w->tensors[i], f->stored.count);
        TRY(f->rank > 0 ? expand_changed(w, out, f, stored)
                        : op_expand(w->dev, out, &f->stored, stored, 0));
    }
    s->unit = unit;
    return ST_OK;
}
