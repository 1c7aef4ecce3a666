/* merge.h - adds a product of two narrow matrices to a part of a wide one: how a LoRA is merged
 * into a weight. On the host; op_add_product (ops.h) is the same on a device, with the same bits.
 */
#ifndef KERNELS_MERGE_H
#define KERNELS_MERGE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* x[i] += sum over k < rank of up[r][k] * down[k][c], where x has elements [first, first + count)
 * of a row-major matrix of `cols` columns, and r, c are the row and the column of an element. In
 * f32: the sum begins with 0, and each of its terms is added in the order of k with one rounding
 * (fma). So the bits of an element depend on its own row of `up` and its own column of `down`
 * alone. up    [rows, rank], from the matrix's first row on down  [rank, cols] Local; several
 * threads may call it at once. */
void merge_product(float *x, int64_t first, int64_t count, int64_t cols, const float *up,
                   const float *down, int64_t rank);

#ifdef __cplusplus
}
#endif
#endif
