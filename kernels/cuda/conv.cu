/* Convolution as a matrix product, without a matrix of input patches (im2col) in memory.
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
 * f32 is computed with each factor as the sum of two bf16, high and low. A product is high * high +
 * low * high + high * low, with a relative error of 2^-17. Boxes of x are copied as f32, and two
 * warps convert them in place: 16 channels of f32 become their 16 high parts, then their 16 low
 * parts. So a row of a box is 32 channels, in the bytes of 64 bf16. As the tensor cores truncate
 * sums, those of each box are added to the tile's sums by f32 instructions. */
#include "kernels/cuda/conv.h"

#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/vector.cuh"

#define THREADS 384

template <int CHANNELS, int N, int ROWS, int COLS, bool SPLIT, int BORDER> struct layout {
    static constexpr int BLOCKS = ROWS * COLS / 128;        // of 8 x 8 pixels in a warpgroup
    static constexpr int STEPS = SPLIT ? 6 : CHANNELS / 16; // products of a tap
    static constexpr int ROW = 2 * CHANNELS;                // bytes of a pixel or weight in a box
    static constexpr int X = ((ROWS + BORDER) * (COLS + BORDER) * ROW + 1023) / 1024 * 1024;
    static constexpr int W = (N * ROW + 1023) / 1024 * 1024;
    static constexpr int X_STAGES = BORDER == 0 ? 4 : X > 40 << 10 && !SPLIT ? 2 : 3;
    static constexpr int ROOM = (224 << 10) - X_STAGES * X;
    static constexpr int W_STAGES = ROOM / W > 12 ? 12 : ROOM / W;
    static constexpr int BYTES = X_STAGES * X + W_STAGES * W + 2048;

    /* The byte in a row of x and of w at which the 16 channels of product i start. */
    static __device__ constexpr int x_step(int i)
    {
        return SPLIT ? i / 3 * 64 + (i % 3 == 1 ? 32 : 0) : 32 * i;
    }
    static __device__ constexpr int w_step(int i)
    {
        return SPLIT ? i / 3 * 64 + (i % 3 == 2 ? 32 : 0) : 32 * i;
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

/* out = sums + bias + residual for a block of 8 x 8 pixels. */
template <int N>
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

/* out [rows, groups, 2, 16] from w [rows, channels]: 16 high parts, then 16 low parts; zeros where
 * the last group is not full. */
__global__ void split_weights_kernel(__nv_bfloat16 *out, const float *w, int64_t rows, int channels,
                                     int groups)
{
    const int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; // index of a channel of a row
    const int64_t row = i / (16 * groups);
    const int c = (int)(i % (16 * groups));

    if (row >= rows)
        return;

    const float v = c < channels ? w[row * channels + c] : 0;
    const __nv_bfloat16 high = __float2bfloat16_rn(v);
    __nv_bfloat16 *const to = out + (row * groups + c / 16) * 32 + c % 16;

    to[0] = high;
    to[16] = __float2bfloat16_rn(v - __bfloat162float(high));
}

template <int CHANNELS, int N, int ROWS, int COLS, bool UPSAMPLE2X, bool SPLIT, int BORDER>
__global__ void __launch_bounds__(THREADS, 1)
    conv_kernel(const __grid_constant__ struct conv_job job)
{
    using L = layout<CHANNELS, N, ROWS, COLS, SPLIT, BORDER>;
    constexpr int SCALE = UPSAMPLE2X ? 2 : 1;
    extern __shared__ char shared[];
    __shared__ uint64_t x_full[L::X_STAGES], x_split[L::X_STAGES], x_free[L::X_STAGES];
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
            mbarrier_init(shared_address(&x_split[i]), 2);
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
        registers_decrease<SPLIT ? 40 : 24>();
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
                                 s * (SPLIT ? CHANNELS / 2 : CHANNELS),
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
                                     shared_address(&w_full[w.at]), s * CHANNELS, tile.n * N,
                                     k * taps + tap);
                        }
            }
        } else if (SPLIT && threadIdx.x >= 64) {
            const int halves = job.x_bytes / 64;

            for (int i = blockIdx.x; i < tiles; i += gridDim.x)
                for (int k = 0; k < job.kt * job.boxes * job.slices; k++, x.next()) {
                    mbarrier_wait_opaque(shared_address(&x_full[x.at]), x.parity);
                    for (int j = threadIdx.x - 64; j < halves; j += 64)
                        split_half(x_box + x.at * L::X, j / 2, j % 2);
                    async_proxy_fence();
                    __syncwarp();
                    if (threadIdx.x % 32 == 0)
                        mbarrier_arrive(shared_address(&x_split[x.at]));
                }
        }
    } else {
        const int pitch = (COLS / SCALE + kw - 1) * L::ROW, lower = group - 1;
        const int below = ROWS == 16 ? 8 * lower : 0, right = ROWS == 16 ? 0 : COLS / 2 * lower;
        const uint32_t x_address =
            shared_address(x_box) + (UPSAMPLE2X ? 0 : below * pitch + right * L::ROW);
        const uint32_t w_address = shared_address(w_box);
        float sum[L::BLOCKS][N / 2], total[L::BLOCKS][SPLIT ? N / 2 : 1];

        registers_increase<SPLIT ? 232 : 240>();
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
                mbarrier_wait_opaque(shared_address(SPLIT ? &x_split[x.at] : &x_full[x.at]),
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
                                wgmma(
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
                if constexpr (SPLIT) {
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
            if constexpr (!SPLIT) {
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

                if constexpr (SPLIT)
                    store_block<N>(job, to, total[j]);
                else
                    store_block<N>(job, to, sum[j]);
            }
        }
    }
}

template <int CHANNELS, int N, int ROWS, int COLS, bool UPSAMPLE2X, bool SPLIT, int BORDER = 2>
static status launch(struct device *dev, const struct conv_job *job, int blocks)
{
    const auto kernel = conv_kernel<CHANNELS, N, ROWS, COLS, UPSAMPLE2X, SPLIT, BORDER>;
    const int bytes = layout<CHANNELS, N, ROWS, COLS, SPLIT, BORDER>::BYTES;

    TRY(cuda_status(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
        "conv3d"));
    kernel<<<blocks, THREADS, bytes, cuda_stream(dev)>>>(*job);
    return cuda_status(cudaGetLastError(), "conv3d");
}

template <int N, int ROWS, int COLS>
static status launch_64(struct device *dev, const struct conv_job *job, int blocks, int border)
{
    return border == 0 ? launch<64, N, ROWS, COLS, false, false, 0>(dev, job, blocks)
                       : launch<64, N, ROWS, COLS, false, false, 2>(dev, job, blocks);
}

/* More than 96 outputs. */
template <int N>
static status launch_many(struct device *dev, const struct conv_job *job, int blocks,
                          struct conv_shape s)
{
    if (s.channels == 32)
        return launch<32, N, 16, 16, false, false>(dev, job, blocks);
    return s.rows == 16 ? launch_64<N, 16, 16>(dev, job, blocks, s.border)
                        : launch_64<N, 8, 32>(dev, job, blocks, s.border);
}

template <int CHANNELS>
static status launch_few(struct device *dev, const struct conv_job *job, int blocks,
                         struct conv_shape s)
{
    if (s.outputs == 8)
        return launch<CHANNELS, 8, 16, 32, false, false>(dev, job, blocks);
    if (s.outputs == 16)
        return launch<CHANNELS, 16, 16, 32, false, false>(dev, job, blocks);
    if (s.columns == 16)
        return launch<CHANNELS, 96, 16, 16, false, false>(dev, job, blocks);
    return launch<CHANNELS, 96, 16, 32, false, false>(dev, job, blocks);
}

template <int N>
static status launch_split(struct device *dev, const struct conv_job *job, int blocks,
                           bool upsample2x)
{
    return upsample2x ? launch<64, N, 16, 16, true, true>(dev, job, blocks)
                      : launch<64, N, 16, 16, false, true>(dev, job, blocks);
}

status conv_launch(struct device *dev, struct conv_shape s, const struct conv_job *job, int blocks)
{
    if (s.split)
        return s.outputs == 8    ? launch_split<8>(dev, job, blocks, s.upsample2x)
               : s.outputs == 16 ? launch_split<16>(dev, job, blocks, s.upsample2x)
                                 : launch_split<96>(dev, job, blocks, s.upsample2x);
    if (s.outputs <= 96)
        return s.channels == 64 ? launch_few<64>(dev, job, blocks, s)
                                : launch_few<32>(dev, job, blocks, s);
    return s.outputs == 192   ? launch_many<192>(dev, job, blocks, s)
           : s.outputs == 160 ? launch_many<160>(dev, job, blocks, s)
                              : launch_many<128>(dev, job, blocks, s);
}

/* One output and frame of the window per block: [3, 3, C] to [2, 2, C] four times. Of three taps in
 * a row or column, an even output adds the last two, an odd one the first two. */
__global__ void fold_weights_kernel(__nv_bfloat16 *out, const __nv_bfloat16 *w, int channels)
{
    const int64_t block = blockIdx.x, blocks = gridDim.x;

    for (int i = threadIdx.x; i < 16 * channels; i += blockDim.x) {
        const int c = i % channels, tap = i / channels % 4, parity = i / channels / 4;
        const int row = parity / 2, col = parity % 2, r = tap / 2, s = tap % 2;
        const int first_row = r == 0 ? 0 : row + 1, last_row = r == 0 ? row : 2;
        const int first_col = s == 0 ? 0 : col + 1, last_col = s == 0 ? col : 2;
        float sum = 0;

        for (int y = first_row; y <= last_row; y++)
            for (int x = first_col; x <= last_col; x++)
                sum += __bfloat162float(w[(block * 9 + 3 * y + x) * channels + c]);
        out[((parity * blocks + block) * 4 + tap) * channels + c] = __float2bfloat16_rn(sum);
    }
}

status conv_fold_weights(struct device *dev, struct tensor folded, struct tensor w)
{
    fold_weights_kernel<<<(unsigned)(w.dim[0] * w.dim[1]), 256, 0, cuda_stream(dev)>>>(
        (__nv_bfloat16 *)folded.data, (const __nv_bfloat16 *)w.data, (int)w.dim[4]);
    return cuda_status(cudaGetLastError(), "conv3d");
}

status conv_split_weights(struct device *dev, void *out, const float *w, int64_t rows, int channels)
{
    const int groups = (channels + 15) / 16;
    const int64_t threads = rows * groups * 16;

    split_weights_kernel<<<(unsigned)((threads + 255) / 256), 256, 0, cuda_stream(dev)>>>(
        (__nv_bfloat16 *)out, w, rows, channels, groups);
    return cuda_status(cudaGetLastError(), "conv3d");
}
