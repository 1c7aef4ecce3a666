/* hopper.cuh - the instructions of sm_90a that CUDA C++ has no functions for: barriers that count
 * copied bytes (mbarrier), tensor copies by the Tensor Memory Accelerator (TMA), and matrix
 * products of a warpgroup out of shared memory (wgmma).
 *
 * Addresses of shared memory are 32-bit, as shared_address returns them. Source of the formats: the
 * PTX ISA, sections on mbarrier, cp.async.bulk.tensor and wgmma. */
#ifndef KERNELS_CUDA_HOPPER_CUH
#define KERNELS_CUDA_HOPPER_CUH

#include <cuda.h>
#include <stdint.h>

__device__ inline uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

__device__ inline void store_shared(uint32_t at, uint32_t v)
{
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(at), "r"(v) : "memory");
}

__device__ inline uint32_t load_shared(uint32_t at)
{
    uint32_t v;

    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(at) : "memory");
    return v;
}

/* ---- mbarriers: 8 bytes of shared memory each ---- */

/* A phase of the barrier is complete after `arrivals` arrivals and all bytes expected in it. */
__device__ inline void mbarrier_init(uint32_t bar, int arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(arrivals));
}

/* Makes this thread's mbarrier_init calls visible to the TMA. Other threads of the block still need
 * a __syncthreads. */
__device__ inline void mbarrier_init_fence(void)
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ inline void mbarrier_arrive(uint32_t bar)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}

/* Arrives, and keeps the phase incomplete until `bytes` more have been copied. */
__device__ inline void mbarrier_arrive_expect(uint32_t bar, int bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes)
                 : "memory");
}

/* Waits until the phase of this parity is complete. Phases have parity 0, 1, 0, ...; on a new
 * barrier a wait for parity 1 returns at once.
 *
 * There are two forms, because the compiler sees a loop in the first and one instruction in the
 * second, and optimizes the code around it differently: attention_sm90.cu is 18 % longer with the
 * second, and conv.cu does not get the first iteration of its inner loop peeled with the first. */
__device__ inline void mbarrier_wait(uint32_t bar, uint32_t parity)
{
    uint32_t done = 0;

    while (!done)
        asm volatile("{\n.reg .pred p;\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, p;\n}\n"
                     : "=r"(done)
                     : "r"(bar), "r"(parity)
                     : "memory");
}

__device__ inline void mbarrier_wait_opaque(uint32_t bar, uint32_t parity)
{
    asm volatile("{\n.reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n}\n" ::"r"(bar),
                 "r"(parity)
                 : "memory");
}

/* Position in a ring of COUNT buffers, each with its mbarriers: the buffer, and the parity of the
 * phase to wait for. A consumer starts at { 0, 0 }; a producer, whose buffers are empty at first,
 * at { 0, 1 }. */
template <int COUNT> struct ring {
    int at;
    uint32_t parity;

    __device__ inline void next(void)
    {
        if (++at == COUNT) {
            at = 0;
            parity ^= 1;
        }
    }
};

/* ---- TMA: boxes of a tensor that a CUtensorMap describes; coordinates from the innermost axis
 * ----
 */

/* Queues a copy from global to shared memory; `bar` counts its bytes. */
__device__ inline void tma_load(uint32_t to, const CUtensorMap *map, uint32_t bar, int c0, int c1,
                                int c2)
{
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(to),
                 "l"(map), "r"(bar), "r"(c0), "r"(c1), "r"(c2)
                 : "memory");
}

__device__ inline void tma_load(uint32_t to, const CUtensorMap *map, uint32_t bar, int c0, int c1,
                                int c2, int c3)
{
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(to),
                 "l"(map), "r"(bar), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
                 : "memory");
}

/* Queues a copy from shared to global memory, in this thread's current bulk group. */
__device__ inline void tma_store(const CUtensorMap *map, uint32_t from, int c0, int c1, int c2,
                                 int c3)
{
    asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group "
                 "[%0, {%2, %3, %4, %5}], [%1];" ::"l"(map),
                 "r"(from), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
                 : "memory");
}

/* Closes this thread's current group of stores. */
__device__ inline void tma_store_commit(void)
{
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

/* Waits until all of this thread's closed groups have read their shared memory. */
__device__ inline void tma_store_wait_read(void)
{
    asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

/* Waits until all of this thread's closed groups have been written to global memory. */
__device__ inline void tma_store_wait(void)
{
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

/* Orders this thread's writes to shared memory before later accesses of the TMA and of wgmma, once
 * the thread that starts these has synchronized with this one. */
__device__ inline void async_proxy_fence(void)
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* Orders what this thread has read from global memory before later accesses of the TMA to it. */
__device__ inline void async_proxy_fence_global(void)
{
    asm volatile("fence.proxy.async.global;" ::: "memory");
}

/* ---- messages from other GPUs ---- */

/* Waits until *flag has reached `value`. What its writer wrote before may then be read. */
__device__ inline void wait_for_flag(const volatile uint32_t *flag, uint32_t value)
{
    uint32_t now;

    for (;;) {
        asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(now) : "l"(flag) : "memory");
        if ((int32_t)(now - value) >= 0)
            return;
        __nanosleep(100);
    }
}

/* ---- warps and warpgroups ---- */

/* __syncthreads for `threads` threads; barrier 0 is that of the whole block. */
__device__ inline void named_barrier(int index, int threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(index), "r"(threads) : "memory");
}

/* Arrives at a named barrier without waiting. */
__device__ inline void named_barrier_arrive(int index, int threads)
{
    asm volatile("bar.arrive %0, %1;" ::"r"(index), "r"(threads) : "memory");
}

/* Changes the number of registers of each thread of a warpgroup. */
template <int N> __device__ inline void registers_increase(void)
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

template <int N> __device__ inline void registers_decrease(void)
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

/* Stores four 8x8 matrices of 16-bit elements. Lanes 8i to 8i + 7 pass the addresses of the rows of
 * matrix i; a lane holds elements 2 (lane % 4) and the next of row lane / 4 of each matrix. */
__device__ inline void store_matrices(uint32_t row, uint32_t m0, uint32_t m1, uint32_t m2,
                                      uint32_t m3)
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row),
                 "r"(m0), "r"(m1), "r"(m2), "r"(m3)
                 : "memory");
}

/* ---- wgmma ---- */

/* Before the first product of a sequence, and after registers that products use were written. */
__device__ inline void wgmma_fence(void)
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

/* Closes the current group of products. */
__device__ inline void wgmma_commit(void)
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Waits until at most N closed groups are unfinished. */
template <int N> __device__ inline void wgmma_wait(void)
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

/* Keeps the compiler from moving accesses of d across this point: products change their registers
 * after the instruction that starts them, which the compiler does not know. */
template <int R> __device__ inline void register_fence(float (&d)[R])
{
#pragma unroll
    for (int i = 0; i < R; i++)
        asm volatile("" : "+f"(d[i])::"memory");
}

template <int R> __device__ inline void register_fence(uint32_t (&d)[R])
{
#pragma unroll
    for (int i = 0; i < R; i++)
        asm volatile("" : "+r"(d[i])::"memory");
}

/* Describes a matrix in shared memory to wgmma, in rows of `row_bytes` (32, 64 or 128) with the
 * swizzle of that width, as the TMA writes them. stride_bytes   from 8 rows to the next 8
 *   leading_bytes  for the b of wgmma_transposed, from row_bytes of columns to the next; the other
 *                  products ignore it
 * The swizzle depends on the address alone, so a matrix may start at any row of a box. */
__device__ inline uint64_t matrix_descriptor(uint32_t address, int row_bytes, int stride_bytes,
                                             int leading_bytes)
{
    const uint64_t swizzle = row_bytes == 128 ? 1 : row_bytes == 64 ? 2 : 3;

    return (uint64_t)((address & 0x3ffff) >> 4) | (uint64_t)(leading_bytes >> 4) << 16 |
           (uint64_t)(stride_bytes >> 4) << 32 | swizzle << 62;
}

/* Operands of the instructions: their numbers, and their registers. */
#define LIST0_3 "%0,%1,%2,%3"
#define LIST0_7 LIST0_3 ",%4,%5,%6,%7"
#define LIST4_31                                                                                   \
    "%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,"               \
    "%25,%26,%27,%28,%29,%30,%31"
#define LIST32_47 "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define LIST48_63 "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define LIST64_79 "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79"
#define LIST80_95 "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define LIST0_31 LIST0_3 "," LIST4_31
#define LIST0_47 LIST0_31 "," LIST32_47
#define LIST0_63 LIST0_47 "," LIST48_63
#define LIST0_79 LIST0_63 "," LIST64_79
#define LIST0_95 LIST0_79 "," LIST80_95
#define F8(i)                                                                                      \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]),    \
        "+f"(d[i + 6]), "+f"(d[i + 7])
#define F32(i) F8(i), F8(i + 8), F8(i + 16), F8(i + 24)

/* Queues d = a b^T (+ d where add != 0), a [64, K] and b [n, K] in shared memory, d [64, n] f32. A
 * thread holds n / 2 elements: element 4i + 2h + e is in row 16 * warp + lane / 4 + 8h and column
 * 8i + 2 (lane % 4) + e.
 *
 *   wgmma       K = 16, bf16
 *   wgmma_f16   K = 16, f16
 *   wgmma_tf32  K = 8, f32 of which 10 bits of mantissa are used */
#define WGMMA(name, type, end, n, list, a_at, b_at, add_at, ...)                                   \
    __device__ inline void name(float(&d)[n / 2], uint64_t a, uint64_t b, int add)                 \
    {                                                                                              \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " add_at ", 0;\n"                           \
                     "wgmma.mma_async.sync.aligned.m64n" #n type " {" list "}, " a_at ", " b_at    \
                     ", p, 1, 1" end ";\n}\n"                                                      \
                     : __VA_ARGS__                                                                 \
                     : "l"(a), "l"(b), "r"(add));                                                  \
    }
#define WGMMA_8(name, type, end)                                                                   \
    WGMMA(name, type, end, 8, LIST0_3, "%4", "%5", "%6", "+f"(d[0]), "+f"(d[1]), "+f"(d[2]),       \
          "+f"(d[3]))
#define WGMMA_16(name, type, end) WGMMA(name, type, end, 16, LIST0_7, "%8", "%9", "%10", F8(0))
#define WGMMA_64(name, type, end) WGMMA(name, type, end, 64, LIST0_31, "%32", "%33", "%34", F32(0))
#define WGMMA_96(name, type, end)                                                                  \
    WGMMA(name, type, end, 96, LIST0_47, "%48", "%49", "%50", F32(0), F8(32), F8(40))
#define WGMMA_128(name, type, end)                                                                 \
    WGMMA(name, type, end, 128, LIST0_63, "%64", "%65", "%66", F32(0), F32(32))
#define WGMMA_160(name, type, end)                                                                 \
    WGMMA(name, type, end, 160, LIST0_79, "%80", "%81", "%82", F32(0), F32(32), F8(64), F8(72))
#define WGMMA_192(name, type, end)                                                                 \
    WGMMA(name, type, end, 192, LIST0_95, "%96", "%97", "%98", F32(0), F32(32), F32(64))
#define WGMMA_TO_96(...) WGMMA_8(__VA_ARGS__) WGMMA_16(__VA_ARGS__) WGMMA_96(__VA_ARGS__)
#define WGMMA_TO_192(...)                                                                          \
    WGMMA_TO_96(__VA_ARGS__)                                                                       \
    WGMMA_128(__VA_ARGS__) WGMMA_160(__VA_ARGS__) WGMMA_192(__VA_ARGS__)

WGMMA_TO_192(wgmma, "k16.f32.bf16.bf16", ", 0, 0")
WGMMA_64(wgmma, "k16.f32.bf16.bf16", ", 0, 0")
WGMMA_TO_192(wgmma_f16, "k16.f32.f16.f16", ", 0, 0")
WGMMA_TO_96(wgmma_tf32, "k8.f32.tf32.tf32", "")

/* Queues d = a b (+ d where add != 0), a [64, 16] bf16 in registers, b [16, 128] bf16 in shared
 * memory. d is laid out as above; a[0..3] are two elements each of row lane / 4, columns
 * 2 (lane % 4) on; of row + 8; of columns + 8; of both. */
__device__ inline void wgmma_transposed(float (&d)[64], const uint32_t *a, uint64_t b, int add)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" LIST0_63
                 "}, {%64,%65,%66,%67}, %68, p, 1, 1, 1;\n}\n"
                 : F32(0), F32(32)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}

#undef WGMMA
#undef WGMMA_8
#undef WGMMA_16
#undef WGMMA_64
#undef WGMMA_96
#undef WGMMA_128
#undef WGMMA_160
#undef WGMMA_192
#undef WGMMA_TO_96
#undef WGMMA_TO_192
#undef LIST0_3
#undef LIST4_31
#undef LIST32_47
#undef LIST48_63
#undef LIST64_79
#undef LIST80_95
#undef LIST0_31
#undef LIST0_47
#undef LIST0_63
#undef LIST0_79
#undef LIST0_95
#undef F8
#undef F32

#endif
