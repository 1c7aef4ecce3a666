/* same_bits.h - compares two tensors in GPU memory. */
#ifndef BENCH_SAME_BITS_H
#define BENCH_SAME_BITS_H

#include "runtime/device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Sets *different to the number of 16-bit words of a that are not those of b, and waits for it.
 *   count  u32 in GPU memory, scratch */
status same_bits(struct device *dev, struct tensor a, struct tensor b, void *count,
                 unsigned *different);

#ifdef __cplusplus
}
#endif
#endif
