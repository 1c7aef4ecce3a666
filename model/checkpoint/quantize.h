/* quantize.h - weights in fp8 (runtime/fp8.h) from a source of weights: the rows of a matrix in
 * e4m3, and their scales. Both are made from whole rows, so that they do not depend on which
 * elements a rank reads. All functions are local. */
#ifndef MODEL_CHECKPOINT_QUANTIZE_H
#define MODEL_CHECKPOINT_QUANTIZE_H

#include "parallel/weights.h"

/* Whether the spec is a matrix in e4m3, or the scales of one. */
bool quantize_makes(const struct weight_spec *spec);

/* Writes the name of the spec's matrix: `name` without "_scale" if it is that of scales. */
void quantize_name(char matrix[WEIGHT_NAME_BYTES], const struct weight_spec *spec,
                   const char *name);

/* A source's `read` for such a spec; `source` gives the matrix in f32. ST_MEMORY, and as that. */
status quantize_read(const struct weight_source *source, const struct weight_spec *spec,
                     const char *name, int64_t first, int64_t count, void *dst);

#endif
