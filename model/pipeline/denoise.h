/* denoise.h - one latent from noise: transformer, guidance and solver, step by step, on the tokens
 * of this rank. One or two transformers (experts), each for its range of times. The same code runs
 * on the plan device to compute its memory and work. */
#ifndef MODEL_PIPELINE_DENOISE_H
#define MODEL_PIPELINE_DENOISE_H

#include "model/sampling/schedule.h"
#include "model/transformer/dit.h"

#define EXPERTS_MAX 2

/* The shape of a latent [c, t, h, w]; tokens are cells of 2 x 2. */
struct latent_shape {
    int64_t c, t, h, w;
};

static inline int64_t latent_count(struct latent_shape s)
{
    return s.c * s.t * s.h * s.w;
}

struct denoise_input {
    struct latent_shape shape;
    struct schedule schedule;    // borrowed arrays
    bool guided;                 // two branches; else only cond is used
    float guidance[EXPERTS_MAX]; // of each expert
    float boundary;              // timesteps from here on are expert 0's, those below expert 1's
    const struct conditioning *conditioning; // borrowed during denoise_begin
};

struct denoise {
    struct denoise_input in;
    struct device *dev; // borrowed, as are mesh and arena
    struct mesh *mesh;
    struct arena *scratch;
    int experts;
    struct dit_run run[EXPERTS_MAX];
    struct solver solver;
    struct tensor x;     // [n, 4c] f32: the n tokens of the latent that this rank has
    struct tensor v;     // [2 or 1, n, 4c] f32
    struct tensor clean; // [m, 4c] f32: the first m of them, which stay as they are; or none
    int local_branches;  // those that this rank computes
};

/* What a run file keeps of a run: host arrays of latent shape, the owner's; on a plan device NULL.
 */
struct denoise_state {
    float *latents, *history[SOLVER_STATE];
    bool used[SOLVER_STATE]; // which of the history this solver has
    int64_t step, order;
};

/* Memory that stays comes from `a`. dit: one or two, on the same mesh and device. Local. */
status denoise_begin(struct denoise *d, struct dit *const *dit, int experts, struct arena *a,
                     struct arena *scratch, const struct denoise_input *in);
void denoise_end(struct denoise *d);

/* The starting point: a whole latent [c, t, h, w] in host memory of every rank, at step 0; or a
 * state, which continues after its last step. Latents are NULL on a plan device, here and below. */
status denoise_start(struct denoise *d, const float *noise);
status denoise_restore(struct denoise *d, const struct denoise_state *state);

/* One step. Collective over the mesh. */
status denoise_step(struct denoise *d);

/* The whole latent after the last step, to host memory of every rank. Collective. */
status denoise_latent(struct denoise *d, float *latent);

/* The whole state, into the caller's arrays. Collective. */
status denoise_save(struct denoise *d, struct denoise_state *state);

#endif
