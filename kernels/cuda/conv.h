/* conv.h - convolution as matrix products on Hopper's tensor cores: conv.c chooses the tile and
 * describes the tensors, conv_kernel.cuh has the kernel, conv_weights.cu prepares weights. */
#ifndef KERNELS_CUDA_CONV_H
#define KERNELS_CUDA_CONV_H

#include "kernels/cuda/context.h"

#include <cuda.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What is multiplied, from x and w in memory. */
enum conv_factors {
    CONV_BF16,  // bf16
    CONV_F16,   // x f16, w f32 scaled and rounded to f16
    CONV_TF32,  // f32, rounded to TF32
    CONV_PAIRS, // f32, each as two bf16
};

/* The template parameters of a kernel. The order in which a pixel is summed depends on `channels`
 * alone, not on the other sizes. */
struct conv_shape {
    enum conv_factors factors;
    int channels;    // of a pixel in a slice of the input, in units of 16 bits: 64 or 32; of f32 64
    int outputs;     // output channels of a tile: 192, 160, 128, 96, 16 or 8; of f32 up to 96
    int rows;        // pixel rows of a tile: 16, or 8 with 32 columns and more than 96 outputs
    int columns;     // pixel columns of a tile: 16, or 32 with up to 96 outputs or 8 rows, not f32
    bool upsample2x; // only of pairs
    int border;      // rows and columns of x beyond the tile's that a box has room for: 2, or 0 for
                     // a window of one pixel, 64 channels and more than 96 outputs
};

/* The arguments of a kernel. */
struct conv_job {
    // (Cin, W, H, T); a box is a slice of the channels of all pixels that a tile's windows read
    CUtensorMap x, past;
    CUtensorMap w; // (Cin, Cout, taps); boxes [outputs][channels]
    struct tensor out, residual;
    const float *bias, *scale;          // scale: of f16 only
    int kt, kh, kw, step, step_t;       // the window and its strides
    int front, top, left;               // padding before x's first frame, row, column; may be < 0
    struct arrival first_row, last_row; // of x, to wait for
    bool has_past;                      // the padding frames are `past`, else zeros
    int boxes;  // of x for a frame and a slice: kh * kw with strides, one for each tap; else 1
    int slices; // of Cin
    int tiles_w, tiles_h, tiles_n; // along W, H and Cout
    int last_tile;                 // the first pixel row of the last tiles along H
    int x_bytes, w_bytes;          // of a box of x, of w
};

/* Launch the kernel on `blocks` blocks. */
typedef status conv_launch_fn(struct device *dev, struct conv_shape shape,
                              const struct conv_job *job, int blocks);
conv_launch_fn conv_launch_bf16, conv_launch_f16, conv_launch_tf32, conv_launch_pairs;

/* Weights as pairs: w f32 [rows, channels] to out bf16 [rows, G, 2, 16] with G = channels / 16
 * rounded up: the high parts of 16 channels, then their low parts. */
status conv_split_weights(struct device *dev, void *out, const float *w, int64_t rows,
                          int channels);

/* Weights as f16: w f32 [outputs, count] to out, each output's times a power of two that scales its
 * largest to [2^14, 2^15); scale [outputs]: what sums of products with x, which holds 2^exponent
 * times its values, are to be multiplied by. count: a multiple of 4. */
status conv_scale_weights(struct device *dev, void *out, float *scale, const float *w,
                          int64_t outputs, int64_t count, int exponent);

/* Weights rounded to TF32. */
status conv_round_weights(struct device *dev, float *out, const float *w, int64_t count);

/* The weights of upsample2x: folded [4 Cout, kt, 2, 2, Cin] from w [Cout, kt, 3, 3, Cin], both
 * bf16, or f32 and rounded to TF32, for outputs of even rows and columns, even and odd, odd and
 * even, odd and odd ones. */
status conv_fold_weights(struct device *dev, struct tensor folded, struct tensor w);

/* Kernel size up to 3x3 and stride up to 2 along H and W, Cin a multiple of 8, aligned rows; else
 * calls plain_conv3d. */
conv3d_fn hopper_conv3d;

#ifdef __cplusplus
}
#endif
#endif
