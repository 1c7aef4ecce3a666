/* rates.h - how fast a device computes and sends, for the plan device's estimate of time
 * (device->seconds).
 *
 * The time of an op is that of its operations plus that of its bytes, which are each read or
 * written once. A GPU computes products in tiles of 128 x 256 numbers and attention in tiles of 128
 * queries of one head, one tile per multiprocessor at a time; the last round of tiles takes as long
 * as a full one. */
#ifndef KERNELS_RATES_H
#define KERNELS_RATES_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

struct rates {
    const char *name;                         // of the device, as in messages
    double gemm, attention, conv;             // operations per second in bf16
    double attention8;                        // of 8-bit attention
    double gemm_f32, attention_f32, conv_f32; // in f32
    double conv_tf32;                         // of factors with 10 bits of mantissa
    double memory;                            // bytes per second
    double link;                              // bytes per second that a rank sends on its node
    double op_s, transfer_s;                  // of an op and of a transfer, whatever their size
    int multiprocessors;                      // 0: no tiles
    bool overlaps;                            // transfers run during computation
    double slowest;  // time of two such devices, which wait for the slower, relative to one
    double upload;   // bytes per second from pinned host memory
    double gemm_fp8; // operations per second in e4m3
    double network;  // bytes per second that a rank sends to other nodes; assumed
    bool measured;   // false: assumed, in proportion to the peaks of a GPU that was measured
};

/* The rates of a GPU with this name from the driver; NULL: not known. */
const struct rates *rates_of_gpu(const char *name);

/* A GPU like `like`, or if that is NULL like an H100, or the CPU cores of a rank, whose products
 * run at `gemm` operations per second. */
struct rates rates_scaled(bool gpu, const struct rates *like, double gemm);

/* The time of `ranks` such devices, which wait for the slowest, relative to one. If their times
 * have a normal distribution, the mean of the longest is 0.56, 1.03 and 1.42 deviations above
 * theirs for 2, 4 and 8, and 2.4 for 72, which this follows. */
double rates_slowest(const struct rates *r, int ranks);

#ifdef __cplusplus
}
#endif
#endif
