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

const struct ggml_type *ggml_type_find(uint32_t id); // NULL: not known

#ifdef __cplusplus
}
#endif
#endif
