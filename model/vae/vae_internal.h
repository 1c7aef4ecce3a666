/* vae_internal.h - encoder and decoder as lists of layers, and a pass of one of them over the
 * chunks of a video.
 *
 *   vae.c         open, close, encoding and decoding of whole images
 *   vae_frames.c  frames from the source, and finished frames to the sink
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
    LAYER_PATCHES,   // none: scale x scale pixels become channels; further channels are zeros
    LAYER_PIXELS,    // none: back
    LAYER_FORK,      // none: keeps the means of cells of its input, for the next LAYER_JOIN
    LAYER_JOIN,      // none: adds what was kept, repeated for cells
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
    int64_t in, out; // channels; FORK, JOIN: of what is kept: before and after
    bool time;       // DOWN, UP: also changes the number of frames; FORK, JOIN: cells too
    int scale;       // of rows and columns: PATCHES, PIXELS, DOWN, UP, cells
    int slot;        // index of its first cache in vae_pass.slot
    struct tensor norm1, norm2; // gamma [C] f32
    int exponent1, exponent2;   // their results are stored times 2^exponent; 0 if not in f16
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
 */
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
    struct tensor kept;      // by the last LAYER_FORK
    size_t mark;             // the arena's `used` before
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

/* Runs all layers on the next chunk. x: [T, h, W, C]: latents in v->dtype, from rows_take, or
 * pixels f32, strided. *out: this rank's rows of the result, f32 [T', h', W', C'], valid until the
 * next call. Collective over the ranks that hold rows. */
status vae_pass_run(struct vae_pass *p, struct tensor *out, struct tensor x);

/* Decodes or encodes one window, over all t latent frames: vae.c. Collective over the group. latent
 * is a whole video in host memory as in vae.h; h and w are the whole image's latent rows and
 * columns. */
status vae_decode_window(struct vae *v, struct arena *a, const float *latent, int64_t t, int64_t h,
                         int64_t w, struct vae_window window, struct vae_output output);
status vae_encode_window(struct vae *v, struct arena *a, struct frame_source source,
                         struct vae_window window, struct vae_output output);

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

/* Rows of the source's frames on the device, with two buffers: while the device computes with the
 * frames of one chunk, those of the next are uploaded. */
struct frame_input {
    struct device *dev;
    struct frame_source source;
    int64_t row, next;               // first row, next frame
    struct tensor x[2];              // [frames, rows, w, 3] f32, used alternately
    float *host[2];                  // the same in host memory
    struct device_event uploaded[2]; // recorded after the upload to x[i]
    struct device_event used[2];     // recorded after the work that reads x[i]
    int at;                          // index of the buffers of the next chunk
};

/* For chunks of at most `frames` frames, rows [row, row + rows) of each. Allocates from `a`; the
 * caller releases that memory after frame_input_close. Local. ST_MEMORY. */
status frame_input_open(struct frame_input *f, struct device *dev, struct arena *a,
                        struct frame_source source, int64_t frames, int64_t row, int64_t rows);
void frame_input_close(struct frame_input *f); // accepts a zeroed frame_input

/* *x: the next `count` frames [count, rows, w, 3], which may be read until frame_input_free. */
status frame_input_next(struct frame_input *f, struct tensor *x, int64_t count);
status frame_input_free(struct frame_input *f);

/* The same calls of the source on a rank without rows. */
status frame_input_pass(const struct frame_source *source, const struct device *dev, int64_t first,
                        int64_t count);

/* vae_decode and vae_encode with tiles: vae_tiles.c. Arguments as in vae.h. */
status vae_decode_tiles(struct vae *v, struct arena *a, const float *latent, int64_t t, int64_t h,
                        int64_t w, struct vae_tiling tiling, struct frame_sink sink, float *pixels);
status vae_encode_tiles(struct vae *v, struct arena *a, float *latent, struct frame_source source,
                        struct vae_tiling tiling);

#endif
