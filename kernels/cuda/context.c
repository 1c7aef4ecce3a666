#include "kernels/cuda/context.h"

#include <stdlib.h>
#include <string.h>

struct plan {
    struct plan *next;
    size_t key_bytes;
    void *key, *entry;
};

struct plan_cache {
    struct plan *first;
    void (*done)(void *entry);
};

status cuda_check(cudaError_t e, const char *op)
{
    return e == cudaSuccess ? ST_OK : fail(ST_DEVICE, "%s: %s", op, cudaGetErrorString(e));
}

status lt_check(cublasStatus_t e, const char *op)
{
    if (e == CUBLAS_STATUS_SUCCESS)
        return ST_OK;
    return fail(ST_DEVICE, "%s: cuBLASLt %s", op, cublasLtGetStatusString(e));
}

static void context_close(struct device *dev)
{
    struct cuda_context *c = dev->backend;

    plan_close(&c->gemms);
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
    TRY_OUT(lt_check(cublasLtCreate(&c->lt), "opening"));
    TRY_OUT(cuda_check(
        cudaDeviceGetAttribute(&c->multiprocessors, cudaDevAttrMultiProcessorCount, dev->index),
        "opening"));
    TRY_OUT(cuda_check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &c->encode_tiled,
                                                        12000, cudaEnableDefault, &found),
                       "opening"));
    *context = c;
out:
    if (st != ST_OK)
        context_close(dev);
    return st;
}

status plan_find(struct plan_cache **cache, const void *key, size_t key_bytes, size_t size,
                 void (*done)(void *entry), void **entry, bool *made)
{
    struct plan *p;

    *made = false;
    if (*cache == NULL) {
        *cache = calloc(1, sizeof(**cache));
        if (*cache == NULL)
            return fail(ST_MEMORY, "no host memory");
        (*cache)->done = done;
    }
    for (p = (*cache)->first; p != NULL; p = p->next)
        if (p->key_bytes == key_bytes && memcmp(p->key, key, key_bytes) == 0) {
            *entry = p->entry;
            return ST_OK;
        }
    p = calloc(1, sizeof(*p) + (key_bytes + 15) / 16 * 16 + size);
    if (p == NULL)
        return fail(ST_MEMORY, "no host memory");
    p->key_bytes = key_bytes;
    p->key = p + 1;
    p->entry = (char *)(p + 1) + (key_bytes + 15) / 16 * 16;
    memcpy(p->key, key, key_bytes);
    p->next = (*cache)->first;
    (*cache)->first = p;
    *entry = p->entry;
    *made = true;
    return ST_OK;
}

void plan_forget(struct plan_cache **cache, void *entry)
{
    for (struct plan **at = &(*cache)->first; *at != NULL; at = &(*at)->next)
        if ((*at)->entry == entry) {
            struct plan *p = *at;

            *at = p->next;
            (*cache)->done(p->entry);
            free(p);
            return;
        }
}

void plan_close(struct plan_cache **cache)
{
    if (*cache == NULL)
        return;
    while ((*cache)->first != NULL)
        plan_forget(cache, (*cache)->first->entry);
    free(*cache);
    *cache = NULL;
}
