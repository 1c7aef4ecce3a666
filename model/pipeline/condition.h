/* condition.h - the conditioning of each task: the functions of the rows in task.c. */
#ifndef MODEL_PIPELINE_CONDITION_H
#define MODEL_PIPELINE_CONDITION_H

#include "model/pipeline/task.h"
#include "parallel/world.h"

/* ---- size rules ---- */

status size_as_given(const struct task_inputs *in, int size[2]); // multiples of 16

/* ---- conditioning ---- */

/* Text to video: the prompts through the text encoder. */
status condition_text(struct pipeline *p, const struct plan_input *plan,
                      const struct task_inputs *in, struct conditioning *c);

/* Gives every rank rank 0's conditioning, `st` being the status of rank 0's. Collective; agrees. */
status conditioning_share(struct world *w, status st, struct conditioning *c);

#endif
