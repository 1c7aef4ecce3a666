/* A camera's path: the rays of all pixels (media/camera.h) go through a small network, whose result
 * is added to the patch embedding.
 *
 *     e = W rays + b          of the 16 x 16 pixels of a token in the 4 frames of a latent frame,
 *                             of which the first has one frame four times
 *     e += conv2(relu(conv1(e)))   3 x 3 tokens of a latent frame, zeros around them
 *
 * Source: DiffSynth-Studio diffsynth/models/wan_video_camera_controller.py, SimpleAdapter, and
 * diffsynth/pipelines/wan_video.py, WanVideoUnit_FunCameraControl. */
#include "model/checkpoint/config_json.h"
#include "model/media/camera.h"
#include "model/transformer/dit_internal.h"

#include <math.h>
#include <stdlib.h>

#define STACK_RAYS "camera adapter"
#define STACK_CONVS "camera adapter's convolutions"
#define SUBFRAMES CAMERA_FRAMES
#define VALUES CAMERA_VALUES
#define EDGE 3         // of the convolutions
#define CONV_ROWS 1024 // tokens whose surroundings are gathered at a time, about

struct rays_layer {
    struct linear linear; // [C, 4 cell], cell: VALUES of the 8 x 8 pixels of a latent's position
};

struct conv_layer {
    struct linear conv; // [C, EDGE * EDGE * C]
};

enum { VIEWS, ADDEND }; // data of a run: [F, CAMERA_VIEW] f32 in host memory, [latent_rows, C] cdt

/* The values of the pixels of a position of the latent, of which a token has 2 x 2. */
static const struct feature_width camera_widths[] = {
    { "control_adapter.conv.weight", 4, 1, { NULL, NULL } }, { NULL }
};

static void camera_tensors(struct tensor_list *l, const struct dit_config *c,
                           const struct feature_use *use, enum dtype cdt)
{
    struct weight_spec *t;

    tensors_stack(l, STACK_RAYS, "control_adapter.", 1, TENSORS_ONCE);
    t = tensors_add(l, "conv.weight", offsetof(struct rays_layer, linear.w), cdt,
                    TENSOR_DIMS(c->dim, use->width[0], 2, 2));
    t->channels_last = true;
    t->ndim = 2;
    t->dim[1] = 4 * use->width[0];
    tensors_vector(l, "conv.bias", offsetof(struct rays_layer, linear.b), c->dim, cdt);
    tensors_stack(l, STACK_CONVS, "control_adapter.residual_blocks.0.conv%d.", 2, TENSORS_ONCE);
    tensors_numbers(l, 1, 0, 0);
    t = tensors_add(l, "weight", offsetof(struct conv_layer, conv.w), cdt,
                    TENSOR_DIMS(c->dim, c->dim, EDGE, EDGE));
    t->channels_last = true;
    t->ndim = 2;
    t->dim[1] = EDGE * EDGE * c->dim;
    tensors_vector(l, "bias", offsetof(struct conv_layer, conv.b), c->dim, cdt);
}

static void camera_config(struct cJSON *json, const struct dit_config *c,
                          const struct feature_use *use, bool diffusers)
{
    config_set_bool(json, "add_control_adapter", true);
    config_set_number(json, "in_dim_control_adapter", VALUES);
}

static status camera_begin(struct dit_run *r, struct tensor *data, const struct dit_input *in,
                           struct arena *a, struct arena *step)
{
    const struct tensor views = conditioning_find(in->conditioning, CONDITION_CAMERA);

    if (views.ndim == 0)
        return fail(ST_USAGE, "the transformer has a camera adapter, and '%s' is missing",
                    CONDITION_CAMERA);
    if (views.ndim != 2 || views.dim[0] != 1 + (in->f - 1) * SUBFRAMES ||
        views.dim[1] != CAMERA_VIEW)
        return fail(ST_USAGE, "'%s' is %s; the video has %lld frames", CONDITION_CAMERA,
                    tensor_text(views), (long long)(1 + (in->f - 1) * SUBFRAMES));
    data[VIEWS] = views;
    return arena_take(a, &data[ADDEND], r->m->cdt, r->spans.latent_rows, r->m->config.dim);
}

/* The rays of latent frame t, [h * w, 4, cell]: the positions of a token's 2 x 2 cell, each with
 * (component, frame, row, column of the pixel). */
static void fill_rays(float *out, struct tensor views, int64_t t, int64_t h, int64_t w,
                      int64_t cell)
{
    const int64_t pixels = cell / VALUES, edge = (int64_t)lrint(sqrt((double)pixels));

#pragma omp parallel for collapse(2)
    for (int64_t sub = 0; sub < SUBFRAMES; sub++)
        for (int64_t y = 0; y < 2 * h * edge; y++) {
            const int64_t frame = SUBFRAMES * t + sub - (SUBFRAMES - 1);
            const float *view = (const float *)views.data + (frame > 0 ? frame : 0) * CAMERA_VIEW;

            for (int64_t x = 0; x < 2 * w * edge; x++) {
                const int64_t row = y / edge, column = x / edge;
                float *to = out +
                            (((row / 2) * w + column / 2) * 4 + row % 2 * 2 + column % 2) * cell +
                            sub * pixels + y % edge * edge + x % edge;
                float ray[CAMERA_RAY];

                camera_ray(ray, view, x, y);
                for (int i = 0; i < CAMERA_RAY; i++)
                    to[i * SUBFRAMES * pixels] = ray[i];
            }
        }
}

/* The latent frames of which this rank has tokens, whole. */
struct frames {
    int64_t first, count, h, w;
};

static struct frames frames_of(const struct dit_run *r)
{
    const struct spans *s = &r->spans;
    struct frames f = { 0 };

    for (int i = 0; i < r->segments.count && f.h == 0; i++)
        if (r->segments.segment[i].latent)
            f = (struct frames){ .h = r->segments.segment[i].grid.h,
                                 .w = r->segments.segment[i].grid.w };
    f.first = s->latent_first / (f.h * f.w);
    f.count = (s->latent_first + s->latent_rows + f.h * f.w - 1) / (f.h * f.w) - f.first;
    return f;
}

/* out [tokens, C] = the linear layer of the frames' rays. */
static status embed_rays(struct dit_run *r, struct arena *step, struct tensor out,
                         struct tensor views, struct frames f)
{
    struct device *dev = r->m->dev;
    const size_t mark = step->used;
    struct tensor values = { 0 }, rounded = { 0 };
    struct rays_layer layer;
    float *host = NULL;
    int64_t width;
    status st;

    TRY_OUT(weights_acquire(dit_weights(r->m, STACK_RAYS), 0, -1, &layer));
    width = layer.linear.w.dim[1];
    TRY_OUT(arena_take(step, &values, DT_F32, f.h * f.w, width));
    TRY_OUT(arena_take(step, &rounded, r->m->cdt, f.h * f.w, width));
    if (views.data != NULL) { // else a plan
        host = malloc(tensor_bytes(values));
        if (host == NULL)
            TRY_OUT(fail(ST_MEMORY, "cannot allocate %zu bytes of host memory for a camera's rays",
                         tensor_bytes(values)));
    }
    for (int64_t t = 0; t < f.count; t++) {
        if (host != NULL) {
            fill_rays(host, views, f.first + t, f.h, f.w, width / 4);
            TRY_OUT(device_upload(dev, values, host));
        }
        TRY_OUT(op_copy(dev, rounded, values));
        TRY_OUT(op_gemm(dev, tensor_slice(out, 0, t * f.h * f.w, f.h * f.w), rounded,
                        layer.linear.w, layer.linear.b, ACT_NONE));
    }
out:
    free(host);
    arena_release(step, mark);
    return st;
}

/* out = act(conv of x), of one frame; x, out [h * w, C]. */
static status convolve_frame(struct dit_run *r, struct arena *step, struct tensor out,
                             struct tensor x, struct frames f, struct linear conv, enum act act)
{
    const int64_t c = r->m->config.dim, most = CONV_ROWS / f.w > 0 ? CONV_ROWS / f.w : 1;
    struct device *dev = r->m->dev;
    const size_t mark = step->used;
    struct tensor padded = { 0 }, around = { 0 };
    status st;

    TRY_OUT(arena_take(step, &padded, r->m->cdt, f.h + EDGE - 1, f.w + EDGE - 1, c));
    TRY_OUT(arena_take(step, &around, r->m->cdt, most < f.h ? most : f.h, f.w, EDGE * EDGE * c));
    TRY_OUT(device_zero(dev, padded));
    TRY_OUT(op_copy(dev, tensor_slice(tensor_slice(padded, 0, 1, f.h), 1, 1, f.w),
                    tensor_reshape(x, f.h, f.w, c)));
    for (int64_t y = 0; y < f.h; y += most) {
        const int64_t rows = y + most < f.h ? most : f.h - y;
        const struct tensor part = tensor_slice(around, 0, 0, rows);

        for (int i = 0; i < EDGE * EDGE; i++)
            TRY_OUT(op_copy(
                dev, tensor_slice(part, 2, i * c, c),
                tensor_slice(tensor_slice(padded, 0, y + i / EDGE, rows), 1, i % EDGE, f.w)));
        TRY_OUT(op_gemm(dev, tensor_slice(out, 0, y * f.w, rows * f.w),
                        tensor_reshape(part, rows * f.w, EDGE * EDGE * c), conv.w, conv.b, act));
    }
out:
    arena_release(step, mark);
    return st;
}

static status convolve(struct dit_run *r, struct arena *step, struct tensor out, struct tensor x,
                       struct frames f, int number, enum act act)
{
    struct conv_layer layer;

    TRY(weights_acquire(dit_weights(r->m, STACK_CONVS), number, number == 0 ? 1 : -1, &layer));
    for (int64_t t = 0; t < f.count; t++)
        TRY(convolve_frame(r, step, tensor_slice(out, 0, t * f.h * f.w, f.h * f.w),
                           tensor_slice(x, 0, t * f.h * f.w, f.h * f.w), f, layer.conv, act));
    return ST_OK;
}

/* The addend. Frames that two ranks share are computed by both. */
static status camera_prepare(struct dit_run *r, struct tensor *data, struct arena *step)
{
    const struct frames f = frames_of(r);
    const int64_t tokens = f.count * f.h * f.w, c = r->m->config.dim;
    const size_t mark = step->used;
    struct tensor e = { 0 }, mid = { 0 }, rows;
    status st;

    TRY_OUT(arena_take(step, &e, r->m->cdt, tokens, c));
    TRY_OUT(arena_take(step, &mid, r->m->cdt, tokens, c));
    TRY_OUT(embed_rays(r, step, e, data[VIEWS], f));
    TRY_OUT(convolve(r, step, mid, e, f, 0, ACT_RELU));
    rows = tensor_slice(e, 0, r->spans.latent_first - f.first * f.h * f.w, r->spans.latent_rows);
    TRY_OUT(op_copy(r->m->dev, data[ADDEND], rows));
    TRY_OUT(convolve(r, step, e, mid, f, 1, ACT_NONE));
    TRY_OUT(op_gate_add(r->m->dev, data[ADDEND], data[ADDEND], rows, (struct tensor){ 0 }));
out:
    arena_release(step, mark);
    return st;
}

static status camera_after_patch(struct block_ctx *ctx, const struct tensor *data)
{
    const struct spans *s = &ctx->r->spans;
    const struct tensor rows = tensor_slice(ctx->patch, 0, s->latent_row, s->latent_rows);

    return op_gate_add(ctx->r->m->dev, rows, rows, data[ADDEND], (struct tensor){ 0 });
}

static const struct feature_hooks camera_hooks = { .begin = camera_begin,
                                                   .prepare = camera_prepare,
                                                   .after_patch = camera_after_patch };

const struct feature feature_camera = { .name = "camera adapter (Fun Camera)",
                                        .detected_by = "control_adapter.conv.weight",
                                        .widths = camera_widths,
                                        .tensors = camera_tensors,
                                        .config = camera_config,
                                        .hooks = &camera_hooks };
