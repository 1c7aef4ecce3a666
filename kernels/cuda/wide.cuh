/* wide.cuh - a row held in the registers of a block. Thread t of T holds elements
 * [(j * T + t) * E, (j * T + t + 1) * E) of the row, for j < PARTS:
 *
 *   wide_row    as f32, for rows in memory of f32 (16 bytes an access) or bf16 (8); E = 4, 16
 *               elements in a thread
 *   narrow_row  as bf16, for rows in memory of bf16 (16 bytes an access); E = 8, 32 elements in a
 *               thread */
#ifndef KERNELS_CUDA_WIDE_CUH
#define KERNELS_CUDA_WIDE_CUH

#include "kernels/cuda/device.cuh"

/* v[4] = four consecutive elements. */
__device__ inline void read_f32(float *v, const float *p)
{
    const float4 a = *(const float4 *)p;

    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
}

__device__ inline void write_f32(float *p, const float *v)
{
    *(float4 *)p = make_float4(v[0], v[1], v[2], v[3]);
}

__device__ inline void unpack(float *v, uint32_t pair)
{
    v[0] = __uint_as_float(pair << 16);
    v[1] = __uint_as_float(pair & 0xffff0000);
}

__device__ inline uint32_t pack(const float *v)
{
    const __nv_bfloat162 pair = __floats2bfloat162_rn(v[0], v[1]);

    return *(const uint32_t *)&pair;
}

__device__ inline void read_bf16(float *v, const __nv_bfloat16 *p)
{
    const uint2 a = *(const uint2 *)p;

    unpack(v, a.x), unpack(v + 2, a.y);
}

__device__ inline void write_bf16(__nv_bfloat16 *p, const float *v)
{
    *(uint2 *)p = make_uint2(pack(v), pack(v + 2));
}

#define PARTS 4
#define EACH_PART(j) _Pragma("unroll") for (int j = 0; j < PARTS; j++)
#define EACH_OF(i, n) _Pragma("unroll") for (int i = 0; i < (n); i++)

struct wide_row {
    static const int E = 4;
    float v[PARTS][E];

    __device__ void get(int j, float *to) const
    {
        EACH_OF(i, E)
        to[i] = v[j][i];
    }

    __device__ void put(int j, const float *from)
    {
        EACH_OF(i, E)
        v[j][i] = from[i];
    }
};

struct narrow_row {
    static const int E = 8;
    uint4 v[PARTS];

    __device__ void get(int j, float *to) const
    {
        unpack(to, v[j].x), unpack(to + 2, v[j].y), unpack(to + 4, v[j].z), unpack(to + 6, v[j].w);
    }

    __device__ void put(int j, const float *from) // rounds to bf16
    {
        v[j] = make_uint4(pack(from), pack(from + 2), pack(from + 4), pack(from + 6));
    }
};

/* The column of the first element that this thread holds in part j. */
template <class Row> __device__ inline int column(int j)
{
    return (j * (int)blockDim.x + (int)threadIdx.x) * Row::E;
}

/* r = the row of c elements at offset `at` of t. The dtype is tested once for the whole row, so
 * that its loads are issued together. */
__device__ inline void read_row(struct wide_row &r, const struct tensor &t, int64_t at, int c)
{
    if (t.dtype == DT_BF16) {
        EACH_PART(j)
        if (column<wide_row>(j) < c)
            read_bf16(r.v[j], (const __nv_bfloat16 *)t.data + at + column<wide_row>(j));
    } else {
        EACH_PART(j)
        if (column<wide_row>(j) < c)
            read_f32(r.v[j], (const float *)t.data + at + column<wide_row>(j));
    }
}

/* Elements of t from offset `at` on = part j of the row. */
__device__ inline void write_part(const struct tensor &t, int64_t at, const struct wide_row &r,
                                  int j)
{
    if (t.dtype == DT_BF16)
        write_bf16((__nv_bfloat16 *)t.data + at, r.v[j]);
    else
        write_f32((float *)t.data + at, r.v[j]);
}

__device__ inline void write_row(const struct tensor &t, int64_t at, const struct wide_row &r,
                                 int c)
{
    if (t.dtype == DT_BF16) {
        EACH_PART(j)
        if (column<wide_row>(j) < c)
            write_bf16((__nv_bfloat16 *)t.data + at + column<wide_row>(j), r.v[j]);
    } else {
        EACH_PART(j)
        if (column<wide_row>(j) < c)
            write_f32((float *)t.data + at + column<wide_row>(j), r.v[j]);
    }
}

__device__ inline void read_row(struct narrow_row &r, const struct tensor &t, int64_t at, int c)
{
    EACH_PART(j)
    if (column<narrow_row>(j) < c)
        r.v[j] = *(const uint4 *)((const __nv_bfloat16 *)t.data + at + column<narrow_row>(j));
}

__device__ inline void write_part(const struct tensor &t, int64_t at, const struct narrow_row &r,
                                  int j)
{
    *(uint4 *)((__nv_bfloat16 *)t.data + at) = r.v[j];
}

__device__ inline void write_row(const struct tensor &t, int64_t at, const struct narrow_row &r,
                                 int c)
{
    EACH_PART(j)
    if (column<narrow_row>(j) < c)
        *(uint4 *)((__nv_bfloat16 *)t.data + at + column<narrow_row>(j)) = r.v[j];
}

/* Limits of a block that holds a row: at most ROW_THREADS threads, and two blocks of that size on a
 * multiprocessor, which leaves 48 registers to a thread. Rows of C = 5120 need 320 threads, so four
 * blocks fit. */
#define ROW_THREADS 640
#define ROW_BOUNDS __launch_bounds__(ROW_THREADS, 2)

/* Threads of a block that holds a row of c elements. */
template <class Row> static inline unsigned row_threads(int64_t c)
{
    const int64_t warp = 32 * PARTS * Row::E;

    return (unsigned)((c + warp - 1) / warp * 32);
}

/* Whether every row of t can be accessed e elements at a time; true for none. */
static inline bool is_aligned(const struct tensor &t, int e)
{
    const size_t bytes = e * dtype_size(t.dtype);

    if (t.data == NULL)
        return true;
    if (t.dim[t.ndim - 1] % e != 0 || (uintptr_t)t.data % (bytes < 16 ? bytes : 16) != 0)
        return false;
    for (int i = 0; i < t.ndim - 1; i++)
        if (t.dim[i] > 1 && t.stride[i] % e != 0)
            return false;
    return true;
}

#endif
