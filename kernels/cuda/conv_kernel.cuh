/* conv_kernel.cuh - convolution as a matrix product, without a matrix of input patches (im2col) in
 * memory.
 *
 * A block computes tiles of ROWS x COLS pixels of a frame and N output channels. For each
 * frame of the window and each slice of input channels, the TMA copies one box of x: the pixels of
 * the tile and the border that its windows reach, with zeros outside of the frame. The products for
 * all kh * kw taps read this one box: their matrix of 64 pixels is 8 rows of 8 pixels, each pixel a
 * row of the swizzled box, and another tap only starts at another pixel. Weights are copied tap by
 * tap.
 *
 *     warpgroup 0    one thread requests the boxes of x, another those of w, as buffers get free
 *     warpgroup 1    multiplies the upper 8 rows of the tile, in blocks of 8 x 8 pixels; of a tile
 * of 8 rows the left half warpgroup 2    the lower 8 rows, or the right half
 *
 * With upsample2x a box holds a quarter of the tile's pixels, and a block of 8 x 8 pixels is every
 * second row and column of the tile: these read consecutive pixels of the box, so here, too, a tap
 * only starts at another pixel. Warpgroup 1 then has the even rows and 2 the odd rows.
 *
 * Rows of x that are being received (struct conv) are read by the first and the last row of tiles,
 * which are computed last. The thread that requests the boxes waits for the message before the
 * first box of such a tile that is not one of `past`.
 *
 * With strides each tap has a box of its own, of every second row and column. The order of the sum
 * is: frames, taps with own boxes, slices, the other taps, channels.
 *
 * Factors (enum conv_factors):
 *
 *   BF16, F16  as they are in memory. With F16 the sums of each output are multiplied by its scale.
 *   TF32       boxes of x are copied as f32, and two warps round them to TF32 in place, as the
 *              tensor cores truncate; a row of a box is 32 channels, in the bytes of 64 bf16.
 *   PAIRS      each factor is the sum of two bf16, high and low. A product is high * high + low *
 *              high + high * low, with a relative error of 2^-17. Boxes of x are copied as f32, and
 *              two warps convert them in place: 16 channels of f32 become their 16 high parts, then
 *              their 16 low parts. As the tensor cores truncate sums, those of each box are added
 * to the tile's sums by f32 instructions. */
#ifndef KERNELS_CUDA_CONV_KERNEL_CUH
#define KERNELS_CUDA_CONV_KERNEL_CUH

#include "kernels/cuda/conv.h"

#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/vector.cuh"

#define THREADS 384

template <enum conv_factors F, int CHANNELS, int N, int ROWS, int COLS, int BORDER> struct layout {
    static constexpr bool CONVERTS = F == CONV_TF32 || F == CONV_PAIRS;
    static constexpr int BLOCKS = ROWS * COLS / 128; // of 8 x 8 pixels in a warpgroup
    static constexpr int STEPS = F == CONV_PAIRS ? 6 : CHANNELS / 16; // products of a tap
    static constexpr int ROW = 2 * CHANNELS; // bytes of a pixel or weight in a box
    static constexpr int X = ((ROWS + BORDER) * (COLS + BORDER) * ROW + 1023) / 1024 * 1024;
    static constexpr int W = (N * ROW + 1023) / 1024 * 1024;
    static constexpr int X_STAGES = BORDER == 0 ? 4 : X > 40 << 10 && !CONVERTS ? 2 : 3;
    static constexpr int ROOM = (224 << 10) - X_STAGES * X;
    static constexpr int W_STAGES = ROOM / W > 12 ? 12 : ROOM / W;
    static constexpr int BYTES = X_STAGES * X + W_STAGES * W + 2048;

    /* The byte in a row of x and of w at which the channels of product i start. */
    static __device__ constexpr int x_step(int i)
    {
        return F == CONV_PAIRS ? i / 3 * 64 + (i % 3 == 1 ? 32 : 0) : 32 * i;
    }
    static __device__ constexpr int w_step(int i)
    {
        return F == CONV_PAIRS ? i / 3 * 64 + (i % 3 == 2 ? 32 : 0) : 32 * i;
    }
};

/* A tile: its first output channel / N, frame, pixel row and column. Tiles that differ in output
 * channels follow each other, then frames, which share most of their input. Rows of tiles that wait
 * for a row of x come last. */
struct tile {
    int n, t, row, col;
};

template <int ROWS, int COLS>
__device__ inline struct tile tile_at(const struct conv_job &job, int i)
{
    struct tile tile;
    const int frames = (int)job.out.dim[0];

    tile.n = i % job.tiles_n;
    i /= job.tiles_n;
    tile.t = i % frames;
    i /= frames;
    tile.col = i % job.tiles_w * COLS;
    i = i / job.tiles_w + (job.first_row.flag != NULL); // row 0 after the others if it waits
    tile.row = (i < job.tiles_h ? i : 0) * ROWS;
    return tile;
}

/* Whether a tile reads a row of x that is being received. */
__device__ inline bool reads_first_row(const struct conv_job &job, const struct tile &tile)
{
    return job.first_row.flag != NULL && tile.row == 0;
}

__device__ inline bool reads_last_row(const struct conv_job &job, const struct tile &tile)
{
    return job.last_row.flag != NULL && tile.row == job.last_tile;
}

/* Waits for the rows of x that a tile reads. */
__device__ inline void wait_for_rows(const struct conv_job &job, const struct tile &tile)
{
    if (reads_first_row(job, tile))
        wait_for_flag(job.first_row.flag, job.first_row.value);
    if (reads_last_row(job, tile))
        wait_for_flag(job.last_row.flag, job.last_row.value);
    async_proxy_fence_global();
}

/* Transposes a 4 x 4 matrix over the four threads of a quad: thread q has row q and gets column q.
 */
__device__ inline void transpose(float (&v)[4], int quad)
{
#pragma unroll
    for (int i = 1; i <= 2; i *= 2) {
        const int a = 0, b = i, c = 3 - i, d = 3; // pairs (a, b) and (c, d) differ in bit i
        const bool upper = (quad & i) != 0;
        const float x = __shfl_xor_sync(~0u, upper ? v[a] : v[b], i);
        const float y = __shfl_xor_sync(~0u, upper ? v[c] : v[d], i);

        v[a] = upper ? x : v[a];
        v[b] = upper ? v[b] : x;
        v[c] = upper ? y : v[c];
        v[d] = upper ? v[d] : y;
    }
}

/* Where a block of 8 x 8 pixels is stored: from (row, col) of frame t, at every `step` rows and
 * columns, from `channel` on. */
struct target {
    int t, row, col, step, channel;
};

/* out = sums * scale + bias + residual for a block of 8 x 8 pixels. */
template <int N, bool SCALED>
__device__ inline void store_block(const struct conv_job &job, const struct target &target,
                                   const float (&sum)[N / 2])
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4, quad = lane % 4;
    const int channels = (int)job.out.dim[3], x = target.col + lane / 4 * target.step;

#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int y = target.row + (2 * warp + half) * target.step;
        const bool inside = y < job.out.dim[1] && x < job.out.dim[2];
        const int64_t to = target.t * job.out.stride[0] + y * job.out.stride[1] +
                           x * job.out.stride[2] + target.channel;
        const int64_t from = target.t * job.residual.stride[0] + y * job.residual.stride[1] +
                             x * job.residual.stride[2] + target.channel;

        if (N % 32 == 0) {
#pragma unroll
            for (int j = 0; j < N / 32; j++) {
                const int c = 8 * (4 * j + quad);
                float a[4], b[4], v[8], r[8];

                for (int i = 0; i < 4; i++) {
                    a[i] = sum[(16 * j + 4 * i + 2 * half) % (N / 2)];
                    b[i] = sum[(16 * j + 4 * i + 2 * half + 1) % (N / 2)];
                }
                transpose(a, quad);
                transpose(b, quad);
                if (!inside || target.channel + c >= channels)
                    continue;
                for (int i = 0; i < 4; i++)
                    v[2 * i] = a[i], v[2 * i + 1] = b[i];
                if (SCALED)
                    for (int i = 0; i < 8; i++)
                        v[i] *= job.scale[target.channel + c + i];
                if (job.bias != NULL)
                    for (int i = 0; i < 8; i++)
                        v[i] += job.bias[target.channel + c + i];
                if (job.residual.data != NULL) {
                    load8(r, job.residual, from + c);
                    for (int i = 0; i < 8; i++)
                        v[i] += r[i];
                }
                store8(job.out, to + c, v);
            }
        } else {
            for (int i = 0; i < N / 4; i++) {
                const int c = i / 2 * 8 + 2 * quad + i % 2;
                float v = sum[i / 2 * 4 + 2 * half + i % 2];

                if (!inside || target.channel + c >= channels)
                    continue;
                if (SCALED)
                    v *= job.scale[target.channel + c];
                if (job.bias != NULL)
                    v += job.bias[target.channel + c];
                if (job.residual.data != NULL)
                    v += load(job.residual, from + c);
                store(job.out, to + c, v);
            }
        }
    }
}

/* Splits two f32: high = both rounded to bf16, low = the remainders rounded to bf16. */
__device__ inline void split(uint32_t &high, uint32_t &low, float a, float b)
{
    const __nv_bfloat162 h = __floats2bfloat162_rn(a, b);

    high = *(const uint32_t *)&h;

    const __nv_bfloat162 l = __floats2bfloat162_rn(a - __uint_as_float(high << 16),
                                                   b - __uint_as_float(high & 0xffff0000u));
    low = *(const uint32_t *)&l;
}

/* Converts 16 channels of a row of a box, f32 with the 128-byte swizzle, to high and low parts. */
__device__ inline void split_half(char *box, int row, int half)
{
    uint4 *const chunk = (uint4 *)(box + row * 128);
    uint32_t high[8], low[8];

#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float4 f = *(const float4 *)&chunk[(4 * half + i) ^ (row & 7)];

        split(high[2 * i], low[2 * i], f.x, f.y);
        split(high[2 * i + 1], low[2 * i + 1], f.z, f.w);
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        chunk[(4 * half + i) ^ (row & 7)] =
            make_uint4(high[4 * i], high[4 * i + 1], high[4 * i + 2], high[4 * i + 3]);
        chunk[(4 * half + 2 + i) ^ (row & 7)] =
            make_uint4(low[4 * i], low[4 * i + 1], low[4 * i + 2], low[4 * i + 3]);
    }
}

/* Rounds the f32 of a box to TF32, `thread` of 64 threads. */
__device__ inline void round_box(char *box, int bytes, int thread)
{
    float4 *const chunk = (float4 *)box;

#pragma unroll 4
    for (int i = thread; i < bytes / 16; i += 64) {
        const float4 f = chunk[i];

        chunk[i] =
            make_float4(rounded_tf32(f.x), rounded_tf32(f.y), rounded_tf32(f.z), rounded_tf32(f.w));
    }
}

template <enum conv_factors F, int R>
__device__ inline void product(float (&d)[R], uint64_t a, uint64_t b, int add)
{
    if constexpr (F == CONV_F16)
        wgmma_f16(d, a, b, add);
    else if constexpr (F == CONV_TF32)
        wgmma_tf32(d, a, b, add);
    else
        wgmma(d, a, b, add);
}

template <enum conv_factors F, int CHANNELS, int N, int ROWS, int COLS, bool UPSAMPLE2X, int BORDER>
__global__ void __launch_bounds__(THREADS, 1)
    conv_kernel(const __grid_constant__ struct conv_job job)
{
    using L = layout<F, CHANNELS, N, ROWS, COLS, BORDER>;
    constexpr int SCALE = UPSAMPLE2X ? 2 : 1;
    extern __shared__ char shared[];
    __shared__ uint64_t x_full[L::X_STAGES], x_ready[L::X_STAGES], x_free[L::X_STAGES];
    __shared__ uint64_t w_full[L::W_STAGES], w_free[L::W_STAGES];
    char *const x_box = shared + (1024 - shared_address(shared) % 1024) % 1024;
    char *const w_box = x_box + L::X_STAGES * L::X;
    const int tiles = job.tiles_n * (int)job.out.dim[0] * job.tiles_w * job.tiles_h;
    const int group = threadIdx.x / 128;
    const int kh = job.boxes > 1 ? 1 : job.kh, kw = job.boxes > 1 ? 1 : job.kw; // taps in a box
    const int taps = kh * kw;

    if (threadIdx.x == 0) {
        for (int i = 0; i < L::X_STAGES; i++) {
            mbarrier_init(shared_address(&x_full[i]), 1);
            mbarrier_init(shared_address(&x_ready[i]), 2);
            mbarrier_init(shared_address(&x_free[i]), 2);
        }
        for (int i = 0; i < L::W_STAGES; i++) {
            mbarrier_init(shared_address(&w_full[i]), 1);
            mbarrier_init(shared_address(&w_free[i]), 2);
        }
        mbarrier_init_fence();
    }
    __syncthreads();

    ring<L::X_STAGES> x = { 0, 0 };
    ring<L::W_STAGES> w = { 0, 0 };

    if (group == 0) {
        registers_decrease<L::CONVERTS ? 40 : 24>();
        if (threadIdx.x == 0) {
            for (int i = blockIdx.x; i < tiles; i += gridDim.x) {
                const struct tile tile = tile_at<ROWS, COLS>(job, i);
                bool waits = reads_first_row(job, tile) || reads_last_row(job, tile);

                for (int k = 0; k < job.kt * job.boxes; k++)
                    for (int s = 0; s < job.slices; s++, x.next()) {
                        const int tap = k % job.boxes;
                        const int frame = tile.t * job.step_t + k / job.boxes;
                        const bool before = frame < job.front && job.has_past;

                        if (waits && frame >= job.front) {
                            wait_for_rows(job, tile);
                            waits = false;
                        }
                        mbarrier_wait_opaque(shared_address(&x_free[x.at]), x.parity ^ 1);
                        mbarrier_arrive_expect(shared_address(&x_full[x.at]), job.x_bytes);
                        tma_load(shared_address(x_box + x.at * L::X), before ? &job.past : &job.x,
                                 shared_address(&x_full[x.at]),
                                 s * (L::CONVERTS ? CHANNELS / 2 : CHANNELS),
                                 tile.col / SCALE * job.step - job.left + tap % job.kw,
                                 tile.row / SCALE * job.step - job.top + tap / job.kw,
                                 before ? frame : frame - job.front);
                    }
            }
        } else if (threadIdx.x == 32) {
            for (int i = blockIdx.x; i < tiles; i += gridDim.x) {
                const struct tile tile = tile_at<ROWS, COLS>(job, i);

                for (int k = 0; k < job.kt * job.boxes; k++)
                    for (int s = 0; s < job.slices; s++)
                        for (int tap = 0; tap < taps; tap++, w.next()) {
                            mbarrier_wait_opaque(shared_address(&w_free[w.at]), w.parity ^ 1);
                            mbarrier_arrive_expect(shared_address(&w_full[w.at]), job.w_bytes);
                            tma_load(shared_address(w_box + w.at * L::W), &job.w,
                                     shared_address(&w_full[w.at]),
                                     s * (F == CONV_TF32 ? CHANNELS / 2 : CHANNELS), tile.n * N,
                                     k * taps + tap);
                        }
            }
        } else if (L::CONVERTS && threadIdx.x >= 64) {
            const int halves = job.x_bytes / 64;

            for (int i = blockIdx.x; i < tiles; i += gridDim.x)
                for (int k = 0; k < job.kt * job.boxes * job.slices; k++, x.next()) {
                    mbarrier_wait_opaque(shared_address(&x_full[x.at]), x.parity);
                    if (F == CONV_TF32)
                        round_box(x_box + x.at * L::X, job.x_bytes, threadIdx.x - 64);
                    for (int j = threadIdx.x - 64; F == CONV_PAIRS && j < halves; j += 64)
                        split_half(x_box + x.at * L::X, j / 2, j % 2);
                    async_proxy_fence();
                    __syncwarp();
                    if (threadIdx.x % 32 == 0)
                        mbarrier_arrive(shared_address(&x_ready[x.at]));
                }
        }
    } else {
        const int pitch = (COLS / SCALE + kw - 1) * L::ROW, lower = group - 1;
        const int below = ROWS == 16 ? 8 * lower : 0, right = ROWS == 16 ? 0 : COLS / 2 * lower;
        const uint32_t x_address =
            shared_address(x_box) + (UPSAMPLE2X ? 0 : below * pitch + right * L::ROW);
        const uint32_t w_address = shared_address(w_box);
        float sum[L::BLOCKS][N / 2], total[L::BLOCKS][F == CONV_PAIRS ? N / 2 : 1];

        registers_increase<L::CONVERTS ? 232 : 240>();
        for (int i = blockIdx.x; i < tiles; i += gridDim.x) {
            const struct tile tile = tile_at<ROWS, COLS>(job, i);
            int add = 0;
            int x_done = -1, w_done = -1; // buffers to release after the products in flight
            auto release = [&]() {
                if (threadIdx.x % 128 == 0) {
                    if (w_done >= 0)
                        mbarrier_arrive(shared_address(&w_free[w_done]));
                    if (x_done >= 0)
                        mbarrier_arrive(shared_address(&x_free[x_done]));
                }
                x_done = w_done = -1;
            };

            for (int k = 0; k < job.kt * job.boxes * job.slices; k++, x.next()) {
                mbarrier_wait_opaque(shared_address(L::CONVERTS ? &x_ready[x.at] : &x_full[x.at]),
                                     x.parity);
                for (int r = 0; r < kh; r++)
                    for (int c = 0; c < kw; c++, w.next()) {
                        const uint32_t a = x_address + x.at * L::X +
                                           (UPSAMPLE2X ? (lower + r + 1) / 2 : r) * pitch;
                        const uint32_t b = w_address + w.at * L::W;

                        mbarrier_wait_opaque(shared_address(&w_full[w.at]), w.parity);
                        wgmma_fence();
#pragma unroll
                        for (int step = 0; step < L::STEPS; step++) {
#pragma unroll
                            for (int j = 0; j < L::BLOCKS; j++)
                                product<F>(
                                    sum[j],
                                    matrix_descriptor(a + L::x_step(step) +
                                                          (UPSAMPLE2X
                                                               ? 8 * (j / 2) + (j % 2 + c + 1) / 2
                                                               : 8 * j + c) *
                                                              L::ROW,
                                                      L::ROW, pitch, 16),
                                    matrix_descriptor(b + L::w_step(step), L::ROW, 8 * L::ROW, 16),
                                    add);
                            add = 1;
                        }
                        wgmma_commit();
                        wgmma_wait<1>();
                        release();
                        w_done = w.at;
                    }
                x_done = x.at;
                if constexpr (F == CONV_PAIRS) {
                    wgmma_wait<0>();
                    release();
                    add = 0;
#pragma unroll
                    for (int j = 0; j < L::BLOCKS; j++) {
                        register_fence(sum[j]);
#pragma unroll
                        for (int e = 0; e < N / 2; e++)
                            total[j][e] = k == 0 ? sum[j][e] : total[j][e] + sum[j][e];
                    }
                }
            }
            if constexpr (F != CONV_PAIRS) {
                wgmma_wait<0>();
                release();
            }
#pragma unroll
            for (int j = 0; j < L::BLOCKS; j++) {
                const struct target to =
                    UPSAMPLE2X ? (struct target){ tile.t, tile.row + lower,
                                                  tile.col + 16 * (j / 2) + j % 2, 2, tile.n * N }
                               : (struct target){ tile.t, tile.row + below,
                                                  tile.col + right + 8 * j, 1, tile.n * N };

                if constexpr (F == CONV_PAIRS)
                    store_block<N, false>(job, to, total[j]);
                else
                    store_block<N, F == CONV_F16>(job, to, sum[j]);
            }
        }
    }
}

template <enum conv_factors F, int CHANNELS, int N, int ROWS, int COLS, bool UPSAMPLE2X,
          int BORDER = 2>
static status launch(struct device *dev, const struct conv_job *job, int blocks)
{
    const auto kernel = conv_kernel<F, CHANNELS, N, ROWS, COLS, UPSAMPLE2X, BORDER>;
    const int bytes = layout<F, CHANNELS, N, ROWS, COLS, BORDER>::BYTES;

    TRY(cuda_status(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
        "conv3d"));
    kernel<<<blocks, THREADS, bytes, cuda_stream(dev)>>>(*job);
    return cuda_status(cudaGetLastError(), "conv3d");
}

template <enum conv_factors F, int N, int ROWS, int COLS>
static status launch_64(struct device *dev, const struct conv_job *job, int blocks, int border)
{
    return border == 0 ? launch<F, 64, N, ROWS, COLS, false, 0>(dev, job, blocks)
                       : launch<F, 64, N, ROWS, COLS, false, 2>(dev, job, blocks);
}

/* More than 96 outputs. */
template <enum conv_factors F, int N>
static status launch_many(struct device *dev, const struct conv_job *job, int blocks,
                          struct conv_shape s)
{
    if (s.channels == 32)
        return launch<F, 32, N, 16, 16, false>(dev, job, blocks);
    return s.rows == 16 ? launch_64<F, N, 16, 16>(dev, job, blocks, s.border)
                        : launch_64<F, N, 8, 32>(dev, job, blocks, s.border);
}

template <enum conv_factors F, int CHANNELS>
static status launch_few(struct device *dev, const struct conv_job *job, int blocks,
                         struct conv_shape s)
{
    if (s.outputs == 8)
        return launch<F, CHANNELS, 8, 16, 32, false>(dev, job, blocks);
    if (s.outputs == 16)
        return launch<F, CHANNELS, 16, 16, 32, false>(dev, job, blocks);
    if (s.columns == 16)
        return launch<F, CHANNELS, 96, 16, 16, false>(dev, job, blocks);
    return launch<F, CHANNELS, 96, 16, 32, false>(dev, job, blocks);
}

/* Factors of 16 bits. */
template <enum conv_factors F>
static status launch_16(struct device *dev, struct conv_shape s, const struct conv_job *job,
                        int blocks)
{
    if (s.outputs <= 96)
        return s.channels == 64 ? launch_few<F, 64>(dev, job, blocks, s)
                                : launch_few<F, 32>(dev, job, blocks, s);
    return s.outputs == 192   ? launch_many<F, 192>(dev, job, blocks, s)
           : s.outputs == 160 ? launch_many<F, 160>(dev, job, blocks, s)
                              : launch_many<F, 128>(dev, job, blocks, s);
}

#endif
