#include "model/media/frame.h"

#include "runtime/half.h"

#include <math.h>
#include <stdlib.h>

#define WINDOW_MAX 178956970 // pixels that PIL takes for an image at most

static status too_narrow(int w, int h, int64_t area)
{
    return fail(ST_USAGE,
                "an image of %d x %d is too narrow for a video of %lld pixels with its aspect; "
                "crop the image",
                w, h, (long long)area);
}

/* The multiple of `grid` below x. */
static int floor_to(double x, int grid)
{
    return (int)(floor(x / grid) * grid);
}

status frame_size_area(int size[2], int w, int h, int64_t area)
{
    const double aspect = (double)h / w;
    const int rows = floor_to(sqrt((double)area * aspect), 16);
    const int columns = floor_to(sqrt((double)area / aspect), 16);

    if (rows == 0 || columns == 0)
        return too_narrow(w, h, area);
    size[0] = columns;
    size[1] = rows;
    return ST_OK;
}

status frame_size_grid(int size[2], int w, int h, int64_t area, int grid)
{
    const double ratio = (double)w / h;
    const double width = pow((double)area * ratio, 0.5), height = (double)area / width;
    int by_width[2] = { floor_to(width, grid) }, by_height[2] = { 0, floor_to(height, grid) };
    double a, b;

    if (by_width[0] > 0)
        by_width[1] = floor_to((double)area / by_width[0], grid);
    if (by_height[1] > 0)
        by_height[0] = floor_to((double)area / by_height[1], grid);
    if (by_width[1] == 0 || by_height[0] == 0)
        return too_narrow(w, h, area);
    a = (double)by_width[0] / by_width[1];
    b = (double)by_height[0] / by_height[1];
    if (fmax(ratio / a, a / ratio) < fmax(ratio / b, b / ratio)) {
        size[0] = by_width[0];
        size[1] = by_width[1];
    } else {
        size[0] = by_height[0];
        size[1] = by_height[1];
    }
    return ST_OK;
}

status frame_fill(float *out, int w, int h, const struct image *image)
{
    const double scale = fmax((double)w / image->w, (double)h / image->h);
    struct image wide = { 0 }, part = { 0 };
    status st;

    TRY_OUT(resize_pil(&wide, image, (int)rint(image->w * scale), (int)rint(image->h * scale),
                       PIL_LANCZOS));
    TRY_OUT(image_crop(&part, &wide, (wide.w - w) / 2, (wide.h - h) / 2, w, h));
    for (int64_t i = 0; i < (int64_t)w * h * 3; i++)
        out[i] = image_unit(part.rgb[i]);
out:
    image_done(&wide);
    image_done(&part);
    return st;
}

/* Where torchvision's center_crop of `size` values begins when it takes `part` of them. */
static int center(int size, int part)
{
    if (part > size)
        return -((part - size) / 2);
    return (int)rint((size - part) / 2.0);
}

status frame_last_window(struct window *window, const struct image *first, const struct image *last)
{
    const double ratio = fmax((double)first->w / last->w, (double)first->h / last->h);
    int w = last->w, h = last->h;

    if (first->w != last->w || first->h != last->h) {
        h = (int)rint(last->w * ratio); // the official order of the two
        w = (int)rint(last->h * ratio);
    }
    if (w == 0 || h == 0 || (int64_t)w * h > WINDOW_MAX)
        return fail(ST_USAGE,
                    "a first image of %d x %d and a last one of %d x %d: one of them is too "
                    "narrow; give both the same aspect",
                    first->w, first->h, last->w, last->h);
    *window = (struct window){ center(last->w, w), center(last->h, h), w, h };
    return ST_OK;
}

status frame_stretch(float *out, int w, int h, const struct image *image, bool bf16)
{
    const float scale = (float)(2.0 / 255);
    struct image resized = { 0 };
    status st;

    TRY_OUT(resize_pil(&resized, image, w, h, PIL_BICUBIC));
    for (int64_t i = 0; i < (int64_t)w * h * 3; i++) {
        const float v = (float)resized.rgb[i] * scale;

        out[i] = bf16 ? bf16_round(bf16_round(v) - 1) : v - 1;
    }
out:
    image_done(&resized);
    return st;
}

status frame_cover(struct window *window, int w, int h, const struct image *image)
{
    const int iw = image->w, ih = image->h;

    *window = (struct window){ 0, 0, iw, ih };
    if (iw == w && ih == h)
        return ST_OK;
    if ((double)ih / iw < (double)h / w) {
        window->w = (int)((double)ih / h * w);
        window->x = (iw - window->w) / 2;
    } else {
        window->h = (int)((double)iw / w * h);
        window->y = (ih - window->h) / 2;
    }
    return window->w > 0 && window->h > 0
               ? ST_OK
               : fail(ST_USAGE, "a frame of %d x %d has no part with the aspect of %d x %d", iw, ih,
                      w, h);
}

status frame_letterbox(float *out, int w, int h, const struct image *image)
{
    const double ratio = (double)image->w / image->h;
    int iw = w, ih = h, x, y;
    struct image resized = { 0 };
    status st;

    if (ratio > (double)w / h)
        ih = (int)(w / ratio);
    else
        iw = (int)(h * ratio);
    if (iw < 1 || ih < 1)
        return fail(ST_USAGE, "an image of %d x %d has no size in a frame of %d x %d", image->w,
                    image->h, w, h);
    x = (w - iw) / 2;
    y = (h - ih) / 2;
    TRY_OUT(resize_pil(&resized, image, iw, ih, PIL_LANCZOS));
    for (int64_t i = 0; i < (int64_t)w * h * 3; i++)
        out[i] = 1;
    for (int row = 0; row < ih; row++)
        for (int i = 0; i < 3 * iw; i++)
            out[((int64_t)(y + row) * w + x) * 3 + i] =
                image_unit(resized.rgb[(int64_t)row * iw * 3 + i]);
out:
    image_done(&resized);
    return st;
}

/* ---- S2V ---- */

#define GRID 64
#define SCALES 100 // that are tried

static int grid_above(double x)
{
    return ((int)x + GRID - 1) / GRID * GRID;
}

status frame_size_within(int size[2], int w, int h, int64_t area)
{
    const double pixels = (double)h * w, aspect = (double)w / h;
    double least = 0.1, most = 1;
    int columns, rows;

    if (pixels > (double)area) {
        const double d = GRID - 1, b = d * (h + (double)w), c = d * d - (double)area;

        least = (-b + sqrt(b * b - 2 * pixels * c)) / (2 * pixels);
        most = sqrt((double)area / pixels);
    }
    for (int i = 0; i < SCALES; i++) {
        const double scale = most - (most - least) * i / SCALES;

        columns = grid_above(w * scale);
        rows = grid_above(h * scale);
        if (columns > 0 && rows > 0 && (int64_t)columns * rows <= area) {
            size[0] = columns;
            size[1] = rows;
            return ST_OK;
        }
    }
    columns = floor_to(pow((double)area * aspect, 0.5), GRID);
    rows = floor_to(pow((double)area / aspect, 0.5), GRID);
    if (columns >= w || rows >= h) {
        columns = w / GRID * GRID;
        rows = h / GRID * GRID;
    }
    if (columns < GRID || rows < GRID)
        return too_narrow(w, h, area);
    size[0] = columns;
    size[1] = rows;
    return ST_OK;
}

/* Python's round((a - b) / 2), to even. */
static int half_of(int a, int b)
{
    return (int)nearbyint((a - b) / 2.0);
}

status frame_center(float *out, int w, int h, const struct image *image, bool clip)
{
    const int side = w < h ? w : h, iw = image->w, ih = image->h;
    const int rw = iw <= ih ? side : (int)((double)((int64_t)side * iw) / ih);
    const int rh = iw <= ih ? (int)((double)((int64_t)side * ih) / iw) : side;
    // what is missing is before and, if it is odd, one more after it
    const int left = w > rw ? (w - rw) / 2 : 0, top = h > rh ? (h - rh) / 2 : 0;
    const int x0 = w > rw ? 0 : half_of(rw, w), y0 = h > rh ? 0 : half_of(rh, h);
    float *values = malloc((size_t)rw * (size_t)rh * 3 * sizeof(*values));
    struct image resized = { 0 };
    status st = ST_OK;

    if (values == NULL)
        TRY_OUT(fail(ST_MEMORY, "cannot allocate host memory for an image of %d x %d", rw, rh));
    if (clip) {
        TRY_OUT(resize_linear(values, rw, rh, image));
    } else {
        TRY_OUT(resize_pil(&resized, image, rw, rh, PIL_BILINEAR));
        for (size_t i = 0; i < (size_t)rw * (size_t)rh * 3; i++)
            values[i] = (float)resized.rgb[i] / 255.0f * 2 - 1;
    }
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            const int sx = x - left + x0, sy = y - top + y0;
            const bool inside = sx >= 0 && sx < rw && sy >= 0 && sy < rh && x >= left && y >= top;

            for (int c = 0; c < 3; c++)
                *out++ = inside ? values[((size_t)sy * (size_t)rw + (size_t)sx) * 3 + (size_t)c]
                         : clip ? 0
                                : -1;
        }
out:
    image_done(&resized);
    free(values);
    return st;
}
