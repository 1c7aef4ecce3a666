/* table.h - one function per op and backend. Filled from the plain end upwards: a table starts as a
 * copy of a slower, complete one and replaces what is worth replacing, so it has no NULL entries.
 *
 *   table_ref   every op in plain loops, sums in double: the specification
 *   table_cpu   own tiles for each instruction set, and OpenMP
 *   table_cuda  own kernels and cuBLASLt (where the program is built with CUDA)
 *   table_plan  computes nothing
 *
 * Arguments have been checked by ops.c. `workspace` bytes belong to the device, one op at a time.
 */
#ifndef KERNELS_TABLE_H
#define KERNELS_TABLE_H

#include "kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

struct table {
    const char *name;
    size_t workspace; // bytes that dev->workspace must have
    status (*gemm)(struct device *dev, struct tensor out, struct tensor a, struct tensor w,
                   struct tensor bias, enum act act);
    status (*gemm_add)(struct device *dev, struct tensor sum, struct tensor a, struct tensor w,
                       struct tensor bias);
    status (*norm_modulate)(struct device *dev, struct tensor out, struct tensor x,
                            struct tensor scale, struct tensor shift, float eps);
    status (*layer_norm)(struct device *dev, struct tensor out, struct tensor x, struct tensor w,
                         struct tensor b, float eps);
    status (*add_norm_modulate)(struct device *dev, struct tensor out, struct tensor sum,
                                struct tensor x, struct tensor y, struct tensor gate,
                                struct tensor scale, struct tensor shift, float eps);
    status (*add_layer_norm)(struct device *dev, struct tensor out, struct tensor sum,
                             struct tensor x, struct tensor y, struct tensor gate, struct tensor w,
                             struct tensor b, float eps);
    status (*rms_norm)(struct device *dev, struct tensor out, struct tensor x, struct tensor w,
                       float eps);
    status (*norm_rope)(struct device *dev, struct tensor x, struct tensor w, float eps,
                        struct tensor table, struct token_grid grid);
    status (*attention)(struct device *dev, struct tensor out, struct tensor lse, struct tensor q,
                        struct tensor k, struct tensor v, float scale);
    status (*attention_merge)(struct device *dev, struct tensor acc, struct tensor lse,
                              struct tensor part, struct tensor part_lse);
    status (*relative_attention)(struct device *dev, struct tensor out, struct tensor q,
                                 struct tensor k, struct tensor v, struct tensor table);
    status (*gate_add)(struct device *dev, struct tensor out, struct tensor x, struct tensor y,
                       struct tensor gate);
    status (*add_rows)(struct device *dev, struct tensor out, struct tensor a, struct tensor b);
    status (*silu)(struct device *dev, struct tensor out, struct tensor x);
    status (*gated_gelu)(struct device *dev, struct tensor out, struct tensor gate,
                         struct tensor up);
    status (*lincomb)(struct device *dev, struct tensor out, int count, const float *coef,
                      const struct tensor *x);
    status (*copy)(struct device *dev, struct tensor out, struct tensor x);
    status (*conv3d)(struct device *dev, struct tensor out, struct tensor x, struct tensor past,
                     struct tensor w, struct tensor bias, struct tensor residual, struct conv conv);
    status (*channel_norm)(struct device *dev, struct tensor out, struct tensor x,
                           struct tensor gamma, enum act act);
    status (*channel_affine)(struct device *dev, struct tensor out, struct tensor x,
                             struct tensor scale, struct tensor shift);
    status (*to_u8)(struct device *dev, struct tensor out, struct tensor x);
};

extern const struct table table_ref;
extern const struct table table_plan;
void table_cpu(struct table *t);
void table_cuda(struct table *t);
void table_cuda_plain(struct table *t); // every op as the simplest kernel that is right

#ifdef __cplusplus
}
#endif
#endif
