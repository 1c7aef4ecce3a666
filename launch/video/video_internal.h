/* video_internal.h - the H.264 and the PNG writer of video.c; used by the encoder thread only. */
#ifndef LAUNCH_VIDEO_VIDEO_INTERNAL_H
#define LAUNCH_VIDEO_VIDEO_INTERNAL_H

#include "runtime/newfile.h"

#include <stdint.h>

/* One H.264 stream in an mp4 file. */
struct h264;

/* Opens `temp`, an existing empty file; error messages name `path`. `sound`: the file whose sound
 * it gets, or NULL. ST_IO, ST_USAGE, and the errors of sound_track_open. */
status h264_open(struct h264 **h, const char *temp, const char *path, int width_px, int height_px,
                 double fps, double quality, const char *metadata, const char *sound);
status h264_frame(struct h264 *h, const uint8_t *rgb);
status h264_finish(struct h264 *h); // writes delayed packets and the index, and closes the file
void h264_close(struct h264 *h);    // accepts NULL

/* The sound of `path` as an AAC stream of a file that is being opened. `path` is borrowed until
 * sound_track_close, which accepts NULL. ST_IO, ST_FORMAT, ST_USAGE, ST_MEMORY. */
struct AVFormatContext;
struct sound_track;
status sound_track_open(struct sound_track **t, struct AVFormatContext *format, const char *path);
void sound_track_close(struct sound_track *t);

/* Encodes the sound's whole frames up to this time; up to the end, with silence where the sound is
 * shorter. */
status sound_track_until(struct sound_track *t, double seconds);
status sound_track_finish(struct sound_track *t, double seconds);

/* The constant rate factor that imageio passes to libx264 for a quality of 0 .. 10. */
int h264_crf(double quality);

/* Writes rgb [height, width, 3] to `file`, with `comment` (UTF-8, or NULL) as an iTXt chunk. */
status png_write(struct newfile *file, const uint8_t *rgb, int width_px, int height_px,
                 const char *comment);

/* Scales rgb [h, w, 3] down into a window of a larger image, whose rows have out_stride bytes. */
status frame_scale(uint8_t *out, int out_w, int out_h, int out_stride, const uint8_t *rgb, int w,
                   int h);

#endif
