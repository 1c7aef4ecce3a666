/* attention_cudnn.h - attention by cuDNN, to compare our own with: bf16, head sizes that are
 * multiples of 8 up to 256. wanmpi itself does not use it. */
#ifndef BENCH_ATTENTION_CUDNN_H
#define BENCH_ATTENTION_CUDNN_H

#include "kernels/table.h"

/* Same as op_attention; the first call opens cuDNN on dev's stream. */
attention_fn attention_cudnn;
void attention_cudnn_close(void);

#endif
