/* video.h - pictures into a file: H.264 in .mp4, or one picture as .png, and a contact sheet.
 *
 * video_put copies frames into a bounded queue and returns; a thread of its own converts and
 * encodes, so that decoding goes on meanwhile. Everything is written to temporary names beside the
 * targets, opened by video_open, so that a directory that cannot be written is known before the
 * long computation; video_finish renames. Under the final name there is a whole file or none. */
#ifndef LAUNCH_VIDEO_VIDEO_H
#define LAUNCH_VIDEO_VIDEO_H

#include "runtime/status.h"

#include <stdint.h>

struct video;

struct video_settings {
    const char *path;          // .mp4, or .png for one frame
    int width_px, height_px;   // even for .mp4
    int64_t frames;            // that will come
    double fps, quality;       // quality 0 .. 10, 10 best
    const char *metadata;      // text for the comment field; NULL for none
    const char *contact_sheet; // .png of up to 16 frames, evenly spread; NULL for none
};

/* Whether `path` is a name this module writes, and fits `frames`. ST_USAGE. */
status video_check_path(const char *path, int64_t frames);

/* ST_USAGE for a name or size that cannot be written, ST_IO. */
status video_open(struct video **v, const struct video_settings *settings);

/* `rgb` [count, height, width, 3]; copied. Waits while the queue is full. Passes on what the
 * encoder failed with; no frames of another size. */
status video_put(struct video *v, const uint8_t *rgb, int64_t count, int64_t h, int64_t w);

/* Waits for the encoder, closes and renames the files. Fewer or more frames than promised are a
 * fault of the caller. The video must be closed afterwards in any case. */
status video_finish(struct video *v);

/* Frees; drops what was not finished. Accepts NULL. */
void video_close(struct video *v);

#endif
