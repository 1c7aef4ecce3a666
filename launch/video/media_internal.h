/* media_internal.h - the readers of media.c. */
#ifndef LAUNCH_VIDEO_MEDIA_INTERNAL_H
#define LAUNCH_VIDEO_MEDIA_INTERNAL_H

#include "launch/video/media.h"

#include <stdbool.h>
#include <stddef.h>

struct AVFrame;

/* An open file. `bytes` are the first ones, or after media_load all of them, and then `padding`
 * zeros. */
struct media_file {
    const char *path; // borrowed
    int fd;
    uint64_t size;
    int64_t pixels_max;
    uint8_t *bytes;
};

#define MEDIA_PADDING 64 // FFmpeg reads beyond the end

/* Opens a regular file and reads its head; bounds each allocation of FFmpeg by what the file's size
 * allows, until media_close_file or media_free_memory. media_close_file follows, also after an
 * error. */
status media_open_file(struct media_file *f, const char *path, int64_t pixels_max);
void media_close_file(struct media_file *f);
void media_free_memory(void);

/* A line about contents that cannot be used. */
status media_damaged(const struct media_file *f, const char *what);

/* ST_FORMAT for dimensions that are not positive or above the limit. */
status media_check_size(const struct media_file *f, int64_t w, int64_t h);

/* Decodes a file whose bytes are loaded. *turn: the EXIF orientation, 1 to 8. */
status media_jpeg(struct image *image, int *turn, const struct media_file *f);
status media_still(struct image *image, int *turn, const struct media_file *f);

/* ST_MEMORY, to read the file. */
status media_no_memory(const struct media_file *f);

/* A container. formats: those that it may have, NULL: all; `refused`: the rest of the line for a
 * file of no such format. media_input_close follows, also after an error. */
struct media_input {
    const struct media_file *file; // borrowed
    int64_t at;                    // position in the file
    struct AVIOContext *io;
    struct AVFormatContext *in;
};
status media_input_open(struct media_input *m, const struct media_file *f, const char *formats,
                        const char *refused);
void media_input_close(struct media_input *m);

/* The sound of a file, frame by frame: *frame NULL after the last. Damaged packets are left out.
 * sound_close follows, which accepts NULL. */
struct sound_reader;
status sound_open(struct sound_reader **r, const char *path);
status sound_next(struct sound_reader *r, const struct AVFrame **frame);
void sound_close(struct sound_reader *r);

/* A file with a container. `f` is borrowed until media_clip_close, which accepts NULL. */
struct media_clip;
status media_clip_open(struct media_clip **c, const struct media_file *f);
void media_clip_close(struct media_clip *c);

/* The next frame; *more: whether there was one. image NULL: it is skipped. */
status media_clip_next(struct media_clip *c, struct image *image, bool *more);

double media_clip_fps(const struct media_clip *c); // 0: not known

/* Instead of reading its frames: media_times. */
status media_clip_times(struct media_clip *c, float (**time)[2], int64_t *count);

/* The 16-bit value of a tag in the first directory of a TIFF file, or `missing`. */
int tiff_tag(const uint8_t *bytes, size_t size, int tag, int missing);

/* The orientation that a TIFF header with its first directory names; 1 if it names none or is
 * damaged. "Exif\0\0" may stand before it. */
int exif_orientation(const uint8_t *bytes, size_t size);

/* Turns or mirrors the image in place, so that an image with this EXIF orientation is upright.
 * ST_MEMORY. */
status media_turn(struct image *image, int orientation);

/* Converts a decoded frame. `webp`: it is from a lossy WebP, and converted as libwebp does.
 * ST_FORMAT, ST_MEMORY. */
status media_frame(struct image *image, const struct AVFrame *frame, bool webp,
                   const struct media_file *f);

#endif
