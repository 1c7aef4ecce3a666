/* dit_part.h - the transformer as rows of the table of parts (model/checkpoint/part.h): one row for
 * the first expert, one for the second. */
#ifndef MODEL_TRANSFORMER_DIT_PART_H
#define MODEL_TRANSFORMER_DIT_PART_H

#include "model/checkpoint/part.h"
#include "model/transformer/config.h"

extern const struct part part_dit;     // the only expert, or the one for high noise
extern const struct part part_dit_low; // the expert for low noise

#define EXPERT_FOLDER "/high_noise_model" // place of part_dit if it is one of two experts

/* dit_names.c: translates a tensor name between diffusers and the official program; false if it is
 * unknown or out[size] is too small. */
bool dit_rename(const char *name, bool to_official, char *out, size_t size);

#endif
