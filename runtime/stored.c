#include "runtime/stored.h"

#include "runtime/convert.h"
#include "runtime/status.h"

#include <assert.h>

void stored_unit(const struct stored_form *f, int64_t *values, size_t *bytes)
{
    *values = f->block != NULL ? f->block->values : f->dtype == DT_U8 ? 2 : 1;
    *bytes = f->block != NULL ? (size_t)f->block->bytes : dtype_size(f->dtype);
}

size_t stored_number_bytes(const struct stored_form *f)
{
    int64_t values;
    size_t bytes;

    stored_unit(f, &values, &bytes);
    return (size_t)(f->count / values) * bytes;
}

size_t stored_scales_at(const struct stored_form *f)
{
    return (stored_number_bytes(f) + STORED_ALIGN - 1) / STORED_ALIGN * STORED_ALIGN;
}

size_t stored_bytes(const struct stored_form *f)
{
    if (f->scale.dtype == DT_NONE)
        return stored_number_bytes(f);
    return stored_scales_at(f) + (size_t)f->scale.count * dtype_size(f->scale.dtype);
}

/* Tiles: 128 x 4 scales, whose rows are in the order 0, 32, 64, 96, 1, ... Source: NVIDIA cuBLAS,
 * "Scaling factors layouts". */
int64_t stored_scale_index(const struct stored_form *f, int64_t row, int64_t group)
{
    if (!f->scale.tiled)
        return row * f->scale.per_row + group;
    return (row / 128 * ((f->scale.per_row + 3) / 4) + group / 4) * 512 + row % 32 * 16 +
           row % 128 / 32 * 4 + group % 4;
}

CONVERT_WIDE static void decode_i8(float *y, const int8_t *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = (float)b[i];
}

/* Pairs of integers, or of floats of a sign, two exponent bits and one more. */
static void decode_nibbles(float *y, const uint8_t *b, size_t n, enum stored_nibbles nibbles)
{
    static const float floats[16] = { 0,    0.5f,  1,  1.5f,  2,  3,  4,  6,
                                      -0.f, -0.5f, -1, -1.5f, -2, -3, -4, -6 };
    static const float ints[16] = { 0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1 };
    const float *value = nibbles == NIBBLES_INT4 ? ints : floats;
    const int high = nibbles == NIBBLES_E2M1_HIGH ? 0 : 1; // its index in a pair

    for (size_t i = 0; i < n / 2; i++) {
        y[2 * i + (size_t)high] = value[b[i] >> 4];
        y[2 * i + 1 - (size_t)high] = value[b[i] & 15];
    }
}

void stored_decode(const struct stored_form *f, float *y, const void *numbers, size_t n)
{
    if (f->block != NULL)
        f->block->decode(y, numbers, n / (size_t)f->block->values);
    else if (f->dtype == DT_I8)
        decode_i8(y, numbers, n);
    else if (f->dtype == DT_U8)
        decode_nibbles(y, numbers, n, f->nibbles);
    else
        convert_values(y, DT_F32, numbers, f->dtype, n);
}

CONVERT_WIDE void stored_multiply(float *y, float scale, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] *= scale;
}

/* y[i] *= the scale of element at + i */
static void apply_scales(const struct stored_form *f, const char *scales, float *y, int64_t at,
                         int64_t count)
{
    while (count > 0) {
        const int64_t row = at / f->row, column = at % f->row, group = column / f->scale.columns;
        const int64_t index = stored_scale_index(f, row / f->scale.rows, group);
        int64_t run = (group + 1) * f->scale.columns;
        float scale;

        convert_values(&scale, DT_F32, scales + (size_t)index * dtype_size(f->scale.dtype),
                       f->scale.dtype, 1);
        scale = stored_scale(f, scale);
        run = (run < f->row ? run : f->row) - column;
        if (run > count)
            run = count;
        stored_multiply(y, scale, run);
        y += run;
        at += run;
        count -= run;
    }
}

void stored_values(const struct stored_form *f, const void *stored, int64_t first, int64_t count,
                   enum dtype dt, void *dst)
{
    const char *scales = (const char *)stored + stored_scales_at(f);
    float values[STORED_PASS] __attribute__((aligned(64)));
    int64_t unit;
    size_t unit_bytes;
    char *to = dst;

    assert(first % STORED_PASS == 0);
    stored_unit(f, &unit, &unit_bytes);
    for (int64_t done = 0; done < count; done += STORED_PASS) {
        const int64_t at = first + done, left = count - done;
        const int64_t n = left < STORED_PASS ? left : STORED_PASS;
        const char *numbers = (const char *)stored + (size_t)(at / unit) * unit_bytes;

        stored_decode(f, values, numbers, (size_t)((n + unit - 1) / unit * unit));
        if (f->scale.dtype != DT_NONE)
            apply_scales(f, scales, values, at, n);
        convert_values(to, dt, values, DT_F32, (size_t)n);
        to += (size_t)n * dtype_size(dt);
    }
}
