/* runfile.h - the run file: a generation's whole state in HDF5, to go on from, and to look inside.
 *
 *   /noise    [C, T, H, W] f32   the first latent
 *   /latents  [C, T, H, W] f32   normalized, after the last finished step
 *   /step     i64                finished steps
 *   /solver/m0, m1, last         the solver's history, latent shape; /solver/order i64
 *   /text/cond, /text/uncond     [rows, text_dim] f32
 *   /frames   [T, H, W, 3] u8    with --keep_frames
 *   attributes: request (JSON), plan, version, timings
 *
 * Written to a temporary name beside the file and renamed, so that a reader sees whole states only.
 */
#ifndef RUNTIME_RUNFILE_H
#define RUNTIME_RUNFILE_H

#include "runtime/status.h"

#include <stdbool.h>
#include <stdint.h>

struct run_array {
    int ndim; // 0: not there; at most 4
    int64_t dim[4];
    float *data; // malloc'ed when read by runfile_read; borrowed when written
};

struct runfile {
    struct run_array noise, latents, history[3], cond, uncond;
    int64_t step, order;
    char *request, *plan, *version, *timings; // JSON or text; NULL when not there
};

/* Arrays: noise, latents and history have four axes and one shape; texts have two. ST_IO. */
status runfile_write(const char *path, const struct runfile *r);

/* Reads what is there; a file that holds nothing but /noise or /text will do. Shapes, types and
 * sizes are held against each other and the file, values must be finite. ST_IO, ST_FORMAT: names
 * the object. */
status runfile_read(const char *path, struct runfile *r);
void runfile_done(struct runfile *r); // frees what runfile_read made; accepts a zeroed value

/* Replaces the attribute of an existing run file. */
status runfile_set_timings(const char *path, const char *timings);

/* Puts /frames into an existing run file. They go into a copy beside it, which takes its place when
 * all have come: a job that dies while decoding still has its latents. */
struct run_frames;
status run_frames_open(struct run_frames **f, const char *path, int64_t count, int64_t h,
                       int64_t w);
status run_frames_put(struct run_frames *f, const uint8_t *rgb, int64_t count); // [count, h, w, 3]
status run_frames_finish(struct run_frames *f); // close afterwards in any case
void run_frames_close(struct run_frames *f);    // drops what was not finished; accepts NULL

#endif
