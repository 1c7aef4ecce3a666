#include "kernels/cuda/conv.h"

#include "kernels/cuda/plain.h"
#include "kernels/cuda/tensor_map.h"

/* Whether the address and all outer strides of t are multiples of 16 bytes; true for none. */
static bool is_aligned(struct tensor t)
{
    const int64_t unit = t.data != NULL ? 16 / (int64_t)dtype_size(t.dtype) : 1;
    bool fits = (uintptr_t)t.data % 16 == 0;

    for (int i = 0; i < t.ndim - 1; i++)
        fits = fits && t.stride[i] % unit == 0;
    return fits;
}

/* Number of outputs whose f32 weights fit the workspace as pairs of bf16, high and low part. */
static int64_t split_outputs(const struct device *dev, struct tensor w)
{
    const int64_t bytes =
        w.dim[1] * w.dim[2] * w.dim[3] * ((w.dim[4] + 15) / 16) * 32 * (int64_t)sizeof(uint16_t);

    return (int64_t)dev->table->workspace / bytes;
}

/* Whether the kernel supports the call. Up to 16 output channels are stored element by element, so
 * that their rows need no alignment. */
static bool fits(struct device *dev, struct tensor out, struct tensor x, struct tensor past,
                 struct tensor w, struct tensor residual, struct conv conv)
{
    return conv.stride <= 2 && w.dim[2] <= 3 && w.dim[3] <= 3 && is_aligned(x) &&
           is_aligned(past) && is_aligned(w) && x.dim[3] % 8 == 0 &&
           (x.dtype == DT_BF16 || split_outputs(dev, w) >= (w.dim[0] < 96 ? w.dim[0] : 96)) &&
           (w.dim[0] <= 16 || (w.dim[0] % 8 == 0 && is_aligned(out) && is_aligned(residual)));
}

/* The number of output tiles. */
static int64_t tiles_of(struct conv_shape s, struct tensor out)
{
    return (out.dim[3] + s.outputs - 1) / s.outputs * out.dim[0] *
           ((out.dim[1] + CONV_ROWS - 1) / CONV_ROWS) * ((out.dim[2] + s.columns - 1) / s.columns);
}

/* Chooses the tile: 192 outputs where they divide C and more than half of the multiprocessors still
 * get a tile, else 96, or 8 or 16 for so many outputs. */
static struct conv_shape shape_of(struct tensor out, struct tensor x, struct conv conv,
                                  int multiprocessors)
{
    const bool split = x.dtype == DT_F32;
    struct conv_shape s = {
        .channels = split || x.dim[3] % 64 == 0 ? 64 : 32,
        .outputs = out.dim[3] <= 8    ? 8
                   : out.dim[3] <= 16 ? 16
                                      : 96,
        .columns = split ? 16 : 32,
        .upsample2x = conv.upsample2x,
        .split = split,
    };

    if (!split && out.dim[3] % 192 == 0) {
        s.outputs = 192;
        s.columns = 16;
        if (2 * tiles_of(s, out) <= multiprocessors)
            s.outputs = 96;
    }
    return s;
}

/* hopper_conv3d for `at_once` outputs after the other. */
static status some_outputs(struct device *dev, struct tensor out, struct tensor x,
                           struct tensor past, struct tensor w, struct tensor bias,
                           struct tensor residual, struct conv conv, int64_t at_once)
{
    for (int64_t i = 0, n; i < w.dim[0]; i += n) {
        n = w.dim[0] - i < at_once ? w.dim[0] - i : at_once;
        TRY(hopper_conv3d(dev, tensor_slice(out, 3, i, n), x, past, tensor_slice(w, 0, i, n),
                          bias.data != NULL ? tensor_slice(bias, 0, i, n) : bias,
                          residual.data != NULL ? tensor_slice(residual, 3, i, n) : residual,
                          conv));
    }
    return ST_OK;
}

status hopper_conv3d(struct device *dev, struct tensor out, struct tensor x, struct tensor past,
                     struct tensor w, struct tensor bias, struct tensor residual, struct conv conv)
{
    const int64_t cin = x.dim[3], cout = w.dim[0], kt = w.dim[1], kh = w.dim[2], kw = w.dim[3];
    struct cuda_context *context;

    if (!fits(dev, out, x, past, w, residual, conv))
        return plain_conv3d(dev, out, x, past, w, bias, residual, conv);
    if (x.dtype == DT_F32 && split_outputs(dev, w) < cout)
        return some_outputs(dev, out, x, past, w, bias, residual, conv,
                            split_outputs(dev, w) / 96 * 96);
    TRY(cuda_context(dev, &context));

    const struct conv_shape shape = shape_of(out, x, conv, context->multiprocessors);
    const bool strided = conv.stride > 1;
    const int cols = shape.columns, scale = conv.upsample2x ? 2 : 1;
    const int slice = shape.split ? 32 : shape.channels; // channels of x
    // pixels of x that a box holds; with strides a box is for one tap
    const int box_w = cols / scale + (strided ? 0 : (int)kw - 1);
    const int box_h = CONV_ROWS / scale + (strided ? 0 : (int)kh - 1);
    const struct tensor_map x_map = {
        .dtype = x.dtype,
        .data = x.data,
        .rank = 4,
        .dim = { cin, x.dim[2], x.dim[1], x.dim[0] },
        .stride = { 1, x.stride[2], x.stride[1], x.stride[0] },
        .box = { slice, box_w * conv.stride, box_h * conv.stride, 1 },
        .step = { 1, conv.stride, conv.stride, 1 },
        .l2 = CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
    };
    struct tensor_map past_map = x_map;
    const int64_t w_cols = shape.split ? (cin + 15) / 16 * 32 : cin;
    const struct tensor_map w_map = {
        .dtype = DT_BF16,
        .data = shape.split ? dev->workspace : w.data,
        .rank = 3,
        .dim = { w_cols, cout, kt * kh * kw },
        .stride = { 1, kt * kh * kw * w_cols, w_cols },
        .box = { shape.channels, shape.outputs, 1 },
        .step = { 1, 1, 1 },
        .l2 = CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
    };
    struct conv_job job = {
        .out = out,
        .residual = residual,
        .bias = bias.data,
        .kt = (int)kt,
        .kh = (int)kh,
        .kw = (int)kw,
        .step = conv.stride,
        .step_t = conv.stride_t,
        .front = conv.front,
        .top = conv.top,
        .left = conv.left,
        .first_row = conv.first_row,
        .last_row = conv.last_row,
        .has_past = past.data != NULL,
        .boxes = strided ? (int)(kh * kw) : 1,
        .slices = (int)((cin + slice - 1) / slice),
        .tiles_w = (int)((out.dim[2] + cols - 1) / cols),
        .tiles_h = (int)((out.dim[1] + CONV_ROWS - 1) / CONV_ROWS),
        .tiles_n = (int)((cout + shape.outputs - 1) / shape.outputs),
        .x_bytes = slice * box_w * box_h * (int)dtype_size(x.dtype),
        .w_bytes = shape.channels * shape.outputs * 2,
    };

    if (shape.split)
        TRY(conv_split_weights(dev, dev->workspace, w.data, cout * kt * kh * kw, (int)cin));
    TRY(tensor_map_encode(context, &job.x, &x_map, "conv3d"));
    if (job.has_past) {
        past_map.data = past.data;
        past_map.dim[3] = past.dim[0];
        for (int i = 0; i < 3; i++)
            past_map.stride[3 - i] = past.stride[i];
        TRY(tensor_map_encode(context, &job.past, &past_map, "conv3d"));
    }
    TRY(tensor_map_encode(context, &job.w, &w_map, "conv3d"));

    const int64_t tiles = tiles_of(shape, out);

    return conv_launch(dev, shape, &job,
                       (int)(tiles < context->multiprocessors ? tiles : context->multiprocessors));
}
