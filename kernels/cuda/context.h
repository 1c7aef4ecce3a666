/* context.h - what the GPU's ops keep between calls: library handles, and the libraries'
 * descriptors for each shape seen so far. Created by the first op that needs it, closed with the
 * device. */
#ifndef KERNELS_CUDA_CONTEXT_H
#define KERNELS_CUDA_CONTEXT_H

#include "kernels/table.h"
#include "runtime/cuda_status.h"

#include <cublasLt.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The library descriptors of one op, one entry for each key (shapes, strides, dtypes) seen so far.
 */
struct descriptor_cache;

struct cuda_context {
    cublasLtHandle_t lt;
    void *encode_tiled; // the driver's cuTensorMapEncodeTiled
    int multiprocessors;
    struct descriptor_cache *gemm_cache;
};

/* ST_DEVICE when a library cannot be opened. */
status cuda_context(struct device *dev, struct cuda_context **context);

/* Returns the entry for `key` in *entry, or adds one of `size` zeroed bytes and sets *is_new.
 * Creates the cache when *cache is NULL. Keys are compared as bytes, so their padding must be zero.
 *   done  called on an entry before it is freed; releases what the entry holds
 * The entry belongs to the cache. ST_MEMORY. */
status descriptor_cache_find(struct descriptor_cache **cache, const void *key, size_t key_bytes,
                             size_t size, void (*done)(void *entry), void **entry, bool *is_new);

/* Removes and frees one entry: for an entry whose descriptors could not be created. */
void descriptor_cache_remove(struct descriptor_cache **cache, void *entry);

/* Frees all entries and the cache; accepts a NULL cache. */
void descriptor_cache_close(struct descriptor_cache **cache);

/* ST_OK, or fails with ST_DEVICE and a line that names the op and cuBLASLt's error. */
status lt_status(cublasStatus_t e, const char *op);

static inline cudaStream_t cuda_stream(struct device *dev)
{
    return (cudaStream_t)dev->stream;
}

#ifdef __cplusplus
}
#endif
#endif
