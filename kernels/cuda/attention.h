/* attention.h - softmax attention on a GPU. Each function accepts every shape that ops.h allows and
 * calls the next one for shapes it has no kernel for. */
#ifndef KERNELS_CUDA_ATTENTION_H
#define KERNELS_CUDA_ATTENTION_H

#include "kernels/table.h"

#ifdef __cplusplus
extern "C" {
#endif

/* f32 or bf16 with f32 products, sums and exponentials; head sizes up to 384, and up to 1024
 * if out is not q, or q fits the workspace. Otherwise calls plain_attention. */
attention_fn attention_f32;

/* bf16 with any head size of a multiple of 8, by matrix products with the logits in memory.
 * Otherwise, or with so many keys that few rows fit the workspace, calls attention_f32. */
attention_fn attention_products;

/* bf16 on the tensor cores of Hopper, head size 128 or 384. Otherwise calls attention_products for
 * head sizes over 256, else attention_f32. */
attention_fn attention_sm90;

/* The same; equal keys are computed as one if the head size is 128. */
attention_repeated_fn attention_repeated_sm90;

/* The same in parts, head size 128: waits for arrivals in the kernel, and writes each part's rows
 * to the GPU that they belong to. Otherwise calls attention_each_part. */
attention_parts_fn attention_parts_sm90;

/* bf16 on the tensor cores of Hopper, head size 128. Otherwise calls plain_sparse_attention. */
sparse_attention_fn sparse_attention_sm90;

/* bf16 with head size 128, on Hopper; otherwise ST_USAGE. */
attention8_fn attention8_sm90;

#ifdef __cplusplus
}
#endif
#endif
