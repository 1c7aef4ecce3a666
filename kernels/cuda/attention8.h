/* attention8.h - attention in 8-bit integers on Hopper (op_attention_8bit): its two stages.
 *
 * Heads are independent, so the op runs over as many heads at a time as its scratch holds. */
#ifndef KERNELS_CUDA_ATTENTION8_H
#define KERNELS_CUDA_ATTENTION8_H

#include "kernels/cuda/context.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Quantized q, k and v of `heads` heads, in device memory. */
struct quantized {
    int heads;
    int sq, sk, keys; // keys: sk rounded up to whole tiles; the rows after sk are 0
    int8_t *q;        // [heads, sq, 128]
    float *q_scale;   // [heads, sq], times scale * log2(e)
    float *q_mean;    // [heads, sq]: scale * q . (mean of k), for lse
    int8_t *k;        // [heads, keys, 128]
    uint8_t *v;       // [heads, keys / 128, 128 channels, 128 keys], v8 + 128, keys in p's order
    float *tile;      // [heads, tiles, TILE_FLOATS]
    float *channel;   // [heads, CHANNEL_ROWS, 128]
    float *partial;   // [heads, blocks, CHANNEL_ROWS, 128]: sums, extremes of MEAN_KEYS keys
};

// of a tile: 4 scales of k for each 128 keys; the scale of v, and 1 / that
#define TILE_FLOATS 16
#define TILE_V_SCALE 8
#define TILE_V_INVERSE 9

#define MEAN_KEYS 512 // keys of a partial sum

enum { CHANNEL_K_MEAN, CHANNEL_V_MEAN, CHANNEL_V_SCALE, CHANNEL_UNUSED, CHANNEL_ROWS };

/* Quantizes heads [first, first + z->heads). scale is part of q_scale; wants_mean: sets q_mean. */
status attention8_quantize(struct device *dev, const struct quantized *z, struct tensor q,
                           struct tensor k, struct tensor v, int first, float scale,
                           bool wants_mean);

#ifdef __cplusplus
}
#endif
#endif
