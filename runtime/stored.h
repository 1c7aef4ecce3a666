/* stored.h - quantized weights in memory as they are in their file, and their values. The bytes are
 * those of the file: the numbers, then, aligned to 256 bytes, their scales.
 *
 *     value (r, c) of a matrix = number (r, c) * factor * scale (r / rows, c / columns)
 *
 * in f32, each product rounded once, as PyTorch's q.float() * scale is. Rotated ones are then
 * multiplied by a Hadamard matrix (runtime/coded.c); they are not kept in this form in memory. */
#ifndef RUNTIME_STORED_H
#define RUNTIME_STORED_H

#include "runtime/blocks.h"
#include "runtime/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Two numbers of 4 bits in a byte. */
enum stored_nibbles {
    NIBBLES_E2M1_HIGH, // floats, the high four bits are the first one
    NIBBLES_E2M1,      // the low four bits are
    NIBBLES_INT4,      // integers, the low four bits are the first one
};

struct stored_form {
    const struct ggml_type *block; // of GGUF, which have their scales in them; else NULL
    enum dtype dtype;              // of the numbers; U8: `nibbles`
    enum stored_nibbles nibbles;
    int rotation;       // values of a row that are rotated together; 0: none
    int64_t count, row; // values: of the tensor, and of one of its rows
    struct {
        enum dtype dtype; // DT_NONE: there are none
        int64_t count;
        int64_t rows, columns; // of values that share a scale
        int64_t per_row;       // scales of `rows` rows
        bool tiled;            // stored in tiles of 128 x 4, as tensor cores read them
        float factor;
        bool divides; // each scale is divided by `factor`
    } scale;
};

/* A scale with the factor. */
static inline float stored_scale(const struct stored_form *f, float scale)
{
    return f->scale.factor == 1 ? scale
           : f->scale.divides   ? scale / f->scale.factor
                                : f->scale.factor * scale;
}

#define STORED_ALIGN ((size_t)256) // of the scales; more than any block has bytes

/* Bytes of the numbers; where the scales begin; bytes of both. */
size_t stored_number_bytes(const struct stored_form *f);
size_t stored_scales_at(const struct stored_form *f);
size_t stored_bytes(const struct stored_form *f);

/* Numbers that cannot be decoded separately, and their bytes. */
void stored_unit(const struct stored_form *f, int64_t *values, size_t *bytes);

/* Decodes n numbers to F32, without scales: of whole units. */
void stored_decode(const struct stored_form *f, float *y, const void *numbers, size_t n);

/* The index of the scale of group `group` in a row of groups of rows. */
int64_t stored_scale_index(const struct stored_form *f, int64_t row, int64_t group);

/* y[i] *= scale, for n values. */
void stored_multiply(float *y, float scale, int64_t n);

#define STORED_PASS 4096 // values that are decoded while they are in the cache; whole units

/* Values [first, first + count) of a tensor of this form at `stored`, as `dt`, F32 or BF16, to
 * which they are rounded once. `first` is a multiple of STORED_PASS. */
void stored_values(const struct stored_form *f, const void *stored, int64_t first, int64_t count,
                   enum dtype dt, void *dst);

#ifdef __cplusplus
}
#endif
#endif
