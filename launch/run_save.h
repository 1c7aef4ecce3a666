/* run_save.h - the run file of a run in progress. All functions are for rank 0.
 *
 * A save that fails does not end the run: it is a warning, the next save tries again, and the run
 * ends with an error only if its last state is not on disk. */
#ifndef LAUNCH_RUN_SAVE_H
#define LAUNCH_RUN_SAVE_H

#include "launch/run.h"

/* Saves run->state. ST_IO, ST_MEMORY, ST_USAGE. */
status run_save(struct run *run, const struct job *j);

/* The same; a failure is a warning. */
void run_save_or_warn(struct run *run, struct job *j);

/* With --keep_frames: decoded frames go into the run file; a failure is a warning. */
void run_save_frames_begin(struct run *run, struct job *j);
void run_save_frames(struct run *run, struct job *j, const uint8_t *rgb, int64_t count);

/* Writes the durations of the stages, the frames if they are kept, and the state again. If only the
 * durations are lost, it prints a note. ST_IO, ST_MEMORY, ST_USAGE if the state, or the frames, are
 * not on disk. */
status run_save_end(struct run *run, struct job *j);

#endif
