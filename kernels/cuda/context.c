#include "kernels/cuda/context.h"

#include <stdlib.h>
#include <string.h>

/* One allocation: this struct, the key, then the caller's bytes at a multiple of 16. */
struct node {
    struct node *next;
    size_t key_bytes;
    void *key, *entry;
};

struct descriptor_cache {
    struct node *first;
    void (*done)(void *entry);
};

status lt_status(cublasStatus_t e, const char *op)
{
    if (e == CUBLAS_STATUS_SUCCESS)
        return ST_OK;
    return fail(ST_DEVICE, "%s: cuBLASLt %s", op, cublasLtGetStatusString(e));
}

static void context_close(struct device *dev)
{
    struct cuda_context *c = dev->backend;

    descriptor_cache_close(&c->gemm_cache);
    if (c->lt != NULL)
        cublasLtDestroy(c->lt);
    free(c);
    dev->backend = NULL;
    dev->backend_close = NULL;
}

status cuda_context(struct device *dev, struct cuda_context **context)
{
    struct cuda_context *c = dev->backend;
    enum cudaDriverEntryPointQueryResult found;
    status st = ST_OK;

    *context = c;
    if (c != NULL)
        return ST_OK;
    c = calloc(1, sizeof(*c));
    if (c == NULL)
        return fail(ST_MEMORY, "no memory for the handles of GPU %d", dev->index);
    dev->backend = c;
    dev->backend_close = context_close;
    TRY_OUT(lt_status(cublasLtCreate(&c->lt), "opening"));
    TRY_OUT(cuda_status(
        cudaDeviceGetAttribute(&c->multiprocessors, cudaDevAttrMultiProcessorCount, dev->index),
        "opening"));
    TRY_OUT(cuda_status(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &c->encode_tiled,
                                                         12000, cudaEnableDefault, &found),
                        "opening"));
    if (found != cudaDriverEntryPointSuccess)
        TRY_OUT(
            fail(ST_DEVICE, "the CUDA driver has no cuTensorMapEncodeTiled: update the driver"));
    *context = c;
out:
    if (st != ST_OK)
        context_close(dev);
    return st;
}

status descriptor_cache_find(struct descriptor_cache **cache, const void *key, size_t key_bytes,
                             size_t size, void (*done)(void *entry), void **entry, bool *is_new)
{
    const size_t key_room = (key_bytes + 15) / 16 * 16;
    struct node *n;

    *is_new = false;
    if (*cache == NULL) {
        *cache = calloc(1, sizeof(**cache));
        if (*cache == NULL)
            return fail(ST_MEMORY, "cannot allocate host memory for a GPU library's descriptors");
        (*cache)->done = done;
    }
    for (n = (*cache)->first; n != NULL; n = n->next)
        if (n->key_bytes == key_bytes && memcmp(n->key, key, key_bytes) == 0) {
            *entry = n->entry;
            return ST_OK;
        }
    n = calloc(1, sizeof(*n) + key_room + size);
    if (n == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for a GPU library's descriptors");
    n->key_bytes = key_bytes;
    n->key = n + 1;
    n->entry = (char *)(n + 1) + key_room;
    memcpy(n->key, key, key_bytes);
    n->next = (*cache)->first;
    (*cache)->first = n;
    *entry = n->entry;
    *is_new = true;
    return ST_OK;
}

void descriptor_cache_remove(struct descriptor_cache **cache, void *entry)
{
    for (struct node **at = &(*cache)->first; *at != NULL; at = &(*at)->next)
        if ((*at)->entry == entry) {
            struct node *n = *at;

            *at = n->next;
            (*cache)->done(n->entry);
            free(n);
            return;
        }
}

void descriptor_cache_close(struct descriptor_cache **cache)
{
    if (*cache == NULL)
        return;
    while ((*cache)->first != NULL)
        descriptor_cache_remove(cache, (*cache)->first->entry);
    free(*cache);
    *cache = NULL;
}
