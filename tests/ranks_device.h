/* ranks_device.h - where the ranks of a test compute: on the host, or with "cuda" or "nccl" as the
 * last argument on the node's GPUs, taken in turn; "nccl" lets these exchange through NCCL alone.
 * Tests fill and look at host memory, and pass it on by mirror_up and mirror_down. */
#ifndef TESTS_RANKS_DEVICE_H
#define TESTS_RANKS_DEVICE_H

#include "kernels/table.h"
#include "tests/ranks.h"

#include <stdlib.h>
#include <string.h>

/* Takes the argument off. Exits with 77, after saying why, where there is no GPU. */
static inline bool ranks_on_gpus(struct world *w, int *argc, char **argv)
{
    const char *last = *argc > 1 ? argv[*argc - 1] : "";

    if (strcmp(last, "cuda") != 0 && strcmp(last, "nccl") != 0)
        return false;
    --*argc;
    w->nccl = strcmp(last, "nccl") == 0;
    if (world_sum(w, device_cuda_count() == 0) > 0) {
        if (w->rank == 0)
            printf("there is no GPU\n");
        world_close(w);
        exit(77);
    }
    return true;
}

static inline status ranks_device(struct device *dev, const struct world *w, bool gpu,
                                  const struct table *table)
{
    if (gpu)
        return device_open_cuda(dev, w->local_rank % device_cuda_count(), table, table->workspace);
    return device_open_cpu(dev, 1, table, table->workspace);
}

/* Host memory for a contiguous tensor: the tensor's own where it is there. */
static inline void *mirror(const struct device *dev, struct tensor t)
{
    return dev->kind == DEVICE_CUDA ? calloc(tensor_bytes(t) + 1, 1) : t.data;
}

static inline void mirror_up(struct device *dev, struct tensor t, const void *host)
{
    if (dev->kind == DEVICE_CUDA)
        CHECK(device_upload(dev, t, host) == ST_OK, "%s", status_line());
}

static inline void mirror_down(struct device *dev, void *host, struct tensor t)
{
    if (dev->kind == DEVICE_CUDA)
        CHECK(device_download(dev, host, t) == ST_OK && device_wait(dev) == ST_OK, "%s",
              status_line());
}

static inline void mirror_free(const struct device *dev, void *host)
{
    if (dev->kind == DEVICE_CUDA)
        free(host);
}

#endif
