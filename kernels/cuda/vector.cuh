/* vector.cuh - eight neighbouring elements at once, f32 or bf16: 16 bytes an access. */
#ifndef KERNELS_CUDA_VECTOR_CUH
#define KERNELS_CUDA_VECTOR_CUH

#include "kernels/cuda/device.cuh"

__device__ inline void load8(float (&v)[8], const struct tensor &t, int64_t at)
{
    if (t.dtype == DT_BF16) {
        const uint4 u = *(const uint4 *)((const __nv_bfloat16 *)t.data + at);
        const uint32_t two[4] = { u.x, u.y, u.z, u.w };

        for (int i = 0; i < 4; i++) {
            v[2 * i] = __uint_as_float(two[i] << 16);
            v[2 * i + 1] = __uint_as_float(two[i] & 0xffff0000u);
        }
    } else {
        const float4 *f = (const float4 *)((const float *)t.data + at);
        const float4 a = f[0], b = f[1];

        v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
        v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
    }
}

__device__ inline void store8(const struct tensor &t, int64_t at, const float (&v)[8])
{
    if (t.dtype == DT_BF16) {
        uint32_t two[4];

        for (int i = 0; i < 4; i++) {
            const __nv_bfloat162 pair = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);

            two[i] = *(const uint32_t *)&pair;
        }
        *(uint4 *)((__nv_bfloat16 *)t.data + at) = make_uint4(two[0], two[1], two[2], two[3]);
    } else {
        float4 *f = (float4 *)((float *)t.data + at);

        f[0] = make_float4(v[0], v[1], v[2], v[3]);
        f[1] = make_float4(v[4], v[5], v[6], v[7]);
    }
}

/* Whether rows can be read and written so: they start at multiples of 16 bytes and their lengths
 * are multiples of eight. */
static inline bool in_eights(const struct tensor &t)
{
    bool fits = (uintptr_t)t.data % 16 == 0 && t.dim[t.ndim - 1] % 8 == 0;

    for (int i = 0; i < t.ndim - 1; i++)
        fits = fits && (t.dim[i] == 1 || t.stride[i] % 8 == 0);
    return fits;
}

#endif
