/* windows.h - windows of latent frames, for videos that are longer than those of training: in each
 * step the transformer computes the velocity of each window as of a video of its own, with
 * positions from 0 on, and a frame's velocity is the weighted mean over the windows that have it.
 *
 *   sliding  DiffSynth's sliding_window_size and _stride: windows start at multiples of the stride,
 *            the last one may be shorter; weights (i + 0.5) / border at inner edges
 *   static   ComfyUI-WanVideoWrapper's static_standard: the last window is moved back to full
 * length uniform  its uniform_standard: other windows in each step, also of each 2nd, 4th, ...
 * frame looped   its uniform_looped: the same, and windows go on from the last frame to the first
 *
 * Source: DiffSynth-Studio diffsynth/pipelines/wan_video.py, TemporalTiler_BCTHW;
 * ComfyUI-WanVideoWrapper context_windows/context.py. */
#ifndef MODEL_SAMPLING_WINDOWS_H
#define MODEL_SAMPLING_WINDOWS_H

#include "runtime/status.h"

#include <stdbool.h>

enum window_kind { WINDOWS_OFF, WINDOWS_SLIDING, WINDOWS_STATIC, WINDOWS_UNIFORM, WINDOWS_LOOPED };

struct window_settings {
    enum window_kind kind;
    int frames;   // of a window
    int stride;   // sliding: from window to window; uniform, looped: number of strides 1, 2, 4, ...
    int overlap;  // of windows that are not sliding
    bool pyramid; // weights fall from the middle to both ends; else only in the overlap
};

struct windows {
    int count;
    int frames;     // of the longest window
    int *length;    // [count]
    int *index;     // [count][frames]: the frames of each window
    double *weight; // [count][frames]: those of a frame of the video add up to 1
};

/* Whether a video of so many frames is divided: not if it fits into one window. */
bool windows_divide(const struct window_settings *set, int frames);

/* The windows of step `step`; windows_done frees them. ST_MEMORY. */
status windows_make(struct windows *w, const struct window_settings *set, int frames, int step);
void windows_done(struct windows *w); // accepts a zeroed value

#endif
