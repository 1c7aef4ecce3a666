/* Convolutions of f16. */
#include "kernels/cuda/conv_kernel.cuh"

status conv_launch_f16(struct device *dev, struct conv_shape s, const struct conv_job *job,
                       int blocks)
{
    return launch_16<CONV_F16>(dev, s, job, blocks);
}
