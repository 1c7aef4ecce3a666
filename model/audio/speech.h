/* speech.h - from the audio encoder's states, 50 rows a second, to one row for each frame of S2V's
 * video: interpolated to 30 rows a second, of which each frame takes the nearest one; after the
 * sound a frame has zeros. All functions are local.
 * Source: Wan2.2 wan/modules/s2v/audio_encoder.py. */
#ifndef MODEL_AUDIO_SPEECH_H
#define MODEL_AUDIO_SPEECH_H

#include <stdint.h>

#define SPEECH_FPS 16 // of the video

/* The rows of the audio encoder for so many samples, 16000 a second; wav2vec2_rows of the released
 * encoder. */
int64_t speech_rows(int64_t samples);

/* The interpolated rows that `rows` rows give; 0: they are too few. */
int64_t speech_features(int64_t rows);

/* The number of clips of `frames` frames for the sound: of a sound that ends with a clip, one more.
 */
int speech_clips(int64_t rows, int frames);

/* A frame's row: the sum of two rows of a state with these weights; both 0: zeros. */
struct speech_row {
    int64_t row[2];
    float weight[2];
};
struct speech_row speech_row(int64_t rows, int64_t frame);

/* The factors of the transformer's weighted mean of the states, in place, from its tensor: silu of
 * each, over their sum. Source: Wan2.2 wan/modules/s2v/audio_utils.py, CausalAudioEncoder. */
void speech_weights(float *weights, int64_t count);

#endif
