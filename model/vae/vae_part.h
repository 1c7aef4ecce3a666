/* vae_part.h - the VAE as a row of the table of parts. */
#ifndef MODEL_VAE_VAE_PART_H
#define MODEL_VAE_VAE_PART_H

#include "model/checkpoint/part.h"
#include "model/vae/vae.h"

extern const struct part part_vae;

/* vae_names.c. In diffusers, blocks of the decoder have the same names in Wan2.1 and Wan2.2: they
 * are taken for Wan2.1's by the first function, for Wan2.2's by the second. */
bool vae_rename(const char *name, bool to_official, char *out, size_t size);
bool vae_rename_levels(const char *name, bool to_official, char *out, size_t size);

#endif
