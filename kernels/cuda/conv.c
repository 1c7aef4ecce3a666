#include "kernels/cuda/conv.h"

#include "kernels/cuda/plain.h"

#include <cudaTypedefs.h>

/* How the copy engine sees data in memory: axes from the innermost, strides in elements. */
static status describe(struct cuda_context *c, CUtensorMap *map, enum dtype dt, const void *data,
                       int rank, const int64_t *dim, const int64_t *stride, const int *box,
                       const int *step)
{
    const size_t element = dtype_size(dt);
    const size_t row_bytes = (size_t)box[0] * element;
    cuuint64_t dims[5], bytes[5];
    cuuint32_t boxes[5], steps[5];
    CUresult e;

    for (int i = 0; i < rank; i++) {
        dims[i] = (cuuint64_t)dim[i];
        bytes[i] = (cuuint64_t)stride[i] * element;
        boxes[i] = (cuuint32_t)box[i];
        steps[i] = (cuuint32_t)step[i];
    }
    e = ((PFN_cuTensorMapEncodeTiled_v12000)c->encode_tiled)(
        map, dt == DT_F32 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        (cuuint32_t)rank, (void *)data, dims, bytes + 1, boxes, steps,
        CU_TENSOR_MAP_INTERLEAVE_NONE,
        row_bytes == 128 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B,
        CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return e == CUDA_SUCCESS ? ST_OK : fail(ST_DEVICE, "conv3d: tensor map, CUDA error %d", (int)e);
}

/* Starts and strides of 16 bytes; none is aligned. */
static bool aligned(struct tensor t)
{
    const int64_t unit = t.data != NULL ? 16 / (int64_t)dtype_size(t.dtype) : 1;
    bool fits = (uintptr_t)t.data % 16 == 0;

    for (int i = 0; i < t.ndim - 1; i++)
        fits = fits && t.stride[i] % unit == 0;
    return fits;
}

/* The weights of f32 as highs and lows, which the workspace takes. */
static size_t split_bytes(struct tensor w)
{
    return (size_t)(w.dim[0] * w.dim[1] * w.dim[2] * w.dim[3] * ((w.dim[4] + 15) / 16)) * 32 *
           sizeof(uint16_t);
}

/* Whether the kernel can do it. Rows of up to 8 output channels are written one by one. */
static bool fits(struct device *dev, struct tensor out, struct tensor x, struct tensor past,
                 struct tensor w, struct tensor residual, struct conv conv)
{
    return conv.stride <= 2 && w.dim[2] <= 3 && w.dim[3] <= 3 && aligned(x) && aligned(past) &&
           aligned(w) && x.dim[3] % 8 == 0 &&
           (x.dtype == DT_BF16 || split_bytes(w) <= dev->table->workspace) &&
           (w.dim[0] <= 8 || (w.dim[0] % 8 == 0 && aligned(out) && aligned(residual)));
}

static int64_t tiles_of(struct conv_shape s, struct tensor out)
{
    return (out.dim[3] + s.outputs - 1) / s.outputs * out.dim[0] *
           ((out.dim[1] + CONV_ROWS - 1) / CONV_ROWS) * ((out.dim[2] + s.columns - 1) / s.columns);
}

/* Of 192 outputs as large tiles as leave more than half of the multiprocessors at work. */
static struct conv_shape shape_of(struct tensor out, struct tensor x, struct conv conv,
                                  int multiprocessors)
{
    const bool split = x.dtype == DT_F32;
    struct conv_shape s = {
        .channels = split || x.dim[3] % 64 == 0 ? 64 : 32,
        .outputs = out.dim[3] <= 8 ? 8 : 96,
        .columns = split ? 16 : 32,
        .twice = conv.twice,
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

status hopper_conv3d(struct device *dev, struct tensor out, struct tensor x, struct tensor past,
                     struct tensor w, struct tensor bias, struct tensor residual, struct conv conv)
{
    const int64_t cin = x.dim[3], cout = w.dim[0], kt = w.dim[1], kh = w.dim[2], kw = w.dim[3];
    struct cuda_context *context;

    if (!fits(dev, out, x, past, w, residual, conv))
        return plain_conv3d(dev, out, x, past, w, bias, residual, conv);
    TRY(cuda_context(dev, &context));

    const struct conv_shape shape = shape_of(out, x, conv, context->multiprocessors);
    const bool split = shape.split;
    const int cols = shape.columns, scale = conv.twice ? 2 : 1;
    const int slice = split ? 32 : shape.channels; // channels of x
    const bool apart = conv.stride > 1;
    const int step[] = { 1, conv.stride, conv.stride, 1 };
    const int place[] = { slice, cols / scale + (apart ? 0 : (int)kw - 1),
                          CONV_ROWS / scale + (apart ? 0 : (int)kh - 1) };
    const int box[] = { place[0], place[1] * conv.stride, place[2] * conv.stride, 1 };
    const int64_t dim[] = { cin, x.dim[2], x.dim[1], x.dim[0] };
    const int64_t stride[] = { 1, x.stride[2], x.stride[1], x.stride[0] };
    const int64_t past_dim[] = { cin, x.dim[2], x.dim[1], past.dim[0] };
    const int64_t past_stride[] = { 1, past.stride[2], past.stride[1], past.stride[0] };
    const int64_t w_cols = split ? (cin + 15) / 16 * 32 : cin;
    const int w_box[] = { shape.channels, shape.outputs, 1 }, w_step[] = { 1, 1, 1 };
    const int64_t w_dim[] = { w_cols, cout, kt * kh * kw };
    const int64_t w_stride[] = { 1, kt * kh * kw * w_cols, w_cols };
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
        .has_past = past.data != NULL,
        .apart = apart ? (int)(kh * kw) : 1,
        .slices = (int)((cin + slice - 1) / slice),
        .across = (int)((out.dim[2] + cols - 1) / cols),
        .down = (int)((out.dim[1] + CONV_ROWS - 1) / CONV_ROWS),
        .n = (int)((cout + shape.outputs - 1) / shape.outputs),
        .box_bytes = place[0] * place[1] * place[2] * (int)dtype_size(x.dtype),
        .w_bytes = w_box[0] * w_box[1] * 2,
    };

    if (split)
        TRY(conv_split_weights(dev, dev->workspace, w.data, cout * kt * kh * kw, (int)cin));
    TRY(describe(context, &job.x, x.dtype, x.data, 4, dim, stride, box, step));
    if (job.has_past)
        TRY(describe(context, &job.past, x.dtype, past.data, 4, past_dim, past_stride, box, step));
    TRY(describe(context, &job.w, DT_BF16, split ? dev->workspace : w.data, 3, w_dim, w_stride,
                 w_box, w_step));

    const int64_t tiles = tiles_of(shape, out);

    return conv_launch(dev, shape, &job,
                       (int)(tiles < context->multiprocessors ? tiles : context->multiprocessors));
}
