/* vae.h - the causal video autoencoder of Wan2.1: pixels to latents and back, any length, chunk by
 * chunk with the cache of wan/modules/vae.py, exact; spread over ranks by rows.
 *
 * Pictures are frames [T, H, W, C]. Source: Wan2.1 wan/modules/vae.py. */
#ifndef MODEL_VAE_VAE_H
#define MODEL_VAE_VAE_H

#include "kernels/ops.h"
#include "model/pipeline/config.h"
#include "parallel/halo.h"
#include "parallel/weights.h"

struct vae_net;

struct vae {
    struct vae_config config;
    struct device *dev;
    struct group *group; // the ranks that share the rows
    struct weights weights;
    enum dtype dtype;                  // of activations and matrices; F32 here
    struct vae_net *encoder, *decoder; // the halves that are loaded, own; NULL else
    struct tensor *tensors;            // all parameters, own array
    struct tensor scale[2], shift[2];  // f32 [z]: latents to the network's values, and back
};

/* Every rank holds all parameters. Memory from `a`, which keeps it; reading errors are local, as
 * those of weights_open. ST_USAGE, ST_FORMAT (widths no such network has), ST_IO, ST_MEMORY. */
status vae_open(struct vae *v, const struct vae_config *config, struct group *g, struct device *dev,
                struct arena *a, enum dtype dtype, bool encoder, bool decoder,
                struct weight_source source);
void vae_close(struct vae *v); // accepts a zeroed one

/* Tiles in latent units, as DiffSynth-Studio's tiled=True blends them; zeroed = whole pictures.
 *
 * Every tile is one pass over all frames, its rows split over the ranks. The blended sum of all
 * frames is on rank 0, in f32, and frames leave for the sink when the last tile is in it: tiles
 * make the caches and pictures of a pass small, at the price of the sum (0.9 GB for 81 frames of
 * 720p). A tile that covers the picture is no tiling. */
struct vae_tiling {
    int64_t size_h, size_w, stride_h, stride_w;
};

/* Where finished pictures go, on rank 0 of the group, in order: `count` frames [count, H, W, 3] u8
 * in host memory, borrowed during the call. put may be NULL: then they are computed and dropped. */
struct frame_sink {
    status (*put)(void *payload, const uint8_t *rgb, int64_t count, int64_t h, int64_t w);
    void *payload;
};

/* latent [T, h, w, z] f32 normalized, whole, in host memory of every rank. 4(T-1)+1 frames go to
 * the sink as they are ready. Collective over the group; ranks that get no row return at once. All
 * memory from `a`, given back; only rank 0 takes two chunks of pictures of host memory beside it.
 * pixels, when not NULL, gets them as f32 [4(T-1)+1, 8h, 8w, 3] too, on rank 0, not clamped. On the
 * plan device latent and pixels are not looked at, only whether pixels is NULL, and the sink is
 * told of pictures that are not there. */
status vae_decode(struct vae *v, struct arena *a, const float *latent, int64_t t, int64_t h,
                  int64_t w, struct vae_tiling tiling, struct frame_sink sink, float *pixels);

/* pixels [F, H, W, 3] f32 in [-1, 1], whole, on every rank's host; latent [T, h, w, z] f32
 * normalized, T = 1 + (F-1)/4, whole, on every rank: frames behind 4(T-1)+1 are dropped. H and W
 * are multiples of 8, else ST_USAGE. Collective over the group. */
status vae_encode(struct vae *v, struct arena *a, float *latent, const float *pixels,
                  int64_t frames, int64_t h, int64_t w, struct vae_tiling tiling);

#endif
