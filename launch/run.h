/* run.h - one generation of a job, with its files: the run file that is read and written, and the
 * video that is written. */
#ifndef LAUNCH_RUN_H
#define LAUNCH_RUN_H

#include "launch/job.h"
#include "launch/video/video.h"
#include "runtime/filelock.h"
#include "runtime/runfile.h"

struct run {
    struct request *request; // borrowed, complete
    struct plan_input plan;
    struct schedule schedule;
    struct noise generator; // of the first noise, before that was drawn
    struct conditioning conditioning;
    float *noise, *latent;      // [C, T, H, W] f32 in host memory, on every rank
    struct denoise_state state; // after the last step for which it was copied from the device
    bool resumed;
    int64_t clip;    // of a video in clips: the one whose state that is
    float *finished; // the latents of the clips before it, [clips][C, T, H, W]; NULL: of one clip
    int64_t put;     // rank 0: number of frames that the video has got
    struct video *video;       // rank 0
    struct filelock lock;      // rank 0: of the run file
    bool saved;                // rank 0: the run file holds `state`
    struct run_frames *frames; // rank 0, with --keep_frames, while decoding
    status frames_lost;        // rank 0: the error that ended their writing
    const char *again;         // what to do after run_stop; NULL: the line names the command
    struct cache_report report;
    double text_s, denoise_s, decode_s; // durations; text_s includes loading the transformer
    double switch_s;                    // of denoise_s, for the change of experts
};

/* Makes the schedule, the noise and the buffers, and opens the files that will be written, so that
 * errors are found before the long computation. `from`: the contents of the run file, read on rank
 * 0, if the run is resumed; else NULL. `r` is borrowed until run_close. Collective; the ranks agree
 * on the status. ST_USAGE, ST_IO, ST_FORMAT, ST_MEMORY. */
status run_open(struct run *run, struct job *j, struct request *r, const struct plan_input *plan,
                const struct runfile *from);

/* Makes run->conditioning: copies it from the run file of --resume, whose contents `from` rank 0
 * has read, or from that of --text; else the task's function computes it from the request's inputs.
 * Collective. */
status run_condition(struct run *run, struct job *j, struct pipeline *p,
                     const struct runfile *from);

/* Whether all steps are done, as in a run that goes on: it needs no transformer. Local. */
bool run_is_sampled(const struct run *run);

/* Denoises, decodes, and writes the files. Collective. If it fails and p->must_abort is true, the
 * ranks have not agreed on the status: the command must end the job with command_abort. */
status run_go(struct run *run, struct job *j, struct pipeline *p);

/* After ST_PREEMPTED of any function of the run: rank 0 saves what was computed, without --run_file
 * beside the video, and writes the line that says how to go on. Collective unless p->must_abort.
 * ST_PREEMPTED; ST_IO, ST_MEMORY or ST_USAGE if it could not be saved. Accepts a zeroed run. */
status run_stop(struct run *run, struct job *j, const struct pipeline *p);

void run_close(struct run *run); // removes unfinished files; accepts a half-open or zeroed run

#endif
