/* image.h - an image in RGB bytes, as the program hands it to a task: launch/ decodes, a task's
 * functions resize (resize.h, frame.h). All functions are local. */
#ifndef MODEL_MEDIA_IMAGE_H
#define MODEL_MEDIA_IMAGE_H

#include "runtime/status.h"

#include <stdint.h>

/* [h, w, 3] u8, the first row is the upper one; rgb is malloc'ed. A zeroed value is no image. */
struct image {
    int w, h;
    uint8_t *rgb;
};

status image_init(struct image *image, int w, int h); // bytes not set; ST_MEMORY
void image_done(struct image *image);                 // accepts zeroed values

/* Copies the part of w x h pixels at x, y, which lies in the image. ST_MEMORY. */
status image_crop(struct image *out, const struct image *in, int x, int y, int w, int h);

#define IMAGE_DIGEST_BYTES 33

/* The MD5 of the size and the pixels, in hexadecimal. */
void image_digest(const struct image *image, char hex[IMAGE_DIGEST_BYTES]);

/* A byte in [-1, 1], as torchvision's to_tensor, then sub_(0.5).div_(0.5). */
static inline float image_unit(uint8_t v)
{
    return ((float)v / 255.0f - 0.5f) / 0.5f;
}

#endif
