/* conv.h - convolutions as matrix products of a Hopper warpgroup: kernels/cuda/conv.cu computes,
 * kernels/cuda/conv.c decides and describes. */
#ifndef KERNELS_CUDA_CONV_H
#define KERNELS_CUDA_CONV_H

#include "kernels/cuda/context.h"

#include <cuda.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CONV_ROWS 16 // of a tile of the picture, 8 to each of two warpgroups

/* How a shape is computed. The order of a pixel's sum is chosen by the weights alone: it is that of
 * slices, whatever the tiles. */
struct conv_shape {
    int channels; // of a slice: 64 or 32 bf16
    int outputs;  // of a tile: 192, 96 or 8
    int columns;  // of a tile of the picture: 16, or of up to 96 outputs 32
    bool twice;
    bool split; // f32 as two bf16: 64 channels of a slice, up to 96 outputs, 16 columns
};

struct conv_job {
    CUtensorMap x, past; // (Cin, W, H, T), boxes of a slice of a tile and what its windows reach
    CUtensorMap w;       // (Cin, Cout, taps) bf16, split or not, boxes [outputs][channels]
    struct tensor out, residual;
    const float *bias;
    int kt, kh, kw, step, step_t; // the window and its strides
    int front, top, left;         // what is around x before its first frame, row, column
    bool has_past;                // else zeros are in front
    int apart;              // a box for each tap of kh * kw, which strides ask for, else 1 for all
    int slices;             // of Cin
    int across, down, n;    // tiles along W, H and Cout
    int box_bytes, w_bytes; // of a box of x, and of w
};

/* Queues it. */
status conv_launch(struct device *dev, struct conv_shape shape, const struct conv_job *job,
                   int blocks);

/* Queues the weights of a split shape: out bf16 [rows, G, 2, 16], G = channels / 16 rounded up, of
 * w [rows, channels]: 16 highs, then their 16 lows. */
status conv_split_weights(struct device *dev, void *out, const float *w, int64_t rows,
                          int channels);

status hopper_conv3d(struct device *dev, struct tensor out, struct tensor x, struct tensor past,
                     struct tensor w, struct tensor bias, struct tensor residual, struct conv conv);

#ifdef __cplusplus
}
#endif
#endif
