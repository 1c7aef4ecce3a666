/* Norms over rows. Each block has one row, which it reads once, holds in registers and writes once.
 */
#include "kernels/cuda/plain.h"
#include "kernels/cuda/wide.cuh"
#include "kernels/cuda/wide.h"

#define LAUNCHED(op) return cuda_status(cudaGetLastError(), "%s", op)

/* The sum over the block, returned to every thread. part: shared, [32], used for one sum only. */
__device__ inline float row_sum(float v, float *part)
{
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

    v = warp_sum(v);
    if (lane == 0)
        part[warp] = v;
    __syncthreads();
    return warp_sum(lane < (int)blockDim.x / 32 ? part[lane] : 0);
}

__device__ inline float2 row_sums(float2 v, float2 *part)
{
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

    v = make_float2(warp_sum(v.x), warp_sum(v.y));
    if (lane == 0)
        part[warp] = v;
    __syncthreads();
    v = lane < (int)blockDim.x / 32 ? part[lane] : make_float2(0, 0);
    return make_float2(warp_sum(v.x), warp_sum(v.y));
}

__device__ inline float row_max(float v, float *part)
{
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

    v = warp_max(v);
    if (lane == 0)
        part[warp] = v;
    __syncthreads();
    return warp_max(lane < (int)blockDim.x / 32 ? part[lane] : 0);
}

__device__ inline void write_fp8(uint8_t *p, const float (&v)[4])
{
    *(uint32_t *)p = pack_fp8(v[0], v[1], v[2], v[3]);
}

__device__ inline void write_fp8(uint8_t *p, const float (&v)[8])
{
    *(uint2 *)p = make_uint2(pack_fp8(v[0], v[1], v[2], v[3]), pack_fp8(v[4], v[5], v[6], v[7]));
}

/* Row `row` of out and scales = r, quantized. part: shared, [32], used for this only. */
template <class Row>
__device__ inline void write_fp8_row(const struct tensor &out, float *scales, int64_t row,
                                     const Row &r, int c, float *part)
{
    float most = 0;

    EACH_PART(j)
    if (column<Row>(j) < c) {
        float v[Row::E];

        r.get(j, v);
        EACH_OF(i, Row::E)
        most = fmaxf(most, fabsf(v[i])); // leaves out NaN
    }

    const float scale = fp8_scale_of(row_max(most, part)), factor = __frcp_rn(scale);

    if (threadIdx.x == 0)
        scales[row] = scale;
    EACH_PART(j)
    if (column<Row>(j) < c) {
        float v[Row::E];

        r.get(j, v);
        EACH_OF(i, Row::E)
        v[i] *= factor;
        write_fp8((uint8_t *)out.data + row * out.stride[0] + column<Row>(j), v);
    }
}

/* r = LN(r). The mean is computed in two steps, the second over r minus the first: for a row far
 * from zero, the rounding of one f32 sum would be as large as the differences from the mean. */
__device__ inline void standardize(struct wide_row &r, int c, float eps, float *first,
                                   float2 *second)
{
    float sum = 0;
    float2 rest = make_float2(0, 0); // sums of x - mean and of its square

    EACH_PART(j)
    if (column<wide_row>(j) < c) {
        EACH_OF(i, 4)
        sum += r.v[j][i];
    }

    const float mean = row_sum(sum, first) / (float)c;

    EACH_PART(j)
    if (column<wide_row>(j) < c) {
        EACH_OF(i, 4)
        {
            r.v[j][i] -= mean;
            rest.x += r.v[j][i];
            rest.y = fmaf(r.v[j][i], r.v[j][i], rest.y);
        }
    }
    rest = row_sums(rest, second);

    const float more = rest.x / (float)c;
    const float rate = 1 / sqrtf(fmaxf(rest.y / (float)c - more * more, 0) + eps);

    EACH_PART(j)
    {
        EACH_OF(i, 4)
        r.v[j][i] = (r.v[j][i] - more) * rate;
    }
}

/* Parameters of a layer norm: out = rounded(LN(x)) * (plus + mul) + add. */
struct affine {
    const float *mul, *add;
    float plus, eps;
    enum dtype round;
};

/* With ADD the norm is that of sum = x + y * gate, which is written too. With FP8 the result is
 * quantized: out is e4m3, scales [S]. */
template <bool ADD, bool FP8>
static __global__ void ROW_BOUNDS layer_norm_kernel(struct tensor out, float *scales,
                                                    struct tensor sum, struct tensor x,
                                                    struct tensor y, const float *gate,
                                                    struct affine a)
{
    __shared__ float first[32], third[32];
    __shared__ float2 second[32];
    const int c = (int)x.dim[1];
    const int64_t row = blockIdx.x;
    struct wide_row r;

    read_row(r, x, row * x.stride[0], c);
    if (ADD) {
        struct wide_row more;

        read_row(more, y, row * y.stride[0], c);
        EACH_PART(j)
        if (column<wide_row>(j) < c) {
            float g[4] = { 1, 1, 1, 1 };

            if (gate != NULL)
                read_f32(g, gate + column<wide_row>(j));
            EACH_OF(i, 4)
            r.v[j][i] = fmaf(more.v[j][i], g[i], r.v[j][i]);
        }
        write_row(sum, row * sum.stride[0], r, c);
    }
    standardize(r, c, a.eps, first, second);
    EACH_PART(j)
    if (column<wide_row>(j) < c) {
        float mul[4], add[4];

        read_f32(mul, a.mul + column<wide_row>(j));
        read_f32(add, a.add + column<wide_row>(j));
        EACH_OF(i, 4)
        r.v[j][i] = fmaf(rounded(a.round, r.v[j][i]), a.plus + mul[i], add[i]);
    }
    if (FP8)
        write_fp8_row(out, scales, row, r, c, third);
    else
        write_row(out, row * out.stride[0], r, c);
}

/* Whether a block can hold a row of these tensors, of one width, and access it e elements at a
 * time.
 */
static bool fits(struct tensor a, struct tensor b, struct tensor c, int e)
{
    const unsigned threads = e == 8 ? row_threads<narrow_row>(a.dim[a.ndim - 1])
                                    : row_threads<wide_row>(a.dim[a.ndim - 1]);

    return threads <= ROW_THREADS && is_aligned(a, e) && is_aligned(b, e) && is_aligned(c, e);
}

static status norm_rows(struct device *dev, struct tensor out, struct tensor x, struct affine a,
                        const char *op)
{
    const unsigned rows = (unsigned)x.dim[0], threads = row_threads<wide_row>(x.dim[1]);
    const struct tensor none = { 0 };

    layer_norm_kernel<false, false>
        <<<rows, threads, 0, cuda_stream(dev)>>>(out, NULL, none, x, none, NULL, a);
    LAUNCHED(op);
}

status wide_norm_modulate(struct device *dev, struct tensor out, struct tensor x,
                          struct tensor scale, struct tensor shift, float eps)
{
    const struct affine a = { (const float *)scale.data, (const float *)shift.data, 1, eps,
                              x.dtype };

    if (!fits(out, x, x, 4) || !fits(scale, shift, shift, 4))
        return plain_norm_modulate(dev, out, x, scale, shift, eps);
    return norm_rows(dev, out, x, a, "norm_modulate");
}

status wide_layer_norm(struct device *dev, struct tensor out, struct tensor x, struct tensor w,
                       struct tensor b, float eps)
{
    const struct affine a = { (const float *)w.data, (const float *)b.data, 0, eps, DT_F32 };

    if (!fits(out, x, x, 4) || !fits(w, b, b, 4))
        return plain_layer_norm(dev, out, x, w, b, eps);
    return norm_rows(dev, out, x, a, "layer_norm");
}

static status add_norm_rows(struct device *dev, struct tensor out, struct tensor sum,
                            struct tensor x, struct tensor y, struct tensor gate, struct affine a,
                            const char *op)
{
    const unsigned rows = (unsigned)x.dim[0], threads = row_threads<wide_row>(x.dim[1]);

    layer_norm_kernel<true, false>
        <<<rows, threads, 0, cuda_stream(dev)>>>(out, NULL, sum, x, y, (const float *)gate.data, a);
    LAUNCHED(op);
}

status wide_add_norm_modulate(struct device *dev, struct tensor out, struct tensor sum,
                              struct tensor x, struct tensor y, struct tensor gate,
                              struct tensor scale, struct tensor shift, float eps)
{
    const struct affine a = { (const float *)scale.data, (const float *)shift.data, 1, eps,
                              DT_F32 };

    if (!fits(out, sum, x, 4) || !fits(y, gate, scale, 4) || !fits(shift, y, y, 4))
        return plain_add_norm_modulate(dev, out, sum, x, y, gate, scale, shift, eps);
    return add_norm_rows(dev, out, sum, x, y, gate, a, "add_norm_modulate");
}

status wide_add_layer_norm(struct device *dev, struct tensor out, struct tensor sum,
                           struct tensor x, struct tensor y, struct tensor gate, struct tensor w,
                           struct tensor b, float eps)
{
    const struct affine a = { (const float *)w.data, (const float *)b.data, 0, eps, DT_F32 };

    if (!fits(out, sum, x, 4) || !fits(y, gate, w, 4) || !fits(b, y, y, 4))
        return plain_add_layer_norm(dev, out, sum, x, y, gate, w, b, eps);
    return add_norm_rows(dev, out, sum, x, y, gate, a, "add_layer_norm");
}

status wide_fp8_norm(struct device *dev, struct fp8_rows out, struct tensor sum, struct tensor x,
                     struct tensor y, struct tensor gate, struct tensor mul, struct tensor add,
                     bool modulate, float eps)
{
    const unsigned rows = (unsigned)x.dim[0], threads = row_threads<wide_row>(x.dim[1]);
    const bool adds = y.data != NULL;
    const struct affine a = { (const float *)mul.data, (const float *)add.data,
                              modulate ? 1.0f : 0.0f, eps, modulate && !adds ? x.dtype : DT_F32 };
    float *scales = (float *)out.scale.data;

    if (!fits(out.value, sum, x, 4) || !fits(mul, y, gate, 4) || !fits(add, add, add, 4))
        return plain_fp8_norm(dev, out, sum, x, y, gate, mul, add, modulate, eps);
    if (adds)
        layer_norm_kernel<true, true><<<rows, threads, 0, cuda_stream(dev)>>>(
            out.value, scales, sum, x, y, (const float *)gate.data, a);
    else
        layer_norm_kernel<false, true>
            <<<rows, threads, 0, cuda_stream(dev)>>>(out.value, scales, sum, x, y, NULL, a);
    LAUNCHED("fp8_norm");
}

template <class Row, bool GELU>
static __global__ void ROW_BOUNDS quantize_kernel(struct tensor out, float *scales, struct tensor x)
{
    __shared__ float part[32];
    const int c = (int)x.dim[1];
    Row r;

    read_row(r, x, blockIdx.x * x.stride[0], c);
    EACH_PART(j)
    if (GELU && column<Row>(j) < c) {
        float v[Row::E];

        r.get(j, v);
        EACH_OF(i, Row::E)
        v[i] = quick_gelu_tanh(v[i]);
        r.put(j, v);
    }
    write_fp8_row(out, scales, blockIdx.x, r, c, part);
}

template <class Row>
static void quantize_rows(struct device *dev, struct fp8_rows out, struct tensor x, enum act act)
{
    const unsigned rows = (unsigned)x.dim[0], threads = row_threads<Row>(x.dim[1]);
    float *scales = (float *)out.scale.data;

    if (act == ACT_GELU_TANH)
        quantize_kernel<Row, true><<<rows, threads, 0, cuda_stream(dev)>>>(out.value, scales, x);
    else
        quantize_kernel<Row, false><<<rows, threads, 0, cuda_stream(dev)>>>(out.value, scales, x);
}

status wide_fp8_quantize(struct device *dev, struct fp8_rows out, struct tensor x, enum act act)
{
    if (x.dtype == DT_BF16 && fits(out.value, x, x, 8))
        quantize_rows<narrow_row>(dev, out, x, act);
    else if (fits(out.value, x, x, 4))
        quantize_rows<wide_row>(dev, out, x, act);
    else
        return plain_fp8_quantize(dev, out, x, act);
    LAUNCHED("fp8_quantize");
}

/* rsqrt(mean(r^2) + eps) */
template <class Row>
__device__ inline float root_mean_square(const Row &r, int c, float eps, float *part)
{
    float sum = 0;

    EACH_PART(j)
    if (column<Row>(j) < c) {
        float v[Row::E];

        r.get(j, v);
        EACH_OF(i, Row::E)
        sum = fmaf(v[i], v[i], sum);
    }
    return 1 / sqrtf(row_sum(sum, part) / (float)c + eps);
}

template <class Row>
static __global__ void ROW_BOUNDS rms_norm_kernel(struct tensor out, struct tensor x,
                                                  struct tensor w, float eps)
{
    __shared__ float sums[32];
    const int c = (int)x.dim[1];
    const int64_t row = blockIdx.x;
    Row r;

    read_row(r, x, row * x.stride[0], c);

    const float rate = root_mean_square(r, c, eps, sums);

    EACH_PART(j)
    if (column<Row>(j) < c) {
        float v[Row::E], mul[Row::E];

        r.get(j, v);
        for (int i = 0; i < Row::E; i += 4) {
            if (w.dtype == DT_BF16)
                read_bf16(mul + i, (const __nv_bfloat16 *)w.data + column<Row>(j) + i);
            else
                read_f32(mul + i, (const float *)w.data + column<Row>(j) + i);
        }
        EACH_OF(i, Row::E)
        v[i] = rounded(x.dtype, v[i] * rate) * mul[i];
        r.put(j, v);
    }
    write_row(out, row * out.stride[0], r, c);
}

static bool all_bf16(struct tensor a, struct tensor b)
{
    return a.dtype == DT_BF16 && b.dtype == DT_BF16;
}

status wide_rms_norm(struct device *dev, struct tensor out, struct tensor x, struct tensor w,
                     float eps)
{
    const unsigned rows = (unsigned)x.dim[0];

    if (all_bf16(out, x) && fits(out, x, w, 8))
        rms_norm_kernel<narrow_row>
            <<<rows, row_threads<narrow_row>(x.dim[1]), 0, cuda_stream(dev)>>>(out, x, w, eps);
    else if (fits(out, x, w, 4))
        rms_norm_kernel<wide_row>
            <<<rows, row_threads<wide_row>(x.dim[1]), 0, cuda_stream(dev)>>>(out, x, w, eps);
    else
        return plain_rms_norm(dev, out, x, w, eps);
    LAUNCHED("rms_norm");
}

/* Row `row` of out [S, N, D] = r. */
template <class Row>
__device__ inline void write_heads(const struct tensor &out, int64_t row, const Row &r, int c)
{
    const int depth = (int)out.dim[2];

    EACH_PART(j)
    if (column<Row>(j) < c) {
        const int n = column<Row>(j) / depth, i = column<Row>(j) - n * depth;

        write_part(out, row * out.stride[0] + n * out.stride[1] + i, r, j);
    }
}

/* Whether each head of each row can be accessed e elements at a time. */
static bool heads_fit(struct tensor out, int e)
{
    return is_aligned(out, e) && out.stride[1] % e == 0;
}

/* Dynamic shared memory: (cos, sin) of each pair at this block's token. */
template <class Row>
static __global__ void ROW_BOUNDS norm_rope_kernel(struct tensor out, struct tensor x,
                                                   const float *mul, float eps, struct tensor table,
                                                   struct token_grid grid)
{
    extern __shared__ float4 shared[];
    __shared__ float sums[32];
    float *angle = (float *)shared;
    const int c = (int)x.dim[1], pairs = (int)table.dim[1], third = pairs / 3;
    const int64_t at = blockIdx.x * x.stride[0];
    Row r;

    read_row(r, x, at, c);
    if ((int)threadIdx.x < pairs) {
        const int64_t token = grid.first + blockIdx.x, line = token / grid.w;
        const int64_t col = token - line * grid.w, frame = line / grid.h;
        const int64_t row = line - frame * grid.h;

        for (int i = (int)threadIdx.x; i < pairs; i += (int)blockDim.x) {
            const int64_t g = i < pairs - 2 * third ? frame : i < pairs - third ? row : col;

            ((float2 *)angle)[i] = ((const float2 *)table.data)[g * pairs + i];
        }
    }

    const float rate =
        root_mean_square(r, c, eps, sums); // its __syncthreads also covers the angles

    EACH_PART(j)
    if (column<Row>(j) < c) {
        const float *cos_sin = angle + column<Row>(j) % (2 * pairs);
        float v[Row::E];

        r.get(j, v);
        for (int i = 0; i < Row::E; i += 4) {
            float w[4], a[4];

            read_f32(w, mul + column<Row>(j) + i);
            read_f32(a, cos_sin + i);
            EACH_OF(l, 4)
            w[l] *= rounded(x.dtype, v[i + l] * rate);
            v[i] = w[0] * a[0] - w[1] * a[1];
            v[i + 1] = w[0] * a[1] + w[1] * a[0];
            v[i + 2] = w[2] * a[2] - w[3] * a[3];
            v[i + 3] = w[2] * a[3] + w[3] * a[2];
        }
        r.put(j, v);
    }
    write_heads(out, blockIdx.x, r, c);
}

status wide_norm_rope(struct device *dev, struct tensor out, struct tensor x, struct tensor w,
                      float eps, struct tensor table, struct token_grid grid)
{
    const unsigned rows = (unsigned)x.dim[0];
    const size_t angles = (size_t)table.dim[1] * 2 * sizeof(float);
    const float *mul = (const float *)w.data;
    const bool small = angles <= 40000 && (uintptr_t)table.data % 8 == 0;

    if (small && all_bf16(x, x) && fits(x, x, x, 8) && fits(w, w, w, 4) && heads_fit(out, 8))
        norm_rope_kernel<narrow_row>
            <<<rows, row_threads<narrow_row>(x.dim[1]), angles, cuda_stream(dev)>>>(
                out, x, mul, eps, table, grid);
    else if (small && fits(x, w, w, 4) && heads_fit(out, 4))
        norm_rope_kernel<wide_row>
            <<<rows, row_threads<wide_row>(x.dim[1]), angles, cuda_stream(dev)>>>(out, x, mul, eps,
                                                                                  table, grid);
    else
        return plain_norm_rope(dev, out, x, w, eps, table, grid);
    LAUNCHED("norm_rope");
}
