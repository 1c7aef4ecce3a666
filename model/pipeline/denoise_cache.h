/* denoise_cache.h - step caching in the loop over steps: what is kept on the device, and the
 * measurements that decide.
 *
 * A decision is the same on every rank: rank 0's schedule is sent to all (teacache), or all have
 * gathered the same sums of rows (easycache, firstblock), and add them in the same order, whatever
 * the number of ranks. firstblock waits for the device once per step; easycache measures at the end
 * of a step, and reads that with what the host waits for anyway.
 *
 * To resume with the same bits, the latent before the last computed forward of each branch is
 * saved; that forward is computed again, which rebuilds what is kept.
 *
 * The functions are called by denoise.c, in this order in a step; each does nothing without a
 * cache. */
#ifndef MODEL_PIPELINE_DENOISE_CACHE_H
#define MODEL_PIPELINE_DENOISE_CACHE_H

#include "model/sampling/step_cache.h"
#include "model/transformer/dit.h"

struct denoise;
struct denoise_state;

#define CACHE_NUMBERS 4 // of step_cache in a run file: error, rate, in_row, whether the next skips

/* What a run reports; the caller allocates the arrays. */
struct cache_report {
    int forwards, computed;        // of both branches, on all ranks
    double *ratio[CACHE_BRANCHES]; // CACHE_CALIBRATE: [steps], of steps 1, 2, ...
};

struct denoise_cache {
    struct step_cache steps;
    struct tensor
        anchor[CACHE_BRANCHES];      // [n, 4C] f32: the latent before the last computed forward
    int anchor_step[CACHE_BRANCHES]; // the step of that; -1: none
    bool rebuild;                    // a saved state: its forwards must be computed again
    bool agreed;                     // all ranks have the same schedule
    bool predicted, measured;        // easycache: in this step; a rate in this step
    struct tensor residual[CACHE_BRANCHES]; // [s_loc, C] f32: of struct dit_run, for each expert
    struct tensor first;                    // firstblock: the first block's residual in the last
                                            // computed forward of cond
    struct tensor before, output;         // easycache: the latent before this step; cond's velocity
    struct tensor offset[CACHE_BRANCHES]; // in the last computed step, and velocity minus latent
    struct tensor sums, all;              // [rows, k] f32: sums of this rank's rows; of all rows
    float *host;                          // `all` in host memory
    double *norm[CACHE_BRANCHES];         // calibrate: [tokens] of the last residual
};

/* After the latent's tensors have been allocated (dim: C of the transformers); after an expert has
 * begun; and at the end. Local.
 */
status cache_begin(struct denoise *d, int64_t dim);
status cache_begin_expert(struct denoise *d, int expert);
void cache_end(struct denoise *d);

/* Bytes of host memory that cache_begin allocates. */
size_t cache_host_bytes(const struct cache_settings *set, int64_t tokens);

/* Before a step's forwards. c->predicted: d->v has been predicted, and no forward follows. */
status cache_start_step(struct denoise *d, int step);

/* A forward of a branch of this rank, or its prediction; in place of dit_forward. */
status cache_forward(struct denoise *d, struct dit_run *run, int step, int branch, struct tensor v,
                     struct tensor x);

/* After the velocities are complete; and after the solver's step. Collective. */
status cache_end_velocity(struct denoise *d, int step);
status cache_end_step(struct denoise *d);

/* Reads what was measured, when the device is idle, and decides on the next step. Local. */
status cache_read(struct denoise *d);   // queues the copy to host memory
status cache_decide(struct denoise *d); // after device_wait

/* As denoise_save and denoise_restore. */
status cache_save(struct denoise *d, struct denoise_state *state);
status cache_restore(struct denoise *d, const struct denoise_state *state);

#endif
