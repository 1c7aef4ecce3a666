/* video_internal.h - the two writers behind video.h, each on the encoder's thread only. */
#ifndef LAUNCH_VIDEO_VIDEO_INTERNAL_H
#define LAUNCH_VIDEO_VIDEO_INTERNAL_H

#include "runtime/status.h"

#include <stdint.h>

/* One H.264 stream in an mp4 file. */
struct h264;

/* Opens `temp` (an existing, empty file) for `path`, which is what errors name. ST_IO, ST_USAGE. */
status h264_open(struct h264 **h, const char *temp, const char *path, int width_px, int height_px,
                 double fps, double quality, const char *metadata);
status h264_frame(struct h264 *h, const uint8_t *rgb);
status h264_finish(struct h264 *h); // what the encoder still held, the index, and close
void h264_close(struct h264 *h);    // accepts NULL

/* The constant rate factor that imageio passes to libx264 for its quality 0 .. 10. */
int h264_crf(double quality);

/* rgb [height, width, 3] into `temp`, with `comment` (UTF-8; NULL for none) as an iTXt chunk. */
status png_write(const char *temp, const char *path, const uint8_t *rgb, int width_px,
                 int height_px, const char *comment);

/* rgb [h, w, 3] scaled down into a window of a wider picture: out_stride bytes a row. */
status picture_scale(uint8_t *out, int out_w, int out_h, int out_stride, const uint8_t *rgb, int w,
                     int h);

#endif
