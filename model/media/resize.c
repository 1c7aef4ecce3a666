#include "model/media/resize.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* ---- bytes: PIL, PyTorch ---- */

#define PIL_BITS 22   // of a weight, after the point
#define TORCH_BITS 15 // of a weight, with its sign 16

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

static double triangle(double x)
{
    x = fabs(x);
    return x < 1 ? 1 - x : 0;
}

static const struct {
    double (*at)(double x);
    double support;
} filters[] = {
    [PIL_BICUBIC] = { cubic, 2 }, [PIL_LANCZOS] = { lanczos, 3 }, [PIL_BILINEAR] = { triangle, 1 }
};

/* The taps of every output pixel along one axis. */
struct taps {
    int size;    // weights of an output pixel, at most
    int *first;  // [out] first input pixel
    int *count;  // [out]
    int *weight; // [out, size]
    float *real; // [out, size]: the same, not rounded
    int bits;    // of a weight, after the point
};

static void taps_done(struct taps *t)
{
    free(t->first);
    free(t->count);
    free(t->weight);
    free(t->real);
}

/* How output pixels are made. */
struct kind {
    enum pil_filter filter;
    bool torch; // weights as PyTorch has them
};

/* The most bits with which the largest weight has 16. */
static int torch_bits(double most)
{
    int bits = 0;

    while (bits < PIL_BITS && (int)(0.5 + most * (1 << (bits + 1))) < 1 << TORCH_BITS)
        bits++;
    return bits;
}

static status taps_init(struct taps *t, int in, int out, struct kind kind)
{
    const double scale = (double)in / out, wide = fmax(scale, 1);
    const double support = filters[kind.filter].support * wide;
    double *exact, most = 0;

    t->size = 2 * (int)ceil(support) + 1;
    t->first = calloc((size_t)out, sizeof(*t->first));
    t->count = calloc((size_t)out, sizeof(*t->count));
    t->weight = calloc((size_t)out * (size_t)t->size, sizeof(*t->weight));
    t->real = calloc((size_t)out * (size_t)t->size, sizeof(*t->real));
    exact = calloc((size_t)out * (size_t)t->size, sizeof(*exact));
    if (t->real == NULL || t->first == NULL || t->count == NULL || t->weight == NULL ||
        exact == NULL) {
        free(exact);
        return fail(ST_MEMORY, "cannot allocate host memory to resize an image from %d to %d", in,
                    out);
    }
    for (int i = 0; i < out; i++) {
        const double center = (i + 0.5) * scale;
        const int from = (int)fmax(center - support + 0.5, 0);
        const int to = (int)fmin(center + support + 0.5, in);
        double *w = exact + (size_t)i * (size_t)t->size, sum = 0;

        t->first[i] = from;
        t->count[i] = to - from;
        for (int k = 0; k < to - from; k++)
            sum += w[k] = filters[kind.filter].at((k + from - center + 0.5) * (1 / wide));
        for (int k = 0; k < to - from; k++) {
            w[k] = sum != 0 ? w[k] / sum : w[k];
            most = fmax(most, w[k]);
        }
    }
    t->bits = kind.torch ? torch_bits(most) : PIL_BITS;
    for (size_t i = 0; i < (size_t)out * (size_t)t->size; i++)
        t->weight[i] = (int)((exact[i] < 0 ? -0.5 : 0.5) + exact[i] * (1 << t->bits));
    for (size_t i = 0; i < (size_t)out * (size_t)t->size; i++)
        t->real[i] = (float)exact[i];
    free(exact);
    return ST_OK;
}

static uint8_t rounded(int sum, int bits)
{
    const int v = sum >> bits;

    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

/* Resizes one row of pixels. */
static void resize_row(uint8_t *out, const uint8_t *in, int w, const struct taps *t)
{
    for (int x = 0; x < w; x++) {
        const int *weight = t->weight + (size_t)x * (size_t)t->size;
        const uint8_t *from = in + 3 * (size_t)t->first[x];
        const int half = 1 << (t->bits - 1);
        int sum[] = { half, half, half };

        for (int k = 0; k < t->count[x]; k++)
            for (int c = 0; c < 3; c++)
                sum[c] += from[3 * k + c] * weight[k];
        for (int c = 0; c < 3; c++)
            out[3 * (size_t)x + (size_t)c] = rounded(sum[c], t->bits);
    }
}

static status resize_rows(struct image *out, const struct image *in, int w, struct kind kind)
{
    struct taps t = { 0 };
    status st;

    TRY_OUT(taps_init(&t, in->w, w, kind));
    TRY_OUT(image_init(out, w, in->h));
#pragma omp parallel for
    for (int y = 0; y < in->h; y++)
        resize_row(out->rgb + (size_t)y * (size_t)w * 3, in->rgb + (size_t)y * (size_t)in->w * 3, w,
                   &t);
out:
    taps_done(&t);
    return st;
}

static status resize_columns(struct image *out, const struct image *in, int h, struct kind kind)
{
    const size_t row = (size_t)in->w * 3;
    struct taps t = { 0 };
    status st;

    TRY_OUT(taps_init(&t, in->h, h, kind));
    TRY_OUT(image_init(out, in->w, h));
#pragma omp parallel for
    for (int y = 0; y < h; y++) {
        const int *weight = t.weight + (size_t)y * (size_t)t.size;
        const uint8_t *from = in->rgb + (size_t)t.first[y] * row;

        for (size_t x = 0; x < row; x++) {
            int sum = 1 << (t.bits - 1);

            for (int k = 0; k < t.count[y]; k++)
                sum += from[(size_t)k * row + x] * weight[k];
            out->rgb[(size_t)y * row + x] = rounded(sum, t.bits);
        }
    }
out:
    taps_done(&t);
    return st;
}

static status resize_bytes(struct image *out, const struct image *in, int w, int h,
                           struct kind kind)
{
    struct image rows = { 0 };
    status st;

    if (w == in->w && h == in->h)
        return image_crop(out, in, 0, 0, w, h);
    if (w == in->w)
        return resize_columns(out, in, h, kind);
    if (h == in->h)
        return resize_rows(out, in, w, kind);
    TRY_OUT(resize_rows(&rows, in, w, kind));
    TRY_OUT(resize_columns(out, &rows, h, kind));
out:
    image_done(&rows);
    return st;
}

status resize_pil(struct image *out, const struct image *in, int w, int h, enum pil_filter filter)
{
    return resize_bytes(out, in, w, h, (struct kind){ .filter = filter });
}

status resize_torch_bytes(struct image *out, const struct image *in, int w, int h)
{
    return resize_bytes(out, in, w, h, (struct kind){ .filter = PIL_BICUBIC, .torch = true });
}

/* ---- PyTorch, in f32 ---- */

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

/* The two taps of an output value. */
struct linear_taps {
    int at[2];
    float weight[2];
};

static struct linear_taps linear_taps(int index, float scale, int size)
{
    const float center = fmaxf(scale * ((float)index + 0.5f) - 0.5f, 0);
    const int low = (int)fminf(floorf(center), (float)(size - 1));
    const float t = fminf(fmaxf(center - (float)low, 0), 1);

    return (struct linear_taps){ { low, low + (low < size - 1) }, { 1 - t, t } };
}

static float between(float a, float b, const float *weight)
{
    return fmaf(a, weight[0], b * weight[1]);
}

status resize_torch_linear(float *out, int64_t stride, int w, int h, const struct image *in)
{
    const float scale_x = (float)in->w / (float)w, scale_y = (float)in->h / (float)h;
    struct linear_taps *taps = malloc((size_t)w * sizeof(*taps));

    assert(w > 0 && h > 0);
    if (taps == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory to resize an image to %d x %d", w, h);
    for (int x = 0; x < w; x++)
        taps[x] = linear_taps(x, scale_x, in->w);
    for (int y = 0; y < h; y++) {
        const struct linear_taps t = linear_taps(y, scale_y, in->h);

        for (int x = 0; x < w; x++)
            for (int c = 0; c < 3; c++) {
                float row[2];

                for (int k = 0; k < 2; k++) {
                    const uint8_t *from = in->rgb + 3 * (size_t)in->w * (size_t)t.at[k] + c;

                    row[k] = between(image_unit(from[3 * taps[x].at[0]]),
                                     image_unit(from[3 * taps[x].at[1]]), taps[x].weight);
                }
                out[y * stride + 3 * x + c] = between(row[0], row[1], t.weight);
            }
    }
    free(taps);
    return ST_OK;
}

/* ---- numbers ---- */

/* n values of out = the weighted sum of the taps' rows of `in`, `stride` values apart. */
static void sum_taps(float *out, const float *in, size_t stride, size_t n, const struct taps *t,
                     int index)
{
    const float *weight = t->real + (size_t)index * (size_t)t->size;
    const float *from = in + (size_t)t->first[index] * stride;

    for (size_t i = 0; i < n; i++) {
        float sum = 0;

        for (int k = 0; k < t->count[index]; k++)
            sum += from[(size_t)k * stride + i] * weight[k];
        out[i] = sum;
    }
}

status resize_linear(float *out, int w, int h, const struct image *in)
{
    const struct kind kind = { .filter = PIL_BILINEAR };
    const size_t row = (size_t)in->w * 3, short_row = (size_t)w * 3;
    float *whole = malloc((size_t)in->h * row * sizeof(*whole));
    float *rows = malloc((size_t)in->h * short_row * sizeof(*rows));
    struct taps x = { 0 }, y = { 0 };
    status st = ST_OK;

    if (whole == NULL || rows == NULL)
        TRY_OUT(fail(ST_MEMORY, "cannot allocate host memory to resize an image of %d x %d", in->w,
                     in->h));
    TRY_OUT(taps_init(&x, in->w, w, kind));
    TRY_OUT(taps_init(&y, in->h, h, kind));
    for (size_t i = 0; i < (size_t)in->h * row; i++)
        whole[i] = (float)in->rgb[i] / 255.0f * 2 - 1;
    for (int r = 0; r < in->h; r++)
        for (int i = 0; i < w; i++)
            sum_taps(rows + (size_t)r * short_row + 3 * (size_t)i, whole + (size_t)r * row, 3, 3,
                     &x, i);
    for (int i = 0; i < h; i++)
        sum_taps(out + (size_t)i * short_row, rows, short_row, short_row, &y, i);
out:
    taps_done(&x);
    taps_done(&y);
    free(whole);
    free(rows);
    return st;
}
