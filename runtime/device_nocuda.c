/* The functions for GPUs in a program built without CUDA: there are none. */
#include "runtime/device_internal.h"

static status without(void)
{
    return fail(ST_DEVICE,
                "this program was built without CUDA; run it with --device cpu, or build "
                "it where nvcc and NCCL are installed");
}

status device_open_cuda(struct device *dev, int index, const struct table *table, size_t workspace)
{
    (void)index;
    (void)table;
    (void)workspace;
    *dev = (struct device){ 0 };
    return without();
}

void device_cuda_done(struct device *dev)
{
    (void)dev;
}

int device_cuda_count(void)
{
    return 0;
}

status device_cuda_memory(int index, size_t *total, size_t *available)
{
    (void)index;
    *total = *available = 0;
    return without();
}

status device_cuda_name(int index, char *text, size_t size)
{
    (void)index;
    (void)text;
    (void)size;
    return without();
}

status device_cuda_bus(int index, char *text, size_t size)
{
    (void)index;
    (void)text;
    (void)size;
    return without();
}
