/* vae_part.h - the VAE as a row of the table of parts. */
#ifndef MODEL_VAE_VAE_PART_H
#define MODEL_VAE_VAE_PART_H

#include "model/checkpoint/part.h"
#include "model/vae/vae.h"

extern const struct part part_vae;

bool vae_rename(const char *name, bool to_official, char *out, size_t size); // vae_names.c

#endif
