/* run.h - one generation of a job, with its files: the run file it comes from and goes to, the
 * video it ends in. */
#ifndef LAUNCH_RUN_H
#define LAUNCH_RUN_H

#include "launch/job.h"
#include "launch/video/video.h"
#include "runtime/runfile.h"

struct run {
    struct request *request; // borrowed, complete
    struct plan_input plan;
    struct schedule schedule;
    struct conditioning conditioning;
    float *noise, *latent;      // [c, t, h, w], every rank
    struct denoise_state state; // to go on from, or for saving; arrays of latent shape
    bool resumed;
    struct video *video;                // rank 0
    struct run_frames *frames;          // rank 0, with --keep_frames, while decoding
    char *name;                         // of the result
    double text_s, denoise_s, decode_s; // seconds of the stages
};

/* Before the long computation: schedule, noise, buffers, files that will be written. `from` is the
 * run file's content on rank 0 when the run is resumed, else NULL. Collective. */
status run_open(struct run *run, struct job *j, struct request *r, const struct plan_input *plan,
                const struct runfile *from);

/* The conditioning: by the task's function from the request's inputs; or, where `from` is not NULL,
 * from the arrays of a run file, which rank 0 has read from `path`. Collective. */
status run_condition(struct run *run, struct job *j, struct pipeline *p, const struct runfile *from,
                     const char *path);

/* Denoise, decode, write. Collective; faults inside a step end the job. */
status run_go(struct run *run, struct job *j, struct pipeline *p);

void run_close(struct run *run); // accepts a half-open or zeroed run

#endif
