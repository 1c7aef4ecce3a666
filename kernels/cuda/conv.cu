/* Convolution as a matrix product without a patch matrix.
 *
 * A block computes a tile of CONV_ROWS x COLS pixels of a frame and N output channels. For each tap
 * along time and each slice of channels, the copy engine brings one box of x, the tile and the rim
 * that the windows reach into (zeros where it leaves the picture), and all kh*kw taps of it are
 * products out of that one box: a matrix of 64 pixels is 8 rows of 8 pixels, each a row of the
 * swizzled box, and another tap is another first pixel. Weights come a tap at a time.
 *
 *     warpgroup 0    one thread asks for boxes of x, one for those of w, as places get free
 *     warpgroup 1    the upper 8 rows of the tile, in 8 x 8 pixels
 *     warpgroup 2    the lower 8
 *
 * Where pixels count twice, the box is that of a quarter of the tile, and 8 x 8 pixels are every
 * second row and column of the tile: for these, too, a tap is a first pixel in the box. Warpgroup 1
 * has the even rows then, 2 the odd ones.
 *
 * With strides a tap has a box of its own, of every second row and column. The sum runs over time,
 * the taps that have boxes, slices, the others, channels, in that order.
 *
 * f32 goes the same way: a number is the sum of two bf16, high and low, and a product of two is
 * that of their highs, of low and high, and of high and low, off by 2^-17. Boxes of x come as they
 * are, and two warps turn them into bf16 where they lie: 16 channels of f32 become their 16 highs
 * and, behind them, their 16 lows. So a row of a box is 32 channels, in the bytes of 64 of bf16. As
 * the tensor cores cut their sums off, those of a box are added to the tile's in f32. */
#include "kernels/cuda/conv.h"

#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/vector.cuh"

#define THREADS 384

template <int CHANNELS, int N, int COLS, bool SPLIT> struct layout {
    static constexpr int BLOCKS = COLS / 8;                 // of 8 x 8 pixels, of a warpgroup
    static constexpr int STEPS = SPLIT ? 6 : CHANNELS / 16; // products of a tap
    static constexpr int ROW = 2 * CHANNELS;                // bytes
    static constexpr int X = ((CONV_ROWS + 2) * (COLS + 2) * ROW + 1023) / 1024 * 1024;
    static constexpr int W = (N * ROW + 1023) / 1024 * 1024;
    static constexpr int X_PLACES = X > 40 << 10 && !SPLIT ? 2 : 3;
    static constexpr int ROOM = (220 << 10) - X_PLACES * X;
    static constexpr int W_PLACES = ROOM / W > 12 ? 12 : ROOM / W;
    static constexpr int BYTES = X_PLACES * X + W_PLACES * W + 2048;

    /* Where the 16 channels of product i begin, in a row of x and of w. */
    static __device__ constexpr int x_step(int i)
    {
        return SPLIT ? i / 3 * 64 + (i % 3 == 1 ? 32 : 0) : 32 * i;
    }
    static __device__ constexpr int w_step(int i)
    {
        return SPLIT ? i / 3 * 64 + (i % 3 == 2 ? 32 : 0) : 32 * i;
    }
};

struct ring {
    int place;
    uint32_t parity;
};

template <int PLACES> __device__ inline void advance(struct ring &r)
{
    if (++r.place == PLACES) {
        r.place = 0;
        r.parity ^= 1;
    }
}

/* Which tile. Output channels lie next to each other in time, then the frames, which share most of
 * their input. */
struct tile {
    int n, t, row, col;
};

template <int COLS> __device__ inline struct tile tile_at(const struct conv_job &job, int i)
{
    struct tile tile;
    const int frames = (int)job.out.dim[0];

    tile.n = i % job.n;
    i /= job.n;
    tile.t = i % frames;
    i /= frames;
    tile.col = i % job.across * COLS;
    tile.row = i / job.across * CONV_ROWS;
    return tile;
}

/* Thread q of a quad has v[i] of column pair i of what the four hold, and gets all v[q]. */
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

/* Where the sums of 8 x 8 pixels go: from (row, col) on, every `step` rows and columns. */
struct place {
    int t, row, col, step, channel;
};

/* Sums go out, with bias and residual. */
template <int N>
__device__ inline void put(const struct conv_job &job, const struct place &place,
                           const float (&sum)[N / 2])
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4, quad = lane % 4;
    const int channels = (int)job.out.dim[3], x = place.col + lane / 4 * place.step;

#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int y = place.row + (2 * warp + half) * place.step;
        const bool inside = y < job.out.dim[1] && x < job.out.dim[2];
        const int64_t to = place.t * job.out.stride[0] + y * job.out.stride[1] +
                           x * job.out.stride[2] + place.channel;
        const int64_t from = place.t * job.residual.stride[0] + y * job.residual.stride[1] +
                             x * job.residual.stride[2] + place.channel;

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
                if (!inside || place.channel + c >= channels)
                    continue;
                for (int i = 0; i < 4; i++)
                    v[2 * i] = a[i], v[2 * i + 1] = b[i];
                if (job.bias != NULL)
                    for (int i = 0; i < 8; i++)
                        v[i] += job.bias[place.channel + c + i];
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

                if (!inside || place.channel + c >= channels)
                    continue;
                if (job.bias != NULL)
                    v += job.bias[place.channel + c];
                if (job.residual.data != NULL)
                    v += load(job.residual, from + c);
                store(job.out, to + c, v);
            }
        }
    }
}

/* Two of f32 as two of bf16, and what those leave. */
__device__ inline void split(uint32_t &high, uint32_t &low, float a, float b)
{
    const __nv_bfloat162 h = __floats2bfloat162_rn(a, b);

    high = *(const uint32_t *)&h;

    const __nv_bfloat162 l = __floats2bfloat162_rn(a - __uint_as_float(high << 16),
                                                   b - __uint_as_float(high & 0xffff0000u));
    low = *(const uint32_t *)&l;
}

/* 16 channels of a row of a box, f32 with the 128-byte swizzle, become their highs and lows. */
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

/* out [rows, groups of 16 highs and 16 lows] of w [rows, channels]; zeros where a group is not
 * full. */
__global__ void split_weights_kernel(__nv_bfloat16 *out, const float *w, int64_t rows, int channels,
                                     int groups)
{
    const int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; // a channel of a row
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

template <int CHANNELS, int N, int COLS, bool TWICE, bool SPLIT>
__global__ void __launch_bounds__(THREADS, 1)
    conv_kernel(const __grid_constant__ struct conv_job job)
{
    using L = layout<CHANNELS, N, COLS, SPLIT>;
    constexpr int SCALE = TWICE ? 2 : 1;
    extern __shared__ char shared[];
    __shared__ uint64_t x_full[L::X_PLACES], x_split[L::X_PLACES], x_free[L::X_PLACES];
    __shared__ uint64_t w_full[L::W_PLACES], w_free[L::W_PLACES];
    char *const x_box = shared + (1024 - shared_address(shared) % 1024) % 1024;
    char *const w_box = x_box + L::X_PLACES * L::X;
    const int tiles = job.n * (int)job.out.dim[0] * job.across * job.down;
    const int group = threadIdx.x / 128;
    const int kh = job.apart > 1 ? 1 : job.kh, kw = job.apart > 1 ? 1 : job.kw; // in a box
    const int taps = kh * kw;

    if (threadIdx.x == 0) {
        for (int i = 0; i < L::X_PLACES; i++) {
            barrier_init(&x_full[i], 1);
            barrier_init(&x_split[i], 2);
            barrier_init(&x_free[i], 2);
        }
        for (int i = 0; i < L::W_PLACES; i++) {
            barrier_init(&w_full[i], 1);
            barrier_init(&w_free[i], 2);
        }
        barriers_ready();
    }
    __syncthreads();

    struct ring x = { 0, 0 }, w = { 0, 0 };

    if (group == 0) {
        registers_fewer<SPLIT ? 40 : 24>();
        if (threadIdx.x == 0) {
            for (int i = blockIdx.x; i < tiles; i += gridDim.x) {
                const struct tile tile = tile_at<COLS>(job, i);

                for (int k = 0; k < job.kt * job.apart; k++)
                    for (int s = 0; s < job.slices; s++, advance<L::X_PLACES>(x)) {
                        const int tap = k % job.apart;
                        const int frame = tile.t * job.step_t + k / job.apart;
                        const bool before = frame < job.front && job.has_past;

                        barrier_wait(&x_free[x.place], x.parity ^ 1);
                        barrier_expect(&x_full[x.place], (uint32_t)job.box_bytes);
                        copy_box(x_box + x.place * L::X, before ? &job.past : &job.x,
                                 &x_full[x.place], s * (SPLIT ? CHANNELS / 2 : CHANNELS),
                                 tile.col / SCALE * job.step - job.left + tap % job.kw,
                                 tile.row / SCALE * job.step - job.top + tap / job.kw,
                                 before ? frame : frame - job.front);
                    }
            }
        } else if (threadIdx.x == 32) {
            for (int i = blockIdx.x; i < tiles; i += gridDim.x) {
                const struct tile tile = tile_at<COLS>(job, i);

                for (int k = 0; k < job.kt * job.apart; k++)
                    for (int s = 0; s < job.slices; s++)
                        for (int tap = 0; tap < taps; tap++, advance<L::W_PLACES>(w)) {
                            barrier_wait(&w_free[w.place], w.parity ^ 1);
                            barrier_expect(&w_full[w.place], (uint32_t)job.w_bytes);
                            copy_box(w_box + w.place * L::W, &job.w, &w_full[w.place], s * CHANNELS,
                                     tile.n * N, k * taps + tap);
                        }
            }
        } else if (SPLIT && threadIdx.x >= 64) {
            const int halves = job.box_bytes / 64;

            for (int i = blockIdx.x; i < tiles; i += gridDim.x)
                for (int k = 0; k < job.kt * job.apart * job.slices; k++, advance<L::X_PLACES>(x)) {
                    barrier_wait(&x_full[x.place], x.parity);
                    for (int j = threadIdx.x - 64; j < halves; j += 64)
                        split_half(x_box + x.place * L::X, j / 2, j % 2);
                    copies_see_writes();
                    __syncwarp();
                    if (threadIdx.x % 32 == 0)
                        barrier_arrive(&x_split[x.place]);
                }
        }
    } else {
        const int pitch = (COLS / SCALE + kw - 1) * L::ROW, lower = group - 1;
        const uint32_t x_address = shared_address(x_box) + (TWICE ? 0 : 8 * lower * pitch);
        const uint32_t w_address = shared_address(w_box);
        float sum[L::BLOCKS][N / 2], total[L::BLOCKS][SPLIT ? N / 2 : 1];

        registers_more<SPLIT ? 232 : 240>();
        for (int i = blockIdx.x; i < tiles; i += gridDim.x) {
            const struct tile tile = tile_at<COLS>(job, i);
            int add = 0, x_done = -1, w_done = -1; // places that the products in flight read
            auto release = [&]() {
                if (threadIdx.x % 128 == 0) {
                    if (w_done >= 0)
                        barrier_arrive(&w_free[w_done]);
                    if (x_done >= 0)
                        barrier_arrive(&x_free[x_done]);
                }
                x_done = w_done = -1;
            };

            for (int k = 0; k < job.kt * job.apart * job.slices; k++, advance<L::X_PLACES>(x)) {
                barrier_wait(SPLIT ? &x_split[x.place] : &x_full[x.place], x.parity);
                for (int r = 0; r < kh; r++)
                    for (int c = 0; c < kw; c++, advance<L::W_PLACES>(w)) {
                        const uint32_t a =
                            x_address + x.place * L::X + (TWICE ? (lower + r + 1) / 2 : r) * pitch;
                        const uint32_t b = w_address + w.place * L::W;

                        barrier_wait(&w_full[w.place], w.parity);
                        wgmma_fence();
#pragma unroll
                        for (int step = 0; step < L::STEPS; step++) {
#pragma unroll
                            for (int j = 0; j < L::BLOCKS; j++)
                                wgmma(sum[j],
                                      matrix_of(a + L::x_step(step) +
                                                    (TWICE ? 8 * (j / 2) + (j % 2 + c + 1) / 2
                                                           : 8 * j + c) *
                                                        L::ROW,
                                                L::ROW, pitch),
                                      matrix_of(b + L::w_step(step), L::ROW, 8 * L::ROW), add);
                            add = 1;
                        }
                        wgmma_commit();
                        wgmma_wait<1>();
                        release();
                        w_done = w.place;
                    }
                x_done = x.place;
                if constexpr (SPLIT) {
                    wgmma_wait<0>();
                    release();
                    add = 0;
#pragma unroll
                    for (int j = 0; j < L::BLOCKS; j++) {
                        wgmma_hold(sum[j]);
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
                const struct place to =
                    TWICE ? (struct place){ tile.t, tile.row + lower,
                                            tile.col + 16 * (j / 2) + j % 2, 2, tile.n * N }
                          : (struct place){ tile.t, tile.row + 8 * lower, tile.col + 8 * j, 1,
                                            tile.n * N };

                if constexpr (SPLIT)
                    put<N>(job, to, total[j]);
                else
                    put<N>(job, to, sum[j]);
            }
        }
    }
}

template <int CHANNELS, int N, int COLS, bool TWICE, bool SPLIT>
static status launch(struct device *dev, const struct conv_job *job, int blocks)
{
    const auto kernel = conv_kernel<CHANNELS, N, COLS, TWICE, SPLIT>;
    const int bytes = layout<CHANNELS, N, COLS, SPLIT>::BYTES;

    TRY(cuda_check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
                   "conv3d"));
    kernel<<<blocks, THREADS, bytes, cuda_stream(dev)>>>(*job);
    return cuda_check(cudaGetLastError(), "conv3d");
}

template <int CHANNELS, int N, int COLS, bool SPLIT>
static status launch_for(struct device *dev, const struct conv_job *job, int blocks, bool twice)
{
    return twice ? launch<CHANNELS, N, COLS, true, SPLIT>(dev, job, blocks)
                 : launch<CHANNELS, N, COLS, false, SPLIT>(dev, job, blocks);
}

template <int CHANNELS>
static status launch_bf16(struct device *dev, const struct conv_job *job, int blocks,
                          struct conv_shape s)
{
    if (s.outputs == 8)
        return launch_for<CHANNELS, 8, 32, false>(dev, job, blocks, s.twice);
    if (s.outputs == 192)
        return launch_for<CHANNELS, 192, 16, false>(dev, job, blocks, s.twice);
    if (s.columns == 16)
        return launch_for<CHANNELS, 96, 16, false>(dev, job, blocks, s.twice);
    return launch_for<CHANNELS, 96, 32, false>(dev, job, blocks, s.twice);
}

status conv_launch(struct device *dev, struct conv_shape s, const struct conv_job *job, int blocks)
{
    if (s.split)
        return s.outputs == 8 ? launch_for<64, 8, 16, true>(dev, job, blocks, s.twice)
                              : launch_for<64, 96, 16, true>(dev, job, blocks, s.twice);
    return s.channels == 64 ? launch_bf16<64>(dev, job, blocks, s)
                            : launch_bf16<32>(dev, job, blocks, s);
}

status conv_split_weights(struct device *dev, void *out, const float *w, int64_t rows, int channels)
{
    const int groups = (channels + 15) / 16;
    const int64_t threads = rows * groups * 16;

    split_weights_kernel<<<(unsigned)((threads + 255) / 256), 256, 0, cuda_stream(dev)>>>(
        (__nv_bfloat16 *)out, w, rows, channels, groups);
    return cuda_check(cudaGetLastError(), "conv3d");
}
