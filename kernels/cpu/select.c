#include "kernels/cpu/select.h"

#include "kernels/cpu/cpu.h"

/* meson.build compiles the other files of this folder once for each of these levels. */
void cpu_table_plain(struct table *t);   // the compiler's default: SSE2, NEON
void cpu_table_v3(struct table *t);      // AVX2, FMA
void cpu_table_v4(struct table *t);      // AVX-512 F, BW, DQ, VL
void cpu_table_v4_bf16(struct table *t); // v4 and BF16

static const struct cpu_level levels[] = {
    { "plain", cpu_table_plain },
#if defined(__x86_64__)
    { "v3", cpu_table_v3 },
    { "v4", cpu_table_v4 },
    { "v4_bf16", cpu_table_v4_bf16 },
#endif
};

#if defined(__clang__) // before version 18 it knows features, but no levels
#define HAS_V3                                                                                     \
    (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&                            \
     __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2"))
#define HAS_V4                                                                                     \
    (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&                    \
     __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&                   \
     __builtin_cpu_supports("avx512vl"))
#else
#define HAS_V3 __builtin_cpu_supports("x86-64-v3")
#define HAS_V4 __builtin_cpu_supports("x86-64-v4")
#endif

static int count_levels(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!HAS_V3)
        return 1;
    if (!HAS_V4)
        return 2;
    if (!__builtin_cpu_supports("avx512bf16"))
        return 3;
#endif
    return (int)COUNT(levels);
}

struct cpu_level cpu_level(int index)
{
    return index < count_levels() ? levels[index] : (struct cpu_level){ 0 };
}

void table_cpu(struct table *t)
{
    levels[count_levels() - 1].fill(t);
}

/* The slabs of product.c and attention.c at the widest level, for all queries of a task. */
size_t table_cpu_used(int threads, size_t packed, int64_t head)
{
    const size_t batch = BATCH_BYTES * (size_t)div_up(threads, 4);
    const size_t product = 72 << 10, attention = (size_t)(652 * head + 20000) * sizeof(float);
    const size_t used = (packed < batch ? packed : batch) + (size_t)threads * (product + attention);

    return used < CPU_WORKSPACE ? used : CPU_WORKSPACE;
}
