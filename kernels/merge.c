#include "kernels/merge.h"

#include <math.h>
#include <string.h>

#define BLOCK 64 // columns at a time: their part of a factor stays in the L1 cache

/* Compiled once per instruction set level; the best is chosen when the program starts. */
#if defined(__x86_64__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) &&                \
    !defined(__SANITIZE_THREAD__)
#define WIDE __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define WIDE
#endif

/* sum[j] = the sum, for n <= BLOCK columns of one row; `down` begins at the first of them. */
WIDE static void product_row(float *out, int64_t n, int64_t cols, const float *up,
                             const float *down, int64_t rank)
{
    float sum[BLOCK] = { 0 };

    if (n == BLOCK) { // a constant, so that the sums stay in registers
        for (int64_t k = 0; k < rank; k++)
            for (int j = 0; j < BLOCK; j++)
                sum[j] = fmaf(up[k], down[k * cols + j], sum[j]);
    } else {
        for (int64_t k = 0; k < rank; k++)
            for (int64_t j = 0; j < n; j++)
                sum[j] = fmaf(up[k], down[k * cols + j], sum[j]);
    }
    memcpy(out, sum, (size_t)n * sizeof(float));
}

/* The same of the product of two tensors, for columns from `col` on. */
static void factors_row(float *out, int64_t n, int64_t row, int64_t col, struct tensor a,
                        struct tensor b)
{
    const int64_t rank = a.dim[1];

    product_row(out, n, b.dim[1], (const float *)a.data + row * rank, (const float *)b.data + col,
                rank);
}

static void kronecker_row(float *out, int64_t n, int64_t row, int64_t col,
                          const struct weight_change *w)
{
    const int64_t wide = w->b.dim[1];
    const float *a = (const float *)w->a.data + row / w->b.dim[0] * w->a.dim[1];
    const float *b = (const float *)w->b.data + row % w->b.dim[0] * wide;
    int64_t block = col / wide, at = col % wide;

    for (int64_t j = 0; j < n; j++) {
        out[j] = w->scale * a[block] * b[at];
        if (++at == wide) {
            at = 0;
            block++;
        }
    }
}

/* What DoRA multiplies a row or a column by. */
static float dora_factor(const struct weight_change *w, int64_t at)
{
    return ((const float *)w->magnitude.data)[at] /
           ((float)sqrt(((const double *)w->squares.data)[at]) + CHANGE_EPS);
}

/* x += strength * C, for n <= BLOCK columns from `col` on of row `row`, counted as the factors'. */
static void change_row(float *x, int64_t n, int64_t row, int64_t col, const struct weight_change *w)
{
    const bool dora = w->magnitude.data != NULL;
    const float of_row = dora && !w->per_column ? dora_factor(w, row) : 0;
    float change[BLOCK], second[BLOCK];

    if (w->kind == CHANGE_KRONECKER)
        kronecker_row(change, n, w->row + row, col, w);
    else
        factors_row(change, n, row, col, w->a, w->b);
    if (w->kind == CHANGE_HADAMARD)
        factors_row(second, n, row, col, w->c, w->d);
    for (int64_t j = 0; j < n; j++) {
        float c = change[j];

        if (w->kind == CHANGE_HADAMARD)
            c = w->scale * second[j] * c;
        else if (w->kind == CHANGE_PRODUCT)
            c = w->scale * c;
        if (dora)
            c = (x[j] + c) * (w->per_column ? dora_factor(w, col + j) : of_row) - x[j];
        x[j] += w->strength * c;
    }
}

/* Calls one of the two for all blocks of columns and their rows. */
static void each_row(float *x, int64_t first, int64_t count, int64_t cols, const float *up,
                     const float *down, int64_t rank, const struct weight_change *w)
{
    const int64_t end = first + count;

    for (int64_t c = 0; c < cols; c += BLOCK) {
        for (int64_t r = first / cols; r * cols < end; r++) {
            const int64_t row = r * cols;
            const int64_t from = row + c > first ? row + c : first;
            const int64_t block = c + BLOCK < cols ? c + BLOCK : cols;
            const int64_t to = row + block < end ? row + block : end;
            float sum[BLOCK];

            if (from >= to)
                continue;
            if (w != NULL) {
                change_row(x + (from - first), to - from, r, from - row, w);
                continue;
            }
            product_row(sum, to - from, cols, up + r * rank, down + (from - row), rank);
            for (int64_t j = 0; j < to - from; j++)
                x[from - first + j] += sum[j];
        }
    }
}

void merge_product(float *x, int64_t first, int64_t count, int64_t cols, const float *up,
                   const float *down, int64_t rank)
{
    each_row(x, first, count, cols, up, down, rank, NULL);
}

void merge_change(float *x, int64_t first, int64_t count, int64_t cols,
                  const struct weight_change *w)
{
    each_row(x, first, count, cols, NULL, NULL, 0, w);
}

static double row_squares(const float *x, int64_t cols)
{
    double lane[SQUARES_LANES] = { 0 };

    for (int64_t c = 0; c < cols; c++)
        lane[c % SQUARES_LANES] += (double)x[c] * (double)x[c];
    for (int half = SQUARES_LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            lane[i] += lane[i + half];
    return lane[0];
}

void merge_squares(double *sums, const float *x, int64_t rows, int64_t cols, bool per_column,
                   bool add)
{
    if (per_column && !add)
        memset(sums, 0, (size_t)cols * sizeof(*sums));
    for (int64_t r = 0; r < rows; r++) {
        const float *row = x + r * cols;

        if (!per_column)
            sums[r] = row_squares(row, cols);
        else
            for (int64_t c = 0; c < cols; c++)
                sums[c] += (double)row[c] * (double)row[c];
    }
}
