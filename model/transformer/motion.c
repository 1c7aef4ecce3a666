#include "model/transformer/motion.h"

#include "model/transformer/dit_internal.h"

#define SLACK_BYTES 65536 // of the alignment of tensors

struct controller {
    struct linear in, mid, out; // [C, freq_dim], [C, C], [6C, C] f32
};

void motion_tensors(struct tensor_list *l, const struct motion_config *c)
{
    tensors_stack(l, "motion controller", "linear.", 1, TENSORS_LOCAL);
    tensors_linear(l, "0", offsetof(struct controller, in), c->dim, c->freq_dim, DT_F32);
    tensors_linear(l, "2", offsetof(struct controller, mid), c->dim, c->dim, DT_F32);
    tensors_linear(l, "4", offsetof(struct controller, out), 6 * c->dim, c->dim, DT_F32);
}

size_t motion_bytes(const struct motion_config *c)
{
    const int64_t weights = c->dim * (c->freq_dim + 7 * c->dim + 8),
                  rows = c->freq_dim + 8 * c->dim;

    return (size_t)(weights + rows) * sizeof(float) + SLACK_BYTES;
}

status motion_run(float *out, const struct motion_config *c, struct device *dev, struct arena *a,
                  struct weight_source source, int motion_bucket_id)
{
    const float time = 10 * (float)motion_bucket_id;
    struct tensor sinusoid = { 0 }, h[2] = { { 0 } }, result = { 0 };
    struct tensor_list list = { 0 };
    struct weights weights = { 0 };
    struct controller w;
    status st;

    motion_tensors(&list, c);
    TRY_OUT(tensors_status(&list));
    TRY_OUT(tensors_open(&weights, &list, &list.stacks[0], a, NULL, (struct tensors_place){ 0 },
                         source));
    TRY_OUT(weights_acquire(&weights, 0, -1, &w));
    TRY_OUT(arena_take(a, &sinusoid, DT_F32, 1, c->freq_dim));
    TRY_OUT(arena_take(a, &h[0], DT_F32, 1, c->dim));
    TRY_OUT(arena_take(a, &h[1], DT_F32, 1, c->dim));
    TRY_OUT(arena_take(a, &result, DT_F32, 1, 6 * c->dim));
    TRY_OUT(dit_make_sinusoid(dev, sinusoid, &time, 1));
    TRY_OUT(op_gemm(dev, h[0], sinusoid, w.in.w, w.in.b, ACT_SILU));
    TRY_OUT(op_gemm(dev, h[1], h[0], w.mid.w, w.mid.b, ACT_SILU));
    TRY_OUT(op_gemm(dev, result, h[1], w.out.w, w.out.b, ACT_NONE));
    TRY_OUT(device_download(dev, out, result));
    TRY_OUT(device_wait(dev));
out:
    weights_close(&weights);
    tensors_done(&list);
    return st;
}
