/* frame.h - from images to the frames of a video, by the rules of each program: the video's size
 * from an image's aspect, and the image at that size as f32. All functions are local.
 *
 *     task                         size               frame
 *     Wan2.1 I2V, Wan2.2 I2V-A14B  frame_size_area    resize_torch, all of the image
 *     Wan2.1 FLF2V                 frame_size_area    the same; frame_last_window of the last image
 *     Wan2.2 TI2V-5B               frame_size_grid    frame_fill
 *     Wan2.2 S2V                   frame_size_within  frame_center
 *     DiffSynth (Fun-InP, ...)     as given           frame_stretch
 *     Phantom's references         as given           frame_letterbox
 *     DiffSynth, frames of clips   as given           frame_cover, then frame_stretch
 *
 * Sizes are width, height in pixels. Arithmetic is that of Python: doubles, and round() to even. */
#ifndef MODEL_MEDIA_FRAME_H
#define MODEL_MEDIA_FRAME_H

#include "model/media/resize.h"

#include <stdbool.h>

/* The size with the aspect of an image of w x h and about `area` pixels, in multiples of 16. Both
 * sides are rounded down. ST_USAGE if a side would be 0.
 * Source: Wan2.1 wan/image2video.py, Wan2.2 wan/image2video.py. */
status frame_size_area(int size[2], int w, int h, int64_t area);

/* The same with at most `area` pixels, in multiples of `grid`: of the two ways to round, the one
 * that is closer to the aspect. ST_USAGE as above.
 * Source: Wan2.2 wan/utils/utils.py best_output_size; grid = 32: patch x VAE stride. */
status frame_size_grid(int size[2], int w, int h, int64_t area, int grid);

/* out [h, w, 3]: PIL LANCZOS to cover w x h, then the centre. In [-1, 1]. ST_MEMORY.
 * Source: Wan2.2 wan/textimage2video.py, i2v. */
status frame_fill(float *out, int w, int h, const struct image *image);

/* The part of the last image that FLF2V uses, and that CLIP sees: all of it if both images have
 * the same size. Else the official program crops or pads the centre to the last image's size times
 * the larger ratio of the sides, and takes that width for the height and the reverse.
 * ST_USAGE if the part would be empty or enormous. Source: Wan2.1 wan/first_last_frame2video.py,
 * which calls torchvision's center_crop. */
status frame_last_window(struct window *window, const struct image *first,
                         const struct image *last);

/* out [h, w, 3]: PIL BICUBIC to w x h, whatever the aspect, in [-1, 1]; with `bf16` rounded as
 * DiffSynth does in bf16. ST_MEMORY. Source: DiffSynth-Studio diffsynth/diffusion/base_pipeline.py
 * preprocess_image, diffsynth/pipelines/wan_video.py. */
status frame_stretch(float *out, int w, int h, const struct image *image, bool bf16);

/* The part of an image at the centre that has the aspect of w x h; all of it if it has that size.
 * ST_USAGE if it would be empty. Source: DiffSynth-Studio diffsynth/utils/data crop_and_resize. */
status frame_cover(struct window *window, int w, int h, const struct image *image);

/* out [h, w, 3]: the whole image in the middle of a white frame, by PIL LANCZOS, in [-1, 1].
 * ST_USAGE if a side would be 0; ST_MEMORY. Source: Phantom generate.py, load_ref_images. */
status frame_letterbox(float *out, int w, int h, const struct image *image);

/* The size with the aspect of an image of w x h, in multiples of 64, at most `area` pixels: the
 * image is scaled down until it fits, with the rows and columns that are missing to the multiples.
 * ST_USAGE if there is none. Source: Wan2.2 wan/speech2video.py, get_size_less_than_area. */
status frame_size_within(int size[2], int w, int h, int64_t area);

/* out [h, w, 3]: the image scaled so that its shorter side is the video's shorter one, then the
 * centre; where it is too small, what is missing is black of an image (PIL, bilinear) and grey of a
 * frame of a `clip` (torch, bilinear with antialias). ST_MEMORY.
 * Source: Wan2.2 wan/speech2video.py; torchvision's Resize and CenterCrop. */
status frame_center(float *out, int w, int h, const struct image *image, bool clip);

#endif
