/* hopper_s8.cuh - wgmma on 8-bit integers with exact 32-bit sums. Both operands have the summed
 * axis innermost, 32 elements per product. Layouts as for the bf16 products in hopper.cuh. */
#ifndef KERNELS_CUDA_HOPPER_S8_CUH
#define KERNELS_CUDA_HOPPER_S8_CUH

#include "kernels/cuda/hopper.cuh"

template <int R> __device__ __forceinline__ void register_fence(int32_t (&d)[R])
{
#pragma unroll
    for (int i = 0; i < R; i++)
        asm volatile("" : "+r"(d[i])::"memory");
}

/* Operands of the instructions: their numbers, and their registers. */
#define LIST0_31                                                                                   \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"                                       \
    "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define LIST32_63                                                                                  \
    "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"                             \
    "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define LIST64_95                                                                                  \
    "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,"                             \
    "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define LIST96_127                                                                                 \
    "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,"                 \
    "%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define S8(i)                                                                                      \
    "+r"(d[i]), "+r"(d[i + 1]), "+r"(d[i + 2]), "+r"(d[i + 3]), "+r"(d[i + 4]), "+r"(d[i + 5]),    \
        "+r"(d[i + 6]), "+r"(d[i + 7])
#define S32(i) S8(i), S8(i + 8), S8(i + 16), S8(i + 24)

/* Queues d = a b^T (+ d where add != 0), a [64, 32] and b [n, 32] s8 in shared memory, d [64, n].
 */
__device__ inline void wgmma_s8(int32_t (&d)[64], uint64_t a, uint64_t b, int add)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 {" LIST0_31 "," LIST32_63
                 "}, %64, %65, p;\n}\n"
                 : S32(0), S32(32)
                 : "l"(a), "l"(b), "r"(add));
}

__device__ inline void wgmma_s8(int32_t (&d)[128], uint64_t a, uint64_t b, int add)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n256k32.s32.s8.s8 {" LIST0_31 "," LIST32_63
                 "," LIST64_95 "," LIST96_127 "}, %128, %129, p;\n}\n"
                 : S32(0), S32(32), S32(64), S32(96)
                 : "l"(a), "l"(b), "r"(add));
}

/* Queues d = a b^T (+ d where add != 0), a [64, 32] u8 in registers, b [128, 32] s8 in shared
 * memory. a[0..3] are four elements each of row lane / 4, columns 4 (lane % 4) on; of row + 8; of
 * columns
 * + 16; of both. */
__device__ inline void wgmma_u8(int32_t (&d)[64], const uint32_t *a, uint64_t b, int add)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k32.s32.u8.u8 {" LIST0_31 "," LIST32_63
                 "}, {%64,%65,%66,%67}, %68, p;\n}\n"
                 : S32(0), S32(32)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}

#undef LIST0_31
#undef LIST32_63
#undef LIST64_95
#undef LIST96_127
#undef S8
#undef S32

#endif
