/* first_frame VIDEO IMAGE DB: whether the video begins with the image, by the PSNR of its first
 * frame. */
#include "launch/video/media.h"
#include "tests/check.h"

#include <math.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    struct image frame = { 0 }, image = { 0 };
    double square = 0, psnr;

    if (argc < 4 || media_image(&frame, NULL, argv[1], MEDIA_PIXELS_MAX) != ST_OK ||
        media_image(&image, NULL, argv[2], MEDIA_PIXELS_MAX) != ST_OK) {
        fprintf(stderr, "first_frame: %s\n", argc < 4 ? "three arguments" : status_line());
        return 2;
    }
    CHECK(frame.w == image.w && frame.h == image.h, "a video of %d x %d, an image of %d x %d",
          frame.w, frame.h, image.w, image.h);
    if (checks_failed == 0) {
        const int64_t n = (int64_t)image.w * image.h * 3;

        for (int64_t i = 0; i < n; i++)
            square += pow(frame.rgb[i] - image.rgb[i], 2);
        psnr = 10 * log10(255.0 * 255 * (double)n / square);
        CHECK(psnr >= atof(argv[3]), "the first frame has a PSNR of %.2f dB", psnr);
    }
    image_done(&frame);
    image_done(&image);
    return check_end("first_frame");
}
