/* average_down and repeat_up. A block has a row of a frame of the output, or a part of it. */
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/plain.h"

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

/* One block per row of each frame of t, as far as possible with 256 elements each. */
static dim3 blocks_of_rows(const struct tensor &t)
{
    const int64_t parts = (t.dim[2] * t.dim[3] + 255) / 256;

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
        average_down_kernel<<<blocks_of_rows(out), 256, 0, cuda_stream(dev)>>>(
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
        repeat_up_kernel<<<blocks_of_rows(out), 256, 0, cuda_stream(dev)>>>(
            out, x, y, cells_of(out, y, frames));
    return cuda_status(cudaGetLastError(), "repeat_up");
}
