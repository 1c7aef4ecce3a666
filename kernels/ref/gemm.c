#include "kernels/merge.h"
#include "kernels/ref/ref.h"
#include "runtime/half.h"

#include <math.h>

static double dot_f32(const double *a, const float *w, int64_t n)
{
    double sum = 0;

#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++)
        sum += a[i] * w[i];
    return sum;
}

static double dot_bf16(const double *a, const uint16_t *w, int64_t n)
{
    double sum = 0;

#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++)
        sum += a[i] * f32_from_bf16(w[i]);
    return sum;
}

/* The dot product of a[n] and elements [at, at + n) of w. */
static double dot(const double *a, struct tensor w, int64_t at, int64_t n)
{
    return w.dtype == DT_BF16 ? dot_bf16(a, (const uint16_t *)w.data + at, n)
                              : dot_f32(a, (const float *)w.data + at, n);
}

/* sums[n] = a[m] w^T + bias. row: scratch [K]. */
static void product_row(double *sums, double *row, struct tensor a, struct tensor w,
                        struct tensor bias, int64_t m)
{
    const int64_t n = w.dim[0], k = w.dim[1];

    ref_load(row, a, ref_row(a, m), k);
    for (int64_t j = 0; j < n; j++) {
        double b = 0;
        if (bias.data != NULL)
            ref_load(&b, bias, j, 1);
        sums[j] = dot(row, w, j * k, k) + b;
    }
}

status ref_gemm(struct device *dev, struct tensor out, struct tensor a, struct tensor w,
                struct tensor bias, enum act act)
{
    const int64_t n = w.dim[0], k = w.dim[1];
    double *row, *sums;

    TRY(ref_scratch(dev, &row, k + n));
    sums = row + k;
    for (int64_t m = 0; m < a.dim[0]; m++) {
        product_row(sums, row, a, w, bias, m);
        for (int64_t j = 0; j < n; j++)
            sums[j] = ref_act(act, ref_round(out.dtype, sums[j]));
        ref_store(out, ref_row(out, m), sums, n);
    }
    return ST_OK;
}

status ref_gemm_add(struct device *dev, struct tensor sum, struct tensor a, struct tensor w,
                    struct tensor bias)
{
    const int64_t n = w.dim[0], k = w.dim[1];
    double *row, *sums, *old;

    TRY(ref_scratch(dev, &row, k + 2 * n));
    sums = row + k;
    old = sums + n;
    for (int64_t m = 0; m < a.dim[0]; m++) {
        product_row(sums, row, a, w, bias, m);
        ref_load(old, sum, ref_row(sum, m), n);
        for (int64_t j = 0; j < n; j++)
            sums[j] += old[j];
        ref_store(sum, ref_row(sum, m), sums, n);
    }
    return ST_OK;
}

/* Pixel (t, y, x) of frames [T, H, W, Cin], or zeros outside of them. */
static void load_pixel(double *dst, struct tensor frames, int64_t t, int64_t y, int64_t x)
{
    const int64_t c = frames.dim[3];

    if (frames.data != NULL && t >= 0 && y >= 0 && y < frames.dim[1] && x >= 0 && x < frames.dim[2])
        ref_load(dst, frames, t * frames.stride[0] + y * frames.stride[1] + x * frames.stride[2],
                 c);
    else
        for (int64_t i = 0; i < c; i++)
            dst[i] = 0;
}

/* The inputs of output pixel (t, y, col): [kt, kh, kw, Cin]. */
static void load_window(double *dst, struct tensor x, struct tensor past, struct tensor w,
                        struct conv conv, int64_t t, int64_t y, int64_t col)
{
    past.dim[1] = x.dim[1], past.dim[2] = x.dim[2], past.dim[3] = x.dim[3]; // past may be none
    for (int64_t i = 0; i < w.dim[1]; i++)
        for (int64_t j = 0; j < w.dim[2]; j++)
            for (int64_t l = 0; l < w.dim[3]; l++, dst += x.dim[3]) {
                const int64_t frame = t * conv.stride_t + i, row = y * conv.stride + j;
                const int64_t line = (conv.upsample2x ? (row + 1) >> 1 : row) - conv.top;
                const int64_t at = col * conv.stride + l - conv.left;
                const bool before = frame < conv.front;

                load_pixel(dst, before ? past : x, before ? frame : frame - conv.front, line,
                           conv.upsample2x ? at >> 1 : at);
            }
}

status ref_conv3d(struct device *dev, struct tensor out, struct tensor x, struct tensor past,
                  struct tensor w, struct tensor bias, struct tensor residual, struct conv conv)
{
    const int64_t cout = w.dim[0], k = tensor_count(w) / cout;
    double *window, *sums;

    TRY(ref_scratch(dev, &window, k + 2 * cout));
    sums = window + k;
    for (int64_t row = 0; row < ref_rows(out); row++) {
        const int64_t col = row % out.dim[2], y = row / out.dim[2] % out.dim[1];
        double *res = sums + cout;

        load_window(window, x, past, w, conv, row / out.dim[2] / out.dim[1], y, col);
        if (residual.data != NULL)
            ref_load(res, residual, ref_row(residual, row), cout);
        for (int64_t j = 0; j < cout; j++) {
            sums[j] = ldexp(dot(window, w, j * k, k), -conv.exponent);
            if (bias.data != NULL)
                sums[j] += ((const float *)bias.data)[j];
            if (residual.data != NULL)
                sums[j] += res[j];
        }
        ref_store(out, ref_row(out, row), sums, cout);
    }
    return ST_OK;
}
