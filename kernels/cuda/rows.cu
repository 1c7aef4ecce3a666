/* Rows chosen by an index. Limited by memory bandwidth: where all addresses and strides allow it, a
 * thread moves 16 bytes. */
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/plain.h"

#define THREADS 256

/* The rows [N, D] of one index, in units of `unit` bytes: strides and D are in units. */
template <typename unit>
__global__ void take_rows_kernel(unit *out, int64_t out_row, int64_t out_head, const unit *x,
                                 int64_t x_row, int64_t x_head, const int32_t *index, int64_t rows,
                                 int64_t heads, int64_t d)
{
    const int64_t wide = heads * d;

    for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
        const int64_t from = index[r] * x_row, to = r * out_row;

        for (int64_t i = threadIdx.x; i < wide; i += THREADS) {
            const int64_t n = i / d, c = i % d;

            out[to + n * out_head + c] = x[from + n * x_head + c];
        }
    }
}

static unsigned row_blocks(int64_t rows)
{
    return (unsigned)(rows < 1 << 20 ? rows : 1 << 20);
}

/* Whether the outer axes of t [S, N, D] are whole units of 16 bytes. */
static bool in_units(struct tensor t, int64_t elements)
{
    return (uintptr_t)t.data % 16 == 0 && t.stride[0] % elements == 0 &&
           t.stride[1] % elements == 0 && t.dim[2] % elements == 0;
}

template <typename unit>
static void take(struct device *dev, struct tensor out, struct tensor x, struct tensor index,
                 int64_t elements)
{
    take_rows_kernel<unit><<<row_blocks(out.dim[0]), THREADS, 0, cuda_stream(dev)>>>(
        (unit *)out.data, out.stride[0] / elements, out.stride[1] / elements, (const unit *)x.data,
        x.stride[0] / elements, x.stride[1] / elements, (const int32_t *)index.data, out.dim[0],
        out.dim[1], out.dim[2] / elements);
}

status plain_take_rows(struct device *dev, struct tensor out, struct tensor x, struct tensor index)
{
    const int64_t elements = 16 / (int64_t)dtype_size(x.dtype);

    if (in_units(out, elements) && in_units(x, elements))
        take<uint4>(dev, out, x, index, elements);
    else if (x.dtype == DT_BF16)
        take<uint16_t>(dev, out, x, index, 1);
    else
        take<float>(dev, out, x, index, 1);
    return cuda_status(cudaGetLastError(), "%s", "take_rows");
}

__global__ void add_gated_rows_kernel(struct tensor sum, struct tensor rows, const int32_t *index,
                                      struct tensor gate)
{
    for (int64_t s = blockIdx.x; s < sum.dim[0]; s += gridDim.x) {
        const int64_t to = s * sum.stride[0], from = index[s] * rows.stride[0];
        const int64_t g = s * gate.stride[0];

        for (int64_t i = threadIdx.x; i < sum.dim[1]; i += THREADS)
            store(sum, to + i, fmaf(load(rows, from + i), load(gate, g + i), load(sum, to + i)));
    }
}

/* All three in bf16, eight numbers at a time. */
__global__ void add_gated_rows_wide(struct tensor sum, struct tensor rows, const int32_t *index,
                                    struct tensor gate)
{
    const int64_t wide = sum.dim[1] / 8;

    for (int64_t s = blockIdx.x; s < sum.dim[0]; s += gridDim.x) {
        uint4 *to = (uint4 *)((__nv_bfloat16 *)sum.data + s * sum.stride[0]);
        const uint4 *from =
            (const uint4 *)((const __nv_bfloat16 *)rows.data + index[s] * rows.stride[0]);
        const uint4 *by = (const uint4 *)((const __nv_bfloat16 *)gate.data + s * gate.stride[0]);

        for (int64_t i = threadIdx.x; i < wide; i += THREADS) {
            uint4 a = to[i], b = from[i], g = by[i];
            __nv_bfloat162 *x = (__nv_bfloat162 *)&a;
            const __nv_bfloat162 *y = (const __nv_bfloat162 *)&b, *z = (const __nv_bfloat162 *)&g;

            for (int k = 0; k < 4; k++) {
                const float2 u = __bfloat1622float2(x[k]), v = __bfloat1622float2(y[k]);
                const float2 w = __bfloat1622float2(z[k]);

                x[k] = __floats2bfloat162_rn(fmaf(v.x, w.x, u.x), fmaf(v.y, w.y, u.y));
            }
            to[i] = a;
        }
    }
}

static bool is_wide(struct tensor t)
{
    return t.dtype == DT_BF16 && (uintptr_t)t.data % 16 == 0 && t.stride[0] % 8 == 0;
}

status plain_add_gated_rows(struct device *dev, struct tensor sum, struct tensor rows,
                            struct tensor index, struct tensor gate)
{
    const bool wide = is_wide(sum) && is_wide(rows) && is_wide(gate) && sum.dim[1] % 8 == 0;
    const int32_t *from = (const int32_t *)index.data;

    if (wide)
        add_gated_rows_wide<<<row_blocks(sum.dim[0]), THREADS, 0, cuda_stream(dev)>>>(sum, rows,
                                                                                      from, gate);
    else
        add_gated_rows_kernel<<<row_blocks(sum.dim[0]), THREADS, 0, cuda_stream(dev)>>>(sum, rows,
                                                                                        from, gate);
    return cuda_status(cudaGetLastError(), "%s", "add_gated_rows");
}
