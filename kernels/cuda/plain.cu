#include "kernels/cuda/plain.h"

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/plain_product.cuh"

#include <math.h>

#define ROW_THREADS 256
#define LOGITS 128 // keys at a time, one for each thread

/* Blocks of 256 threads for n elements; EACH loops where there are more elements than threads. */
static unsigned blocks_for(int64_t n)
{
    const int64_t blocks = (n + 255) / 256, most = 1 << 20;

    return (unsigned)(blocks < 1 ? 1 : blocks > most ? most : blocks);
}

#define EACH(i, n)                                                                                 \
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < (n);                      \
         i += (int64_t)gridDim.x * blockDim.x)

#define LAUNCHED(op) return cuda_status(cudaGetLastError(), "%s", op)

/* ---- products ---- */

__global__ void gemm_kernel(struct tensor out, struct tensor a, struct tensor w, struct tensor bias,
                            enum act act, bool add)
{
    const int64_t depth = w.dim[1];
    int64_t m, n;
    float sum = product_sum(
        &m, &n, a.dim[0], w.dim[0], depth,
        [&](int64_t row, int64_t k) { return load(a, row * a.stride[0] + k); },
        [&](int64_t row, int64_t k) { return load(w, row * depth + k); });

    if (m >= out.dim[0] || n >= out.dim[1])
        return;
    if (bias.data != NULL)
        sum += load(bias, n);
    if (add)
        sum += load(out, m * out.stride[0] + n);
    store(out, m * out.stride[0] + n, activated(act, rounded(out.dtype, sum)));
}

static status product(struct device *dev, struct tensor out, struct tensor a, struct tensor w,
                      struct tensor bias, enum act act, bool add)
{
    product_grids(a.dim[0], w.dim[0], [&](dim3 grid, int64_t m, int64_t count) {
        gemm_kernel<<<grid, PRODUCT_THREADS, 0, cuda_stream(dev)>>>(
            tensor_slice(out, 0, m, count), tensor_slice(a, 0, m, count), w, bias, act, add);
    });
    LAUNCHED("gemm");
}

status plain_gemm(struct device *dev, struct tensor out, struct tensor a, struct tensor w,
                  struct tensor bias, enum act act)
{
    return product(dev, out, a, w, bias, act, false);
}

status plain_gemm_add(struct device *dev, struct tensor sum, struct tensor a, struct tensor w,
                      struct tensor bias)
{
    return product(dev, sum, a, w, bias, ACT_NONE, true);
}

/* Each thread has one output. */
__global__ void conv3d_kernel(struct tensor out, struct tensor x, struct tensor past,
                              struct tensor w, struct tensor bias, struct tensor residual,
                              struct conv conv, int64_t count)
{
    const int64_t cin = x.dim[3], cout = w.dim[0];

    EACH(i, count)
    {
        const int64_t ch = i % cout, row = i / cout;
        const int64_t col = row % out.dim[2], y = row / out.dim[2] % out.dim[1];
        const int64_t t = row / out.dim[2] / out.dim[1];
        int64_t at = ch * w.stride[0];
        float sum = 0;

        for (int64_t dt = 0; dt < w.dim[1]; dt++)
            for (int64_t dy = 0; dy < w.dim[2]; dy++)
                for (int64_t dx = 0; dx < w.dim[3]; dx++, at += cin) {
                    const int64_t frame = t * conv.stride_t + dt - conv.front;
                    const struct tensor &in = frame < 0 ? past : x;
                    const int64_t padded = y * conv.stride + dy;
                    const int64_t line = (conv.upsample2x ? (padded + 1) >> 1 : padded) - conv.top;
                    const int64_t at_col = col * conv.stride + dx - conv.left;
                    const int64_t from = conv.upsample2x ? at_col >> 1 : at_col;
                    const int64_t pixel = (frame < 0 ? frame + conv.front : frame) * in.stride[0] +
                                          line * in.stride[1] + from * in.stride[2];
                    float part = 0;

                    if (in.data == NULL || line < 0 || line >= x.dim[1] || from < 0 ||
                        from >= x.dim[2])
                        continue;
                    for (int64_t c = 0; c < cin; c++)
                        part = fmaf(load_any(in, pixel + c), load(w, at + c), part);
                    sum += part;
                }
        sum = ldexpf(sum, -conv.exponent) + (bias.data != NULL ? load(bias, ch) : 0);
        if (residual.data != NULL)
            sum += load(residual, row_at(residual, row) + ch);
        store(out, row_at(out, row) + ch, sum);
    }
}

__global__ void wait_kernel(struct arrival a, struct arrival b)
{
    if (a.flag != NULL)
        wait_for_flag(a.flag, a.value);
    if (b.flag != NULL)
        wait_for_flag(b.flag, b.value);
}

status plain_conv3d(struct device *dev, struct tensor out, struct tensor x, struct tensor past,
                    struct tensor w, struct tensor bias, struct tensor residual, struct conv conv)
{
    const int64_t count = tensor_count(out);

    if (conv.first_row.flag != NULL || conv.last_row.flag != NULL)
        wait_kernel<<<1, 1, 0, cuda_stream(dev)>>>(conv.first_row, conv.last_row);
    conv3d_kernel<<<blocks_for(count), 256, 0, cuda_stream(dev)>>>(out, x, past, w, bias, residual,
                                                                   conv, count);
    LAUNCHED("conv3d");
}

/* ---- attention: each block has one query of one head ---- */

/* The dot product of query[D] and key j of one head. */
__device__ float logit(const struct tensor &k, const float *query, int64_t j, int64_t head)
{
    const int64_t at = j * k.stride[0] + head * k.stride[1];
    float sum = 0;

    for (int64_t i = 0; i < k.dim[2]; i++)
        sum = fmaf(query[i], load(k, at + i), sum);
    return sum;
}

/* Dynamic shared memory: the query and the output, [D] each. */
__global__ void attention_kernel(struct tensor out, struct tensor lse, struct tensor q,
                                 struct tensor k, struct tensor v, float scale)
{
    extern __shared__ float shared[];
    __shared__ float p[LOGITS], part[32];
    const int64_t s = blockIdx.x, head = blockIdx.y, d = q.dim[2], keys = k.dim[0];
    float *query = shared, *o = shared + d, max = -INFINITY, sum = 0;

    for (int64_t i = threadIdx.x; i < d; i += blockDim.x) {
        query[i] = load(q, s * q.stride[0] + head * q.stride[1] + i);
        o[i] = 0;
    }
    __syncthreads();
    for (int64_t first = 0; first < keys; first += LOGITS) {
        const int64_t j = first + threadIdx.x;
        const float l = j < keys ? scale * logit(k, query, j, head) : -INFINITY;
        const float top = fmaxf(max, block_max(l, part)), old = expf(max - top);

        p[threadIdx.x] = expf(l - top);
        sum = sum * old + block_sum(p[threadIdx.x], part);
        max = top;
        __syncthreads();
        for (int64_t i = threadIdx.x; i < d; i += blockDim.x) {
            float add = 0;

            for (int64_t n = 0; n < LOGITS && first + n < keys; n++)
                add = fmaf(p[n], load(v, (first + n) * v.stride[0] + head * v.stride[1] + i), add);
            o[i] = o[i] * old + add;
        }
        __syncthreads();
    }
    for (int64_t i = threadIdx.x; i < d; i += blockDim.x)
        store(out, s * out.stride[0] + head * out.stride[1] + i, o[i] / sum);
    if (lse.data != NULL && threadIdx.x == 0)
        ((float *)lse.data)[s * q.dim[1] + head] = max + logf(sum);
}

status plain_attention(struct device *dev, struct tensor out, struct tensor lse, struct tensor q,
                       struct tensor k, struct tensor v, float scale)
{
    const dim3 grid((unsigned)q.dim[0], (unsigned)q.dim[1]);
    const size_t bytes = (2 * (size_t)q.dim[2] + 3) * sizeof(float); // padded for vector accesses

    if (q.dim[0] > 0)
        attention_kernel<<<grid, LOGITS, bytes, cuda_stream(dev)>>>(out, lse, q, k, v, scale);
    LAUNCHED("attention");
}

/* Each warp has one row. */
__global__ void merge_kernel(struct tensor acc, float *la, struct tensor part, const float *lb,
                             int64_t rows)
{
    const int64_t row = blockIdx.x * (int64_t)(blockDim.x / 32) + threadIdx.x / 32;
    const int lane = threadIdx.x % 32;

    if (row >= rows)
        return;

    const float a = la[row], b = lb[row], max = fmaxf(a, b);
    const float ea = isinf(a) ? 0 : expf(a - max), eb = isinf(b) ? 0 : expf(b - max);
    const float sum = ea + eb, inv_sum = sum != 0 ? 1 / sum : 1;
    const int64_t at = row_at(acc, row), from = row_at(part, row);

    for (int64_t i = lane; i < acc.dim[2]; i += 32)
        store(acc, at + i,
              (ea != 0 ? load(acc, at + i) * (ea * inv_sum) : 0) +
                  (eb != 0 ? load(part, from + i) * (eb * inv_sum) : 0));
    __syncwarp();
    if (lane == 0)
        la[row] = max + logf(sum);
}

status plain_attention_merge(struct device *dev, struct tensor acc, struct tensor lse,
                             struct tensor part, struct tensor part_lse)
{
    const int64_t rows = rows_of(acc);

    merge_kernel<<<(unsigned)((rows + 7) / 8), 256, 0, cuda_stream(dev)>>>(
        acc, (float *)lse.data, part, (const float *)part_lse.data, rows);
    LAUNCHED("attention_merge");
}

__device__ int bucket(int64_t distance)
{
    const int64_t a = distance < 0 ? -distance : distance;
    int b = a < 8 ? (int)a : 7;

    b += (a >= 8) + (a >= 12) + (a >= 16) + (a >= 23) + (a >= 32) + (a >= 46) + (a >= 64) +
         (a >= 91);
    return b + (distance > 0 ? 16 : 0);
}

/* Dynamic shared memory: the query [D] and the logits of all keys. */
__global__ void relative_kernel(struct tensor out, struct tensor q, struct tensor k,
                                struct tensor v, struct tensor table)
{
    extern __shared__ float shared[];
    __shared__ float part[32];
    const int64_t s = blockIdx.x, head = blockIdx.y, d = q.dim[2], keys = k.dim[0];
    float *query = shared, *p = shared + d, max = -INFINITY, sum = 0;

    for (int64_t i = threadIdx.x; i < d; i += blockDim.x)
        query[i] = load(q, s * q.stride[0] + head * q.stride[1] + i);
    __syncthreads();
    for (int64_t j = threadIdx.x; j < keys; j += blockDim.x) {
        const float bias = load(table, bucket(j - s) * q.dim[1] + head);

        p[j] = rounded(q.dtype, rounded(q.dtype, logit(k, query, j, head)) + bias);
        max = fmaxf(max, p[j]);
    }
    max = block_max(max, part);
    for (int64_t j = threadIdx.x; j < keys; j += blockDim.x) {
        p[j] = expf(p[j] - max);
        sum += p[j];
    }
    sum = block_sum(sum, part);
    for (int64_t j = threadIdx.x; j < keys; j += blockDim.x)
        p[j] = rounded(q.dtype, p[j] / sum);
    __syncthreads();
    for (int64_t i = threadIdx.x; i < d; i += blockDim.x) {
        float o = 0;

        for (int64_t j = 0; j < keys; j++)
            o = fmaf(p[j], load(v, j * v.stride[0] + head * v.stride[1] + i), o);
        store(out, s * out.stride[0] + head * out.stride[1] + i, o);
    }
}

status plain_relative_attention(struct device *dev, struct tensor out, struct tensor q,
                                struct tensor k, struct tensor v, struct tensor table)
{
    const size_t bytes = (size_t)(q.dim[2] + k.dim[0]) * sizeof(float);
    const dim3 grid((unsigned)q.dim[0], (unsigned)q.dim[1]);

    if (bytes > ((size_t)200 << 10))
        return fail(ST_DEVICE,
                    "umT5's attention over %lld tokens needs more shared memory than a block has",
                    (long long)k.dim[0]);
    TRY(cuda_status(cudaFuncSetAttribute(relative_kernel,
                                         cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes),
                    "relative_attention"));
    if (q.dim[0] > 0)
        relative_kernel<<<grid, LOGITS, bytes, cuda_stream(dev)>>>(out, q, k, v, table);
    LAUNCHED("relative_attention");
}

/* ---- norms: each block has one row ---- */

/* The sum of x - mean over the row of c elements at offset `at`. */
__device__ float row_sum(const struct tensor &x, int64_t at, int64_t c, float mean, float *part)
{
    float sum = 0;

    for (int64_t i = threadIdx.x; i < c; i += blockDim.x)
        sum += load(x, at + i) - mean;
    return block_sum(sum, part);
}

/* The sum of (x - mean - rest)^2. The mean has two parts because one f32 is too coarse for a mean
 * that is large relative to the differences from it. */
__device__ float row_square(const struct tensor &x, int64_t at, int64_t c, float mean, float rest,
                            float *part)
{
    float sum = 0;

    for (int64_t i = threadIdx.x; i < c; i += blockDim.x) {
        const float v = load(x, at + i) - mean - rest;
        sum = fmaf(v, v, sum);
    }
    return block_sum(sum, part);
}

/* out = rounded(LN(x)) * (plus + mul) + add */
__global__ void layer_norm_kernel(struct tensor out, struct tensor x, const float *mul,
                                  const float *add, float plus, enum dtype round, float eps)
{
    __shared__ float part[32];
    const int64_t c = x.dim[1], at = row_at(x, blockIdx.x), to = row_at(out, blockIdx.x);
    const float mean = row_sum(x, at, c, 0, part) / (float)c;
    const float rest = row_sum(x, at, c, mean, part) / (float)c;
    const float var = row_square(x, at, c, mean, rest, part) / (float)c,
                rate = 1 / sqrtf(var + eps);

    for (int64_t i = threadIdx.x; i < c; i += blockDim.x)
        store(out, to + i,
              fmaf(rounded(round, (load(x, at + i) - mean - rest) * rate), plus + mul[i], add[i]));
}

status plain_norm_modulate(struct device *dev, struct tensor out, struct tensor x,
                           struct tensor scale, struct tensor shift, float eps)
{
    if (x.dim[0] > 0)
        layer_norm_kernel<<<(unsigned)x.dim[0], ROW_THREADS, 0, cuda_stream(dev)>>>(
            out, x, (const float *)scale.data, (const float *)shift.data, 1, x.dtype, eps);
    LAUNCHED("norm_modulate");
}

status plain_layer_norm(struct device *dev, struct tensor out, struct tensor x, struct tensor w,
                        struct tensor b, float eps)
{
    if (x.dim[0] > 0)
        layer_norm_kernel<<<(unsigned)x.dim[0], ROW_THREADS, 0, cuda_stream(dev)>>>(
            out, x, (const float *)w.data, (const float *)b.data, 0, DT_F32, eps);
    LAUNCHED("layer_norm");
}

/* The two ops, one after the other. */
status plain_add_norm_modulate(struct device *dev, struct tensor out, struct tensor sum,
                               struct tensor x, struct tensor y, struct tensor gate,
                               struct tensor scale, struct tensor shift, float eps)
{
    TRY(plain_gate_add(dev, sum, x, y, gate));
    return plain_norm_modulate(dev, out, sum, scale, shift, eps);
}

status plain_add_layer_norm(struct device *dev, struct tensor out, struct tensor sum,
                            struct tensor x, struct tensor y, struct tensor gate, struct tensor w,
                            struct tensor b, float eps)
{
    TRY(plain_gate_add(dev, sum, x, y, gate));
    return plain_layer_norm(dev, out, sum, w, b, eps);
}

__global__ void rms_norm_kernel(struct tensor out, struct tensor x, struct tensor w, float eps)
{
    __shared__ float part[32];
    const int64_t c = x.dim[1], at = row_at(x, blockIdx.x), to = row_at(out, blockIdx.x);
    const float rate = 1 / sqrtf(row_square(x, at, c, 0, 0, part) / (float)c + eps);

    for (int64_t i = threadIdx.x; i < c; i += blockDim.x)
        store(out, to + i, rounded(x.dtype, load(x, at + i) * rate) * load(w, i));
}

status plain_rms_norm(struct device *dev, struct tensor out, struct tensor x, struct tensor w,
                      float eps)
{
    if (x.dim[0] > 0)
        rms_norm_kernel<<<(unsigned)x.dim[0], ROW_THREADS, 0, cuda_stream(dev)>>>(out, x, w, eps);
    LAUNCHED("rms_norm");
}

__global__ void norm_rope_kernel(struct tensor out, struct tensor x, struct tensor w, float eps,
                                 struct tensor table, struct token_grid grid)
{
    __shared__ float part[32];
    const float *mul = (const float *)w.data;
    const float *angle = (const float *)table.data;
    const int64_t c = x.dim[1], pairs = table.dim[1], third = pairs / 3;
    const int64_t at = row_at(x, blockIdx.x), token = grid.first + blockIdx.x;
    const int64_t col = token % grid.w, row = token / grid.w % grid.h;
    const int64_t frame = token / grid.w / grid.h;
    const float rate = 1 / sqrtf(row_square(x, at, c, 0, 0, part) / (float)c + eps);

    for (int64_t p = threadIdx.x; p < c / 2; p += blockDim.x) {
        const int64_t i = p % pairs;
        const int64_t g = i < pairs - 2 * third ? frame : i < pairs - third ? row : col;
        const float cosine = angle[2 * (g * pairs + i)], sine = angle[2 * (g * pairs + i) + 1];
        const float re = rounded(x.dtype, load(x, at + 2 * p) * rate) * mul[2 * p];
        const float im = rounded(x.dtype, load(x, at + 2 * p + 1) * rate) * mul[2 * p + 1];

        const int64_t to = blockIdx.x * out.stride[0] + p / pairs * out.stride[1] + 2 * i;

        store(out, to, re * cosine - im * sine);
        store(out, to + 1, re * sine + im * cosine);
    }
}

status plain_norm_rope(struct device *dev, struct tensor out, struct tensor x, struct tensor w,
                       float eps, struct tensor table, struct token_grid grid)
{
    if (x.dim[0] > 0)
        norm_rope_kernel<<<(unsigned)x.dim[0], ROW_THREADS, 0, cuda_stream(dev)>>>(out, x, w, eps,
                                                                                   table, grid);
    LAUNCHED("norm_rope");
}

/* Each warp has one pixel. */
__global__ void channel_norm_kernel(struct tensor out, struct tensor x, const float *gamma,
                                    enum act act, float power, int64_t rows)
{
    const int64_t row = blockIdx.x * (int64_t)(blockDim.x / 32) + threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    const int64_t c = x.dim[x.ndim - 1];
    float sum = 0;

    if (row >= rows)
        return;

    const int64_t at = row_at(x, row), to = row_at(out, row);

    for (int64_t i = lane; i < c; i += 32) {
        const float v = load(x, at + i);
        sum = fmaf(v, v, sum);
    }

    const float rate = sqrtf((float)c) / fmaxf(sqrtf(warp_sum(sum)), 1e-12f);

    for (int64_t i = lane; i < c; i += 32)
        store_any(out, to + i, power * activated(act, load(x, at + i) * rate * gamma[i]));
}

status plain_channel_norm(struct device *dev, struct tensor out, struct tensor x,
                          struct tensor gamma, enum act act, int exponent)
{
    const int64_t rows = rows_of(x);

    if (rows > 0)
        channel_norm_kernel<<<(unsigned)((rows + 7) / 8), 256, 0, cuda_stream(dev)>>>(
            out, x, (const float *)gamma.data, act, ldexpf(1, exponent), rows);
    LAUNCHED("channel_norm");
}

/* ---- elementwise ---- */

__global__ void gate_add_kernel(struct tensor out, struct tensor x, struct tensor y,
                                const float *gate, int64_t count)
{
    const int64_t c = x.dim[1];

    EACH(i, count)
    {
        const int64_t s = i / c, ch = i % c;

        store(out, s * out.stride[0] + ch,
              fmaf(load(y, s * y.stride[0] + ch), gate != NULL ? gate[ch] : 1,
                   load(x, s * x.stride[0] + ch)));
    }
}

status plain_gate_add(struct device *dev, struct tensor out, struct tensor x, struct tensor y,
                      struct tensor gate)
{
    const int64_t count = tensor_count(out);

    gate_add_kernel<<<blocks_for(count), 256, 0, cuda_stream(dev)>>>(
        out, x, y, (const float *)gate.data, count);
    LAUNCHED("gate_add");
}

__global__ void add_rows_kernel(struct tensor out, struct tensor a, const float *b, int64_t count)
{
    const int64_t c = a.dim[1];

    EACH(i, count)
    store(out, i / c * out.stride[0] + i % c, load(a, i / c * a.stride[0] + i % c) + b[i % c]);
}

status plain_add_rows(struct device *dev, struct tensor out, struct tensor a, struct tensor b)
{
    const int64_t count = tensor_count(out);

    add_rows_kernel<<<blocks_for(count), 256, 0, cuda_stream(dev)>>>(out, a, (const float *)b.data,
                                                                     count);
    LAUNCHED("add_rows");
}

__global__ void activate_kernel(struct tensor out, struct tensor x, enum act act, int64_t count)
{
    EACH(i, count) store(out, i, activated(act, load(x, i)));
}

status plain_silu(struct device *dev, struct tensor out, struct tensor x)
{
    const int64_t count = tensor_count(out);

    activate_kernel<<<blocks_for(count), 256, 0, cuda_stream(dev)>>>(out, x, ACT_SILU, count);
    LAUNCHED("silu");
}

status plain_gelu(struct device *dev, struct tensor out, struct tensor x)
{
    const int64_t count = tensor_count(out);

    activate_kernel<<<blocks_for(count), 256, 0, cuda_stream(dev)>>>(out, x, ACT_GELU, count);
    LAUNCHED("gelu");
}

status plain_activate(struct device *dev, struct tensor out, enum act act)
{
    const int64_t count = tensor_count(out);

    activate_kernel<<<blocks_for(count), 256, 0, cuda_stream(dev)>>>(out, out, act, count);
    LAUNCHED("activate");
}

__global__ void gated_gelu_kernel(struct tensor out, struct tensor gate, struct tensor up,
                                  int64_t count)
{
    const enum dtype dt = out.dtype;

    EACH(i, count)
    {
        // separate multiplies and adds: a fused multiply-add would round once instead of twice
        const float x = load(gate, i);
        const float p = rounded(dt, __fmul_rn(rounded(dt, __fmul_rn(x, x)), x));
        const float a = rounded(dt, __fmul_rn(0.044715f, p));
        const float b = rounded(dt, __fadd_rn(x, a));
        const float c = rounded(dt, __fmul_rn(0.7978845608028654f, b));
        const float d = rounded(dt, tanhf(c));
        const float e = rounded(dt, __fadd_rn(1, d));
        const float f = rounded(dt, __fmul_rn(0.5f, x));

        store(out, i, load(up, i) * rounded(dt, __fmul_rn(f, e)));
    }
}

status plain_gated_gelu(struct device *dev, struct tensor out, struct tensor gate, struct tensor up)
{
    const int64_t count = tensor_count(out);

    gated_gelu_kernel<<<blocks_for(count), 256, 0, cuda_stream(dev)>>>(out, gate, up, count);
    LAUNCHED("gated_gelu");
}

struct terms {
    float coef[LINCOMB_TERMS];
    const float *x[LINCOMB_TERMS];
};

__global__ void lincomb_kernel(float *out, struct terms terms, int count, int64_t n)
{
    EACH(i, n)
    {
        float sum = 0;

        for (int j = 0; j < LINCOMB_TERMS; j++)
            if (j < count && terms.coef[j] != 0)
                sum += terms.coef[j] * terms.x[j][i];
        out[i] = sum;
    }
}

status plain_lincomb(struct device *dev, struct tensor out, int count, const float *coef,
                     const struct tensor *x)
{
    const int64_t n = tensor_count(out);
    struct terms terms = { { 0 }, { 0 } };

    for (int j = 0; j < count; j++) {
        terms.coef[j] = coef[j];
        terms.x[j] = (const float *)x[j].data;
    }
    lincomb_kernel<<<blocks_for(n), 256, 0, cuda_stream(dev)>>>((float *)out.data, terms, count, n);
    LAUNCHED("lincomb");
}

/* The offset of element i of t in row-major order. */
__device__ int64_t element_at(const struct tensor &t, int64_t i)
{
    int64_t at = 0;

    for (int axis = t.ndim - 1; axis >= 0; axis--) {
        at += i % t.dim[axis] * t.stride[axis];
        i /= t.dim[axis];
    }
    return at;
}

__global__ void copy_kernel(struct tensor out, struct tensor x, int64_t count)
{
    EACH(i, count) store_any(out, element_at(out, i), load_any(x, element_at(x, i)));
}

__global__ void copy_bytes_kernel(struct tensor out, struct tensor x, int64_t count)
{
    EACH(i, count)
    ((uint8_t *)out.data)[element_at(out, i)] = ((const uint8_t *)x.data)[element_at(x, i)];
}

status plain_copy(struct device *dev, struct tensor out, struct tensor x)
{
    const int64_t count = tensor_count(out);

    if (dtype_size(x.dtype) == 1)
        copy_bytes_kernel<<<blocks_for(count), 256, 0, cuda_stream(dev)>>>(out, x, count);
    else
        copy_kernel<<<blocks_for(count), 256, 0, cuda_stream(dev)>>>(out, x, count);
    LAUNCHED("copy");
}

__global__ void channel_affine_kernel(struct tensor out, struct tensor x, const float *scale,
                                      const float *shift, int64_t count)
{
    const int64_t c = x.dim[x.ndim - 1];

    EACH(i, count)
    store(out, row_at(out, i / c) + i % c,
          fmaf(load(x, row_at(x, i / c) + i % c), scale[i % c], shift[i % c]));
}

status plain_channel_affine(struct device *dev, struct tensor out, struct tensor x,
                            struct tensor scale, struct tensor shift)
{
    const int64_t count = tensor_count(out);

    channel_affine_kernel<<<blocks_for(count), 256, 0, cuda_stream(dev)>>>(
        out, x, (const float *)scale.data, (const float *)shift.data, count);
    LAUNCHED("channel_affine");
}

__global__ void to_u8_kernel(struct tensor out, struct tensor x, float add, int64_t count)
{
    const int64_t c = x.dim[3];

    EACH(i, count)
    {
        ((uint8_t *)out.data)[row_at(out, i / c) + i % c] =
            as_u8(load(x, row_at(x, i / c) + i % c), add);
    }
}

status plain_to_u8(struct device *dev, struct tensor out, struct tensor x, float add)
{
    const int64_t count = tensor_count(out);

    to_u8_kernel<<<blocks_for(count), 256, 0, cuda_stream(dev)>>>(out, x, add, count);
    LAUNCHED("to_u8");
}

/* ---- checks ---- */

__global__ void find_nonfinite_kernel(float *mark, struct tensor x, int64_t count, float value)
{
    bool found = false;

    EACH(i, count)
    found |= !isfinite(load(x, i));
    if (found)
        atomicCAS((int *)mark, 0, __float_as_int(value));
}

status plain_find_nonfinite(struct device *dev, struct tensor mark, struct tensor x, float value)
{
    const int64_t count = tensor_count(x);
    const unsigned needed = blocks_for(count), blocks = needed > 4096 ? 4096 : needed;

    find_nonfinite_kernel<<<blocks, 256, 0, cuda_stream(dev)>>>((float *)mark.data, x, count,
                                                                value);
    LAUNCHED("find_nonfinite");
}
