/* An image or a clip of at most 256 Ki pixels. */
#include "launch/video/media.h"
#include "tests/fuzz/fuzz.h"

#define PIXELS_MAX (1 << 18)

static status look(void *payload, const struct image *frame)
{
    if (frame->w < 1 || frame->h < 1 || (int64_t)frame->w * frame->h > PIXELS_MAX)
        __builtin_trap();
    return ST_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *path = fuzz_file(data, size);
    struct image image = { 0 };
    int64_t read = 0;

    if (fuzz_ok(media_image(&image, NULL, path, PIXELS_MAX)))
        look(NULL, &image);
    image_done(&image);
    fuzz_ok(media_frames(path, 1, 3, PIXELS_MAX, (struct media_sink){ look, NULL }, &read));
    return 0;
}
