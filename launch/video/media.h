/* media.h - reads images and the frames of clips: JPEG by libjpeg-turbo, all else by FFmpeg. The
 * pixels are those that PIL's Image.open(path).convert('RGB') gives, where PIL reads the format.
 *
 *   JPEG, also CMYK, progressive         equal to PIL
 *   PNG, BMP, TIFF, GIF, WebP            equal to PIL: alpha is dropped, palettes are looked up, of
 *                                        16 bits the upper 8 are taken (of colours as PIL does;
 *                                        PIL makes all grey levels above 255 white)
 *   AVIF, clips                          by swscale; colour matrix and range are the file's
 *   HEIC                                 refused: FFmpeg gives its tiles, not the image
 *
 * An image is turned as its EXIF orientation says, a clip as its display matrix: that is how every
 * viewer shows it. The official programs ignore the orientation and use a photo on its side.
 *
 * Files are not trusted: folders, pipes, other kinds of files, cut and damaged ones are refused
 * with one line, and so are dimensions above the limit, before memory for them is allocated. A clip
 * that names other files does not make them be read.
 *
 *   media.c           opens files, tells kinds apart, applies the orientation
 *   media_jpeg.c      JPEG
 *   media_exif.c      the orientation in EXIF data; where PNG and WebP files keep it
 *   media_still.c     PNG, WebP, BMP, TIFF: a file that is one packet
 *   media_clip.c      everything with a container
 *   media_frame.c     FFmpeg's frames to RGB
 *   media_input.c     containers
 *   media_sound.h     sound */
#ifndef LAUNCH_VIDEO_MEDIA_H
#define LAUNCH_VIDEO_MEDIA_H

#include "model/media/image.h"

#include <stdbool.h>
#include <stdint.h>

#define MEDIA_PIXELS_MAX 178956970 // of an image that PIL opens

/* Reads an image, or the first frame of an animation or a clip, of at most `pixels_max` pixels.
 * *turned (may be NULL): whether its EXIF orientation has changed it. ST_IO, ST_FORMAT, ST_MEMORY;
 * then *image is not set. */
status media_image(struct image *image, bool *turned, const char *path, int64_t pixels_max);

/* Callback for a frame of a clip; the image is borrowed. A status other than ST_OK ends the
 * reading. */
struct media_sink {
    status (*put)(void *payload, const struct image *frame);
    void *payload;
};

/* Passes frames first .. first + count - 1 of a clip to the sink; *read: how many there were.
 * ST_IO, ST_FORMAT, ST_MEMORY, and what the sink returns. */
status media_frames(const char *path, int64_t first, int64_t count, int64_t pixels_max,
                    struct media_sink sink, int64_t *read);

/* A clip, or an image, which is a clip of one frame, that is read frame by frame. */
struct media_reader;

/* media_reader_close follows, which accepts NULL; no other file is opened by this header's
 * functions before it. ST_IO, ST_FORMAT, ST_MEMORY. */
status media_reader_open(struct media_reader **r, const char *path, int64_t pixels_max);
void media_reader_close(struct media_reader *r);

/* Reads the next frame; the caller frees it. *more: whether there was one. */
status media_reader_next(struct media_reader *r, struct image *frame, bool *more);

/* Start and end in seconds of each frame of a clip, in their order, without decoding them; time is
 * malloc'ed. Of an image one frame from 0 to 1. ST_IO, ST_FORMAT, ST_MEMORY. */
status media_times(const char *path, int64_t pixels_max, float (**time)[2], int64_t *count);

/* The mean number of frames per second; 0: not known. */
double media_reader_fps(const struct media_reader *r);

#endif
