#include "model/checkpoint/quantize.h"

#include "runtime/fp8.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_BYTES ((size_t)256 << 10) // of rows that are read at a time: they stay in the cache

bool quantize_makes(const struct weight_spec *spec)
{
    return spec->row_scales || spec->dtype == DT_F8_E4M3;
}

void quantize_name(char matrix[WEIGHT_NAME_BYTES], const struct weight_spec *spec, const char *name)
{
    const size_t n = strlen(name) - (spec->row_scales ? strlen("_scale") : 0);

    assert(n < WEIGHT_NAME_BYTES);
    memcpy(matrix, name, n);
    matrix[n] = '\0';
}

/* Elements [first, first + count) of a row x of a matrix, quantized; of scales: 0 or 1 element. */
static void store(const struct weight_spec *spec, const float *x, int64_t cols, int64_t first,
                  int64_t count, void *dst)
{
    const float scale = fp8_scale(x, (size_t)cols);

    if (spec->row_scales)
        *(float *)dst = scale;
    else
        fp8_quantize(dst, x + first, scale, (size_t)count);
}

status quantize_read(const struct weight_source *source, const struct weight_spec *spec,
                     const char *name, int64_t first, int64_t count, void *dst)
{
    const int64_t cols = spec->file_dim[1], per_row = spec->row_scales ? 1 : cols;
    const int64_t fit = (int64_t)(BLOCK_BYTES / sizeof(float)) / cols, most = fit > 0 ? fit : 1;
    const int64_t rows = count > 0 ? (first + count - 1) / per_row + 1 : 0; // before the end
    const size_t size = spec->row_scales ? sizeof(float) : 1;
    struct weight_spec wide = *spec;
    char matrix[WEIGHT_NAME_BYTES], *to = dst;
    float *x = malloc((size_t)(most * cols) * sizeof(float));
    status st = ST_OK;

    assert(spec->file_ndim == 2 && !spec->channels_last);
    if (x == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for rows of %s", name);
    quantize_name(matrix, spec, name);
    wide.row_scales = false;
    wide.dtype = DT_F32;
    wide.ndim = 2;
    memcpy(wide.dim, spec->file_dim, sizeof(wide.dim));
    for (int64_t row = first / per_row; row < rows; row += most) {
        const int64_t now = rows - row < most ? rows - row : most;

        TRY_OUT(source->read(source->payload, &wide, matrix, row * cols, now * cols, x));
        for (int64_t i = 0; i < now; i++) {
            const int64_t at = (row + i) * per_row, begin = first > at ? first - at : 0;
            const int64_t end = first + count - at < per_row ? first + count - at : per_row;

            store(spec, x + i * cols, cols, begin, end - begin, to);
            to += (size_t)(end - begin) * size;
        }
    }
out:
    free(x);
    return st;
}
