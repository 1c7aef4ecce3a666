/* The values of quantized tensors: the numbers are read, decoded to F32, and multiplied by their
 * scales; each product is rounded once, as PyTorch's q.float() * scale is. */
#include "runtime/convert.h"
#include "runtime/tensorfile_internal.h"

#include <stdlib.h>

#define READ_BYTES ((size_t)128 << 10) // in one call

void coded_range(const struct file_tensor *t, int64_t first, int64_t count, uint64_t *offset,
                 uint64_t *bytes)
{
    int64_t values, end;
    size_t size;

    stored_unit(&t->coding->form, &values, &size);
    end = (first + count + values - 1) / values;
    first /= values;
    *offset = t->offset + (uint64_t)first * size;
    *bytes = (uint64_t)(end - first) * size;
}

/* The scales of some rows. */
struct scales {
    const struct stored_form *form;
    int64_t columns; // of the tensor
    int64_t first;   // index of the first one that was read
    float *value;
};

static int64_t columns_of(const struct file_tensor *t)
{
    return t->shape.ndim > 1 && t->shape.dim[0] > 0 ? tensor_count(t->shape) / t->shape.dim[0] : 1;
}

/* Reads the scales of elements [first, first + count). */
static status read_scales(struct scales *s, const struct tensor_source *sources,
                          const struct file_tensor *t, int64_t first, int64_t count,
                          uint64_t *bytes)
{
    const struct stored_form *c = &t->coding->form;
    const struct tensor_source *src = &sources[t->coding->scale_file];
    const size_t size = dtype_size(c->scale.dtype);
    int64_t low = first / s->columns / c->scale.rows,
            high = (first + count - 1) / s->columns / c->scale.rows + 1, n;
    char *stored = NULL;
    status st = ST_OK;

    if (c->scale.tiled) {
        low = low / 128 * 128;
        high = (high + 127) / 128 * 128;
    }
    s->first = stored_scale_index(c, low, 0);
    n = stored_scale_index(c, high, 0) - s->first;
    s->value = malloc((size_t)n * sizeof(float));
    stored = malloc((size_t)n * size);
    if (s->value == NULL || stored == NULL) {
        st = fail(ST_MEMORY, "%s: no memory for %lld scales of %s", src->path, (long long)n,
                  t->name);
        goto out;
    }
    TRY_OUT(read_exactly(src, stored, (size_t)n * size,
                         t->coding->scale_offset + (uint64_t)s->first * size));
    convert_values(s->value, DT_F32, stored, c->scale.dtype, (size_t)n);
    for (int64_t i = 0; c->scale.factor != 1 && i < n; i++)
        s->value[i] = stored_scale(c, s->value[i]);
    *bytes += (uint64_t)n * size;
out:
    free(stored);
    return st;
}

status coded_row_scales(const struct tensor_source *sources, const struct file_tensor *t,
                        int64_t first, int64_t count, float *dst, uint64_t *bytes)
{
    const struct stored_form *c = &t->coding->form;
    const int64_t columns = columns_of(t);
    struct scales s = { .form = c, .columns = columns };
    status st;

    *bytes = 0;
    TRY_OUT(read_scales(&s, sources, t, first * columns, count * columns, bytes));
    for (int64_t i = 0; i < count; i++)
        dst[i] = s.value[stored_scale_index(c, (first + i) / c->scale.rows, 0) - s.first];
out:
    free(s.value);
    return st;
}

/* y[i] *= the scale of element at + i */
static void apply_scales(const struct scales *s, float *y, int64_t at, int64_t count)
{
    const struct stored_form *c = s->form;

    while (count > 0) {
        const int64_t row = at / s->columns, column = at % s->columns;
        const int64_t group = column / c->scale.columns;
        int64_t run = (group + 1) * c->scale.columns;

        run = (run < s->columns ? run : s->columns) - column;
        if (run > count)
            run = count;
        stored_multiply(y, s->value[stored_scale_index(c, row / c->scale.rows, group) - s->first],
                        run);
        y += run;
        at += run;
        count -= run;
    }
}

void coded_form(const struct file_tensor *t, struct stored_form *f)
{
    if (t->coding != NULL)
        *f = t->coding->form;
    else
        *f = (struct stored_form){ .dtype = t->shape.dtype };
    f->count = tensor_count(t->shape);
    f->row = columns_of(t);
}

status coded_read_stored(const struct tensor_source *sources, const struct file_tensor *t,
                         const struct stored_form *f, size_t first, size_t count, void *dst)
{
    const size_t numbers = stored_number_bytes(f), scales = stored_scales_at(f),
                 end = first + count;
    const size_t before = end < numbers ? end : numbers, from = first > scales ? first : scales;

    if (first < before)
        TRY(read_exactly(&sources[t->file], dst, before - first, t->offset + first));
    if (from >= end)
        return ST_OK;
    return read_exactly(&sources[t->coding->scale_file], (char *)dst + (from - first), end - from,
                        t->coding->scale_offset + (from - scales));
}

/* As coded_read, without rotation. */
static status read_values(const struct tensor_source *sources, const struct file_tensor *t,
                          int64_t first, int64_t count, enum dtype dt, void *dst, uint64_t *bytes)
{
    const struct stored_form *c = &t->coding->form;
    const bool scaled = t->coding->scale_file >= 0;
    const int64_t end = first + count;
    struct scales s = { .form = c, .columns = columns_of(t) };
    uint8_t stored[READ_BYTES] __attribute__((aligned(64)));
    float values[STORED_PASS] __attribute__((aligned(64)));
    int64_t unit, at = first, most;
    size_t unit_bytes;
    char *to = dst;
    status st = ST_OK;

    *bytes = 0;
    if (scaled)
        TRY_OUT(read_scales(&s, sources, t, first, count, bytes));
    stored_unit(c, &unit, &unit_bytes);
    most = (int64_t)(READ_BYTES / unit_bytes) * unit / STORED_PASS * STORED_PASS;
    while (at < end) {
        const int64_t begin = at / unit * unit;
        const int64_t take = end - begin < most ? (end - begin + unit - 1) / unit * unit : most;

        TRY_OUT(read_exactly(&sources[t->file], stored, (size_t)(take / unit) * unit_bytes,
                             t->offset + (uint64_t)(begin / unit) * unit_bytes));
        *bytes += (uint64_t)(take / unit) * unit_bytes;
        for (int64_t i = 0; i < take; i += STORED_PASS) {
            const int64_t n = take - i < STORED_PASS ? take - i : STORED_PASS;
            const int64_t skip = at - begin - i; // values before the first one wanted
            const int64_t kept = (begin + i + n < end ? n : end - begin - i) - skip;

            stored_decode(c, values, stored + (size_t)(i / unit) * unit_bytes, (size_t)n);
            if (scaled)
                apply_scales(&s, values + skip, at, kept);
            convert_values(to, dt, values + skip, DT_F32, (size_t)kept);
            to += (size_t)kept * dtype_size(dt);
            at += kept;
        }
    }
out:
    free(s.value);
    return st;
}

/* ---- rotation ---- */

/* x = x H, for n values, a power of four. H is the n-th power of H4 = [1 1 1 -1; 1 1 -1 1;
 * 1 -1 1 1; -1 1 1 1] as a Kronecker product, divided by sqrt(n), so that H H = 1. Sums in f64, as
 * their order is not that of the reference's product; rounded once.
 * Source: comfy-kitchen tensor/int8_utils.py (ConvRot). */
static void rotate(float *x, int n)
{
    double y[ROTATION_MAX];

    for (int i = 0; i < n; i++)
        y[i] = (double)x[i];
    for (int step = 1; step < n; step *= 4)
        for (int i = 0; i < n; i++) {
            double *p = y + i;

            if (i / step % 4 != 0)
                continue;
            const double a = p[0], b = p[step], c = p[2 * step], d = p[3 * step];

            p[0] = (a + b + c - d) / 2;
            p[step] = (a + b - c + d) / 2;
            p[2 * step] = (a - b + c + d) / 2;
            p[3 * step] = (b + c + d - a) / 2;
        }
    for (int i = 0; i < n; i++)
        x[i] = (float)y[i];
}

status coded_read(const struct tensor_source *sources, const struct file_tensor *t, int64_t first,
                  int64_t count, enum dtype dt, void *dst, uint64_t *bytes)
{
    const int n = t->coding->form.rotation;
    const int64_t end = first + count;
    float values[STORED_PASS] __attribute__((aligned(64)));
    char *to = dst;

    if (n == 0)
        return read_values(sources, t, first, count, dt, dst, bytes);
    *bytes = 0;
    for (int64_t at = first; at < end;) {
        const int64_t begin = at / n * n, whole = (end + n - 1) / n * n - begin;
        const int64_t take = whole < STORED_PASS ? whole : STORED_PASS / n * n;
        const int64_t kept = (begin + take < end ? begin + take : end) - at;
        uint64_t more = 0;

        TRY(read_values(sources, t, begin, take, DT_F32, values, &more));
        *bytes += more;
        for (int64_t i = 0; i < take; i += n)
            rotate(values + i, n);
        convert_values(to, dt, values + (at - begin), DT_F32, (size_t)kept);
        to += (size_t)kept * dtype_size(dt);
        at += kept;
    }
    return ST_OK;
}
