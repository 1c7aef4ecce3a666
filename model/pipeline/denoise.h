/* denoise.h - one latent from noise: transformer, guidance and solver, step by step, on the tokens
 * that this rank holds. The same code runs on the plan device to learn what it takes. */
#ifndef MODEL_PIPELINE_DENOISE_H
#define MODEL_PIPELINE_DENOISE_H

#include "model/sampling/schedule.h"
#include "model/transformer/dit.h"

/* The shape of a latent [c, t, h, w]; tokens are cells of 2 x 2. */
struct latent_shape {
    int64_t c, t, h, w;
};

static inline int64_t latent_count(struct latent_shape s)
{
    return s.c * s.t * s.h * s.w;
}

/* Text as the encoder gave it: rows [rows, text_dim] f32, host memory of the owner. */
struct text_rows {
    int64_t rows;
    float *data;
};

struct denoise_input {
    struct latent_shape shape;
    struct schedule schedule; // borrowed arrays
    float guidance;
    bool guided;              // two sides; else `text[1]` is not looked at
    struct text_rows text[2]; // conditional, unconditional; data may be NULL on a plan device
};

struct denoise {
    struct denoise_input in;
    struct dit *m; // borrowed, as are the arenas
    struct device *dev;
    struct mesh *mesh;
    struct arena *scratch;
    struct dit_run run;
    struct solver solver;
    struct tensor x, v; // [s_loc, 4c]; [2 or 1, s_loc, 4c], f32
    int local_sides;    // sides that this rank computes
};

/* What a run file keeps of a run: host arrays of latent shape, the owner's; on a plan device NULL.
 */
struct denoise_state {
    float *latents, *history[SOLVER_STATE];
    bool used[SOLVER_STATE]; // which of the history this solver has
    int64_t step, order;
};

/* Takes what lives as long as the run from `a`. Local. */
status denoise_begin(struct denoise *d, struct dit *m, struct arena *a, struct arena *scratch,
                     const struct denoise_input *in);
void denoise_end(struct denoise *d);

/* The starting point: a whole latent [c, t, h, w] in host memory of every rank, at step 0; or a
 * state, which goes on behind its last step. Latents are NULL on a plan device, here and below. */
status denoise_start(struct denoise *d, const float *noise);
status denoise_restore(struct denoise *d, const struct denoise_state *state);

/* One step. Collective over the mesh. */
status denoise_step(struct denoise *d);

/* The whole latent after the last step, to host memory of every rank. Collective. */
status denoise_latent(struct denoise *d, float *latent);

/* The whole state, into the caller's arrays. Collective. */
status denoise_save(struct denoise *d, struct denoise_state *state);

#endif
