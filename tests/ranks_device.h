/* ranks_device.h - the device of each rank of a test: the CPU, or with "cuda" or "nccl" as the last
 * argument a GPU of the node, assigned round robin; with "nccl" GPUs communicate only through NCCL.
 * Tests write and check host memory; mirror_up and mirror_down copy it to and from the device. */
#ifndef TESTS_RANKS_DEVICE_H
#define TESTS_RANKS_DEVICE_H

#include "kernels/table.h"
#include "tests/ranks.h"

#include <stdlib.h>
#include <string.h>

/* Whether to use GPUs; removes the argument. Prints a line and exits with 77 if a rank has no GPU.
 */
static inline bool ranks_on_gpus(struct world *w, int *argc, char **argv)
{
    const char *last = *argc > 1 ? argv[*argc - 1] : "";

    if (strcmp(last, "cuda") != 0 && strcmp(last, "nccl") != 0)
        return false;
    --*argc;
    w->nccl = strcmp(last, "nccl") == 0;
    if (world_sum(w, device_cuda_count() == 0) > 0) {
        if (w->rank == 0)
            printf("skipped: no GPU\n");
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

/* Host memory for a contiguous tensor: new memory for a GPU tensor, else the tensor's memory. */
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
