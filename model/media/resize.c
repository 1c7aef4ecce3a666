#include "model/media/resize.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* ---- PIL ---- */

#define WEIGHT_BITS 22

static double cubic(double x)
{
    const double a = -0.5;

    x = fabs(x);
    if (x < 1)
        return ((a + 2) * x - (a + 3)) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

static double sinc(double x)
{
    return x == 0 ? 1 : sin(x * M_PI) / (x * M_PI);
}

static double lanczos(double x)
{
    return x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0;
}

static const struct {
    double (*at)(double x);
    double support;
} filters[] = { [PIL_BICUBIC] = { cubic, 2 }, [PIL_LANCZOS] = { lanczos, 3 } };

/* The taps of every output pixel along one axis. */
struct taps {
    int size;    // weights of an output pixel, at most
    int *first;  // [out] first input pixel
    int *count;  // [out]
    int *weight; // [out, size] with WEIGHT_BITS bits after the point
};

static void taps_done(struct taps *t)
{
    free(t->first);
    free(t->count);
    free(t->weight);
}

static status taps_init(struct taps *t, int in, int out, enum pil_filter filter)
{
    const double scale = (double)in / out, wide = fmax(scale, 1);
    const double support = filters[filter].support * wide;
    double *exact;

    t->size = 2 * (int)ceil(support) + 1;
    t->first = calloc((size_t)out, sizeof(*t->first));
    t->count = calloc((size_t)out, sizeof(*t->count));
    t->weight = calloc((size_t)out * (size_t)t->size, sizeof(*t->weight));
    exact = malloc((size_t)t->size * sizeof(*exact));
    if (t->first == NULL || t->count == NULL || t->weight == NULL || exact == NULL) {
        free(exact);
        return fail(ST_MEMORY, "cannot allocate host memory to resize an image from %d to %d", in,
                    out);
    }
    for (int i = 0; i < out; i++) {
        const double center = (i + 0.5) * scale;
        const int from = (int)fmax(center - support + 0.5, 0);
        const int to = (int)fmin(center + support + 0.5, in);
        int *weight = t->weight + (size_t)i * (size_t)t->size;
        double sum = 0;

        t->first[i] = from;
        t->count[i] = to - from;
        for (int k = 0; k < to - from; k++)
            sum += exact[k] = filters[filter].at((k + from - center + 0.5) * (1 / wide));
        for (int k = 0; k < to - from; k++) {
            const double w = sum != 0 ? exact[k] / sum : exact[k];
            weight[k] = (int)((w < 0 ? -0.5 : 0.5) + w * (1 << WEIGHT_BITS));
        }
    }
    free(exact);
    return ST_OK;
}

static uint8_t rounded(int sum)
{
    const int v = sum >> WEIGHT_BITS;

    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

/* Resizes one row of pixels. */
static void resize_row(uint8_t *out, const uint8_t *in, int w, const struct taps *t)
{
    for (int x = 0; x < w; x++) {
        const int *weight = t->weight + (size_t)x * (size_t)t->size;
        const uint8_t *from = in + 3 * (size_t)t->first[x];
        int sum[] = { 1 << (WEIGHT_BITS - 1), 1 << (WEIGHT_BITS - 1), 1 << (WEIGHT_BITS - 1) };

        for (int k = 0; k < t->count[x]; k++)
            for (int c = 0; c < 3; c++)
                sum[c] += from[3 * k + c] * weight[k];
        for (int c = 0; c < 3; c++)
            out[3 * (size_t)x + (size_t)c] = rounded(sum[c]);
    }
}

static status resize_rows(struct image *out, const struct image *in, int w, enum pil_filter filter)
{
    struct taps t = { 0 };
    status st;

    TRY_OUT(taps_init(&t, in->w, w, filter));
    TRY_OUT(image_init(out, w, in->h));
#pragma omp parallel for
    for (int y = 0; y < in->h; y++)
        resize_row(out->rgb + (size_t)y * (size_t)w * 3, in->rgb + (size_t)y * (size_t)in->w * 3, w,
                   &t);
out:
    taps_done(&t);
    return st;
}

static status resize_columns(struct image *out, const struct image *in, int h,
                             enum pil_filter filter)
{
    const size_t row = (size_t)in->w * 3;
    struct taps t = { 0 };
    status st;

    TRY_OUT(taps_init(&t, in->h, h, filter));
    TRY_OUT(image_init(out, in->w, h));
#pragma omp parallel for
    for (int y = 0; y < h; y++) {
        const int *weight = t.weight + (size_t)y * (size_t)t.size;
        const uint8_t *from = in->rgb + (size_t)t.first[y] * row;

        for (size_t x = 0; x < row; x++) {
            int sum = 1 << (WEIGHT_BITS - 1);

            for (int k = 0; k < t.count[y]; k++)
                sum += from[(size_t)k * row + x] * weight[k];
            out->rgb[(size_t)y * row + x] = rounded(sum);
        }
    }
out:
    taps_done(&t);
    return st;
}

status resize_pil(struct image *out, const struct image *in, int w, int h, enum pil_filter filter)
{
    struct image rows = { 0 };
    status st;

    if (w == in->w && h == in->h)
        return image_crop(out, in, 0, 0, w, h);
    if (w == in->w)
        return resize_columns(out, in, h, filter);
    if (h == in->h)
        return resize_rows(out, in, w, filter);
    TRY_OUT(resize_rows(&rows, in, w, filter));
    TRY_OUT(resize_columns(out, &rows, h, filter));
out:
    image_done(&rows);
    return st;
}

/* ---- PyTorch ---- */

/* The four taps of an output value: at[k] are input positions. */
struct cubic_taps {
    int at[4];
    float weight[4];
};

static float near_weight(float x, float a)
{
    return ((a + 2) * x - (a + 3)) * x * x + 1;
}

static float far_weight(float x, float a)
{
    return fmaf(fmaf(a, x, -5 * a), x, 8 * a) * x - 4 * a;
}

static struct cubic_taps cubic_taps(int index, float scale, int size)
{
    const float a = -0.75f, center = fmaf(scale, (float)index + 0.5f, -0.5f);
    const int low = (int)fminf(floorf(center), (float)(size - 1));
    const float t = fminf(fmaxf(center - (float)low, 0), 1), u = 1 - t;
    struct cubic_taps taps = {
        .weight = { far_weight(t + 1, a), near_weight(t, a), near_weight(u, a),
                    far_weight(u + 1, a) },
    };

    for (int k = 0; k < 4; k++) {
        const int at = low - 1 + k;
        taps.at[k] = at < 0 ? 0 : at < size ? at : size - 1;
    }
    return taps;
}

static float weighted(const float *tap, const float *weight)
{
    float sum = tap[1] * weight[1];

    sum = fmaf(tap[0], weight[0], sum);
    sum = fmaf(tap[2], weight[2], sum);
    return fmaf(tap[3], weight[3], sum);
}

/* Writes row y of the window [w, 3] in f32. */
static void window_row(float *out, const struct image *in, struct window window, int y)
{
    const uint8_t *from = in->rgb + 3 * (size_t)in->w * (size_t)(window.y + y);

    for (int x = 0; x < window.w; x++) {
        const int at = window.x + x;
        const bool inside = window.y + y >= 0 && window.y + y < in->h && at >= 0 && at < in->w;

        for (int c = 0; c < 3; c++)
            out[3 * (size_t)x + (size_t)c] = inside ? image_unit(from[3 * at + c]) : 0;
    }
}

/* out [w, 3]: `in` [.., 3] interpolated along the row. */
static void cubic_row(float *out, int w, const struct cubic_taps *taps, const float *in)
{
    for (int x = 0; x < w; x++) {
        const struct cubic_taps *t = &taps[x];

        for (int c = 0; c < 3; c++) {
            float tap[4];

            for (int k = 0; k < 4; k++)
                tap[k] = in[3 * (size_t)t->at[k] + (size_t)c];
            out[3 * (size_t)x + (size_t)c] = weighted(tap, t->weight);
        }
    }
}

status resize_torch(float *out, int w, int h, const struct image *in, struct window window)
{
    const size_t row = (size_t)w * 3;
    const float scale_x = (float)window.w / (float)w, scale_y = (float)window.h / (float)h;
    struct cubic_taps *taps = malloc((size_t)w * sizeof(*taps));
    float *unit = malloc(3 * (size_t)window.w * sizeof(*unit)); // a row of the window
    float *rows = malloc(4 * row * sizeof(*rows)); // row y of it, interpolated, in rows[y % 4]
    int kept[4] = { -1, -1, -1, -1 };              // which rows these are
    status st = ST_OK;

    assert(w > 0 && h > 0 && window.w > 0 && window.h > 0);
    if (taps == NULL || unit == NULL || rows == NULL)
        TRY_OUT(fail(ST_MEMORY, "cannot allocate host memory to resize an image to %d x %d", w, h));
    for (int x = 0; x < w; x++)
        taps[x] = cubic_taps(x, scale_x, window.w);
    for (int y = 0; y < h; y++) {
        const struct cubic_taps t = cubic_taps(y, scale_y, window.h);
        const float *from[4];

        for (int k = 0; k < 4; k++) {
            const int slot = t.at[k] % 4;

            from[k] = rows + (size_t)slot * row;
            if (kept[slot] == t.at[k])
                continue;
            window_row(unit, in, window, t.at[k]);
            cubic_row(rows + (size_t)slot * row, w, taps, unit);
            kept[slot] = t.at[k];
        }
        for (size_t i = 0; i < row; i++) {
            const float tap[] = { from[0][i], from[1][i], from[2][i], from[3][i] };

            out[(size_t)y * row + i] = weighted(tap, t.weight);
        }
    }
out:
    free(taps);
    free(unit);
    free(rows);
    return st;
}
