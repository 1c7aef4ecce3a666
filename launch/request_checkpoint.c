/* The checkpoint of a request: its folder or file, the files of parts that are given instead, and
 * the task that it is for. */
#include "launch/request_internal.h"
#include "model/pipeline/model.h"
#include "model/pipeline/task.h"
#include "model/transformer/features.h"

#include <string.h>

status request_checkpoint(const struct request *r, struct checkpoint *c)
{
    const struct {
        const struct part *part;
        const char *path;
    } given[] = { { &part_dit, r->dit },           { &part_dit, r->dit_high },
                  { &part_dit_low, r->dit_low },   { &part_t5, r->t5 },
                  { &part_vae, r->vae },           { &part_clip, r->clip },
                  { &part_wav2vec2, r->wav2vec2 }, { &part_motion, r->motion_controller } };
    status st;

    if (r->dit != NULL && r->dit_high != NULL)
        return fail(ST_USAGE, "--dit and --dit_high are the same: remove one of them");
    TRY_OUT(checkpoint_open(c, r->ckpt_dir, model_parts));
    for (size_t i = 0; i < COUNT(given); i++)
        if (given[i].path != NULL)
            TRY_OUT(checkpoint_use(c, given[i].part, given[i].path));
out:
    if (st != ST_OK)
        checkpoint_close(c);
    return st;
}

/* Without --ckpt_dir, the transformer's file is the checkpoint, too. */
static status find_ckpt_dir(struct request *r)
{
    const char *dit = r->dit != NULL ? r->dit : r->dit_high;

    if (r->ckpt_dir != NULL || dit == NULL)
        return ST_OK;
    r->ckpt_dir = strdup(dit);
    return r->ckpt_dir != NULL
               ? ST_OK
               : fail(ST_MEMORY, "%s: cannot allocate host memory for the path", dit);
}

status request_choose_task(struct request *r)
{
    const struct dit_config *dit;
    const struct task *task = NULL;
    struct checkpoint c = { 0 };
    status st;

    TRY(find_ckpt_dir(r));
    if (r->task_name != NULL)
        TRY(task_find(&task, r->task_name));
    if (r->ckpt_dir == NULL)
        return ST_OK;
    TRY_OUT(request_checkpoint(r, &c));
    TRY_OUT(checkpoint_part(&c, &part_dit));
    dit = checkpoint_config(&c, &part_dit);
    r->head_size = dit->dim / dit->heads;
    r->layers = dit->layers;
    r->sparse = dit_sparse_kind(dit) != NULL;
    if (task != NULL) {
        TRY_OUT(task_check(task, &c));
    } else {
        TRY_OUT(task_for_checkpoint(&task, &c));
        r->task_name = strdup(task->name);
        if (r->task_name == NULL)
            TRY_OUT(fail(ST_MEMORY, "cannot allocate host memory for the task's name"));
    }
    request_recognize(r, &c);
out:
    checkpoint_close(&c);
    return st;
}
