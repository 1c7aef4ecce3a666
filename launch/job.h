/* job.h - what the commands that generate share: this rank's cores and device, the checkpoint, the
 * plans of the requests, and whether they fit. */
#ifndef LAUNCH_JOB_H
#define LAUNCH_JOB_H

#include "kernels/table.h"
#include "launch/placement.h"
#include "launch/progress.h"
#include "launch/request.h"
#include "model/pipeline/pipeline.h"

struct job {
    struct world *world;
    struct placement place;
    struct table table;
    struct device dev;
    struct checkpoint checkpoint;
    struct model model;          // of the checkpoint
    struct tokenizer *tokenizer; // rank 0, when texts are encoded
    struct progress progress;
    size_t resident;  // bytes this process holds before any model
    size_t available; // on a GPU: bytes that were free when it was opened
};

/* Collective. ST_USAGE, ST_IO, ST_FORMAT, ST_MEMORY. */
status job_open(struct job *j, struct world *w, const struct request *r);
void job_close(struct job *j); // accepts a half-open or zeroed job

/* The ops of the device that is asked for; on a CPU those that --ops names. */
void job_table(struct table *t, const struct request *r);

/* The request in the terms of plan.h, on `ranks` ranks; the mesh is chosen as far as the request
 * leaves it open, fsdp stays false unless asked for. `prompts`: how many the text stage encodes. */
status job_plan_input(struct plan_input *plan, const struct request *r, const struct model *model,
                      const struct table *table, int ranks, int ranks_per_node, int prompts);

/* The same for this job's checkpoint and ranks. */
status job_plan(struct job *j, const struct request *r, int prompts, struct plan_input *plan);

/* Chooses fsdp where the request left it open and replication does not fit, the same for all plans;
 * then holds every rank's need against its node. Collective. ST_MEMORY says what would fit. */
status job_fit(struct job *j, const struct request *r, struct plan_input *plans, int count);

/* Says on rank 0 what is about to happen: model, latent, mesh, memory. */
void job_announce(struct job *j, const struct request *r, const struct plan_input *plan);

/* Says on rank 0 how much each rank took at most, beside the plan, and how much it read.
 * Collective. */
void job_memory(struct job *j, const struct pipeline *p);

#endif
