/* video.h - writes frames to a file: H.264 in .mp4, or one frame as .png, and a contact sheet.
 *
 * video_put copies frames into a bounded queue and returns; a separate thread converts and encodes
 * them while the VAE decodes the next ones. All files are written under temporary names in the
 * target directory. video_open creates them, so a directory without write permission fails before
 * the long computation. video_finish renames them, so a file with the final name is always
 * complete.
 *
 *   video.c           the queue, the encoder thread, the contact sheet
 *   video_comment.c   the comment of a finished file
 *   video_h264.c      H.264 and mp4, by FFmpeg
 *   video_sound.c     the sound of the mp4, as AAC
 *   video_png.c       PNG, and scaling of frames, by FFmpeg
 *   video_internal.h  the interface of the last two */
#ifndef LAUNCH_VIDEO_VIDEO_H
#define LAUNCH_VIDEO_VIDEO_H

#include "runtime/status.h"

#include <stdbool.h>
#include <stdint.h>

struct video;

struct video_settings {
    const char *path;          // .mp4, or .png for one frame
    int width_px, height_px;   // even for .mp4
    int64_t frames;            // number of frames that will be put
    double fps, quality;       // quality 0 .. 10, 10 best
    const char *metadata;      // text for the comment field; NULL for none
    const char *sound;         // of an .mp4: a file whose sound it gets, borrowed; NULL: none
    const char *contact_sheet; // .png of up to 16 frames, evenly spread; NULL for none
};

/* Checks that `path` has a supported extension that fits the number of frames. ST_USAGE. */
status video_check_path(const char *path, int64_t frames);

bool video_is_image(const char *path); // a .png

/* ST_USAGE for a name or size that is not supported, ST_IO. */
status video_open(struct video **v, const struct video_settings *settings);

/* `rgb` [count, height, width, 3]; copied. All frames have the size given to video_open. Waits
 * while the queue is full. Returns the encoder's error, if it has failed. */
status video_put(struct video *v, const uint8_t *rgb, int64_t count, int64_t h, int64_t w);

/* Waits for the encoder, closes and renames the files. The caller must have put exactly
 * settings.frames frames. video_close must follow, also after an error. */
status video_finish(struct video *v);

/* Frees everything; deletes the temporary files if video_finish was not called. Accepts NULL. */
void video_close(struct video *v);

/* Reads the comment of a finished file; *text is malloc'ed, NULL if the file has none or is of
 * another kind. ST_IO if it cannot be read; ST_MEMORY. */
status video_comment(const char *path, char **text);

#endif
