/* schedule.h - noise levels and the solvers that walk down them. Flow matching: x = (1 - sigma) x0
 * + sigma noise, the network predicts v = noise - x0.
 *
 *   unipc  UniPC of order 2 with B(h) = e^h - 1, predictor and corrector, sigma from 0.999
 *   dpm++  DPM-Solver++(2M), midpoint, sigma from 1
 *   euler  as DiffSynth has it: sigma from 1, the whole list in f32
 *
 * Source: Wan2.1 wan/utils/fm_solvers*.py; DiffSynth-Studio diffsynth/diffusion/flow_match.py. */
#ifndef MODEL_SAMPLING_SCHEDULE_H
#define MODEL_SAMPLING_SCHEDULE_H

#include "kernels/ops.h"
#include "runtime/arena.h"

enum solver_kind { SOLVER_UNIPC, SOLVER_DPMPP, SOLVER_EULER };

/* "unipc", "dpm++", "euler"; ST_USAGE names the known ones. */
status solver_parse(enum solver_kind *kind, const char *name);
const char *solver_name(enum solver_kind kind);

struct schedule {
    enum solver_kind kind;
    int steps;
    float *sigma;    // [steps + 1], the last is 0
    float *timestep; // [steps], as the network sees them: truncated integers, but euler's floats
};

/* Owned arrays; schedule_done frees. ST_USAGE for steps < 1 or shift <= 0. */
status schedule_init(struct schedule *s, enum solver_kind kind, int steps, double shift);
void schedule_done(struct schedule *s); // accepts a zeroed schedule

/* The state of a run between steps; all tensors have the latent's shape, f32. What a solver does
 * not need is none. Filling in the history, `step` and `order` of a run that was interrupted goes
 * on with the same bits. */
struct solver {
    const struct schedule *schedule;
    struct tensor m[2]; // x0 of the last step and the one before (unipc, dpm++)
    struct tensor last; // the corrected sample the last predictor started from (unipc)
    struct tensor next; // scratch
    int step;           // next to do
    int order;          // of the last predictor (unipc)
};

#define SOLVER_STATE 3 // tensors that make the history: m[0], m[1], last

/* Memory from `a`, the history cleared. `schedule` stays borrowed. */
status solver_init(struct solver *s, const struct schedule *schedule, struct arena *a, int64_t rows,
                   int64_t cols);

/* v = u + guidance (c - u), or c where u is none; then one step: x in place. x, c, u [rows, cols]
 * f32, contiguous. */
status solver_step(struct solver *s, struct device *dev, struct tensor x, struct tensor c,
                   struct tensor u, float guidance);

#endif
