/* umt5_part.h - the text encoder as a row of the table of parts. */
#ifndef MODEL_TEXT_UMT5_PART_H
#define MODEL_TEXT_UMT5_PART_H

#include "model/checkpoint/part.h"
#include "model/text/umt5.h"

extern const struct part part_t5;

#endif
