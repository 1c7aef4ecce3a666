/* task.h - what can be asked for: a row per task of the official programs, with its defaults.
 *
 * Source: Wan2.1 generate.py and wan/configs; Wan2.2 wan/configs for the names of its tasks. */
#ifndef LAUNCH_TASK_H
#define LAUNCH_TASK_H

#include "runtime/status.h"

#include <stdbool.h>

struct task {
    const char *name;   // "t2v-1.3B"
    const char *preset; // its model in model/config.h; NULL for tasks not done here
    bool image;         // one frame, to a .png
    int width_px, height_px;
    const char *sizes; // officially supported, "832*480, 480*832"
    int frames, fps, steps;
    double shift, guidance;
    const char *prompt;   // the official example, used when no prompt is given
    const char *negative; // used when none is given, or an empty one
};

/* ST_USAGE for an unknown name, with the nearest, and for a task that this version does not do. */
status task_find(const struct task **task, const char *name);
const struct task *task_at(int index); // the rows that can be used; NULL behind the last

#endif
