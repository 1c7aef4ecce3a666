/* The values of quantized tensors: the numbers are read, decoded to F32, and multiplied by their
 * scales; each product is rounded once, as PyTorch's q.float() * scale is. */
#include "runtime/blocks.h"
#include "runtime/convert.h"
#include "runtime/tensorfile_internal.h"

#include <stdlib.h>

#define READ_BYTES ((size_t)128 << 10) // in one call
#define PASS_VALUES 4096               // decoded while they are in the cache; of whole blocks

/* Numbers that cannot be decoded separately, and their bytes. */
static void unit_of(const struct tensor_coding *c, int64_t *values, size_t *bytes)
{
    *values = c->block != NULL ? c->block->values : c->dtype == DT_U8 ? 2 : 1;
    *bytes = c->block != NULL ? (size_t)c->block->bytes : dtype_size(c->dtype);
}

void coded_range(const struct file_tensor *t, int64_t first, int64_t count, uint64_t *offset,
                 uint64_t *bytes)
{
    int64_t values, end;
    size_t size;

    unit_of(t->coding, &values, &size);
    end = (first + count + values - 1) / values;
    first /= values;
    *offset = t->offset + (uint64_t)first * size;
    *bytes = (uint64_t)(end - first) * size;
}

/* The scales of some rows. */
struct scales {
    const struct tensor_coding *c;
    int64_t columns; // of the tensor
    int64_t first;   // index of the first one that was read
    float *value;
};

static int64_t columns_of(const struct file_tensor *t)
{
    return t->shape.ndim > 1 && t->shape.dim[0] > 0 ? tensor_count(t->shape) / t->shape.dim[0] : 1;
}

/* The index of the scale of group `group` in a row of groups of rows. Tiles: 128 x 4 scales, whose
 * rows are in the order 0, 32, 64, 96, 1, ... Source: NVIDIA cuBLAS, "Scaling factors layouts". */
static int64_t scale_index(const struct tensor_coding *c, int64_t row, int64_t group)
{
    if (!c->scale.tiled)
        return row * c->scale.per_row + group;
    return (row / 128 * ((c->scale.per_row + 3) / 4) + group / 4) * 512 + row % 32 * 16 +
           row % 128 / 32 * 4 + group % 4;
}

/* Reads the scales of elements [first, first + count). */
static status read_scales(struct scales *s, const struct tensor_source *sources,
                          const struct file_tensor *t, int64_t first, int64_t count,
                          uint64_t *bytes)
{
    const struct tensor_coding *c = t->coding;
    const struct tensor_source *src = &sources[c->scale.file];
    const size_t size = dtype_size(c->scale.dtype);
    int64_t low = first / s->columns / c->scale.rows,
            high = (first + count - 1) / s->columns / c->scale.rows + 1, n;
    char *stored = NULL;
    status st = ST_OK;

    if (c->scale.tiled) {
        low = low / 128 * 128;
        high = (high + 127) / 128 * 128;
    }
    s->first = scale_index(c, low, 0);
    n = scale_index(c, high, 0) - s->first;
    s->value = malloc((size_t)n * sizeof(float));
    stored = malloc((size_t)n * size);
    if (s->value == NULL || stored == NULL) {
        st = fail(ST_MEMORY, "%s: no memory for %lld scales of %s", src->path, (long long)n,
                  t->name);
        goto out;
    }
    TRY_OUT(
        read_exactly(src, stored, (size_t)n * size, c->scale.offset + (uint64_t)s->first * size));
    convert_values(s->value, DT_F32, stored, c->scale.dtype, (size_t)n);
    for (int64_t i = 0; c->scale.factor != 1 && i < n; i++)
        s->value[i] = c->scale.factor * s->value[i];
    *bytes += (uint64_t)n * size;
out:
    free(stored);
    return st;
}

CONVERT_WIDE static void multiply(float *y, float scale, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] *= scale;
}

/* y[i] *= the scale of element at + i */
static void apply_scales(const struct scales *s, float *y, int64_t at, int64_t count)
{
    const struct tensor_coding *c = s->c;

    while (count > 0) {
        const int64_t row = at / s->columns, column = at % s->columns;
        const int64_t group = column / c->scale.columns;
        int64_t run = (group + 1) * c->scale.columns;

        run = (run < s->columns ? run : s->columns) - column;
        if (run > count)
            run = count;
        multiply(y, s->value[scale_index(c, row / c->scale.rows, group) - s->first], run);
        y += run;
        at += run;
        count -= run;
    }
}

CONVERT_WIDE static void decode_i8(float *y, const int8_t *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = (float)b[i];
}

/* Pairs of floats of a sign, two exponent bits and one more, the high one first. */
static void decode_e2m1(float *y, const uint8_t *b, size_t n)
{
    static const float value[16] = { 0,    0.5f,  1,  1.5f,  2,  3,  4,  6,
                                     -0.f, -0.5f, -1, -1.5f, -2, -3, -4, -6 };

    for (size_t i = 0; i < n / 2; i++) {
        y[2 * i] = value[b[i] >> 4];
        y[2 * i + 1] = value[b[i] & 15];
    }
}

static void decode(const struct tensor_coding *c, float *y, const void *stored, size_t n)
{
    if (c->block != NULL)
        c->block->decode(y, stored, n / (size_t)c->block->values);
    else if (c->dtype == DT_I8)
        decode_i8(y, stored, n);
    else if (c->dtype == DT_U8)
        decode_e2m1(y, stored, n);
    else
        convert_values(y, DT_F32, stored, c->dtype, n);
}

status coded_read(const struct tensor_source *sources, const struct file_tensor *t, int64_t first,
                  int64_t count, enum dtype dt, void *dst, uint64_t *bytes)
{
    const struct tensor_coding *c = t->coding;
    const int64_t end = first + count;
    struct scales s = { .c = c, .columns = columns_of(t) };
    uint8_t stored[READ_BYTES] __attribute__((aligned(64)));
    float values[PASS_VALUES] __attribute__((aligned(64)));
    int64_t unit, at = first, most;
    size_t unit_bytes;
    char *to = dst;
    status st = ST_OK;

    *bytes = 0;
    if (c->scale.file >= 0)
        TRY_OUT(read_scales(&s, sources, t, first, count, bytes));
    unit_of(c, &unit, &unit_bytes);
    most = (int64_t)(READ_BYTES / unit_bytes) * unit / PASS_VALUES * PASS_VALUES;
    while (at < end) {
        const int64_t begin = at / unit * unit;
        const int64_t take = end - begin < most ? (end - begin + unit - 1) / unit * unit : most;

        TRY_OUT(read_exactly(&sources[t->file], stored, (size_t)(take / unit) * unit_bytes,
                             t->offset + (uint64_t)(begin / unit) * unit_bytes));
        *bytes += (uint64_t)(take / unit) * unit_bytes;
        for (int64_t i = 0; i < take; i += PASS_VALUES) {
            const int64_t n = take - i < PASS_VALUES ? take - i : PASS_VALUES;
            const int64_t skip = at - begin - i; // values before the first one wanted
            const int64_t kept = (begin + i + n < end ? n : end - begin - i) - skip;

            decode(c, values, stored + (size_t)(i / unit) * unit_bytes, (size_t)n);
            if (c->scale.file >= 0)
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
