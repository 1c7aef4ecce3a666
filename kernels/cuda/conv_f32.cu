/* Convolutions of f32: as one product in TF32, or as three of bf16. */
#include "kernels/cuda/conv_kernel.cuh"

template <int N>
static status launch_pairs(struct device *dev, const struct conv_job *job, int blocks,
                           bool upsample2x)
{
    return upsample2x ? launch<CONV_PAIRS, 64, N, 16, 16, true>(dev, job, blocks)
                      : launch<CONV_PAIRS, 64, N, 16, 16, false>(dev, job, blocks);
}

status conv_launch_pairs(struct device *dev, struct conv_shape s, const struct conv_job *job,
                         int blocks)
{
    return s.outputs == 8    ? launch_pairs<8>(dev, job, blocks, s.upsample2x)
           : s.outputs == 16 ? launch_pairs<16>(dev, job, blocks, s.upsample2x)
                             : launch_pairs<96>(dev, job, blocks, s.upsample2x);
}

status conv_launch_tf32(struct device *dev, struct conv_shape s, const struct conv_job *job,
                        int blocks)
{
    return s.outputs == 8    ? launch<CONV_TF32, 64, 8, 16, 16, false>(dev, job, blocks)
           : s.outputs == 16 ? launch<CONV_TF32, 64, 16, 16, 16, false>(dev, job, blocks)
                             : launch<CONV_TF32, 64, 96, 16, 16, false>(dev, job, blocks);
}
