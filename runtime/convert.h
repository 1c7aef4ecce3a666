/* convert.h - conversion of arrays between the floating-point types of weight files. */
#ifndef RUNTIME_CONVERT_H
#define RUNTIME_CONVERT_H

#include "runtime/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Compiled once per instruction set level; the best is chosen when the program starts. */
#if defined(__x86_64__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) &&                \
    !defined(__SANITIZE_THREAD__)
#define CONVERT_WIDE __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CONVERT_WIDE
#endif

/* To itself any type; to F32 and BF16 the floating-point types, and the scales' F8_E8M0. */
bool convert_possible(enum dtype to, enum dtype from);

/* dst[i] = src[i] for n elements, rounded once. Asserts convert_possible. */
void convert_values(void *dst, enum dtype to, const void *src, enum dtype from, size_t n);

#ifdef __cplusplus
}
#endif
#endif
