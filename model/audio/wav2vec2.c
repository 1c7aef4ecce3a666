#include "model/audio/wav2vec2.h"

#include "model/encoder/encoder_layer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* Rows of the output that are computed at a time where only neighbours are needed. */
#define CHUNK_ROWS 256

struct front {
    struct linear conv[WAV2VEC2_CONVS], norm[WAV2VEC2_CONVS]; // [K, kernel * in], [K]
    struct linear norm_in, projection;                        // [K], [C, K]
    struct tensor position_g, position_v, position_b;         // [k], [C, k, C / groups], [C]
    struct linear norm_out;                                   // [C]: of the last state
};

#define STACK_FRONT "front"
#define STACK_LAYERS "layers"
#define FRONT(member) offsetof(struct front, member)

static int64_t group_width(const struct wav2vec2_config *c)
{
    return c->dim / c->position_groups;
}

/* A convolution over time, as the matrix of a product with `kernel` rows of the input side by side.
 */
static void conv_tensors(struct tensor_list *l, int index, int64_t out, int64_t in, int64_t kernel)
{
    const size_t conv = FRONT(conv) + (size_t)index * sizeof(struct linear);
    const size_t norm = FRONT(norm) + (size_t)index * sizeof(struct linear);
    char name[WEIGHT_NAME_BYTES];
    struct weight_spec *t;

    snprintf(name, sizeof(name), "feature_extractor.conv_layers.%d.conv.weight", index);
    t = tensors_add(l, name, conv + offsetof(struct linear, w), DT_F32,
                    TENSOR_DIMS(out, in, kernel));
    t->channels_last = true;
    t->ndim = 2;
    t->dim[1] = in * kernel;
    snprintf(name, sizeof(name), "feature_extractor.conv_layers.%d.conv.bias", index);
    tensors_vector(l, name, conv + offsetof(struct linear, b), out, DT_F32);
    snprintf(name, sizeof(name), "feature_extractor.conv_layers.%d.layer_norm", index);
    tensors_norm(l, name, norm, out);
}

static void front_tensors(struct tensor_list *l, const struct wav2vec2_config *c)
{
    struct weight_spec *t;

    tensors_stack(l, STACK_FRONT, "wav2vec2.", 1, TENSORS_LOCAL);
    for (int i = 0; i < c->convs; i++)
        conv_tensors(l, i, c->channels, i == 0 ? 1 : c->channels, c->kernel[i]);
    tensors_norm(l, "feature_projection.layer_norm", FRONT(norm_in), c->channels);
    tensors_linear(l, "feature_projection.projection", FRONT(projection), c->dim, c->channels,
                   DT_F32);
    t = tensors_add(l, "encoder.pos_conv_embed.conv.weight_g", FRONT(position_g), DT_F32,
                    TENSOR_DIMS(1, 1, c->position_kernel));
    t->ndim = 1;
    t->dim[0] = c->position_kernel;
    t = tensors_add(l, "encoder.pos_conv_embed.conv.weight_v", FRONT(position_v), DT_F32,
                    TENSOR_DIMS(c->dim, group_width(c), c->position_kernel));
    t->channels_last = true;
    t->dim[1] = c->position_kernel;
    t->dim[2] = group_width(c);
    tensors_vector(l, "encoder.pos_conv_embed.conv.bias", FRONT(position_b), c->dim, DT_F32);
    tensors_norm(l, "encoder.layer_norm", FRONT(norm_out), c->dim);
}

void wav2vec2_tensors(struct tensor_list *l, const struct wav2vec2_config *c)
{
    static const struct encoder_layer_names names = {
        .norm1 = "layer_norm",
        .qkv = { "attention.q_proj", "attention.k_proj", "attention.v_proj" },
        .o = "attention.out_proj",
        .norm2 = "final_layer_norm",
        .up = "feed_forward.intermediate_dense",
        .down = "feed_forward.output_dense",
    };
    const int64_t dim = c->dim;

    front_tensors(l, c);
    tensors_stack(l, STACK_LAYERS, "wav2vec2.encoder.layers.%d.", c->layers, TENSORS_LOCAL);
    encoder_layer_tensors(l, &names, dim, c->ffn_dim);
    if (c->vocab == 0)
        return;
    tensors_stack(l, "head", "", 1, TENSORS_READ); // of speech recognition
    tensors_vector(l, "wav2vec2.masked_spec_embed", TENSORS_NO_SLOT, dim, DT_F32);
    tensors_linear(l, "lm_head", TENSORS_NO_SLOT, c->vocab, dim, DT_F32);
}

status wav2vec2_check(const struct wav2vec2_config *c, const char *file)
{
    if (c->layers >= 1 && c->heads >= 1 && c->dim % c->heads == 0 && c->position_groups >= 1 &&
        c->dim % c->position_groups == 0 && c->position_kernel % 2 == 0)
        return ST_OK;
    return fail(ST_FORMAT,
                "%s: the audio encoder has %d layers, %d heads and %lld groups in %lld channels, "
                "and a position embedding over %lld rows; heads and groups must divide the "
                "channels, and the rows be even",
                file, c->layers, c->heads, (long long)c->position_groups, (long long)c->dim,
                (long long)c->position_kernel);
}

int64_t wav2vec2_rows(const struct wav2vec2_config *c, int64_t samples)
{
    for (int i = 0; i < c->convs; i++)
        samples = samples < c->kernel[i] ? 0 : (samples - c->kernel[i]) / c->stride[i] + 1;
    return samples;
}

void wav2vec2_normalize(float *samples, int64_t count)
{
    double mean = 0, square = 0;

    for (int64_t i = 0; i < count; i++)
        mean += samples[i];
    mean /= (double)count;
    for (int64_t i = 0; i < count; i++)
        square += (samples[i] - mean) * (samples[i] - mean);
    const double scale = 1 / sqrt(square / (double)count + 1e-7);
    for (int64_t i = 0; i < count; i++)
        samples[i] = (float)((samples[i] - mean) * scale);
}

/* What the convolutions need beside the encoder of the layers. */
struct input {
    const struct wav2vec2_config *config;
    const float *samples; // NULL: a plan
};

/* out [n, kernel * in] = the `kernel` rows from each stride-th row of x [rows, in] on, side by
 * side. */
static status windows(const struct encoder *e, struct tensor out, struct tensor x, int64_t kernel,
                      int64_t stride)
{
    const int64_t n = out.dim[0], in = x.dim[1];
    struct tensor from = x;

    from.ndim = 3;
    from.dim[0] = n;
    from.dim[1] = kernel;
    from.dim[2] = in;
    from.stride[0] = stride * x.stride[0];
    from.stride[1] = x.stride[0];
    from.stride[2] = 1;
    return op_copy(e->dev, tensor_reshape(out, n, kernel, in), from);
}

/* x rows [first, first + n) = the projection of the convolutions' output. They read only samples
 * nearby, so that a long recording is computed in chunks. */
static status extract(const struct encoder *e, struct input input, const struct front *w,
                      int64_t first, int64_t n)
{
    const struct wav2vec2_config *c = input.config;
    const size_t mark = e->a->used;
    int64_t rows[WAV2VEC2_CONVS + 1], start = first;
    struct tensor in = { 0 }, normed = { 0 };
    status st;

    rows[c->convs] = n;
    for (int i = c->convs - 1; i >= 0; i--) {
        rows[i] = (rows[i + 1] - 1) * c->stride[i] + c->kernel[i];
        start *= c->stride[i];
    }
    TRY_OUT(arena_take(e->a, &in, DT_F32, rows[0], 1));
    if (input.samples != NULL)
        TRY_OUT(device_upload(e->dev, in, input.samples + start));
    for (int i = 0; i < c->convs; i++) {
        struct tensor out = { 0 }, wide = { 0 }, product = { 0 };
        size_t kept;

        TRY_OUT(arena_take(e->a, &out, DT_F32, rows[i + 1], c->channels));
        kept = e->a->used;
        TRY_OUT(arena_take(e->a, &wide, DT_F32, rows[i + 1], c->kernel[i] * in.dim[1]));
        TRY_OUT(arena_take(e->a, &product, DT_F32, rows[i + 1], c->channels));
        TRY_OUT(windows(e, wide, in, c->kernel[i], c->stride[i]));
        TRY_OUT(op_gemm(e->dev, product, wide, w->conv[i].w, w->conv[i].b, ACT_NONE));
        TRY_OUT(encoder_norm(e, out, product, w->norm[i]));
        TRY_OUT(op_gelu(e->dev, out, out));
        arena_release(e->a, kept);
        in = out;
    }
    TRY_OUT(arena_take(e->a, &normed, DT_F32, n, c->channels));
    TRY_OUT(encoder_norm(e, normed, in, w->norm_in));
    TRY_OUT(op_gemm(e->dev, tensor_slice(e->x, 0, first, n), normed, w->projection.w,
                    w->projection.b, ACT_NONE));
out:
    arena_release(e->a, mark);
    return st;
}

/* out [C, k, C / groups] = v g / |v|, where |v| is over all values of a row of the kernel. */
static status position_weights(const struct encoder *e, struct input input, struct tensor out,
                               const struct front *w)
{
    const int64_t k = out.dim[1], width = out.dim[2];
    const int64_t count = tensor_count(out);
    float *v = NULL, *g = NULL;
    double *square = NULL;
    status st = ST_OK;

    if (input.samples == NULL) // a plan
        return ST_OK;
    v = malloc((size_t)count * sizeof(*v));
    g = malloc((size_t)k * sizeof(*g));
    square = calloc((size_t)k, sizeof(*square));
    if (v == NULL || g == NULL || square == NULL)
        TRY_OUT(fail(ST_MEMORY, "cannot allocate host memory for %lld weights", (long long)count));
    TRY_OUT(device_download(e->dev, v, w->position_v));
    TRY_OUT(device_download(e->dev, g, w->position_g));
    TRY_OUT(device_wait(e->dev));
    for (int64_t i = 0; i < count; i++)
        square[i / width % k] += (double)v[i] * v[i];
    for (int64_t i = 0; i < count; i++)
        v[i] *= (float)(g[i / width % k] / sqrt(square[i / width % k]));
    TRY_OUT(device_upload(e->dev, out, v));
    TRY_OUT(device_wait(e->dev));
out:
    free(v);
    free(g);
    free(square);
    return st;
}

/* x += gelu(conv(x)), over k rows around each, of which k / 2 before it, in groups of channels. */
static status add_positions(const struct encoder *e, struct input input, const struct front *w)
{
    const struct wav2vec2_config *c = input.config;
    const int64_t rows = e->x.dim[0], k = c->position_kernel, width = group_width(c);
    const size_t mark = e->a->used;
    struct tensor weights = { 0 }, padded = { 0 }, wide = { 0 };
    status st;

    TRY_OUT(arena_take(e->a, &weights, DT_F32, c->dim, k, width));
    TRY_OUT(arena_take(e->a, &padded, DT_F32, rows + k, width));
    TRY_OUT(arena_take(e->a, &wide, DT_F32, rows < CHUNK_ROWS ? rows : CHUNK_ROWS, k * width));
    TRY_OUT(position_weights(e, input, weights, w));
    TRY_OUT(device_zero(e->dev, padded));
    for (int64_t g = 0; g < c->position_groups; g++) {
        const struct tensor own = tensor_slice(e->h, 1, g * width, width);
        const struct tensor matrix = tensor_slice(weights, 0, g * width, width);

        TRY_OUT(op_copy(e->dev, tensor_slice(padded, 0, k / 2, rows),
                        tensor_slice(e->x, 1, g * width, width)));
        for (int64_t at = 0; at < rows; at += CHUNK_ROWS) {
            const int64_t n = rows - at < CHUNK_ROWS ? rows - at : CHUNK_ROWS;
            const struct tensor in = tensor_slice(wide, 0, 0, n);

            TRY_OUT(windows(e, in, tensor_slice(padded, 0, at, rows + k - at), k, 1));
            TRY_OUT(op_gemm(e->dev, tensor_slice(own, 0, at, n), in,
                            tensor_reshape(matrix, width, k * width),
                            tensor_slice(w->position_b, 0, g * width, width), ACT_GELU));
        }
    }
    TRY_OUT(op_gate_add(e->dev, e->x, e->x, e->h, (struct tensor){ 0 }));
out:
    arena_release(e->a, mark);
    return st;
}

/* Passes state `index` to the sink: t, through `host` [rows, dim]. */
static status put_state(const struct encoder *e, float *host, struct wav2vec2_sink sink, int index,
                        struct tensor t)
{
    if (host == NULL)
        return ST_OK;
    TRY(device_download(e->dev, host, t));
    TRY(device_wait(e->dev));
    return sink.state(sink.payload, index, host);
}

static status open_stack(struct weights *w, struct arena *a, const struct tensor_list *list,
                         const char *name, struct weight_source source)
{
    const struct tensor_stack *s = tensors_find(list, name);

    return weights_open(w, a, WEIGHTS_STREAMED, NULL, s->units, tensors_of(list, s), s->count,
                        source);
}

status wav2vec2_encode(const struct wav2vec2_config *config, struct device *dev, struct arena *a,
                       struct weight_source source, const float *samples, int64_t count,
                       struct wav2vec2_sink sink)
{
    const int64_t rows = wav2vec2_rows(config, count);
    const size_t mark = a->used;
    const struct input input = { config, samples };
    struct encoder e = { .dev = dev,
                         .a = a,
                         .ffn_dim = config->ffn_dim,
                         .heads = config->heads,
                         .count = 1,
                         .eps = config->eps };
    struct weights front = { 0 }, layers = { 0 };
    struct tensor_list list = { 0 };
    struct front w;
    float *host = NULL;
    status st;

    TRY_OUT(wav2vec2_check(config, "wav2vec2"));
    wav2vec2_tensors(&list, config);
    TRY_OUT(tensors_status(&list));
    if (samples != NULL) {
        host = malloc((size_t)(rows * config->dim) * sizeof(*host));
        if (host == NULL)
            TRY_OUT(fail(ST_MEMORY, "cannot allocate host memory for %lld rows of audio",
                         (long long)rows));
    }
    TRY_OUT(open_stack(&front, a, &list, STACK_FRONT, source));
    TRY_OUT(open_stack(&layers, a, &list, STACK_LAYERS, source));
    TRY_OUT(arena_take(a, &e.x, DT_F32, rows, config->dim));
    TRY_OUT(arena_take(a, &e.h, DT_F32, rows, config->dim));
    TRY_OUT(weights_acquire(&front, 0, -1, &w));
    for (int64_t at = 0; at < rows; at += CHUNK_ROWS)
        TRY_OUT(extract(&e, input, &w, at, rows - at < CHUNK_ROWS ? rows - at : CHUNK_ROWS));
    TRY_OUT(add_positions(&e, input, &w));
    for (int l = 0; l < config->layers; l++) {
        struct encoder_layer unit;

        TRY_OUT(put_state(&e, host, sink, l, e.x));
        TRY_OUT(weights_acquire(&layers, l, l + 1 < config->layers ? l + 1 : -1, &unit));
        TRY_OUT(encoder_layer_run(&e, &unit));
    }
    TRY_OUT(encoder_norm(&e, e.h, e.x, w.norm_out));
    TRY_OUT(put_state(&e, host, sink, config->layers, e.h));
    TRY_OUT(device_wait(dev));
out:
    weights_close(&layers);
    weights_close(&front);
    tensors_done(&list);
    free(host);
    arena_release(a, mark);
    return st;
}
