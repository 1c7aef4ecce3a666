/* attention_cudnn.h - attention by cuDNN, to hold our own against: bf16, head sizes that are
 * multiples of 8 up to 256. The program itself does without cuDNN. */
#ifndef BENCH_ATTENTION_CUDNN_H
#define BENCH_ATTENTION_CUDNN_H

#include "kernels/table.h"

/* As op_attention; the first call opens cuDNN on dev's stream. */
status attention_cudnn(struct device *dev, struct tensor out, struct tensor lse, struct tensor q,
                       struct tensor k, struct tensor v, float scale);
void attention_cudnn_close(void);

#endif
