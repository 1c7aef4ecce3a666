/* condition.h - functions that make a task's conditioning or check its size; the rows of task.c
 * point to them. */
#ifndef MODEL_PIPELINE_CONDITION_H
#define MODEL_PIPELINE_CONDITION_H

#include "model/pipeline/task.h"
#include "parallel/world.h"

/* ---- size rules ---- */

/* The size [width, height] in pixels as given, which must be multiples of 16. Local. ST_USAGE. */
status size_as_given(const struct task_inputs *in, int size[2]);

/* ---- conditioning ---- */

/* Text to video: adds the text encoder's output for both prompts. p NULL: adds the planned shapes
 * only, local. Else collective; ST_MEMORY, and the errors of pipeline_text. */
status condition_text(struct pipeline *p, const struct plan_input *plan,
                      const struct task_inputs *in, struct conditioning *c);

/* Broadcasts rank 0's conditioning; on the other ranks *c is empty before. `st`: whether rank 0 has
 * made it. Collective; all ranks return the same status. */
status conditioning_share(struct world *w, status st, struct conditioning *c);

#endif
