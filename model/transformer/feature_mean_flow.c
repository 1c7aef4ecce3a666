/* MeanFlow: the network predicts the mean velocity between the step's time t and the next one's, r,
 * whose embedding is added to that of t before the projection for the blocks; the head has that of
 * t alone.
 * Source: LightX2V lightx2v/models/networks/wan/infer/pre_infer.py and schedulers/wan/step_distill
 * (wan2.1_mean_flow_distill). */
#include "model/transformer/dit_internal.h"

#define STACK_NEXT_TIME "embedding of the next time"

struct next_time {
    struct linear time0, time2; // [C, freq_dim], [C, C] f32
};

static void mean_flow_tensors(struct tensor_list *l, const struct dit_config *c,
                              const struct feature_use *use, enum dtype cdt)
{
    tensors_stack(l, STACK_NEXT_TIME, "time_embedding_r.", 1, TENSORS_RESIDENT);
    tensors_linear(l, "0", offsetof(struct next_time, time0), c->dim, c->freq_dim, DT_F32);
    tensors_linear(l, "2", offsetof(struct next_time, time2), c->dim, c->dim, DT_F32);
}

/* r->time_mod = time_projection(silu(e of t) + silu(e of r)), for all steps. r of the last step,
 * and of time 0, is 0. */
static status mean_flow_begin(struct dit_run *r, struct tensor *data, const struct dit_input *in,
                              struct arena *a, struct arena *step)
{
    const struct dit_config *c = &r->m->config;
    const int64_t rows = r->time.dim[0];
    struct device *dev = r->m->dev;
    const size_t mark = step->used;
    struct tensor sinusoid = { 0 }, mid = { 0 }, next = { 0 };
    struct next_time w;
    struct dit_root root;
    status st;

    TRY_OUT(arena_take(step, &sinusoid, DT_F32, rows, c->freq_dim));
    TRY_OUT(arena_take(step, &mid, DT_F32, rows, c->dim));
    TRY_OUT(arena_take(step, &next, DT_F32, rows, c->dim));
    TRY_OUT(weights_acquire(dit_weights(r->m, STACK_NEXT_TIME), 0, -1, &w));
    TRY_OUT(dit_acquire_root(r->m, &root));
    TRY_OUT(dit_make_sinusoid(dev, sinusoid, in->timestep + 1, in->steps - 1));
    TRY_OUT(op_gemm(dev, mid, sinusoid, w.time0.w, w.time0.b, ACT_SILU));
    TRY_OUT(op_gemm(dev, next, mid, w.time2.w, w.time2.b, ACT_NONE));
    TRY_OUT(op_silu(dev, next, next));
    TRY_OUT(op_silu(dev, mid, r->time));
    TRY_OUT(op_gate_add(dev, mid, mid, next, (struct tensor){ 0 }));
    TRY_OUT(op_gemm(dev, r->time_mod, mid, root.time_mod.w, root.time_mod.b, ACT_NONE));
out:
    arena_release(step, mark);
    return st;
}

static const struct feature_hooks mean_flow_hooks = { .begin = mean_flow_begin };

const struct feature feature_mean_flow = { .name = "time of the next step (MeanFlow)",
                                           .detected_by = "time_embedding_r.0.weight",
                                           .tensors = mean_flow_tensors,
                                           .hooks = &mean_flow_hooks,
                                           .any_task = true };
