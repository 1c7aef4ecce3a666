/* sound_input.h - a sound that is an input of a task, which launch/ decodes on rank 0. */
#ifndef MODEL_MEDIA_SOUND_INPUT_H
#define MODEL_MEDIA_SOUND_INPUT_H

#include "runtime/status.h"

#include <stdint.h>

struct sound_input {
    int64_t samples; // one channel, 16000 a second; 0: the sound is not given
    double seconds;  // of the file
    /* The samples, which the caller frees. On rank 0 only; NULL where only sizes are needed. */
    status (*read)(void *payload, float **samples, int64_t *count);
    void *payload;
};

#endif
