/* vae.h - the causal video autoencoders of Wan2.1 and of Wan2.2 TI2V-5B: encode pixels to latents
 * and decode latents to pixels. Videos have any length and are processed chunk by chunk with the
 * feature cache of wan/modules/vae.py, with exactly the same result. Image rows are split over
 * ranks.
 *
 * Images are frames [T, H, W, C]. Source: Wan2.1 wan/modules/vae.py, Wan2.2 wan/modules/vae2_2.py.
 */
#ifndef MODEL_VAE_VAE_H
#define MODEL_VAE_VAE_H

#include "kernels/ops.h"
#include "model/checkpoint/tensors.h"
#include "parallel/halo.h"

#define VAE_CHANNELS_MAX 64

struct vae_config {
    int64_t z;                // latent channels
    int64_t base;             // 96: widths are base * {1, 2, 4, 4}
    int64_t decoder_base;     // the decoder's, which in Wan2.2 is another
    int64_t patch;            // pixels per row and column that become channels: 1, in Wan2.2 2
    int res_blocks;           // per level in the encoder; the decoder has one more
    int64_t stride_t, stride; // 4, and 8 * patch
    float mean[VAE_CHANNELS_MAX], std[VAE_CHANNELS_MAX]; // of the latents, z each
};

/* Emits the tensors of the encoder, the decoder or both; dtype: of the matrices in memory. */
void vae_tensors(struct tensor_list *l, const struct vae_config *config, enum dtype dtype,
                 bool encoder, bool decoder);

/* Choices of --vae_precision, the dtype of vae_open that each stands for, and its name. */
#define VAE_PRECISIONS "fp32|tf32|bf16"
enum { VAE_FP32, VAE_TF32, VAE_BF16 };
enum dtype vae_precision(int choice);
const char *vae_precision_name(enum dtype dtype);

struct layer;
struct vae_net;

struct vae {
    struct vae_config config;
    struct device *dev;
    struct group *group; // borrowed; rows are split over its ranks
    struct weights weights;
    enum dtype dtype;     // of activations and weight matrices
    enum dtype factors;   // of normed activations, the factors of most convolutions: dtype, or f16,
                          // and then the other convolutions may round their factors to TF32
    bool frame_by_frame;  // decodes with less memory: after the last doubling of frames one by one
    struct layer *layers; // owned: of encoder and decoder, with all parameters
    struct vae_net *nets; // owned: the two
    struct vae_net *encoder, *decoder; // in nets; NULL if not loaded
    struct tensor mark;                // [1] f32: see op_find_nonfinite
    struct tensor scale[2], shift[2];  // f32 [z]: [0] latents to network values, [1] back
};

/* Loads the encoder, the decoder or both. Every rank keeps all parameters, allocated from arena
 * `a`, which keeps the memory after vae_close. Local, not collective: as with weights_open, the
 * caller passes the status to agree(). ST_FORMAT (no Wan VAE has these widths or strides), ST_IO,
 * ST_MEMORY.
 *
 * dtype, of what convolutions multiply:
 *   F32   f32: a GPU multiplies pairs of bf16
 *   F16   activations and weights are f32; those that are multiplied are rounded to 10 bits of
 *         mantissa, as PyTorch does by default on GPUs (TF32). After a norm they are stored as f16:
 *         |silu(norm(x))| <= sqrt(C) max |gamma|, which is scaled to [2^14, 2^15) by a power of
 * two, found when the weights are loaded. Others have no such bound, and are f32 in memory. BF16
 * bf16, as are all activations and weights */
status vae_open(struct vae *v, const struct vae_config *config, struct group *g, struct device *dev,
                struct arena *a, enum dtype dtype, bool encoder, bool decoder,
                struct weight_source source);
void vae_close(struct vae *v); // accepts a zeroed vae

/* Tile size and stride in latent rows and columns, blended as in DiffSynth-Studio (tiled=True). All
 * zero: no tiling.
 *
 * Each tile is one pass over all frames, with its rows split over the ranks. Rank 0 adds up the
 * weighted tiles of all frames in f32; the sink gets frames only after the last tile was added.
 * Tiles reduce the memory for caches and activations, but need memory for this sum (0.9 GB for 81
 * frames of 720p). A tile size that covers the whole image means no tiling, too. */
struct vae_tiling {
    int64_t size_h, size_w, stride_h, stride_w;
};

/* Callbacks on rank 0 of the group.
 *   put       gets the finished frames in order: `count` frames [count, H, W, 3] u8 in host memory,
 *             valid during the call. Its error ends the decoding. NULL: the frames are computed and
 *             discarded.
 *   progress  after each chunk, which is a latent frame of the whole image or of a tile: `done` of
 *             `total` are computed, or on a GPU queued. May be NULL.
 * And one on every rank:
 *   ready     gets the status of this rank's allocations, before the ranks send each other
 * anything: returns the status that they agree on, with which the decoding goes on or ends. May be
 *             NULL: then the others wait for a rank that has failed. */
struct frame_sink {
    status (*put)(void *payload, const uint8_t *rgb, int64_t count, int64_t h, int64_t w);
    void *payload;
    void (*progress)(void *payload, int64_t done, int64_t total);
    status (*ready)(void *ready_payload, status st);
    void *ready_payload;
    bool keeps_pixels; // on all ranks: the frames are also stored as f32, not clamped
    float *pixels;     // then on rank 0: where, [frames, H, W, 3]
    bool rounded; // bytes are rounded, as in the official program's images, not truncated, as in
                  // its videos; the same on all ranks
};

/* What is added to a value before it is truncated to a byte. */
static inline float frame_sink_add(const struct frame_sink *sink)
{
    return sink->rounded ? 0.5f : 0;
}

static inline void frame_sink_progress(const struct frame_sink *sink, int64_t done, int64_t total)
{
    if (sink->progress != NULL)
        sink->progress(sink->payload, done, total);
}

static inline status frame_sink_ready(const struct frame_sink *sink, status st)
{
    return sink->ready != NULL ? sink->ready(sink->ready_payload, st) : st;
}

/* Decodes a latent and passes 4(T-1)+1 frames to the sink as they are finished.
 *
 * Collective over the group; ranks that get no rows return at once.
 *   latent  [T, h, w, z] f32, normalized; the whole latent, in host memory of every rank
 *   pixels  NULL on all ranks or on none: on rank 0 host memory for the same frames, f32
 *           [4(T-1)+1, h * stride, w * stride, 3], not clamped; on other ranks it is not accessed
 *   a       scratch, released on return; rank 0 also allocates host memory for two chunks of
 *           frames
 * On the plan device the data of latent and pixels is not accessed, and the sink must not read rgb.
 * ST_USAGE (no frames, or tiles that leave gaps), ST_MEMORY, or the status of the sink. */
status vae_decode(struct vae *v, struct arena *a, const float *latent, int64_t t, int64_t h,
                  int64_t w, struct vae_tiling tiling, struct frame_sink sink, float *pixels);

/* Waits for the device. *finite: whether all values that this rank has decoded since vae_decode
 * began are finite. If not, fail() has been called with the line of an ST_FORMAT. Local. */
status vae_finite(struct vae *v, bool *finite);

/* The frames to encode. Callbacks on every rank of the group:
 *   get       *pixels = frame `index` [h, w, 3] f32 in [-1, 1], in host memory, valid until the
 * next call; NULL for a frame of zeros. Called for each frame in order, with tiles once more for
 * each tile, on every rank at the same place, so that it may be collective; not on the plan device.
 * Its error ends the encoding.
 *   progress  after each chunk, which is a latent frame of the whole image or of a tile. May be
 * NULL. ready     as in struct frame_sink, for the whole image or each tile. May be NULL. */
struct frame_source {
    status (*get)(void *payload, int64_t index, const float **pixels);
    void *payload;
    int64_t frames, h, w; // pixels
    void (*progress)(void *payload, int64_t done, int64_t total);
    status (*ready)(void *ready_payload, status st);
    void *ready_payload;
};

/* A source of all frames of a clip in host memory, [frames, h, w, 3]. The clip is borrowed. */
struct clip {
    const float *pixels;
    int64_t frames, h, w;
};
struct frame_source clip_source(const struct clip *clip);

static inline void frame_source_progress(const struct frame_source *source, int64_t done,
                                         int64_t total)
{
    if (source->progress != NULL)
        source->progress(source->payload, done, total);
}

static inline status frame_source_ready(const struct frame_source *source, status st)
{
    return source->ready != NULL ? source->ready(source->ready_payload, st) : st;
}

/* Encodes the first 4(T-1)+1 of F frames, T = 1 + (F-1)/4; later frames are ignored.
 *
 * Collective over the group.
 *   latent  [T, h / stride, w / stride, z] f32, normalized; the whole latent, in host memory of
 *           every rank
 *   a       scratch, released on return; each rank also allocates host memory for its rows of two
 *           chunks of frames
 * ST_USAGE when h or w is not a multiple of the stride, when F is 0, or when tiles leave gaps;
 * ST_MEMORY, or the status of the source. */
status vae_encode(struct vae *v, struct arena *a, float *latent, struct frame_source source,
                  struct vae_tiling tiling);

#endif
