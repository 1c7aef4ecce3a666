/* vector.cuh - loads of eight consecutive elements, f32 or bf16, and stores of eight, also f16, in
 * accesses of 16 bytes. */
#ifndef KERNELS_CUDA_VECTOR_CUH
#define KERNELS_CUDA_VECTOR_CUH

#include "kernels/cuda/device.cuh"

/* v = elements [at, at + 8) of t. */
__device__ inline void load8(float (&v)[8], const struct tensor &t, int64_t at)
{
    if (t.dtype == DT_BF16) {
        const uint4 u = *(const uint4 *)((const __nv_bfloat16 *)t.data + at);
        const uint32_t pairs[4] = { u.x, u.y, u.z, u.w };

        for (int i = 0; i < 4; i++) {
            v[2 * i] = __uint_as_float(pairs[i] << 16);
            v[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000u);
        }
    } else {
        const float4 *f = (const float4 *)((const float *)t.data + at);
        const float4 a = f[0], b = f[1];

        v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
        v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
    }
}

/* Elements [at, at + 8) of t = v, rounded. */
__device__ inline void store8(const struct tensor &t, int64_t at, const float (&v)[8])
{
    if (t.dtype == DT_BF16) {
        uint32_t pairs[4];

        for (int i = 0; i < 4; i++) {
            const __nv_bfloat162 pair = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);

            pairs[i] = *(const uint32_t *)&pair;
        }
        *(uint4 *)((__nv_bfloat16 *)t.data + at) =
            make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
    } else if (t.dtype == DT_F16) {
        uint32_t pairs[4];

        for (int i = 0; i < 4; i++) {
            const __half2 pair = __floats2half2_rn(v[2 * i], v[2 * i + 1]);

            pairs[i] = *(const uint32_t *)&pair;
        }
        *(uint4 *)((__half *)t.data + at) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
    } else {
        float4 *f = (float4 *)((float *)t.data + at);

        f[0] = make_float4(v[0], v[1], v[2], v[3]);
        f[1] = make_float4(v[4], v[5], v[6], v[7]);
    }
}

/* Whether every row of t can be accessed so: it starts at a multiple of 16 bytes and has a multiple
 * of eight elements. */
static inline bool is_aligned_8(const struct tensor &t)
{
    bool fits = (uintptr_t)t.data % 16 == 0 && t.dim[t.ndim - 1] % 8 == 0;

    for (int i = 0; i < t.ndim - 1; i++)
        fits = fits && (t.dim[i] == 1 || t.stride[i] % 8 == 0);
    return fits;
}

#endif
