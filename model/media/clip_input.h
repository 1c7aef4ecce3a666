/* clip_input.h - a clip that is an input of a task: launch/ decodes its frames on rank 0, one after
 * the other, so that the memory does not depend on its length. */
#ifndef MODEL_MEDIA_CLIP_INPUT_H
#define MODEL_MEDIA_CLIP_INPUT_H

#include "model/media/image.h"

struct clip_input {
    int w, h;       // of its frames, upright; 0: the clip is not given
    int64_t frames; // number of frames that it has, at most as many as the request can use
    double fps;     // mean rate; 0: not known
    /* Reads frame `index`, which the caller frees. On rank 0 only; NULL where only sizes are
     * needed. In ascending order each frame is decoded once. */
    status (*read)(void *payload, int64_t index, struct image *frame);
    const float (*time)[2]; // where `read` is: start and end of each frame in seconds
    void *payload;
};

#endif
