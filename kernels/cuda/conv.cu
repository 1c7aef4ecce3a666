/* Convolutions of bf16. */
#include "kernels/cuda/conv_kernel.cuh"

status conv_launch_bf16(struct device *dev, struct conv_shape s, const struct conv_job *job,
                        int blocks)
{
    return launch_16<CONV_BF16>(dev, s, job, blocks);
}
