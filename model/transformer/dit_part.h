/* dit_part.h - the transformer as rows of the table of parts: one expert, or the second of two. */
#ifndef MODEL_TRANSFORMER_DIT_PART_H
#define MODEL_TRANSFORMER_DIT_PART_H

#include "model/checkpoint/part.h"
#include "model/transformer/config.h"

extern const struct part part_dit;     // the only expert, or that for high noise
extern const struct part part_dit_low; // the expert for low noise

bool dit_rename(const char *name, bool to_official, char *out, size_t size); // dit_names.c

#endif
