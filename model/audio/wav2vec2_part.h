/* wav2vec2_part.h - the audio encoder as a row of the table of parts. */
#ifndef MODEL_AUDIO_WAV2VEC2_PART_H
#define MODEL_AUDIO_WAV2VEC2_PART_H

#include "model/audio/wav2vec2.h"
#include "model/checkpoint/part.h"

extern const struct part part_wav2vec2;

#endif
