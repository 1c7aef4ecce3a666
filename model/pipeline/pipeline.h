/* pipeline.h - from prompts to frames, over one set of ranks.
 *
 *     conditioning (task.h) -> noise -> { transformer -> guidance -> solver } x steps -> VAE ->
 * frames
 *
 *   model.h      parts, presets, and whether parts fit each other
 *   task.h       a row per task; condition.h its conditioning
 *   denoise.h    the loop over steps, with one or two experts
 *   plan.h       memory and work of a request, before it runs
 *   pipeline.h   loading, text, and the stages of a run
 *
 * All functions are collective over the world and return the same status on every rank when they
 * set something up; inside a step a status may differ, and ends the job (style.md, Errors). */
#ifndef MODEL_PIPELINE_PIPELINE_H
#define MODEL_PIPELINE_PIPELINE_H

#include "model/pipeline/plan.h"
#include "model/text/tokenizer.h"

/* A prompt as the text encoder gives it. */
struct text_entry {
    char *prompt;       // owned
    struct tensor rows; // [rows, text_dim] f32; data malloc'ed
};

struct pipeline {
    struct world *world; // borrowed, as are device, checkpoint and tokenizer
    struct device *dev;
    struct checkpoint *checkpoint;
    struct tokenizer *tokenizer; // on rank 0; NULL where no text is encoded
    struct plan_input plan;      // of the largest request to come
    struct plan_rank sizes;      // of this rank
    struct mesh mesh;
    struct arena dit_weights, vae_weights;
    struct dit dit[EXPERTS_MAX];
    int experts; // transformers that are loaded; 0: none
    struct vae vae;
    bool dit_complete; // with what the other ranks read
    bool vae_ready;
    struct text_entry *texts; // encoded so far, on every rank
    int text_count;
    bool in_step; // a failure now is this rank's own: the others cannot agree, end the job
};

/* Opens the mesh; models are loaded when first used. plans[0 .. count): the requests to come, which
 * differ in sizes and steps only; their model is the checkpoint's. */
status pipeline_open(struct pipeline *p, struct world *world, struct device *dev,
                     struct checkpoint *checkpoint, struct tokenizer *tokenizer,
                     const struct plan_input *plans, int count);
void pipeline_close(struct pipeline *p);

/* The checkpoint's tokenizer, which must not have more pieces than the text encoder's vocabulary.
 * Local. ST_FORMAT. */
status pipeline_tokenizer(struct tokenizer **t, struct checkpoint *c);

/* Encodes those of the prompts that are not encoded yet, all at once. Rank 0 encodes; the others
 * load the transformer meanwhile, rank 0 after it. With t5_fsdp all ranks encode. */
status pipeline_text(struct pipeline *p, int count, const char *const *prompts);

/* The rows of an encoded prompt [rows, text_dim] f32 in host memory, the pipeline's. */
struct tensor pipeline_text_rows(const struct pipeline *p, const char *prompt);

/* Loads the transformer, if pipeline_text has not done it. */
status pipeline_load(struct pipeline *p);

/* Callback on every rank after each step; a status other than ST_OK ends the run. */
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
