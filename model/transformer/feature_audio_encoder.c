/* The audio encoder of S2V: convolutions over time, each of which sees the row and the two before
 * it. Source: Wan2.2 wan/modules/s2v/auxi_blocks.py, MotionEncoder_tc. */
#include "model/transformer/feature_audio.h"

#include <stdio.h>

#define EPS 1e-6f

void audio_conv(struct tensor_list *l, const char *name, size_t slot, enum dtype cdt,
                const int64_t *dims)
{
    char full[WEIGHT_NAME_BYTES];
    struct weight_spec *t;

    snprintf(full, sizeof(full), "%s.weight", name);
    t = tensors_add(l, full, slot + offsetof(struct linear, w), cdt, dims);
    t->channels_last = true;
    for (int i = 2; i < t->file_ndim; i++)
        t->dim[1] *= t->file_dim[i];
    t->ndim = 2;
    snprintf(full, sizeof(full), "%s.bias", name);
    tensors_vector(l, full, slot + offsetof(struct linear, b), dims[0], cdt);
}

void audio_encoder_tensors(struct tensor_list *l, int64_t dim, int64_t width, enum dtype cdt)
{
    struct weight_spec *t;

#define AT(member) offsetof(struct audio_encoder, member)
    tensors_stack(l, STACK_AUDIO_ENCODER, "casual_audio_encoder.", 1, TENSORS_RESIDENT);
    audio_conv(l, "encoder.conv1_local.conv", AT(local), cdt,
               TENSOR_DIMS(dim, width, AUDIO_KERNEL));
    audio_conv(l, "encoder.conv1_global.conv", AT(global), cdt,
               TENSOR_DIMS(dim / AUDIO_HEADS, width, AUDIO_KERNEL));
    audio_conv(l, "encoder.conv2.conv", AT(conv2), cdt,
               TENSOR_DIMS(dim / 2, dim / 4, AUDIO_KERNEL));
    audio_conv(l, "encoder.conv3.conv", AT(conv3), cdt, TENSOR_DIMS(dim, dim / 2, AUDIO_KERNEL));
    tensors_linear(l, "encoder.final_linear", AT(last), dim, dim, cdt);
    t = tensors_add(l, "encoder.padding_tokens", AT(constant), cdt, TENSOR_DIMS(1, 1, 1, dim));
#undef AT
    t->ndim = 2;
    t->dim[0] = 1;
    t->dim[1] = dim;
}

/* What the layers over time need. */
struct layer {
    struct dit_run *r;
    struct arena *a;
    struct tensor zeros; // [C] f32
};

/* out [n, out_dim] = conv(x), x [rows, in], f32: it sees the row and the two before it, and the
 * first row stands for those before it. */
static status convolve(const struct layer *l, struct tensor out, struct tensor x, struct linear w,
                       int64_t stride)
{
    const int64_t rows = x.dim[0], in = x.dim[1], n = out.dim[0], before = AUDIO_KERNEL - 1;
    struct device *dev = l->r->m->dev;
    const size_t mark = l->a->used;
    struct tensor padded = { 0 }, wide = { 0 }, windows, first = tensor_slice(x, 0, 0, 1);
    status st;

    TRY_OUT(arena_take(l->a, &padded, DT_F32, rows + before, in));
    TRY_OUT(arena_take(l->a, &wide, DT_F32, n, AUDIO_KERNEL * in));
    first.dim[0] = before;
    first.stride[0] = 0;
    TRY_OUT(op_copy(dev, tensor_slice(padded, 0, 0, before), first));
    TRY_OUT(op_copy(dev, tensor_slice(padded, 0, before, rows), x));
    windows = padded;
    windows.ndim = 3;
    windows.dim[0] = n;
    windows.dim[1] = AUDIO_KERNEL;
    windows.dim[2] = in;
    windows.stride[0] = stride * in;
    windows.stride[1] = in;
    windows.stride[2] = 1;
    TRY_OUT(op_copy(dev, tensor_reshape(wide, n, AUDIO_KERNEL, in), windows));
    TRY_OUT(op_gemm(dev, out, wide, w.w, w.b, ACT_NONE));
out:
    arena_release(l->a, mark);
    return st;
}

/* x = silu(norm(x)) */
static status activate(const struct layer *l, struct tensor x)
{
    const struct tensor zeros = tensor_slice(l->zeros, 0, 0, x.dim[1]);

    TRY(op_norm_modulate(l->r->m->dev, x, x, zeros, zeros, EPS));
    return op_silu(l->r->m->dev, x, x);
}

static int64_t halved(int64_t rows)
{
    return (rows - 1) / 2 + 1;
}

/* What follows the first convolution, of one head: out [n, C] from x [rows, C / 4]. */
static status encode_head(const struct layer *l, struct tensor out, struct tensor x,
                          const struct audio_encoder *w)
{
    const int64_t rows = x.dim[0], c = out.dim[1];
    const size_t mark = l->a->used;
    struct tensor first = { 0 }, second = { 0 };
    status st;

    TRY_OUT(arena_take(l->a, &first, DT_F32, rows, c / 4));
    TRY_OUT(arena_take(l->a, &second, DT_F32, halved(rows), c / 2));
    TRY_OUT(op_copy(l->r->m->dev, first, x));
    TRY_OUT(activate(l, first));
    TRY_OUT(convolve(l, second, first, w->conv2, 2));
    TRY_OUT(activate(l, second));
    TRY_OUT(convolve(l, out, second, w->conv3, 2));
    TRY_OUT(activate(l, out));
out:
    arena_release(l->a, mark);
    return st;
}

/* The tokens of a branch from x [AUDIO_MOTION_FRAMES + frames, width]: frame [F, C] and
 * sound [F * AUDIO_TOKENS, C]. The rows of the motion frames are dropped in the end. */
static status encode_branch(const struct layer *l, struct tensor frame, struct tensor sound,
                            struct tensor x, const struct audio_encoder *w)
{
    const int64_t c = frame.dim[1], f = frame.dim[0], rows = x.dim[0], n = halved(halved(rows));
    const struct tensor tokens = tensor_reshape(sound, f, AUDIO_TOKENS, c);
    struct device *dev = l->r->m->dev;
    const size_t mark = l->a->used;
    struct tensor local = { 0 }, global = { 0 }, out = { 0 }, last = { 0 }, to;
    struct tensor constant = w->constant;
    status st;

    TRY_OUT(arena_take(l->a, &local, DT_F32, rows, c));
    TRY_OUT(arena_take(l->a, &global, DT_F32, rows, c / AUDIO_HEADS));
    TRY_OUT(arena_take(l->a, &out, DT_F32, n, c));
    TRY_OUT(arena_take(l->a, &last, DT_F32, n, c));
    TRY_OUT(convolve(l, local, x, w->local, 1));
    TRY_OUT(convolve(l, global, x, w->global, 1));
    for (int i = 0; i < AUDIO_HEADS; i++) {
        TRY_OUT(
            encode_head(l, out, tensor_slice(local, 1, i * (c / AUDIO_HEADS), c / AUDIO_HEADS), w));
        to = tensor_slice(tokens, 1, i, 1);
        TRY_OUT(op_copy(dev, to, tensor_reshape(tensor_slice(out, 0, n - f, f), f, 1, c)));
    }
    constant.dim[0] = f;
    constant.stride[0] = 0;
    constant.ndim = 3;
    constant.dim[1] = 1;
    constant.dim[2] = c;
    constant.stride[1] = 0;
    constant.stride[2] = 1;
    TRY_OUT(op_copy(dev, tensor_slice(tokens, 1, AUDIO_HEADS, 1), constant));
    TRY_OUT(encode_head(l, out, global, w));
    TRY_OUT(op_gemm(dev, last, out, w->last.w, w->last.b, ACT_SILU));
    TRY_OUT(op_copy(dev, frame, tensor_slice(last, 0, n - f, f)));
out:
    arena_release(l->a, mark);
    return st;
}

status audio_encode(struct dit_run *r, struct tensor *data, const struct dit_input *in,
                    struct arena *step)
{
    const struct tensor audio = conditioning_find(in->conditioning, CONDITION_AUDIO);
    const int64_t frames = audio.dim[0], width = audio.dim[1], motion = AUDIO_MOTION_FRAMES;
    struct device *dev = r->m->dev;
    const size_t mark = step->used;
    struct layer l = { .r = r, .a = step };
    struct tensor x = { 0 }, first;
    struct audio_encoder w;
    status st;

    TRY_OUT(arena_take(step, &x, DT_F32, motion + frames, width));
    TRY_OUT(arena_take(step, &l.zeros, DT_F32, r->m->config.dim));
    TRY_OUT(device_zero(dev, l.zeros));
    TRY_OUT(weights_acquire(dit_weights(r->m, STACK_AUDIO_ENCODER), 0, -1, &w));
    for (int b = 0; b < r->branches; b++) {
        TRY_OUT(device_zero(dev, x)); // the other branch hears nothing
        if (in->first_branch + b == 0) {
            if (audio.data != NULL)
                TRY_OUT(device_upload(dev, tensor_slice(x, 0, motion, frames), audio.data));
            first = tensor_slice(x, 0, motion, 1);
            first.dim[0] = motion;
            first.stride[0] = 0;
            TRY_OUT(op_copy(dev, tensor_slice(x, 0, 0, motion), first));
        }
        TRY_OUT(encode_branch(
            &l, tensor_slice(data[AUDIO_FRAME], 0, b * in->f, in->f),
            tensor_slice(data[AUDIO_SOUND], 0, b * in->f * AUDIO_TOKENS, in->f * AUDIO_TOKENS), x,
            &w));
    }
out:
    arena_release(step, mark);
    return st;
}
