/* run_state.h - a generation as a run file (runtime/runfile.h), to resume, and to look inside.
 *
 *   /noise    [C, T, H, W] f32   the first latent
 *   /latents  [C, T, H, W] f32   normalized, after the last finished step
 *   /step     i64                finished steps
 *   /solver/m0, m1, last         the solver's history, latent shape; /solver/order i64
 *   /text/cond, /text/uncond, .. the conditioning, by its names (transformer/conditioning.h)
 *   /frames   [T, H, W, 3] u8    with --keep_frames
 *   texts: request (JSON), plan, version, timings (JSON)
 *
 * The functions here are local: rank 0 reads and writes. */
#ifndef LAUNCH_RUN_STATE_H
#define LAUNCH_RUN_STATE_H

#include "model/pipeline/denoise.h"
#include "runtime/runfile.h"

/* Adds the arrays to `file`, which borrows their memory. ST_MEMORY. */
status run_state_save(struct runfile *file, struct latent_shape s, const float *noise,
                      const struct denoise_state *state);
status run_state_save_conditioning(struct runfile *file, const struct conditioning *c);

/* Copies /noise into `noise`, of shape s; the rest of the state into the arrays of `state`. The
 * file's arrays must have the type and the shape that this request needs. `path` is for the error
 * line. ST_USAGE, ST_FORMAT. */
status run_state_noise(float *noise, struct latent_shape s, const struct runfile *file,
                       const char *path);
status run_state_load(struct denoise_state *state, struct latent_shape s, int steps,
                      const struct runfile *file, const char *path);

/* Copies into `c` the file's array for each name that `wanted` has; the first axis may have another
 * size (rows of text). `path` is for the error line. ST_FORMAT, ST_MEMORY. */
status run_state_conditioning(struct conditioning *c, const struct conditioning *wanted,
                              const struct runfile *file, const char *path);

#endif
