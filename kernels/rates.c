#include "kernels/rates.h"

#include "runtime/status.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

/* Fitted to the forwards and decodes of bench/LOG.md, "Time by plan"; the f32 rates from
 * "attention" and "f32 convolutions", products like these; the link from "communication between two
 * GPUs". Not measured is the network: an adapter of 400 Gb/s for each GPU, of which NCCL uses 80 %.
 * Both GPUs are limited by their 700 W, so that they differ in memory only.
 *
 * Of a GB200 nothing is measured, and this program's own kernels are for Hopper: products at 0.7 of
 * its peak of 2,500 TFLOP/s, attention as published for cuDNN at 75,600 tokens, the rest in
 * proportion to the peaks; NVLink, also between nodes, twice that of an H100. */
static const struct rates gpus[] = {
    { "NVIDIA H100 80GB HBM3",
      800e12,
      720e12,
      620e12,
      1050e12,
      222e12,
      37e12,
      222e12,
      310e12,
      2.8e12,
      200e9,
      3e-6,
      10e-6,
      132,
      true,
      1.015,
      52e9,
      1480e12,
      40e9,
      true },
    { "NVIDIA H200", 780e12, 720e12, 620e12, 1050e12, 222e12, 37e12, 222e12,  310e12, 3.55e12,
      200e9,         3e-6,   10e-6,  132,    true,    1.015,  52e9,  1440e12, 40e9,   true },
    { "NVIDIA GB200", 1750e12, 1530e12, 1360e12, 2100e12, 490e12, 44e12, 490e12,  680e12, 6.7e12,
      400e9,          3e-6,    10e-6,   148,     true,    1.015,  200e9, 3250e12, 400e9,  false },
};

const struct rates *rates_of_gpu(const char *name)
{
    for (size_t i = 0; i < COUNT(gpus); i++)
        if (strcmp(gpus[i].name, name) == 0)
            return &gpus[i];
    return NULL;
}

struct rates rates_scaled(bool gpu, const struct rates *like, double gemm)
{
    struct rates r = like != NULL ? *like : gpus[0];
    const double scale = gemm / r.gemm;

    if (!gpu)
        return (struct rates){ .name = "these cores",
                               .gemm = gemm,
                               .attention = gemm,
                               .conv = gemm,
                               .attention8 = gemm,
                               .gemm_f32 = gemm,
                               .attention_f32 = gemm,
                               .conv_f32 = gemm,
                               .conv_tf32 = gemm,
                               .memory = INFINITY, // part of the measured rate
                               .link = 2e9,
                               .slowest = 1,
                               .upload = INFINITY,
                               .gemm_fp8 = gemm,
                               .network = 1e9 };
    r.name = "a GPU";
    r.gemm *= scale;
    r.attention *= scale;
    r.conv *= scale;
    r.attention8 *= scale;
    r.gemm_f32 *= scale;
    r.attention_f32 *= scale;
    r.conv_f32 *= scale;
    r.conv_tf32 *= scale;
    r.gemm_fp8 *= scale;
    return r;
}

double rates_slowest(const struct rates *r, int ranks)
{
    return 1 + (r->slowest - 1) * pow(log2(ranks), 0.8);
}
