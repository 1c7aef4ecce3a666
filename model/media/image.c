#include "model/media/image.h"

#include <assert.h>
#include <md5.h>
#include <stdlib.h>
#include <string.h>

status image_init(struct image *image, int w, int h)
{
    const size_t bytes = (size_t)w * (size_t)h * 3;

    assert(w > 0 && h > 0);
    *image = (struct image){ w, h, malloc(bytes) };
    if (image->rgb != NULL)
        return ST_OK;
    *image = (struct image){ 0 };
    return fail(ST_MEMORY, "cannot allocate %zu bytes of host memory for an image of %d x %d",
                bytes, w, h);
}

void image_done(struct image *image)
{
    free(image->rgb);
    *image = (struct image){ 0 };
}

status image_crop(struct image *out, const struct image *in, int x, int y, int w, int h)
{
    const size_t row = (size_t)w * 3;

    assert(x >= 0 && y >= 0 && w <= in->w - x && h <= in->h - y);
    TRY(image_init(out, w, h));
    for (int i = 0; i < h; i++)
        memcpy(out->rgb + (size_t)i * row, in->rgb + 3 * ((size_t)(y + i) * (size_t)in->w + x),
               row);
    return ST_OK;
}

void image_digest(const struct image *image, char hex[IMAGE_DIGEST_BYTES])
{
    const int32_t size[] = { image->w, image->h };
    MD5_CTX md5;

    MD5Init(&md5);
    MD5Update(&md5, (const uint8_t *)size, sizeof(size));
    MD5Update(&md5, image->rgb, (size_t)image->w * (size_t)image->h * 3);
    MD5End(&md5, hex);
}
