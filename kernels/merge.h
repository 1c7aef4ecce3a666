/* merge.h - changes of weight matrices: how LoRAs and their relatives are merged (model/lora). On
 * the host; op_add_product, op_add_change and op_add_squares (ops.h) are the same on a device, with
 * the same bits. All functions are local, and several threads may call them at once. */
#ifndef KERNELS_MERGE_H
#define KERNELS_MERGE_H

#include "runtime/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* x[i] += sum over k < rank of up[r][k] * down[k][c], where x has elements [first, first + count)
 * of a row-major matrix of `cols` columns, and r, c are the row and the column of an element. In
 * f32: the sum begins with 0, and each of its terms is added in the order of k with one rounding
 * (fma). So the bits of an element depend on its own row of `up` and its own column of `down`
 * alone. up    [rows, rank], from the matrix's first row on down  [rank, cols] */
void merge_product(float *x, int64_t first, int64_t count, int64_t cols, const float *up,
                   const float *down, int64_t rank);

enum change_kind {
    CHANGE_PRODUCT,   // scale * (a b)
    CHANGE_HADAMARD,  // scale * (c d) o (a b), elementwise
    CHANGE_KRONECKER, // scale * kron(a, b)
};

#define CHANGE_EPS 1.1920929e-7F // of f32, as torch.finfo

/* A change C of a matrix W. Factors are f32 and contiguous, and those that have rows of W have
 * them from the row of the first element on that is changed. Products as merge_product; all other
 * operations are rounded one by one, from left to right as they are written here.
 *
 * With a magnitude m (DoRA), (W + C) * (m / n) - W is in place of C, with the norm
 * n = f32(sqrt(squares)) + CHANGE_EPS of each row or each column. */
struct weight_change {
    enum change_kind kind;
    struct tensor a, b, c, d;
    int64_t row; // of the first element; for CHANGE_KRONECKER, whose factors are whole
    float scale, strength;
    struct tensor magnitude; // f32 [rows or columns], or none
    struct tensor squares;   // f64, the same
    bool per_column;
};

/* x += strength * C, for elements [first, first + count) of a matrix of `cols` columns. */
void merge_change(float *x, int64_t first, int64_t count, int64_t cols,
                  const struct weight_change *w);

#define SQUARES_LANES 32

/* Sums of squares of the rows of x [rows, cols], or of its columns, in f64: of a row those of
 * every SQUARES_LANES-th element, then of halves of these sums; of a column in the order of the
 * rows, to which those that `sums` has are added first, with `add`. */
void merge_squares(double *sums, const float *x, int64_t rows, int64_t cols, bool per_column,
                   bool add);

#ifdef __cplusplus
}
#endif
#endif
