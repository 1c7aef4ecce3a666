/* runfile.h - the run file: a generation's whole state in HDF5, to go on from, and to look inside.
 *
 *   /noise    [C, T, H, W] f32   the first latent
 *   /latents  [C, T, H, W] f32   normalized, after the last finished step
 *   /step     i64                finished steps
 *   /solver/m0, m1, last         the solver's history, latent shape; /solver/order i64
 *   /text/cond, /text/uncond     [rows, text_dim] f32
 *   /frames   [T, H, W, 3] u8    with --keep_frames, grows while decoding
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
    int ndim; // 0: not there
    int64_t dim[4];
    float *data; // malloc'ed when read by runfile_read; borrowed when written
};

struct runfile {
    struct run_array noise, latents, history[3], cond, uncond;
    int64_t step, order;
    char *request, *plan, *version, *timings; // JSON or text; NULL when not there
};

status runfile_write(const char *path, const struct runfile *r);
status runfile_read(const char *path, struct runfile *r); // ST_IO, ST_FORMAT: names what is missing
void runfile_done(struct runfile *r);                     // frees what runfile_read made

/* Appends u8 frames [count, h, w, 3] to /frames of an existing run file. */
status runfile_append_frames(const char *path, const uint8_t *rgb, int64_t count, int64_t h,
                             int64_t w);
status runfile_set_timings(const char *path, const char *timings);

#endif
