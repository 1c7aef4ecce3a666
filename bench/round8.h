/* round8.h - rows of a matrix as 8-bit numbers would hold them, to measure what products lose. */
#ifndef BENCH_ROUND8_H
#define BENCH_ROUND8_H

#include "runtime/device.h"

#ifdef __cplusplus
extern "C" {
#endif

enum round8_kind {
    ROUND8_NONE,
    ROUND8_E4M3,       // one scale per row
    ROUND8_E4M3_TWICE, // the same, and the remainder in e4m3 too
    ROUND8_INT8,       // one scale per row
    ROUND8_INT8_128,   // one scale for 128 columns of a row
    ROUND8_TURNED,     // ROUND8_INT8 after a Hadamard transform of each 128 columns
    ROUND8_TURNED_128, // ROUND8_INT8_128 after that
};

/* out = x, rounded so, and to out's dtype. x, out [R, C], one dtype, f32 or bf16, rows may be
 * strided; C a multiple of 128. */
status round8(struct device *dev, struct tensor out, struct tensor x, enum round8_kind kind);

status round8_cuda(struct device *dev, struct tensor out, struct tensor x, enum round8_kind kind);

#ifdef __cplusplus
}
#endif
#endif
