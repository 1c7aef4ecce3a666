#include "launch/video/media_internal.h"

#include <string.h>

#define TAG_ORIENTATION 0x0112

static uint32_t number(const uint8_t *p, int bytes, bool big)
{
    uint32_t v = 0;

    for (int i = 0; i < bytes; i++)
        v = v << 8 | p[big ? i : bytes - 1 - i];
    return v;
}

int tiff_tag(const uint8_t *bytes, size_t size, int tag, int missing)
{
    bool big;
    size_t at, entries;

    if (size < 10 || (memcmp(bytes, "II*\0", 4) != 0 && memcmp(bytes, "MM\0*", 4) != 0))
        return missing;
    big = bytes[0] == 'M';
    at = number(bytes + 4, 4, big);
    if (at > size - 2)
        return missing;
    entries = number(bytes + at, 2, big);
    for (at += 2; entries > 0 && at + 12 <= size; at += 12, entries--) {
        const uint8_t *e = bytes + at; // tag, type, count, value

        if (number(e, 2, big) == (uint32_t)tag)
            return (int)number(e + 8, 2, big);
    }
    return missing;
}

int exif_orientation(const uint8_t *bytes, size_t size)
{
    const bool named = size >= 6 && memcmp(bytes, "Exif\0", 6) == 0;
    const int value = tiff_tag(bytes + (named ? 6 : 0), size - (named ? 6 : 0), TAG_ORIENTATION, 1);

    return value >= 1 && value <= 8 ? value : 1;
}

status media_turn(struct image *image, int orientation)
{
    const int w = image->w, h = image->h;
    const bool swap = orientation >= 5;
    struct image out = { 0 };

    if (orientation == 1)
        return ST_OK;
    TRY(image_init(&out, swap ? h : w, swap ? w : h));
    for (int y = 0; y < out.h; y++) {
        for (int x = 0; x < out.w; x++) {
            // the source pixel; 5 mirrors at the diagonal, 6 turns clockwise, 8 counterclockwise
            const bool mirror_x = orientation == 2 || orientation == 3 || orientation >= 7;
            const bool mirror_y =
                orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
            const int u = swap ? y : x, v = swap ? x : y;
            const size_t from =
                (size_t)(mirror_y ? h - 1 - v : v) * (size_t)w + (size_t)(mirror_x ? w - 1 - u : u);

            memcpy(out.rgb + 3 * ((size_t)y * (size_t)out.w + (size_t)x), image->rgb + 3 * from, 3);
        }
    }
    image_done(image);
    *image = out;
    return ST_OK;
}
