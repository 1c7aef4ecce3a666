/* clip.h - the image encoder of Wan2.1's I2V and FLF2V: a CLIP vision transformer, of which the
 * output before the last block is used. Its blocks are streamed from the file, as the text
 * encoder's are. Source: Wan2.1 wan/modules/clip.py, VisionTransformer. */
#ifndef MODEL_VISION_CLIP_H
#define MODEL_VISION_CLIP_H

#include "kernels/ops.h"
#include "model/checkpoint/tensors.h"
#include "model/media/resize.h"

struct clip_config {
    int64_t dim, ffn_dim;
    int64_t patch, side; // pixels: of a patch, and of the image; side is a multiple of patch
    int64_t out_dim;     // of the head, which is not computed; 0: the file has none
    int heads, layers;   // layers: all, one more than are computed
    bool split; // the tensors of transformers' CLIPVisionModel: q, k and v each, flat embeddings
};

int64_t clip_tokens(const struct clip_config *config); // of one image: patches, and one in front

/* Emits every tensor. All are f32 in memory. */
void clip_tensors(struct tensor_list *l, const struct clip_config *config);

/* ST_FORMAT when these numbers, found in `file`, are none that the encoder can run. */
status clip_check(const struct clip_config *config, const char *file);

int64_t clip_patches_count(const struct clip_config *config); // values of one image's patches

/* The input for an image: out [patches, patch * patch * 3] f32. The window of the image is resized
 * to side x side as PyTorch's bicubic interpolation does, then normalized. ST_MEMORY. Local. */
status clip_patches(float *out, const struct clip_config *config, const struct image *image,
                    struct window window);

/* The weights that are computed with: resident on the device, or streamed from the source. */
struct clip_weights {
    struct weights embedding, blocks;
};

/* Opens the weights in arena `a`. keep: resident. `source` is borrowed until clip_close if they are
 * streamed. Local. ST_IO, ST_FORMAT, ST_MEMORY. */
status clip_open(struct clip_weights *w, const struct clip_config *config, struct arena *a,
                 struct weight_source source, bool keep);
void clip_close(struct clip_weights *w); // the memory stays with the arena; accepts zeroed values

/* Encodes `count` images in f32.
 *   patches  [count, patches, patch * patch * 3] f32, host memory
 *   out      [count, tokens, dim] f32, host memory
 * Allocates from `a` and releases everything before it returns. For plans both are NULL. Local.
 * ST_IO, ST_FORMAT, ST_MEMORY. */
status clip_encode(const struct clip_config *config, struct device *dev, struct arena *a,
                   struct clip_weights *w, int count, const float *patches, float *out);

#endif
