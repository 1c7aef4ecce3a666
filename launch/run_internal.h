/* run_internal.h - what run.c has for run_go.c. */
#ifndef LAUNCH_RUN_INTERNAL_H
#define LAUNCH_RUN_INTERNAL_H

#include "launch/run.h"

/* Sets the generator of the clip's noise: each clip has the next seed. Local. */
void run_open_noise(struct run *run);

/* Opens the video, which records the request. On rank 0. */
status run_open_video(struct run *run);

#endif
