/* vae_internal.h - the two halves of the autoencoder as lists of layers, and one half going over
 * the chunks of a video.
 *
 *   vae.c         open, close, whole pictures in and out
 *   vae_frames.c  finished pictures to whom they are for
 *   vae_net.c     the lists, and the parameters that they need
 *   vae_layers.c  what each layer computes, with its memory of the frames before
 *   vae_tiles.c   tiles and how they are blended */
#ifndef MODEL_VAE_VAE_INTERNAL_H
#define MODEL_VAE_VAE_INTERNAL_H

#include "model/vae/vae.h"

/* Parameters of each kind in the order in which they stand in vae->tensors. */
enum layer_kind {
    LAYER_CONV,      // w, b
    LAYER_RESIDUAL,  // gamma, w, b, gamma, w, b; with in != out also the shortcut's w, b
    LAYER_ATTENTION, // gamma, w [3C, C], b, w [C, C], b
    LAYER_DOWN,      // w, b; with time also the time convolution's w, b
    LAYER_UP,        // w, b; with time also the time convolution's w, b
    LAYER_HEAD,      // gamma, w, b
};

struct layer {
    enum layer_kind kind;
    int64_t in, out; // channels
    bool time;       // DOWN, UP: along time as well
    int tensor;      // its first parameter in vae->tensors
    int slot;        // its first cache
};

struct vae_net {
    int layers, slots;
    int latent; // w [n, n], b [n] of the pointwise convolution on the latents' side
    struct layer *layer;
};

/* The specs of all parameters and the lists of the halves wanted. Everything is the caller's to
 * free(): *specs, *names (the specs' names lie in it), and each list with vae_net_free. */
status vae_net_build(const struct vae_config *config, enum dtype dtype, struct vae_net **encoder,
                     struct vae_net **decoder, struct weight_spec **specs, char **names,
                     int *count);
void vae_net_free(struct vae_net *net); // accepts NULL

/* The part of the picture that a pass works on, in latent rows and columns. */
struct vae_window {
    int64_t row, col, rows, cols;
};

/* What a pass makes of a chunk: this rank's rows x [T, h, W, C] f32 of frames [first, first + T).
 * x may be overwritten. */
struct vae_output {
    status (*put)(void *payload, const struct rows *rows, int64_t first, struct tensor x);
    void *payload;
};

/* One half over all chunks of one window. Own rows only; nothing is done on ranks without. */
struct vae_pass {
    struct vae *v;
    const struct vae_net *net;
    struct arena *a;
    struct rows rows;
    struct tensor *slot;     // [net->slots]: the frames before the chunk, with their seam rows
    struct tensor buffer[2]; // bytes: the picture between two layers lies in one or the other
    int at;                  // in which
    int64_t chunk, chunks;
};

/* Takes caches and buffers for chunks of at most `frames` frames of `cols` columns and the rows'
 * own rows times `scale`. Undone by vae_pass_close, which gives the memory back. */
status vae_pass_open(struct vae_pass *p, struct vae *v, const struct vae_net *net, struct arena *a,
                     struct rows rows, int64_t frames, int64_t scale, int64_t cols, int64_t chunks);
void vae_pass_close(struct vae_pass *p, size_t mark);

/* All layers on the next chunk. x [T, h, W, C] v->dtype, of rows_take; *out f32, as that, good
 * until the next call. */
status vae_pass_run(struct vae_pass *p, struct tensor *out, struct tensor x);

/* A whole window: vae.c. Collective over the group. The host pictures are whole and as in vae.h, h
 * and w latent units. */
status vae_decode_window(struct vae *v, struct arena *a, const float *latent, int64_t t, int64_t h,
                         int64_t w, struct vae_window window, struct vae_output output);
status vae_encode_window(struct vae *v, struct arena *a, const float *pixels, int64_t t, int64_t h,
                         int64_t w, struct vae_window window, struct vae_output output);

/* Own rows x [T, h, W, C], frames contiguous, of all ranks on rank 0: *whole is x itself where one
 * rank has them all, taken from `a` on rank 0 else, none on the others. Collective over the ranks
 * that hold rows. */
status vae_gather(struct tensor *whole, const struct rows *rows, struct device *dev,
                  struct arena *a, struct tensor x, int64_t scale);

/* Finished pictures on their way to the sink, on rank 0: while it has those of one chunk, the next
 * ones are computed. */
struct delivery {
    struct device *dev;
    struct frame_sink sink;
    float *pixels;               // all frames, or NULL
    int64_t h, w;                // pixels
    struct tensor rgb[2];        // frames in turn, as bytes on the device
    uint8_t *host[2];            // and on the host
    struct device_event here[2]; // they have arrived
    int64_t count[2];            // and wait for the sink
    int turn;                    // where the next ones go
};

/* For at most `frames` at once, with memory of `a`, which the caller gives back after the closing.
 * ST_MEMORY. */
status delivery_open(struct delivery *d, struct device *dev, struct arena *a,
                     struct frame_sink sink, float *pixels, int64_t frames, int64_t h, int64_t w);
void delivery_close(struct delivery *d); // accepts a zeroed one

/* Queues frames x [T, H, W, 3] f32, of which the first is number `first`, and gives the sink those
 * of the call before. */
status delivery_put(struct delivery *d, struct tensor x, int64_t first);
status delivery_finish(struct delivery *d); // the last ones

/* Tiled: vae_tiles.c. Arguments as in vae.h. */
status vae_decode_tiles(struct vae *v, struct arena *a, const float *latent, int64_t t, int64_t h,
                        int64_t w, struct vae_tiling tiling, struct frame_sink sink, float *pixels);
status vae_encode_tiles(struct vae *v, struct arena *a, float *latent, const float *pixels,
                        int64_t t, int64_t h, int64_t w, struct vae_tiling tiling);

#endif
