/* average_down and repeat_up. A block has a row of a frame of the output, or a part of it. */
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/plain.h"
#include "kernels/cuda/vector.cuh"
#include "kernels/cuda/wide.h"

/* The cells of `many` for the pixels of `few`; 32-bit numbers, as divisions are slow. */
struct cells {
    int s, pixels, frames, n, missing; // as in ops.h; `pixels` of a cell
};

static struct cells cells_of(const struct tensor &many, const struct tensor &few, int frames)
{
    struct cells cells;

    cells.s = (int)(many.dim[1] / few.dim[1]);
    cells.pixels = cells.s * cells.s * frames;
    cells.frames = frames;
    cells.n = (int)(many.dim[3] * cells.pixels / few.dim[3]);
    cells.missing = (int)(frames * few.dim[0] - many.dim[0]);
    return cells;
}

/* Blocks of 256 threads for each row of each frame of t, as far as possible with `each` elements
 * per thread. */
static dim3 blocks_of_rows(const struct tensor &t, int each)
{
    const int64_t parts = (t.dim[2] * t.dim[3] / each + 255) / 256;

    return dim3((unsigned)(t.dim[0] * t.dim[1]), (unsigned)(parts < 65535 ? parts : 65535));
}

__device__ inline int64_t pixel(const struct tensor &t, int frame, int row, int col)
{
    return frame * t.stride[0] + row * t.stride[1] + col * t.stride[2];
}

__global__ void average_down_kernel(struct tensor out, struct tensor x, struct cells cells)
{
    const int rows = (int)out.dim[1], channels = (int)out.dim[3], s = cells.s;
    const int t = blockIdx.x / rows, row = blockIdx.x % rows;
    const int count = (int)out.dim[2] * channels, step = gridDim.y * blockDim.x;

    for (int i = blockIdx.y * blockDim.x + threadIdx.x; i < count; i += step) {
        const int col = i / channels, c = i % channels;
        float sum = 0;

        for (int k = c * cells.n; k < (c + 1) * cells.n; k++) {
            const int place = k % cells.pixels;
            const int frame = t * cells.frames + place / (s * s) - cells.missing;

            if (frame >= 0)
                sum += load(x, pixel(x, frame, row * s + place / s % s, col * s + place % s) +
                                   k / cells.pixels);
        }
        store(out, pixel(out, t, row, col) + c, sum / cells.n);
    }
}

status plain_average_down(struct device *dev, struct tensor out, struct tensor x, int frames)
{
    if (tensor_count(out) > 0)
        average_down_kernel<<<blocks_of_rows(out, 1), 256, 0, cuda_stream(dev)>>>(
            out, x, cells_of(x, out, frames));
    return cuda_status(cudaGetLastError(), "average_down");
}

__global__ void repeat_up_kernel(struct tensor out, struct tensor x, struct tensor y,
                                 struct cells cells)
{
    const int rows = (int)out.dim[1], channels = (int)out.dim[3], s = cells.s;
    const int t = blockIdx.x / rows, row = blockIdx.x % rows;
    const int count = (int)out.dim[2] * channels, step = gridDim.y * blockDim.x;
    const int frame = t + cells.missing;
    const int place = (frame % cells.frames * s + row % s) * s; // of the cell's column 0

    for (int i = blockIdx.y * blockDim.x + threadIdx.x; i < count; i += step) {
        const int col = i / channels, c = i % channels;
        const int from = (c * cells.pixels + place + col % s) / cells.n;

        store(out, pixel(out, t, row, col) + c,
              load(x, pixel(x, t, row, col) + c) +
                  load(y, pixel(y, frame / cells.frames, row / s, col / s) + from));
    }
}

status plain_repeat_up(struct device *dev, struct tensor out, struct tensor x, struct tensor y,
                       int frames)
{
    if (tensor_count(out) > 0)
        repeat_up_kernel<<<blocks_of_rows(out, 1), 256, 0, cuda_stream(dev)>>>(
            out, x, y, cells_of(out, y, frames));
    return cuda_status(cudaGetLastError(), "repeat_up");
}

/* ---- eight channels of the side with many pixels per thread ---- */

/* Pixels of a cell per element of the sum: if it is 1 or 2, and rows are aligned, eight channels of
 * `many` have 8 R consecutive channels of `few`. Else 0. */
static int wide_ratio(const struct tensor &many, const struct tensor &few,
                      const struct cells &cells)
{
    const int ratio = cells.pixels % cells.n == 0 ? cells.pixels / cells.n : 0;

    return ratio <= 2 && is_aligned_8(many) && is_aligned_8(few) ? ratio : 0;
}

template <int R>
__global__ void wide_average_down_kernel(struct tensor out, struct tensor x, struct cells cells)
{
    const int rows = (int)out.dim[1], groups = (int)x.dim[3] / 8, s = cells.s;
    const int t = blockIdx.x / rows, row = blockIdx.x % rows;
    const int count = (int)out.dim[2] * groups, step = gridDim.y * blockDim.x;

    for (int i = blockIdx.y * blockDim.x + threadIdx.x; i < count; i += step) {
        const int col = i / groups, c = i % groups * 8;
        float sum[R][8], v[8], mean[R][8];

#pragma unroll
        for (int r = 0; r < R; r++) {
            for (int e = 0; e < 8; e++)
                sum[r][e] = 0;
            for (int place = r * cells.n; place < (r + 1) * cells.n; place++) {
                const int frame = t * cells.frames + place / (s * s) - cells.missing;

                if (frame < 0)
                    continue;
                load8(v, x, pixel(x, frame, row * s + place / s % s, col * s + place % s) + c);
                for (int e = 0; e < 8; e++)
                    sum[r][e] += v[e];
            }
        }
#pragma unroll
        for (int j = 0; j < 8 * R; j++)
            mean[j / 8][j % 8] = sum[j % R][j / R] / cells.n;
#pragma unroll
        for (int r = 0; r < R; r++)
            store8(out, pixel(out, t, row, col) + c * R + 8 * r, mean[r]);
    }
}

status wide_average_down(struct device *dev, struct tensor out, struct tensor x, int frames)
{
    const struct cells cells = cells_of(x, out, frames);
    const int ratio = wide_ratio(x, out, cells);

    if (ratio == 0 || tensor_count(out) == 0)
        return plain_average_down(dev, out, x, frames);

    const dim3 blocks = blocks_of_rows(out, 8 * ratio);

    if (ratio == 1)
        wide_average_down_kernel<1><<<blocks, 256, 0, cuda_stream(dev)>>>(out, x, cells);
    else
        wide_average_down_kernel<2><<<blocks, 256, 0, cuda_stream(dev)>>>(out, x, cells);
    return cuda_status(cudaGetLastError(), "average_down");
}

template <int R>
__global__ void wide_repeat_up_kernel(struct tensor out, struct tensor x, struct tensor y,
                                      struct cells cells)
{
    const int rows = (int)out.dim[1], groups = (int)out.dim[3] / 8, s = cells.s;
    const int t = blockIdx.x / rows, row = blockIdx.x % rows;
    const int count = (int)out.dim[2] * groups, step = gridDim.y * blockDim.x;
    const int frame = t + cells.missing;
    const int place = (frame % cells.frames * s + row % s) * s; // of the cell's column 0

    for (int i = blockIdx.y * blockDim.x + threadIdx.x; i < count; i += step) {
        const int col = i / groups, c = i % groups * 8;
        const int which = (place + col % s) / cells.n; // of the R elements of a channel
        float v[8], up[R][8];

        load8(v, x, pixel(x, t, row, col) + c);
#pragma unroll
        for (int r = 0; r < R; r++)
            load8(up[r], y, pixel(y, frame / cells.frames, row / s, col / s) + c * R + 8 * r);
#pragma unroll
        for (int r = 0; r < R; r++)
            if (r == which)
#pragma unroll
                for (int e = 0; e < 8; e++)
                    v[e] += up[(e * R + r) / 8][(e * R + r) % 8];
        store8(out, pixel(out, t, row, col) + c, v);
    }
}

status wide_repeat_up(struct device *dev, struct tensor out, struct tensor x, struct tensor y,
                      int frames)
{
    const struct cells cells = cells_of(out, y, frames);
    const int ratio = is_aligned_8(x) ? wide_ratio(out, y, cells) : 0;

    if (ratio == 0 || tensor_count(out) == 0)
        return plain_repeat_up(dev, out, x, y, frames);

    const dim3 blocks = blocks_of_rows(out, 8);

    if (ratio == 1)
        wide_repeat_up_kernel<1><<<blocks, 256, 0, cuda_stream(dev)>>>(out, x, y, cells);
    else
        wide_repeat_up_kernel<2><<<blocks, 256, 0, cuda_stream(dev)>>>(out, x, y, cells);
    return cuda_status(cudaGetLastError(), "repeat_up");
}
