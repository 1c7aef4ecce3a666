#include "model/pipeline/condition.h"

#include "model/pipeline/pipeline.h"

#include <string.h>

status size_as_given(const struct task_inputs *in, int size[2])
{
    const int w = size[0], h = size[1];

    if (w % 16 != 0 || h % 16 != 0)
        return fail(ST_USAGE, "--size %d*%d: both must be multiples of 16; try %d*%d", w, h,
                    w / 16 * 16 + (w < 16 ? 16 : 0), h / 16 * 16 + (h < 16 ? 16 : 0));
    return ST_OK;
}

status condition_text(struct pipeline *p, const struct plan_input *plan,
                      const struct task_inputs *in, struct conditioning *c)
{
    static const char *const names[] = { CONDITION_COND, CONDITION_UNCOND };
    const char *const prompts[] = { in->prompt, in->negative_prompt };
    const int64_t width = model_dit(&plan->model)->text_dim;
    status st = ST_OK;

    if (p != NULL)
        TRY(pipeline_text(p, 2, prompts));
    for (int i = 0; i < 2; i++) {
        const int64_t planned[] = { plan->text_rows, width };
        struct tensor rows;
        float *data;

        if (p == NULL) {
            conditioning_add_shape(c, names[i], 2, planned);
            continue;
        }
        rows = pipeline_text_rows(p, prompts[i]);
        if (st == ST_OK)
            st = conditioning_add(c, names[i], rows.ndim, rows.dim, &data);
        if (st == ST_OK)
            memcpy(data, rows.data, tensor_bytes(rows));
    }
    return p != NULL ? agree(p->world, st) : ST_OK;
}

status conditioning_share(struct world *w, status st, struct conditioning *c)
{
    struct conditioning shapes = *c;

    TRY(agree(w, st));
    world_broadcast(w, &shapes, sizeof(shapes), 0);
    for (int i = 0; i < shapes.count && w->rank != 0 && st == ST_OK; i++) {
        const struct tensor t = shapes.array[i].value;
        float *data;

        st = conditioning_add(c, shapes.array[i].name, t.ndim, t.dim, &data);
    }
    TRY(agree(w, st));
    for (int i = 0; i < c->count; i++)
        world_broadcast(w, c->array[i].value.data, tensor_bytes(c->array[i].value), 0);
    return ST_OK;
}
