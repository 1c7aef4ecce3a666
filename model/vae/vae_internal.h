/* vae_internal.h - encoder and decoder as lists of layers, and a pass of one of them over the
 * chunks of a video.
 *
 *   vae.c         open, close, encoding and decoding of whole images
 *   vae_frames.c  finished frames to the sink
 *   vae_net.c     the lists of layers, and their parameters
 *   vae_layers.c  what each layer computes, with its cache of previous frames
 *   vae_tiles.c   tiles and how they are blended
 *   vae_part.c    the VAE as a row of the table of parts: released sizes, places, config.json
 *   vae_names.c   its tensors' names in diffusers */
#ifndef MODEL_VAE_VAE_INTERNAL_H
#define MODEL_VAE_VAE_INTERNAL_H

#include "model/vae/vae.h"

enum layer_kind {
    LAYER_POINT,     // conv1 [out, in], on latents
    LAYER_CONV,      // conv1
    LAYER_RESIDUAL,  // norm1, conv1, norm2, conv2; if in != out also shortcut [out, in]
    LAYER_ATTENTION, // norm1, qkv [3C, C], proj [C, C]
    LAYER_DOWN,      // conv1; if time also time_conv
    LAYER_UP,        // conv1; if time also time_conv
    LAYER_HEAD,      // norm1, conv1
};

/* A layer and its parameters, which weights_acquire fills in. Kernels are [out, kt, kh, kw, in]. */
struct layer {
    enum layer_kind kind;
    int64_t in, out;            // channels
    bool time;                  // DOWN, UP: also changes the number of frames
    int slot;                   // index of its first cache in vae_pass.slot
    struct tensor norm1, norm2; // gamma [C] f32
    struct linear conv1, conv2, shortcut, time_conv, qkv, proj;
};

/* Encoder or decoder: layers of the VAE's one array. */
struct vae_net {
    struct layer
        *point; // the convolution on the latents: last in the encoder, first in the decoder
    struct layer *layer; // the others, in order
    int layers, slots;
};

/* Emits the tensors of the encoder, the decoder or both (one stack), and builds their layers into
 * `layers`, vae_layers_max of them, and the two nets; those three may be NULL for the list alone.
 * Wan2.2's VAE has a list only. */
void vae_build(struct tensor_list *l, const struct vae_config *config, enum dtype dtype,
               bool encoder, bool decoder, struct layer *layers, struct vae_net nets[2]);
int vae_layers_max(const struct vae_config *config);

/* The part of the image that a pass works on, in latent rows and columns. */
struct vae_window {
    int64_t row, col, rows, cols;
};

/* Callback for the result of a chunk: this rank's rows x [T, h, W, C] f32 of frames
 * [first, first + T). It may overwrite x. */
struct vae_output {
    status (*put)(void *payload, const struct rows *rows, int64_t first, struct tensor x);
    void *payload;
};

/* Encoder or decoder over all chunks of one window. Each rank computes its own rows; ranks without
 * rows open no pass. */
struct vae_pass {
    struct vae *v;
    const struct vae_net *net;
    struct arena *a;
    struct rows rows;
    struct tensor *slot;     // [net->slots]: the frames before the chunk, with halo rows
    struct tensor buffer[2]; // u8; one holds the current activation, the other is spare
    int current;             // index of the buffer with the activation
    int64_t chunk, chunks;   // chunks finished, and of the whole window
    bool last;               // no frames follow those being computed: no cache is written
    int split;               // from this layer on frames are computed one by one; -1: from none
    struct tensor result;    // then: [T, h, W, C] f32 of the chunk
};

/* Allocates caches and buffers for chunks of at most `frames` frames of rows.count * scale rows and
 * `cols` columns. vae_pass_close releases the arena down to `mark`, its `used` before the opening,
 * and accepts a zeroed pass. ST_MEMORY. */
status vae_pass_open(struct vae_pass *p, struct vae *v, const struct vae_net *net, struct arena *a,
                     struct rows rows, int64_t frames, int64_t scale, int64_t cols, int64_t chunks);
void vae_pass_close(struct vae_pass *p, size_t mark);

/* Runs all layers on the next chunk. x: [T, h, W, C] in v->dtype, from rows_take. *out: this rank's
 * rows of the result, f32 [T', h', W', C'], valid until the next call. Collective over the ranks
 * that hold rows. */
status vae_pass_run(struct vae_pass *p, struct tensor *out, struct tensor x);

/* Decodes or encodes one window, over all t latent frames: vae.c. Collective over the group. latent
 * and pixels are whole videos in host memory as in vae.h; h and w are the whole image's latent rows
 * and columns. */
status vae_decode_window(struct vae *v, struct arena *a, const float *latent, int64_t t, int64_t h,
                         int64_t w, struct vae_window window, struct vae_output output);
status vae_encode_window(struct vae *v, struct arena *a, const float *pixels, int64_t t, int64_t h,
                         int64_t w, struct vae_window window, struct vae_output output);

/* Gathers the rows x [T, h, W, C], each frame contiguous, of all ranks on rank 0. *whole: x itself
 * if one rank holds all rows; else allocated from `a` on rank 0, and a zeroed tensor on the others.
 * scale: rows of x per latent row. Collective over the ranks that hold rows. */
status vae_gather(struct tensor *whole, const struct rows *rows, struct arena *a, struct tensor x,
                  int64_t scale);

/* Passes finished frames to the sink, on rank 0, with two buffers: while the sink handles the
 * frames of one chunk, the device computes those of the next. */
struct frame_output {
    struct device *dev;
    struct frame_sink sink;
    int64_t h, w;                      // pixels
    struct tensor rgb[2];              // [frames, h, w, 3] u8 on the device, used alternately
    uint8_t *host[2];                  // the same in host memory
    struct device_event downloaded[2]; // recorded after the download to host[i]
    int64_t count[2];                  // frames in host[i] that the sink has not got yet
    int next;                          // index of the buffers for the next chunk
};

/* For chunks of at most `frames` frames. Allocates from `a`; the caller releases that memory after
 * frame_output_close. sink as in vae_decode. Local. ST_MEMORY. */
status frame_output_open(struct frame_output *d, struct device *dev, struct arena *a,
                         struct frame_sink sink, int64_t frames, int64_t h, int64_t w);
void frame_output_close(struct frame_output *d); // accepts a zeroed frame_output

/* Memory on the device for the next `count` frames: [count, H, W, 3] u8. */
struct tensor frame_output_next(const struct frame_output *d, int64_t count);

/* Queues the download of the next `count` frames, which have been queued to be written there. Then
 * passes the frames of the previous call to the sink. frame_output_finish passes the last ones and
 * waits for the device. */
status frame_output_put(struct frame_output *d, int64_t count);
status frame_output_finish(struct frame_output *d);

/* vae_decode and vae_encode with tiles: vae_tiles.c. Arguments as in vae.h; t latent frames, h and
 * w latent rows and columns. */
status vae_decode_tiles(struct vae *v, struct arena *a, const float *latent, int64_t t, int64_t h,
                        int64_t w, struct vae_tiling tiling, struct frame_sink sink, float *pixels);
status vae_encode_tiles(struct vae *v, struct arena *a, float *latent, const float *pixels,
                        int64_t t, int64_t h, int64_t w, struct vae_tiling tiling);

#endif
