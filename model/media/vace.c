#include "model/media/vace.h"

#include <math.h>

#define GRID 16    // pixels of a token
#define LATENTS 21 // frames of the latent that the models were trained for

static int least(int64_t a, int64_t b)
{
    return (int)(a < b ? a : b);
}

status vace_size(int size[2], int *frames, int w, int h, int64_t count, int64_t area)
{
    const int64_t whole = area / (GRID * GRID), most = LATENTS * whole; // tokens
    const int64_t of_clip = (int64_t)(h / GRID) * (w / GRID);
    const int64_t frame = of_clip < whole ? of_clip : whole;
    const double aspect = (double)h / w;
    int latents, rows, target;

    if (frame == 0)
        return fail(ST_USAGE, "a clip of %d x %d is smaller than %d x %d; use a larger one", w, h,
                    GRID, GRID);
    latents = least((count - 1) / 4 + 1, most / frame);
    target = least(frame, most / latents);
    rows = (int)rint(sqrt(target * aspect));
    if (rows == 0 || target / rows == 0)
        return fail(ST_USAGE,
                    "a clip of %d x %d is too narrow for a video of %lld pixels with its aspect; "
                    "crop the clip",
                    w, h, (long long)area);
    size[0] = target / rows * GRID;
    size[1] = rows * GRID;
    *frames = 4 * (latents - 1) + 1;
    return ST_OK;
}

void vace_sample(int64_t *index, int frames, const float (*time)[2], int64_t count)
{
    const double end = (time[count - 1][0] + time[count - 1][1]) / 2;

    for (int i = 0; i < frames; i++) {
        const double at =
            i > 0 && i == frames - 1 ? end : i * (frames > 1 ? end / (frames - 1) : 0);
        int64_t k = 0;

        while (k < count && !(at >= time[k][0] && at <= time[k][1]))
            k++;
        index[i] = k < count ? k : 0; // as argmax of no match
    }
}

status vace_frame(struct image *out, int w, int h, const struct image *frame)
{
    const double scale = fmax((double)w / frame->w, (double)h / frame->h);
    struct image wide = { 0 };
    status st;

    if (frame->w == w && frame->h == h)
        return image_crop(out, frame, 0, 0, w, h);
    TRY_OUT(
        resize_torch_bytes(&wide, frame, (int)rint(scale * frame->w), (int)rint(scale * frame->h)));
    TRY_OUT(image_crop(out, &wide, (wide.w - w) / 2, (wide.h - h) / 2, w, h));
out:
    image_done(&wide);
    return st;
}

status vace_reference(float *out, int w, int h, const struct image *image)
{
    const double scale = fmin((double)h / image->h, (double)w / image->w);
    const int inner_w = (int)(image->w * scale), inner_h = (int)(image->h * scale);
    const int64_t row = (int64_t)w * 3;

    if (image->w == w && image->h == h) {
        for (int64_t i = 0; i < row * h; i++)
            out[i] = image_unit(image->rgb[i]);
        return ST_OK;
    }
    if (inner_w == 0 || inner_h == 0)
        return fail(ST_USAGE, "an image of %d x %d is too narrow for a video of %d x %d; crop it",
                    image->w, image->h, w, h);
    for (int64_t i = 0; i < row * h; i++)
        out[i] = 1;
    return resize_torch_linear(out + (h - inner_h) / 2 * row + (w - inner_w) / 2 * 3, row, inner_w,
                               inner_h, image);
}
