/* pipeline.h - from prompts to frames: the stages of design.md over one set of ranks.
 *
 *     text (rank 0) -> noise -> { transformer -> guidance -> solver } x steps -> VAE -> frames
 *
 * All functions are collective over the world and return the same status on every rank when they
 * set something up; inside a step a status may differ, and ends the job (style.md, Errors). */
#ifndef MODEL_PIPELINE_PIPELINE_H
#define MODEL_PIPELINE_PIPELINE_H

#include "model/checkpoint/checkpoint.h"
#include "model/pipeline/plan.h"

struct pipeline {
    struct world *world; // borrowed, as are device and checkpoint
    struct device *dev;
    struct checkpoint *checkpoint;
    struct plan_input plan; // of the largest request to come
    struct plan_rank sizes; // of this rank
    struct mesh mesh;
    struct arena dit_weights, vae_weights;
    struct dit dit;
    struct vae vae;
    bool dit_ready, dit_whole, vae_ready; // whole: with what the other ranks read
    bool in_step; // a failure now is this rank's own: the others cannot agree, end the job
};

/* Opens the mesh; models are loaded when first used. plans[0 .. count): the requests to come, which
 * differ in sizes and steps only; their config is the checkpoint's. */
status pipeline_open(struct pipeline *p, struct world *world, struct device *dev,
                     struct checkpoint *checkpoint, const struct plan_input *plans, int count);
void pipeline_close(struct pipeline *p);

/* Prompts to text rows on every rank; out[i].data is malloc'ed. Rank 0 encodes; the others load the
 * transformer meanwhile, rank 0 behind it. With t5_fsdp all ranks encode. prompts is looked at on
 * rank 0 only. */
status pipeline_text(struct pipeline *p, int count, const char *const *prompts,
                     struct text_rows *out);

/* Loads the transformer, if pipeline_text has not done it. */
status pipeline_load(struct pipeline *p);

/* What watches a run, on every rank: called after each step; a status other than ST_OK ends it. */
struct step_watch {
    status (*step)(void *payload, struct denoise *d, int done, int steps);
    void *payload;
};

/* A whole latent [c, t, h, w] in host memory of every rank: from `noise`, or from `state` when that
 * is not NULL. */
status pipeline_denoise(struct pipeline *p, const struct denoise_input *in, const float *noise,
                        const struct denoise_state *state, struct step_watch watch, float *latent);

/* Frees the transformer unless the plan keeps the models. */
void pipeline_offload(struct pipeline *p);

/* Frames of a latent to the sink on rank 0. */
status pipeline_decode(struct pipeline *p, struct latent_shape shape, const float *latent,
                       struct vae_tiling tiling, struct frame_sink sink);

#endif
