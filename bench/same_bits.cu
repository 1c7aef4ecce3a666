#include "bench/same_bits.h"
#include "runtime/cuda_status.h"

static __global__ void compare(unsigned *count, const uint16_t *a, const uint16_t *b, int64_t words)
{
    unsigned mine = 0;

    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < words;
         i += (int64_t)gridDim.x * blockDim.x)
        mine += a[i] != b[i];
    if (mine != 0)
        atomicAdd(count, mine);
}

status same_bits(struct device *dev, struct tensor a, struct tensor b, void *count,
                 unsigned *different)
{
    cudaStream_t stream = (cudaStream_t)dev->stream;

    TRY(cuda_status(cudaMemsetAsync(count, 0, sizeof(unsigned), stream), "comparing"));
    compare<<<1024, 256, 0, stream>>>((unsigned *)count, (const uint16_t *)a.data,
                                      (const uint16_t *)b.data, (int64_t)(tensor_bytes(a) / 2));
    TRY(cuda_status(cudaGetLastError(), "comparing"));
    TRY(cuda_status(
        cudaMemcpyAsync(different, count, sizeof(unsigned), cudaMemcpyDeviceToHost, stream),
        "comparing"));
    return device_wait(dev);
}
