/* media_sound.h - reads the sound of a file, of any format that FFmpeg reads: as samples for the
 * audio encoder, or frame by frame, for the sound of a video. The rules for files are those of
 * media.h. */
#ifndef LAUNCH_VIDEO_MEDIA_SOUND_H
#define LAUNCH_VIDEO_MEDIA_SOUND_H

#include "runtime/status.h"

#include <stdbool.h>
#include <stdint.h>

#define SOUND_SECONDS_MAX 3600
#define SOUND_DIGEST_BYTES 17

struct sound {
    float *samples; // malloc'ed
    int64_t count;
    double seconds;     // of the file, before it was resampled
    int rate, channels; // of the file
};

/* The mean of all channels, at `rate` samples a second: as librosa.load(path, sr=rate), whose
 * resampler (soxr, high quality) is used where FFmpeg has it. Damaged packets are left out.
 * ST_FORMAT if there is no sound, or more than SOUND_SECONDS_MAX; ST_IO, ST_MEMORY. */
status media_sound(struct sound *s, const char *path, int rate);
void sound_done(struct sound *s); // accepts zeroed values

/* Writes hex digits that depend on all samples. */
void sound_digest(const struct sound *s, char digest[SOUND_DIGEST_BYTES]);

#endif
