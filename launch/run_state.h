/* run_state.h - the state of a generation in a run file (runtime/runfile.h), to resume it and to
 * inspect it.
 *
 *   /noise    [C, T, H, W] f32   the initial latent
 *   /latents  [C, T, H, W] f32   normalized, after the last finished step
 *   /step     i64                finished steps
 *   /solver/m0, m1, last         the solver's history, latent shape; /solver/order i64
 *   /guidance/difference         of the CFG branches, if the next step uses it; latent shape
 *   /cache/x0, x1, steps, numbers   of a step cache (model/pipeline/denoise_cache.h): latents, i64,
 *                                   f32
 *   /text/cond, /text/uncond, .. the conditioning arrays (model/transformer/conditioning.h)
 *   /frames   [T, H, W, 3] u8    with --keep_frames
 *   texts: request (JSON), folder (of its relative paths), plan, version, timings (JSON)
 *
 * The functions here are local: rank 0 reads and writes. */
#ifndef LAUNCH_RUN_STATE_H
#define LAUNCH_RUN_STATE_H

#include "model/pipeline/plan.h"
#include "runtime/filelock.h"
#include "runtime/runfile.h"

/* Add the arrays to `file`, which borrows their memory. ST_MEMORY. */
status run_state_save(struct runfile *file, struct latent_shape s, const float *noise,
                      const struct denoise_state *state);
status run_state_save_conditioning(struct runfile *file, const struct conditioning *c);

/* Copy /noise into `noise` of shape s, and the rest of the state into *state, whose arrays the
 * caller has allocated. `plan`, `schedule`: those of the request. `path` names the file in error
 * lines. ST_USAGE if an array has another data type or shape than the request needs; ST_FORMAT if
 * one is missing or a count is out of range: between the first step and the last the file must have
 * the solver's order and history, else another latent would follow; and in the gate of the guidance
 * the last difference; and with a step cache what that needs. */
status run_state_noise(float *noise, struct latent_shape s, const struct runfile *file,
                       const char *path);
status run_state_load(struct denoise_state *state, const struct plan_input *plan,
                      const struct schedule *schedule, const struct runfile *file,
                      const char *path);

/* The number of finished steps, at most `steps`; 0 if the file has no valid number. */
int run_state_step(const struct runfile *file, int steps, int clips);

/* Of a video in clips: the number of finished clips, and their latents, [finished][C, T, H, W].
 * Without /clip in the file *finished is 0. ST_FORMAT if there are `clips` or more. */
status run_state_save_clips(struct runfile *file, struct latent_shape s, const float *latents,
                            const int64_t *finished);
status run_state_load_clips(int64_t *finished, float *latents, struct latent_shape s, int clips,
                            const struct runfile *file, const char *path);

/* For each array that `planned` names, copies the file's array into `c`. It must have the planned
 * shape; the first axis (rows of text) may have another size. `path` names the file in error lines.
 * ST_FORMAT, ST_MEMORY. */
status run_state_conditioning(struct conditioning *c, const struct conditioning *planned,
                              const struct runfile *file, const char *path);

/* Takes the run file that a run will write: no other job may write it until filelock_release.
 * `from`: what the run continues, or NULL. An existing file must be equal to it, and then *saved is
 * set: nothing else is ever replaced. ST_USAGE, ST_IO, ST_FORMAT. */
status run_state_claim(struct filelock *lock, const char *path, const struct runfile *from,
                       bool *saved);

/* Removes what a killed job left beside a run file: its lock and unfinished files. Does nothing
 * while another job uses the file. */
void run_state_clean(const char *path);

#endif
