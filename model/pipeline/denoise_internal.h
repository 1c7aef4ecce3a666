/* denoise_internal.h - what denoise.c has for denoise_cache.c. */
#ifndef MODEL_PIPELINE_DENOISE_INTERNAL_H
#define MODEL_PIPELINE_DENOISE_INTERNAL_H

#include "model/pipeline/denoise.h"

/* What a step does. */
enum guide denoise_guide(const struct denoise *d, int step);

int64_t denoise_tokens(const struct denoise *d); // of the whole latent

/* Uploads this rank's tokens of a whole latent in host memory; latent NULL (a plan): nothing. */
status denoise_scatter(struct denoise *d, struct tensor dst, const float *latent);

/* All-gathers the tokens of src from all ranks, and copies the whole latent to host memory on every
 * rank where `latent` is not NULL. Collective over the mesh. */
status denoise_gather(struct denoise *d, float *latent, struct tensor src);

/* All-gathers a row for each token of the latent: whole [tokens, n] from src [rows, n] of the
 * ranks, as they are distributed over `mesh`. Collective over d->mesh. */
status denoise_gather_rows(struct denoise *d, const struct mesh *mesh, struct tensor whole,
                           struct tensor src);

/* The transformer's run that computes a step: that of the mesh, or of all ranks. */
struct dit_run *denoise_run(struct denoise *d, int step);

/* Computes the branches that step[0] needs, into d->v, of all ranks: branch i at step[i], whose
 * latent is x[i]; both entries are set, and those steps have the same run. Collective over the
 * mesh. */
status denoise_branches(struct denoise *d, const int *step, const struct tensor *x);

/* ---- denoise_windows.c ---- */

/* Sets d->windowed. ST_USAGE if this version does not divide what the request has. */
status windows_begin(struct denoise *d);

/* Takes memory for what is cut. Before the experts begin. */
status windows_take(struct denoise *d);

/* The views of an expert's runs, which have begun. */
status windows_begin_expert(struct denoise *d, int expert);

/* The velocities of all windows of a step, blended into d->v of the whole latent. Collective over
 * the mesh. */
status windows_branches(struct denoise *d, int step);

/* What an expert gets of the run; see denoise.c. */
struct dit_input denoise_input_of(const struct denoise *d, int expert, bool joined);

#endif
