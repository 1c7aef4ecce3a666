/* clip_part.h - the image encoder as a row of the table of parts. */
#ifndef MODEL_VISION_CLIP_PART_H
#define MODEL_VISION_CLIP_PART_H

#include "model/checkpoint/part.h"
#include "model/vision/clip.h"

extern const struct part part_clip;

#endif
