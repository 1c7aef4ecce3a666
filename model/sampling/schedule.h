/* schedule.h - the noise levels of a run, and the solvers. Flow matching: x = (1 - sigma) x0
 * + sigma noise, the network predicts v = noise - x0.
 *
 *   unipc  UniPC of order 2 with B(h) = e^h - 1, predictor and corrector, sigma from 0.999
 *   dpm++  DPM-Solver++(2M), midpoint, sigma from 1
 *   euler  as in DiffSynth: sigma from 1, the whole list in f32
 *
 * Files of this folder: schedule.c the lists of sigmas and timesteps, solver.c a solver's step,
 * noise.h the initial noise, noise.c PyTorch's CPU generator, noise_cuda.c its CUDA generator.
 *
 * Source: Wan2.1 wan/utils/fm_solvers*.py; DiffSynth-Studio diffsynth/diffusion/flow_match.py. */
#ifndef MODEL_SAMPLING_SCHEDULE_H
#define MODEL_SAMPLING_SCHEDULE_H

#include "kernels/ops.h"
#include "runtime/arena.h"

enum solver_kind { SOLVER_UNIPC, SOLVER_DPMPP, SOLVER_EULER };

/* From "unipc", "dpm++" or "euler". ST_USAGE lists these names. */
status solver_parse(enum solver_kind *kind, const char *name);
const char *solver_name(enum solver_kind kind);

struct schedule {
    enum solver_kind kind;
    int steps;
    float *sigma;    // [steps + 1], the last is 0
    float *timestep; // [steps], the network's input: truncated to integers, except for euler
};

/* Allocates the arrays; schedule_done frees them. ST_USAGE for steps < 1 or shift <= 0. */
status schedule_init(struct schedule *s, enum solver_kind kind, int steps, double shift);
void schedule_done(struct schedule *s); // accepts a zeroed schedule

/* The first step whose timestep is below `timestep`; the number of steps if there is none. */
int schedule_below(const struct schedule *s, double timestep);

/* The state between steps; all tensors have the latent's shape, f32. A tensor that the solver does
 * not need is empty. To continue an interrupted run with the same bits, restore the history, `step`
 * and `order`. */
struct solver {
    const struct schedule *schedule;
    struct tensor m[2]; // x0 of the last step and the one before (unipc, dpm++)
    struct tensor last; // the corrected sample that the last predictor started from (unipc)
    struct tensor next; // scratch
    int step;           // index of the next step
    int order;          // of the last predictor (unipc)
};

#define SOLVER_STATE 3 // tensors of the history: m[0], m[1], last

/* Allocates from `a` and clears the history. `schedule` must stay valid. */
status solver_init(struct solver *s, const struct schedule *schedule, struct arena *a, int64_t rows,
                   int64_t cols);

/* How many tensors of the history a solver keeps: m[0], m[1], last in this order. */
int solver_history(enum solver_kind kind);

/* `order` of the solver when `step` steps are finished. */
int solver_order(const struct schedule *s, int step);

/* v = u + guidance (c - u), or v = c if u is empty; then one step, x in place. x, c, u [rows, cols]
 * f32, contiguous; c and u are the outputs of the cond and the uncond branch. */
status solver_step(struct solver *s, struct device *dev, struct tensor x, struct tensor c,
                   struct tensor u, float guidance);

#endif
