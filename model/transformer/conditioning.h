/* conditioning.h - everything but the noise that enters the transformer, as named arrays: a task
 * fills it, the transformer and its features read it, the run file stores it as it is.
 *
 *     name          shape               meaning
 *     text/cond     [rows, text_dim]    the prompt, as the text encoder gives it
 *     text/uncond   [rows, text_dim]    the negative prompt
 *     channels      [c, t, h, w]        joined to the latent's channels, after them
 *     clean         [c, n, h, w]        the first n latent frames, known: they stay as they are,
 *                                       and their tokens have time 0
 *
 * A feature reads further arrays under names of its own (features.h): an addend to the patch
 * embedding, tokens before or after the video's, hints per block. All arrays are f32, contiguous,
 * in host memory, the same on every rank; on the plan device they have shapes and no data. */
#ifndef MODEL_TRANSFORMER_CONDITIONING_H
#define MODEL_TRANSFORMER_CONDITIONING_H

#include "runtime/status.h"
#include "runtime/tensor.h"

#define CONDITION_COND "text/cond"
#define CONDITION_UNCOND "text/uncond"
#define CONDITION_CHANNELS "channels"
#define CONDITION_CLEAN "clean"

#define CONDITIONS_MAX 16
#define CONDITION_NAME_BYTES 32

struct condition {
    char name[CONDITION_NAME_BYTES];
    struct tensor value; // data: malloc'ed, of the conditioning; NULL on the plan device
};

struct conditioning {
    int count;
    struct condition array[CONDITIONS_MAX];
};

/* Adds an array of this shape and gives its memory, not cleared, to be filled. ST_MEMORY. */
status conditioning_add(struct conditioning *c, const char *name, int ndim, const int64_t *dim,
                        float **data);

/* Adds a shape without data, for plans. */
void conditioning_add_shape(struct conditioning *c, const char *name, int ndim, const int64_t *dim);

/* The array, or a zeroed tensor (ndim 0) where there is none. */
struct tensor conditioning_find(const struct conditioning *c, const char *name);

void conditioning_done(struct conditioning *c); // frees the arrays; accepts zeroed values

#endif
