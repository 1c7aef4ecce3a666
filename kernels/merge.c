#include "kernels/merge.h"

#include <math.h>

#define BLOCK 64 // columns at a time: their part of `down` stays in the L1 cache

/* Compiled once per instruction set level; the best is chosen when the program starts. */
#if defined(__x86_64__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) &&                \
    !defined(__SANITIZE_THREAD__)
#define WIDE __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define WIDE
#endif

/* x[j] += the sum, for n <= BLOCK columns of one row; `down` begins at the first of them. */
WIDE static void merge_row(float *x, int64_t n, int64_t cols, const float *up, const float *down,
                           int64_t rank)
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
    for (int64_t j = 0; j < n; j++)
        x[j] += sum[j];
}

void merge_product(float *x, int64_t first, int64_t count, int64_t cols, const float *up,
                   const float *down, int64_t rank)
{
    const int64_t end = first + count;

    for (int64_t c = 0; c < cols; c += BLOCK) {
        for (int64_t r = first / cols; r * cols < end; r++) {
            const int64_t row = r * cols;
            const int64_t from = row + c > first ? row + c : first;
            const int64_t block = c + BLOCK < cols ? c + BLOCK : cols;
            const int64_t to = row + block < end ? row + block : end;

            if (from < to)
                merge_row(x + (from - first), to - from, cols, up + r * rank, down + (from - row),
                          rank);
        }
    }
}
