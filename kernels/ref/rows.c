/* Rows chosen by an index. */
#include "kernels/ref/ref.h"

#include <string.h>

status ref_take_rows(struct device *dev, struct tensor out, struct tensor x, struct tensor index)
{
    const int32_t *from = index.data;
    const size_t element = dtype_size(x.dtype), bytes = (size_t)x.dim[2] * element;

    for (int64_t r = 0; r < out.dim[0]; r++)
        for (int64_t n = 0; n < out.dim[1]; n++)
            memcpy((char *)out.data + (size_t)(r * out.stride[0] + n * out.stride[1]) * element,
                   (const char *)x.data +
                       (size_t)(from[r] * x.stride[0] + n * x.stride[1]) * element,
                   bytes);
    return ST_OK;
}

status ref_add_gated_rows(struct device *dev, struct tensor sum, struct tensor rows,
                          struct tensor index, struct tensor gate)
{
    const int32_t *from = index.data;
    const int64_t c = sum.dim[1];
    double *v, *row, *g;

    TRY(ref_scratch(dev, &v, 3 * c));
    row = v + c;
    g = row + c;
    for (int64_t s = 0; s < sum.dim[0]; s++) {
        ref_load(v, sum, ref_row(sum, s), c);
        ref_load(row, rows, ref_row(rows, from[s]), c);
        ref_load(g, gate, ref_row(gate, s), c);
        for (int64_t i = 0; i < c; i++)
            v[i] += row[i] * g[i];
        ref_store(sum, ref_row(sum, s), v, c);
    }
    return ST_OK;
}
