/* Elementwise ops of the transformer, with accesses of 16 bytes. */
#include "kernels/cuda/plain.h"
#include "kernels/cuda/wide.cuh"
#include "kernels/cuda/wide.h"

#define LAUNCHED(op) return cuda_status(cudaGetLastError(), "%s", op)

/* Each block has one row. */
static __global__ void ROW_BOUNDS gate_add_kernel(struct tensor out, struct tensor x,
                                                  struct tensor y, const float *gate)
{
    const int c = (int)x.dim[1];
    const int64_t row = blockIdx.x;
    struct wide_row r, more;

    read_row(r, x, row * x.stride[0], c);
    read_row(more, y, row * y.stride[0], c);
    EACH_PART(j)
    if (column<wide_row>(j) < c) {
        float g[4] = { 1, 1, 1, 1 };

        if (gate != NULL)
            read_f32(g, gate + column<wide_row>(j));
        EACH_OF(i, 4)
        r.v[j][i] = fmaf(more.v[j][i], g[i], r.v[j][i]);
    }
    write_row(out, row * out.stride[0], r, c);
}

status wide_gate_add(struct device *dev, struct tensor out, struct tensor x, struct tensor y,
                     struct tensor gate)
{
    const unsigned rows = (unsigned)x.dim[0], threads = row_threads<wide_row>(x.dim[1]);

    if (threads > ROW_THREADS || !is_aligned(out, 4) || !is_aligned(x, 4) || !is_aligned(y, 4) ||
        !is_aligned(gate, 4))
        return plain_gate_add(dev, out, x, y, gate);
    gate_add_kernel<<<rows, threads, 0, cuda_stream(dev)>>>(out, x, y, (const float *)gate.data);
    LAUNCHED("gate_add");
}

/* Each thread has four elements; the D / 4 threads of a row are in one warp. */
static __global__ void merge_kernel(struct tensor acc, float *la, struct tensor part,
                                    const float *lb, int64_t count)
{
    const int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    const int quads = (int)acc.dim[2] / 4;
    const int64_t row = i / quads;

    if (i >= count) // true for whole warps only: count is a multiple of 32
        return;

    const int64_t s = row / acc.dim[1], head = row - s * acc.dim[1];
    const int64_t from = s * part.stride[0] + head * part.stride[1] + i % quads * 4;
    const float a = la[row], b = lb[row], max = fmaxf(a, b);
    const float ea = isinf(a) ? 0 : expf(a - max), eb = isinf(b) ? 0 : expf(b - max);
    const float sum = ea + eb, inv_sum = sum != 0 ? 1 / sum : 1;
    float v[4] = { 0, 0, 0, 0 }, w[4] = { 0, 0, 0, 0 };

    if (ea != 0)
        read_f32(v, (const float *)acc.data + i * 4);
    if (eb != 0 && part.dtype == DT_BF16)
        read_bf16(w, (const __nv_bfloat16 *)part.data + from);
    else if (eb != 0)
        read_f32(w, (const float *)part.data + from);
    EACH_OF(l, 4)
    v[l] = v[l] * (ea * inv_sum) + w[l] * (eb * inv_sum);
    write_f32((float *)acc.data + i * 4, v);
    __syncwarp(); // every thread of the row has read la[row]
    if (i % quads == 0)
        la[row] = max + logf(sum);
}

status wide_attention_merge(struct device *dev, struct tensor acc, struct tensor lse,
                            struct tensor part, struct tensor part_lse)
{
    const int64_t d = acc.dim[2], count = tensor_count(acc) / 4;

    if (d % 4 != 0 || d > 128 || 128 % d != 0 || !is_aligned(acc, 4) || !is_aligned(part, 4) ||
        count % 32 != 0)
        return plain_attention_merge(dev, acc, lse, part, part_lse);
    merge_kernel<<<(unsigned)((count + 255) / 256), 256, 0, cuda_stream(dev)>>>(
        acc, (float *)lse.data, part, (const float *)part_lse.data, count);
    LAUNCHED("attention_merge");
}

/* ---- copies ---- */

/* Two tensors of one shape, with axes merged wherever both allow it, innermost first; strides in
 * elements. */
struct views {
    int axes;
    int64_t dim[TENSOR_AXES], to[TENSOR_AXES], from[TENSOR_AXES];
};

/* Innermost is the axis with the smallest stride in out, so that threads write consecutive elements
 * where that is possible. */
static struct views views_of(struct tensor out, struct tensor x)
{
    int order[TENSOR_AXES], count = 0;
    struct views v = { 0 };

    for (int i = x.ndim - 1; i >= 0; i--) {
        int at = count++;

        for (; at > 0 && out.stride[order[at - 1]] > out.stride[i]; at--)
            order[at] = order[at - 1];
        order[at] = i;
    }
    for (int j = 0; j < count; j++) {
        const int i = order[j], last = v.axes - 1;

        if (x.dim[i] == 1)
            continue;
        if (last >= 0 && out.stride[i] == v.dim[last] * v.to[last] &&
            x.stride[i] == v.dim[last] * v.from[last]) {
            v.dim[last] *= x.dim[i];
            continue;
        }
        v.dim[v.axes] = x.dim[i];
        v.to[v.axes] = out.stride[i];
        v.from[v.axes++] = x.stride[i];
    }
    return v;
}

/* Offsets of a run of consecutive elements in both tensors. */
struct offsets {
    int64_t to, from;
};

/* The offsets of run i; a run has e elements. */
__device__ inline struct offsets offsets_of(const struct views &v, uint32_t i, int e)
{
    uint32_t rest = i / (uint32_t)v.dim[0], at = i - rest * (uint32_t)v.dim[0];
    struct offsets p = { at * (int64_t)e, at * (int64_t)e };

    _Pragma("unroll") for (int axis = 1; axis < TENSOR_AXES; axis++)
    {
        if (axis >= v.axes)
            break;
        i = rest;
        rest = i / (uint32_t)v.dim[axis];
        at = i - rest * (uint32_t)v.dim[axis];
        p.to += at * v.to[axis];
        p.from += at * v.from[axis];
    }
    return p;
}

#define RUNS 4 // of a thread

/* Copies runs of 16 bytes of any dtype; v.dim[0] and the strides count runs. */
static __global__ void copy_kernel(uint4 *out, const uint4 *x, struct views v, uint32_t count)
{
    const uint32_t first = blockIdx.x * RUNS * blockDim.x + threadIdx.x;
    struct offsets p[RUNS];
    uint4 run[RUNS];

    EACH_OF(j, RUNS)
    {
        if (first + j * blockDim.x < count) {
            p[j] = offsets_of(v, first + j * blockDim.x, 1);
            run[j] = x[p[j].from];
        }
    }
    EACH_OF(j, RUNS)
    {
        if (first + j * blockDim.x < count)
            out[p[j].to] = run[j];
    }
}

/* Copies or converts single elements, f32 or bf16. */
static __global__ void elements_kernel(struct tensor out, struct tensor x, struct views v,
                                       uint32_t count)
{
    const uint32_t first = blockIdx.x * RUNS * blockDim.x + threadIdx.x;

    EACH_OF(j, RUNS)
    {
        const uint32_t i = first + j * blockDim.x, run = i / (uint32_t)v.dim[0];

        if (i < count) {
            const uint32_t at = i - run * (uint32_t)v.dim[0];
            const struct offsets p = offsets_of(v, run * (uint32_t)v.dim[0], 1);

            store_any(out, p.to + at * v.to[0], load_any(x, p.from + at * v.from[0]));
        }
    }
}

/* Converts runs of 4 elements between f32 and bf16; v.dim[0] counts runs, strides elements. */
template <bool TO_BF16>
static __global__ void convert_kernel(void *out, const void *x, struct views v, uint32_t count)
{
    const uint32_t first = blockIdx.x * RUNS * blockDim.x + threadIdx.x;
    struct offsets p[RUNS];
    float run[RUNS][4];

    EACH_OF(j, RUNS)
    {
        if (first + j * blockDim.x < count) {
            p[j] = offsets_of(v, first + j * blockDim.x, 4);
            if (TO_BF16)
                read_f32(run[j], (const float *)x + p[j].from);
            else
                read_bf16(run[j], (const __nv_bfloat16 *)x + p[j].from);
        }
    }
    EACH_OF(j, RUNS)
    {
        if (first + j * blockDim.x < count) {
            if (TO_BF16)
                write_bf16((__nv_bfloat16 *)out + p[j].to, run[j]);
            else
                write_f32((float *)out + p[j].to, run[j]);
        }
    }
}

/* Whether t, seen through v with these strides, consists of aligned runs of `bytes`. */
static bool is_aligned_runs(struct tensor t, const struct views *v, const int64_t *stride,
                            size_t bytes)
{
    const int64_t e = (int64_t)(bytes / dtype_size(t.dtype));

    if (v->axes == 0 || stride[0] != 1 || v->dim[0] % e != 0 || (uintptr_t)t.data % bytes != 0)
        return false;
    for (int i = 1; i < v->axes; i++)
        if (stride[i] % e != 0)
            return false;
    return true;
}

status wide_copy(struct device *dev, struct tensor out, struct tensor x)
{
    struct views v = views_of(out, x);
    const bool convert = out.dtype != x.dtype;
    const size_t to_bytes = convert ? 4 * dtype_size(out.dtype) : 16;
    const size_t from_bytes = convert ? 4 * dtype_size(x.dtype) : 16;
    const bool runs =
        is_aligned_runs(out, &v, v.to, to_bytes) && is_aligned_runs(x, &v, v.from, from_bytes);
    const int64_t e = runs ? (int64_t)(to_bytes / dtype_size(out.dtype)) : 1;
    const int64_t count = tensor_count(x) / e;
    const unsigned blocks = (unsigned)((count + 256 * RUNS - 1) / (256 * RUNS));

    if (v.axes == 0 || count > UINT32_MAX - 256 * RUNS || (!runs && dtype_size(x.dtype) == 1))
        return plain_copy(dev, out, x);
    if (!runs) {
        elements_kernel<<<blocks, 256, 0, cuda_stream(dev)>>>(out, x, v, (uint32_t)count);
        LAUNCHED("copy");
    }
    v.dim[0] /= e;
    if (convert && out.dtype == DT_BF16) {
        convert_kernel<true>
            <<<blocks, 256, 0, cuda_stream(dev)>>>(out.data, x.data, v, (uint32_t)count);
    } else if (convert) {
        convert_kernel<false>
            <<<blocks, 256, 0, cuda_stream(dev)>>>(out.data, x.data, v, (uint32_t)count);
    } else {
        for (int i = 1; i < v.axes; i++) {
            v.to[i] /= e;
            v.from[i] /= e;
        }
        copy_kernel<<<blocks, 256, 0, cuda_stream(dev)>>>((uint4 *)out.data, (const uint4 *)x.data,
                                                          v, (uint32_t)count);
    }
    LAUNCHED("copy");
}
