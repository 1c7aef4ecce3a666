/* wide.h - what the transformer does to rows between its products, at the speed of memory: 16 bytes
 * to an access, a row read once and held in a block's registers. Each falls back on its plain
 * kernel where a row does not fit or does not lie on 16 bytes. */
#ifndef KERNELS_CUDA_WIDE_H
#define KERNELS_CUDA_WIDE_H

#include "kernels/table.h"

#ifdef __cplusplus
extern "C" {
#endif

status wide_norm_modulate(struct device *dev, struct tensor out, struct tensor x,
                          struct tensor scale, struct tensor shift, float eps);
status wide_layer_norm(struct device *dev, struct tensor out, struct tensor x, struct tensor w,
                       struct tensor b, float eps);
status wide_add_norm_modulate(struct device *dev, struct tensor out, struct tensor sum,
                              struct tensor x, struct tensor y, struct tensor gate,
                              struct tensor scale, struct tensor shift, float eps);
status wide_add_layer_norm(struct device *dev, struct tensor out, struct tensor sum,
                           struct tensor x, struct tensor y, struct tensor gate, struct tensor w,
                           struct tensor b, float eps);
status wide_rms_norm(struct device *dev, struct tensor out, struct tensor x, struct tensor w,
                     float eps);
status wide_norm_rope(struct device *dev, struct tensor x, struct tensor w, float eps,
                      struct tensor table, struct token_grid grid);
status wide_gate_add(struct device *dev, struct tensor out, struct tensor x, struct tensor y,
                     struct tensor gate);
status wide_attention_merge(struct device *dev, struct tensor acc, struct tensor lse,
                            struct tensor part, struct tensor part_lse);
status wide_copy(struct device *dev, struct tensor out, struct tensor x);

#ifdef __cplusplus
}
#endif
#endif
