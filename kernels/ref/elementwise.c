#include "kernels/ref/ref.h"
#include "runtime/alive.h"

#include <math.h>
#include <string.h>

status ref_gate_add(struct device *dev, struct tensor out, struct tensor x, struct tensor y,
                    struct tensor gate)
{
    const int64_t c = x.dim[1];
    const float *g = gate.data;
    double *v, *w;

    TRY(ref_scratch(dev, &v, 2 * c));
    w = v + c;
    for (int64_t s = 0; s < x.dim[0]; s++) {
        ref_load(v, x, ref_row(x, s), c);
        ref_load(w, y, ref_row(y, s), c);
        for (int64_t i = 0; i < c; i++)
            v[i] += w[i] * (g != NULL ? g[i] : 1);
        ref_store(out, ref_row(out, s), v, c);
    }
    return ST_OK;
}

status ref_add_rows(struct device *dev, struct tensor out, struct tensor a, struct tensor b)
{
    const float *add = b.data;

    for (int64_t r = 0; r < a.dim[0]; r++) {
        const float *from = (const float *)a.data + ref_row(a, r);
        float *to = (float *)out.data + ref_row(out, r);

        for (int64_t i = 0; i < a.dim[1]; i++)
            to[i] = from[i] + add[i];
    }
    return ST_OK;
}

static void activate(struct tensor out, struct tensor x, enum act act)
{
    for (int64_t i = 0; i < tensor_count(x); i++) {
        double v;

        ref_load(&v, x, i, 1);
        v = ref_act(act, v);
        ref_store(out, i, &v, 1);
    }
}

status ref_silu(struct device *dev, struct tensor out, struct tensor x)
{
    activate(out, x, ACT_SILU);
    return ST_OK;
}

status ref_gelu(struct device *dev, struct tensor out, struct tensor x)
{
    activate(out, x, ACT_GELU);
    return ST_OK;
}

status ref_gated_gelu(struct device *dev, struct tensor out, struct tensor gate, struct tensor up)
{
    const enum dtype dt = out.dtype;

    for (int64_t i = 0; i < tensor_count(out); i++) {
        double x, y;

        ref_load(&x, gate, i, 1);
        ref_load(&y, up, i, 1);

        const double p = ref_round(dt, ref_round(dt, x * x) * x); // PyTorch computes x^3 so
        const double a = ref_round(dt, (double)0.044715f * p);
        const double b = ref_round(dt, x + a);
        const double c = ref_round(dt, (double)(float)sqrt(2 / M_PI) * b);
        const double d = ref_round(dt, tanh(c));
        const double e = ref_round(dt, 1 + d);
        const double f = ref_round(dt, 0.5 * x);
        const double g = ref_round(dt, f * e);

        y *= g;
        ref_store(out, i, &y, 1);
    }
    return ST_OK;
}

#define EXPAND_VALUES (4 * STORED_PASS) // for a thread at a time

status ref_expand(struct device *dev, struct tensor out, const struct stored_form *form,
                  const void *stored, int64_t first)
{
    const int64_t count = tensor_count(out);
    const size_t size = dtype_size(out.dtype);

    alive();
#pragma omp parallel for schedule(static) num_threads(dev->threads)
    for (int64_t at = 0; at < count; at += EXPAND_VALUES)
        stored_values(form, stored, first + at,
                      count - at < EXPAND_VALUES ? count - at : EXPAND_VALUES, out.dtype,
                      (char *)out.data + (size_t)at * size);
    return ST_OK;
}

status ref_lincomb(struct device *dev, struct tensor out, int count, const float *coef,
                   const struct tensor *x)
{
    for (int64_t i = 0; i < tensor_count(out); i++) {
        double sum = 0;

        for (int j = 0; j < count; j++)
            if (coef[j] != 0)
                sum += (double)coef[j] * ((const float *)x[j].data)[i];
        ref_store(out, i, &sum, 1);
    }
    return ST_OK;
}

status ref_row_dots(struct device *dev, struct tensor dots, struct tensor a, struct tensor b)
{
    const int64_t c = a.dim[1];

    for (int64_t r = 0; r < a.dim[0]; r++) {
        const float *x = (const float *)a.data + r * c, *y = (const float *)b.data + r * c;
        float *out = (float *)dots.data + 2 * r;
        double xy = 0, yy = 0;

        for (int64_t i = 0; i < c; i++) {
            xy += (double)x[i] * y[i];
            yy += (double)y[i] * y[i];
        }
        out[0] = (float)xy;
        out[1] = (float)yy;
    }
    return ST_OK;
}

status ref_subtract_projection(struct device *dev, struct tensor out, struct tensor c,
                               struct tensor u, struct tensor dots)
{
    const float *d = dots.data, *from = c.data, *sub = u.data;
    float *to = out.data;
    double cu = 0, uu = 0;

    for (int64_t r = 0; r < dots.dim[0]; r++) {
        cu += d[2 * r];
        uu += d[2 * r + 1];
    }
    for (int64_t i = 0; i < tensor_count(out); i++)
        to[i] = (float)(from[i] - cu / (uu + 1e-8) * sub[i]);
    return ST_OK;
}

status ref_copy(struct device *dev, struct tensor out, struct tensor x)
{
    const int last = x.ndim - 1;
    const int64_t n = x.ndim > 0 ? x.dim[last] : 1;
    const int64_t step_x = x.ndim > 0 ? x.stride[last] : 0;
    const int64_t step_out = x.ndim > 0 ? out.stride[last] : 0;
    const size_t size = dtype_size(x.dtype);

    for (int64_t row = 0; row < ref_rows(x); row++) {
        const int64_t from = ref_row(x, row), to = ref_row(out, row);

        for (int64_t i = 0; i < n; i++) {
            const int64_t a = from + i * step_x, b = to + i * step_out;
            double v;

            if (x.dtype == out.dtype) {
                memcpy((char *)out.data + (size_t)b * size, (const char *)x.data + (size_t)a * size,
                       size);
                continue;
            }
            ref_load(&v, x, a, 1);
            ref_store(out, b, &v, 1);
        }
    }
    return ST_OK;
}

status ref_channel_affine(struct device *dev, struct tensor out, struct tensor x,
                          struct tensor scale, struct tensor shift)
{
    const int64_t c = x.dim[x.ndim - 1];
    const float *mul = scale.data, *add = shift.data;
    double *v;

    TRY(ref_scratch(dev, &v, c));
    for (int64_t row = 0; row < ref_rows(x); row++) {
        ref_load(v, x, ref_row(x, row), c);
        for (int64_t i = 0; i < c; i++)
            v[i] = v[i] * mul[i] + add[i];
        ref_store(out, ref_row(out, row), v, c);
    }
    return ST_OK;
}

/* The element offset of channel 0 of pixel (row, col) of a frame. */
static int64_t pixel(struct tensor t, int64_t frame, int64_t row, int64_t col)
{
    return frame * t.stride[0] + row * t.stride[1] + col * t.stride[2];
}

status ref_average_down(struct device *dev, struct tensor out, struct tensor x, int frames)
{
    const int64_t s = x.dim[1] / out.dim[1], c = out.dim[3], cell = s * s * frames;
    const int64_t n = x.dim[3] * cell / c, missing = frames * out.dim[0] - x.dim[0];
    double *sum;

    TRY(ref_scratch(dev, &sum, c));
    for (int64_t row = 0; row < ref_rows(out); row++) {
        const int64_t col = row % out.dim[2], line = row / out.dim[2] % out.dim[1];
        const int64_t first = row / out.dim[2] / out.dim[1] * frames - missing;

        for (int64_t i = 0; i < c; i++)
            sum[i] = 0;
        for (int64_t k = 0; k < c * n; k++) {
            const int64_t frame = first + k / (s * s) % frames;
            double v = 0;

            if (frame >= 0)
                ref_load(&v, x, pixel(x, frame, line * s + k / s % s, col * s + k % s) + k / cell,
                         1);
            sum[k / n] += v;
        }
        for (int64_t i = 0; i < c; i++)
            sum[i] /= (double)n;
        ref_store(out, ref_row(out, row), sum, c);
    }
    return ST_OK;
}

status ref_repeat_up(struct device *dev, struct tensor out, struct tensor x, struct tensor y,
                     int frames)
{
    const int64_t s = out.dim[1] / y.dim[1], c = out.dim[3], cell = s * s * frames;
    const int64_t n = c * cell / y.dim[3], missing = frames * y.dim[0] - out.dim[0];
    double *v;

    TRY(ref_scratch(dev, &v, c));
    for (int64_t row = 0; row < ref_rows(out); row++) {
        const int64_t col = row % out.dim[2], line = row / out.dim[2] % out.dim[1];
        const int64_t frame = row / out.dim[2] / out.dim[1] + missing;
        const int64_t place = (frame % frames * s + line % s) * s + col % s; // in the cell

        ref_load(v, x, ref_row(x, row), c);
        for (int64_t i = 0; i < c; i++) {
            double add;

            ref_load(&add, y, pixel(y, frame / frames, line / s, col / s) + (i * cell + place) / n,
                     1);
            v[i] += add;
        }
        ref_store(out, ref_row(out, row), v, c);
    }
    return ST_OK;
}

/* In f32 and in the same steps as the official code that writes videos and images: for a value at
 * the boundary between two bytes, the rounding of each step decides. */
status ref_to_u8(struct device *dev, struct tensor out, struct tensor x, float add)
{
    for (int64_t row = 0; row < ref_rows(x); row++)
        for (int64_t i = 0; i < x.dim[3]; i++) {
            double v;

            ref_load(&v, x, ref_row(x, row) + i, 1);

            const float f = fminf(fmaxf((float)v, -1), 1);

            const float byte = (f + 1) / 2 * 255;

            ((uint8_t *)out.data)[ref_row(out, row) + i] = (uint8_t)fminf(byte + add, 255);
        }
    return ST_OK;
}

status ref_find_nonfinite(struct device *dev, struct tensor mark, struct tensor x, float value)
{
    float *at = mark.data;

    for (int64_t i = 0; i < tensor_count(x) && *at == 0; i++) {
        double v;

        ref_load(&v, x, i, 1);
        if (!isfinite(v))
            *at = value;
    }
    return ST_OK;
}

status ref_row_sums(struct device *dev, struct tensor out, struct tensor a, struct tensor b)
{
    for (int64_t row = 0; row < a.dim[0]; row++) {
        double sum[ROW_SUMS] = { 0 };

        for (int64_t i = 0; i < a.dim[1]; i++) {
            double v, w;

            ref_load(&v, a, row * a.dim[1] + i, 1);
            ref_load(&w, b, row * a.dim[1] + i, 1);
            sum[0] += fabs(v - w);
            sum[1] += fabs(w);
            sum[2] += v * v;
        }
        ref_store(out, row * out.stride[0], sum, ROW_SUMS);
    }
    return ST_OK;
}
