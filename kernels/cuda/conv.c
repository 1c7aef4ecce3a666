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

static enum conv_factors factors_of(struct tensor x, struct conv conv)
{
    return x.dtype == DT_BF16  ? CONV_BF16
           : x.dtype == DT_F16 ? CONV_F16
           : conv.tf32         ? CONV_TF32
                               : CONV_PAIRS;
}

static bool is_16_bit(enum conv_factors factors)
{
    return factors == CONV_BF16 || factors == CONV_F16;
}

/* Bytes of the scales of `outputs` outputs, which are before their weights in the workspace. */
static int64_t scale_bytes(int64_t outputs)
{
    return (outputs * (int64_t)sizeof(float) + 255) / 256 * 256;
}

/* Number of outputs that can be computed at once: those whose changed weights fit the workspace. */
static int64_t outputs_at_once(const struct device *dev, struct tensor x, struct tensor w,
                               struct conv conv)
{
    const int64_t taps = w.dim[1] * w.dim[2] * w.dim[3], cin = w.dim[4];
    const int64_t folded = conv.upsample2x ? 16 * w.dim[1] : taps;
    const int64_t room = (int64_t)dev->table->workspace;

    switch (factors_of(x, conv)) {
    case CONV_BF16:
        return conv.upsample2x ? room / (2 * folded * cin) : w.dim[0];
    case CONV_F16:
        return (room - scale_bytes(w.dim[0])) / (2 * taps * cin);
    case CONV_TF32:
        return room / (4 * folded * cin);
    default:
        return room / (taps * ((cin + 15) / 16) * 64);
    }
}

/* Whether the kernel supports the call. Up to 16 output channels are stored element by element, so
 * that their rows need no alignment. */
static bool fits(struct device *dev, struct tensor out, struct tensor x, struct tensor past,
                 struct tensor w, struct tensor residual, struct conv conv)
{
    return conv.stride <= 2 && w.dim[2] <= 3 && w.dim[3] <= 3 && is_aligned(x) &&
           is_aligned(past) && is_aligned(w) && x.dim[3] % 8 == 0 &&
           outputs_at_once(dev, x, w, conv) >= (w.dim[0] < 96 ? w.dim[0] : 96) &&
           (w.dim[0] <= 16 || (w.dim[0] % 8 == 0 && is_aligned(out) && is_aligned(residual)));
}

/* The number of output tiles. */
static int64_t tiles_of(struct conv_shape s, struct tensor out)
{
    return (out.dim[3] + s.outputs - 1) / s.outputs * out.dim[0] *
           ((out.dim[1] + s.rows - 1) / s.rows) * ((out.dim[2] + s.columns - 1) / s.columns);
}

/* n rounded up to whole tiles of `size`. */
static int64_t padded(int64_t n, int64_t size)
{
    return (n + size - 1) / size * size;
}

/* Chooses the tile: 192 outputs where they divide C, else of 96, 160 and 128 what leaves the least
 * empty; 96 where at most half of the multiprocessors would get a tile; 8 or 16 for so few outputs.
 * Of 16 x 16 and 8 x 32 pixels those that need fewer tiles. */
static struct conv_shape shape_of(struct tensor out, struct tensor x, struct tensor w,
                                  struct conv conv, int multiprocessors)
{
    static const int sizes[] = { 192, 160, 128 };
    const enum conv_factors factors = factors_of(x, conv);
    const bool f32 = !is_16_bit(factors);
    const int64_t outputs = out.dim[3];
    struct conv_shape s = {
        .factors = factors,
        .channels = f32 || x.dim[3] % 64 == 0 ? 64 : 32,
        .outputs = outputs <= 8    ? 8
                   : outputs <= 16 ? 16
                                   : 96,
        .rows = 16,
        .columns = f32 ? 16 : 32,
        .border = 2,
        .upsample2x = conv.upsample2x,
    };
    int64_t least = padded(outputs, 96);

    if (f32 || outputs <= 96)
        return s;
    for (int i = 0; i < 3; i++)
        if (padded(outputs, sizes[i]) < least || (i == 0 && outputs % sizes[i] == 0)) {
            s.outputs = sizes[i];
            s.columns = 16;
            least = padded(outputs, sizes[i]);
        }
    if (s.outputs > 96 && 2 * tiles_of(s, out) <= multiprocessors) {
        s.outputs = 96;
        s.columns = 16;
    }
    if (s.outputs > 96 && s.channels == 64) {
        struct conv_shape flat = s;

        s.border = flat.border = w.dim[2] == 1 && w.dim[3] == 1 ? 0 : 2;
        flat.rows = 8;
        flat.columns = 32;
        if (tiles_of(flat, out) < tiles_of(s, out))
            return flat;
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

/* The convolution with weights that are the factors of its products: bf16, f16 with their scale,
 * f32 rounded to TF32, or pairs of bf16. */
static status convolve(struct device *dev, struct tensor out, struct tensor x, struct tensor past,
                       struct tensor w, const float *scale, struct tensor bias,
                       struct tensor residual, struct conv conv)
{
    static conv_launch_fn *const launch[] = { [CONV_BF16] = conv_launch_bf16,
                                              [CONV_F16] = conv_launch_f16,
                                              [CONV_TF32] = conv_launch_tf32,
                                              [CONV_PAIRS] = conv_launch_pairs };
    const int64_t cin = x.dim[3], cout = w.dim[0], kt = w.dim[1], kh = w.dim[2], kw = w.dim[3];
    struct cuda_context *context;

    TRY(cuda_context(dev, &context));

    const struct conv_shape shape = shape_of(out, x, w, conv, context->multiprocessors);
    const bool strided = conv.stride > 1;
    const int cols = shape.columns, up = conv.upsample2x ? 2 : 1;
    const int slice = is_16_bit(shape.factors) ? shape.channels : 32; // channels of x
    // pixels of x that a box holds; with strides a box is for one tap
    const int box_w = cols / up + (strided ? 0 : (int)kw - 1);
    const int box_h = shape.rows / up + (strided ? 0 : (int)kh - 1);
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
    const int64_t w_cols = shape.factors == CONV_PAIRS ? (cin + 15) / 16 * 32 : cin;
    const struct tensor_map w_map = {
        .dtype = w.dtype,
        .data = w.data,
        .rank = 3,
        .dim = { w_cols, cout, kt * kh * kw },
        .stride = { 1, kt * kh * kw * w_cols, w_cols },
        .box = { w.dtype == DT_F32 ? slice : shape.channels, shape.outputs, 1 },
        .step = { 1, 1, 1 },
        .l2 = CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
    };
    struct conv_job job = {
        .out = out,
        .residual = residual,
        .bias = bias.data,
        .scale = scale,
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
        .tiles_h = (int)((out.dim[1] + shape.rows - 1) / shape.rows),
        .last_tile = (int)((out.dim[1] - 1) / shape.rows * shape.rows),
        .tiles_n = (int)((cout + shape.outputs - 1) / shape.outputs),
        .x_bytes = slice * box_w * box_h * (int)dtype_size(x.dtype),
        .w_bytes = shape.channels * shape.outputs * 2,
    };

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

    return launch[shape.factors](
        dev, shape, &job,
        (int)(tiles < context->multiprocessors ? tiles : context->multiprocessors));
}

/* ---- upsample2x: four convolutions with 2 x 2 taps ---- */

/* The pixels of even or odd rows and columns. */
static struct tensor every_second(struct tensor t, int row, int col)
{
    if (t.data == NULL)
        return t;
    t = tensor_slice(tensor_slice(t, 1, row, t.dim[1] - row), 2, col, t.dim[2] - col);
    t.dim[1] = (t.dim[1] + 1) / 2;
    t.dim[2] = (t.dim[2] + 1) / 2;
    t.stride[1] *= 2;
    t.stride[2] *= 2;
    return t;
}

/* Output pixels of one parity read 2 x 2 source pixels: of three taps, two neighbours read the same
 * one, and their weights are added, in f32, and rounded: 4 products instead of 9. f32 as pairs
 * keeps its nine. */
static status four_parities(struct device *dev, struct tensor out, struct tensor x,
                            struct tensor past, struct tensor w, struct tensor bias,
                            struct tensor residual, struct conv conv)
{
    const int64_t n = w.dim[0], dims[] = { 4 * n, w.dim[1], 2, 2, w.dim[4] };
    const struct tensor folded = tensor_dims(dev->workspace, w.dtype, 5, dims);

    TRY(conv_fold_weights(dev, folded, w));
    for (int parity = 0; parity < 4; parity++) {
        const int row = parity / 2, col = parity % 2;
        struct conv part = conv;

        part.upsample2x = false;
        part.top = conv.top - row;
        part.left = conv.left - col;
        if (row == 0)
            part.last_row.flag = NULL; // which odd rows read
        else
            part.first_row.flag = NULL;
        TRY(convolve(dev, every_second(out, row, col), x, past,
                     tensor_slice(folded, 0, parity * n, n), NULL, bias,
                     every_second(residual, row, col), part));
    }
    return ST_OK;
}

/* Weights as factors of the products, in the workspace or as they are. */
static status prepare_weights(struct device *dev, struct tensor *factors, const float **scale,
                              struct tensor w, enum conv_factors kind, int exponent)
{
    const int64_t outputs = w.dim[0], count = tensor_count(w) / outputs;
    struct tensor changed = w;

    *factors = w;
    *scale = NULL;
    changed.data = dev->workspace;
    switch (kind) {
    case CONV_BF16:
        return ST_OK;
    case CONV_F16:
        *scale = dev->workspace;
        changed.data = (char *)dev->workspace + scale_bytes(outputs);
        changed.dtype = DT_F16;
        *factors = changed;
        return conv_scale_weights(dev, changed.data, dev->workspace, w.data, outputs, count,
                                  exponent);
    case CONV_TF32:
        *factors = changed;
        return conv_round_weights(dev, changed.data, w.data, outputs * count);
    default:
        changed.dtype = DT_BF16; // w.dim[4] values are groups of 32
        *factors = changed;
        return conv_split_weights(dev, changed.data, w.data, outputs * count / w.dim[4],
                                  (int)w.dim[4]);
    }
}

status hopper_conv3d(struct device *dev, struct tensor out, struct tensor x, struct tensor past,
                     struct tensor w, struct tensor bias, struct tensor residual, struct conv conv)
{
    const enum conv_factors kind = factors_of(x, conv);
    const int64_t at_once = outputs_at_once(dev, x, w, conv), cout = w.dim[0];
    struct tensor factors;
    const float *scale;

    const bool missing = kind == CONV_F16 ? conv.upsample2x : conv.exponent != 0; // no model's

    if (missing || !fits(dev, out, x, past, w, residual, conv))
        return plain_conv3d(dev, out, x, past, w, bias, residual, conv);
    if (at_once < cout)
        return some_outputs(dev, out, x, past, w, bias, residual, conv, at_once / 96 * 96);
    if (conv.upsample2x && (kind == CONV_BF16 || kind == CONV_TF32))
        return four_parities(dev, out, x, past, w, bias, residual, conv);
    TRY(prepare_weights(dev, &factors, &scale, w, kind, conv.exponent));
    return convolve(dev, out, x, past, factors, scale, bias, residual, conv);
}
