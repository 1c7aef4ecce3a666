/* schedule.h - the noise levels of a run, and the solvers. Flow matching: x = (1 - sigma) x0
 * + sigma noise, the network predicts v = noise - x0.
 *
 *   unipc  UniPC of order 2 with B(h) = e^h - 1, predictor and corrector, sigma from 0.999
 *   dpm++  DPM-Solver++(2M), midpoint, sigma from 1
 *   euler  as in DiffSynth: sigma from 1, the whole list in f32
 *   renoise  for models that were distilled with DMD or rCM: each step predicts x0 and adds fresh
 *          noise of the next level to it; "lcm" elsewhere. Sigma as for euler
 *
 * Distilled models have their own lists of steps, for euler and renoise: schedule_init_list, and
 * for rCM schedule_init_rcm.
 *
 * Files of this folder: schedule.c the lists of sigmas and timesteps, solver.c a solver's step,
 * noise.h PyTorch's generators, noise.c that of the CPU, noise_cuda.c that of CUDA.
 *
 * Source: Wan2.1 wan/utils/fm_solvers*.py; DiffSynth-Studio diffsynth/diffusion/flow_match.py;
 * LightX2V lightx2v/models/schedulers/wan/step_distill; FastVideo fastvideo/pipelines/stages
 * (DmdDenoisingStage); TurboDiffusion turbodiffusion/inference. */
#ifndef MODEL_SAMPLING_SCHEDULE_H
#define MODEL_SAMPLING_SCHEDULE_H

#include "kernels/ops.h"
#include "runtime/arena.h"

enum solver_kind { SOLVER_UNIPC, SOLVER_DPMPP, SOLVER_EULER, SOLVER_RENOISE };

/* From "unipc", "dpm++", "euler" or "renoise". ST_USAGE lists these names. */
status solver_parse(enum solver_kind *kind, const char *name);
const char *solver_name(enum solver_kind kind);

struct schedule {
    enum solver_kind kind;
    int steps;
    float *sigma;    // [steps + 1], the last is 0
    float *timestep; // [steps], the network's input: integers for unipc and dpm++
    float start;     // the first latent is the noise times this: 1, but for rCM sigma[0]
};

/* Whether a solver takes lists of steps. */
bool solver_takes_list(enum solver_kind kind);

/* Allocates the arrays; schedule_done frees them. ST_USAGE for steps < 1 or shift <= 0. */
status schedule_init(struct schedule *s, enum solver_kind kind, int steps, double shift);
void schedule_done(struct schedule *s); // accepts a zeroed schedule

/* The steps of a list that falls from at most 1000 and stays above 0, for a solver that takes one.
 * ST_USAGE for another list, and for shift <= 0. What its numbers are:
 *   warp   timesteps before the shift, as LightX2V and Self-Forcing list them: t / 1000 is shifted,
 *          and the network's timestep is 1000 sigma
 *   else   timesteps after the shift, as FastVideo lists them: the network gets them as they are,
 *          and sigma is that of the nearest of the 1000 timesteps of training */
status schedule_init_list(struct schedule *s, enum solver_kind kind, const double *list, int steps,
                          double shift, bool warp);

#define RCM_STEPS_MAX 4

/* The 1 to RCM_STEPS_MAX steps of rCM and TurboDiffusion, whose first noise has the standard
 * deviation sigma_max beside an image of 1. ST_USAGE. */
status schedule_init_rcm(struct schedule *s, enum solver_kind kind, int steps, double sigma_max);

/* Video to video: as many steps from less noise. Before the shift the sigmas fall from `strength`,
 * in (0, 1], times the solver's start. Source: DiffSynth, set_timesteps_wan. */
status schedule_init_partial(struct schedule *s, enum solver_kind kind, int steps, double shift,
                             double strength);

/* Video to video with a list of steps, whose timesteps a distilled model was trained for: removes
 * the first steps, whose sigma is above `sigma`. ST_USAGE if none is left. */
status schedule_start_below(struct schedule *s, double sigma);

/* The first step whose timestep is below `timestep`; the number of steps if there is none. */
int schedule_below(const struct schedule *s, double timestep);

/* The state between steps; all tensors have the latent's shape, f32. A tensor that the solver does
 * not need is empty. To continue an interrupted run with the same bits, restore the history, `step`
 * and `order`. */
struct solver {
    const struct schedule *schedule;
    struct tensor m[2];  // x0 of the last step and the one before (unipc, dpm++)
    struct tensor last;  // the corrected sample that the last predictor started from (unipc)
    struct tensor next;  // scratch
    struct tensor noise; // that the next step adds (renoise); the caller sets it before the step
    int step;            // index of the next step
    int order;           // of the last predictor (unipc)
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
