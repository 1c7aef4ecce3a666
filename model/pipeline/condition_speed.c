/* The conditioning of the speed of what moves, by DiffSynth's motion controller. */
#include "kernels/table.h"
#include "model/pipeline/condition_internal.h"
#include "model/transformer/motion.h"

#include <string.h>

/* On rank 0, on the host's cores: the network is small, and computes one row. */
static status run_controller(struct pipeline *p, const struct plan_input *plan, float *out, int id)
{
    const int64_t dim = model_dit(&plan->model)->dim;
    const struct motion_config *config;
    struct device host = { 0 };
    struct arena a = { 0 };
    struct table table;
    status st;

    TRY_OUT(checkpoint_part(p->checkpoint, &part_motion));
    config = checkpoint_config(p->checkpoint, &part_motion);
    if (config->dim != dim)
        TRY_OUT(fail(ST_FORMAT,
                     "the motion controller is for a transformer of width %lld, and this one has "
                     "%lld: pass that of this model",
                     (long long)config->dim, (long long)dim));
    table_cpu(&table);
    TRY_OUT(device_open_cpu(&host, plan->threads, &table, table.workspace));
    TRY_OUT(arena_init(&a, &host, "motion controller", motion_bytes(config)));
    TRY_OUT(motion_run(out, config, &host, &a, checkpoint_source(p->checkpoint, &part_motion), id));
    TRY_OUT(pipeline_finite(out, 6 * dim, "motion controller"));
out:
    arena_done(&a);
    device_close(&host);
    return st;
}

status condition_speed(struct pipeline *p, struct plan_input *plan, const struct task_inputs *in,
                       struct conditioning *c)
{
    const int64_t dims[] = { 6 * model_dit(&plan->model)->dim };
    float *data;

    if (!in->speed)
        return ST_OK;
    if (p == NULL) {
        conditioning_add_shape(c, CONDITION_TIME_MOD, 1, dims);
        return ST_OK;
    }
    TRY(agree(p->world, conditioning_add(c, CONDITION_TIME_MOD, 1, dims, &data)));
    TRY(agree(p->world,
              p->world->rank == 0 ? run_controller(p, plan, data, in->motion_bucket_id) : ST_OK));
    world_broadcast(p->world, data, (size_t)dims[0] * sizeof(*data), 0);
    return ST_OK;
}
