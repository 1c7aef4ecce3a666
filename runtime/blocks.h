/* blocks.h - the block formats of GGUF files: so many values in so many bytes, with their scales.
 * The values are those of the package `gguf`, to the last bit. Source: llama.cpp ggml-common.h,
 * gguf-py gguf/quants.py. */
#ifndef RUNTIME_BLOCKS_H
#define RUNTIME_BLOCKS_H

#include "runtime/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

#define BLOCK_VALUES_MAX 256

/* A type of tensors in GGUF files: plain numbers, blocks, or one that is only known by name. */
struct ggml_type {
    const char *name;
    uint32_t id;
    enum dtype dtype;  // plain numbers; else DT_NONE
    int values, bytes; // of a block; 0 if it is not read
    void (*decode)(float *dst, const uint8_t *src, size_t blocks);
};

const struct ggml_type *ggml_type_find(uint32_t id);       // NULL: not known
const struct ggml_type *ggml_type_named(const char *name); // "Q4_K", in any case

/* Writes blocks [first, first + count) of a tensor of random values of about this standard
 * deviation; every bit but those of the f16 scales is random. blocks_random.c */
void blocks_random(const struct ggml_type *type, uint64_t key, float std, int64_t first,
                   int64_t count, void *dst);

#ifdef __cplusplus
}
#endif
#endif
