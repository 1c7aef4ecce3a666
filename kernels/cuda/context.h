/* context.h - what the GPU's ops keep between calls: library handles and the plans made for shapes
 * that were met. It is made by the first op that asks and goes with the device. */
#ifndef KERNELS_CUDA_CONTEXT_H
#define KERNELS_CUDA_CONTEXT_H

#include "kernels/table.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Plans of one op family: a list of entries, each begun by the key that it was made for. */
struct plan_cache;

struct cuda_context {
    cublasLtHandle_t lt;
    void *encode_tiled; // the driver's cuTensorMapEncodeTiled
    int multiprocessors;
    struct plan_cache *gemms;
};

/* ST_DEVICE when a library cannot be opened. */
status cuda_context(struct device *dev, struct cuda_context **context);

/* The entry for `key`, of `size` zeroed bytes behind a copy of the key; *made tells that it is new.
 * Keys are compared as bytes, so pad them with zeros. `done` gives an entry's contents back. */
status plan_find(struct plan_cache **cache, const void *key, size_t key_bytes, size_t size,
                 void (*done)(void *entry), void **entry, bool *made);
void plan_forget(struct plan_cache **cache, void *entry); // one that could not be filled in
void plan_close(struct plan_cache **cache);

/* Codes of the libraries as ours, with the op that met them. */
status cuda_check(cudaError_t e, const char *op);
status lt_check(cublasStatus_t e, const char *op);

static inline cudaStream_t cuda_stream(struct device *dev)
{
    return (cudaStream_t)dev->stream;
}

#ifdef __cplusplus
}
#endif
#endif
