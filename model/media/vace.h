/* vace.h - what VACE makes of a clip, its mask and its reference images: the video's size and
 * number of frames, which frames of the clip these are, and the frames and references at that size.
 * All functions are local. Source: Wan2.1 wan/utils/vace_processor.py, VaceVideoProcessor with
 * keep_last, and wan/vace.py, prepare_source. */
#ifndef MODEL_MEDIA_VACE_H
#define MODEL_MEDIA_VACE_H

#include "model/media/resize.h"

/* The size in pixels and the number of frames of the video, 4n + 1, for a clip of w x h pixels and
 * `count` frames: its aspect in multiples of 16, at most `area` pixels, and so many frames that
 * there are at most 21 * area / 256 tokens; at 480*832 and 720*1280 these are the official limits.
 * ST_USAGE if a side would be 0. */
status vace_size(int size[2], int *frames, int w, int h, int64_t count, int64_t area);

/* index[i]: the frame of the clip that is frame i of `frames`, at equal distances in time up to the
 * middle of the last one. time [count][2]: start and end of the clip's frames in seconds, which
 * need not have the same durations. */
void vace_sample(int64_t *index, int frames, const float (*time)[2], int64_t count);

/* out: the frame resized to cover w x h, in bytes, then its centre. ST_MEMORY. */
status vace_frame(struct image *out, int w, int h, const struct image *frame);

/* The value of a byte of such a frame, and of a mask. */
static inline float vace_unit(uint8_t v)
{
    return (float)v / 127.5f - 1;
}

static inline float vace_mask(uint8_t v)
{
    const float m = (vace_unit(v) + 1) / 2;

    return m < 0 ? 0 : m > 1 ? 1 : m;
}

/* out [h, w, 3]: the image within w x h, with its aspect, on white. ST_USAGE if a side would be 0;
 * ST_MEMORY. */
status vace_reference(float *out, int w, int h, const struct image *image);

#endif
