#include "kernels/ref/ref.h"

#include <math.h>

/* v = (v - mean) / sqrt(variance + eps) */
static void standardize(double *v, int64_t n, double eps)
{
    double sum = 0, square = 0;

    for (int64_t i = 0; i < n; i++)
        sum += v[i];
    for (int64_t i = 0; i < n; i++) {
        v[i] -= sum / (double)n;
        square += v[i] * v[i];
    }
    for (int64_t i = 0; i < n; i++)
        v[i] /= sqrt(square / (double)n + eps);
}

/* v = rounded(v / sqrt(mean of v^2 + eps)) */
static void root_mean_square(double *v, int64_t n, double eps, enum dtype dt)
{
    double square = 0;

    for (int64_t i = 0; i < n; i++)
        square += v[i] * v[i];
    for (int64_t i = 0; i < n; i++)
        v[i] = ref_round(dt, v[i] / sqrt(square / (double)n + eps));
}

void ref_norm_row(double *v, struct tensor x, int64_t row, struct tensor mul, struct tensor add,
                  bool modulate, float eps)
{
    const int64_t c = x.dim[1];
    const float *m = mul.data, *b = add.data;

    ref_load(v, x, ref_row(x, row), c);
    standardize(v, c, eps);
    for (int64_t i = 0; i < c; i++)
        v[i] = (modulate ? ref_round(x.dtype, v[i]) * (1 + (double)m[i]) : v[i] * m[i]) + b[i];
}

static status norm_rows(struct device *dev, struct tensor out, struct tensor x, struct tensor mul,
                        struct tensor add, bool modulate, float eps)
{
    double *v;

    TRY(ref_scratch(dev, &v, x.dim[1]));
    for (int64_t s = 0; s < x.dim[0]; s++) {
        ref_norm_row(v, x, s, mul, add, modulate, eps);
        ref_store(out, ref_row(out, s), v, x.dim[1]);
    }
    return ST_OK;
}

status ref_norm_modulate(struct device *dev, struct tensor out, struct tensor x,
                         struct tensor scale, struct tensor shift, float eps)
{
    return norm_rows(dev, out, x, scale, shift, true, eps);
}

status ref_layer_norm(struct device *dev, struct tensor out, struct tensor x, struct tensor w,
                      struct tensor b, float eps)
{
    return norm_rows(dev, out, x, w, b, false, eps);
}

status ref_add_norm_modulate(struct device *dev, struct tensor out, struct tensor sum,
                             struct tensor x, struct tensor y, struct tensor gate,
                             struct tensor scale, struct tensor shift, float eps)
{
    TRY(ref_gate_add(dev, sum, x, y, gate));
    return ref_norm_modulate(dev, out, sum, scale, shift, eps);
}

status ref_add_layer_norm(struct device *dev, struct tensor out, struct tensor sum, struct tensor x,
                          struct tensor y, struct tensor gate, struct tensor w, struct tensor b,
                          float eps)
{
    TRY(ref_gate_add(dev, sum, x, y, gate));
    return ref_layer_norm(dev, out, sum, w, b, eps);
}

status ref_rms_norm(struct device *dev, struct tensor out, struct tensor x, struct tensor w,
                    float eps)
{
    const int64_t c = x.dim[1];
    double *v, *mul;

    TRY(ref_scratch(dev, &v, 2 * c));
    mul = v + c;
    ref_load(mul, w, 0, c);
    for (int64_t s = 0; s < x.dim[0]; s++) {
        ref_load(v, x, ref_row(x, s), c);
        root_mean_square(v, c, eps, x.dtype);
        for (int64_t i = 0; i < c; i++)
            v[i] *= mul[i];
        ref_store(out, ref_row(out, s), v, c);
    }
    return ST_OK;
}

status ref_norm_rope(struct device *dev, struct tensor out, struct tensor x, struct tensor w,
                     float eps, struct tensor table, struct token_grid grid)
{
    const int64_t c = x.dim[1], pairs = table.dim[1], third = pairs / 3;
    const float *mul = w.data, *angle = table.data;
    double *v;

    TRY(ref_scratch(dev, &v, c));
    for (int64_t s = 0; s < x.dim[0]; s++) {
        const int64_t token = grid.first + s;
        const int64_t col = token % grid.w, row = token / grid.w % grid.h;
        const int64_t frame = token / grid.w / grid.h;

        ref_load(v, x, ref_row(x, s), c);
        root_mean_square(v, c, eps, x.dtype);
        for (int64_t p = 0; p < c / 2; p++) {
            const int64_t i = p % pairs;
            const int64_t g = i < pairs - 2 * third ? frame : i < pairs - third ? row : col;
            const double cosine = angle[2 * (g * pairs + i)], sine = angle[2 * (g * pairs + i) + 1];
            const double re = v[2 * p] * mul[2 * p], im = v[2 * p + 1] * mul[2 * p + 1];

            v[2 * p] = re * cosine - im * sine;
            v[2 * p + 1] = re * sine + im * cosine;
        }
        for (int64_t n = 0; n < out.dim[1]; n++)
            ref_store(out, s * out.stride[0] + n * out.stride[1], v + n * 2 * pairs, 2 * pairs);
    }
    return ST_OK;
}

status ref_channel_norm(struct device *dev, struct tensor out, struct tensor x, struct tensor gamma,
                        enum act act, int exponent)
{
    const int64_t c = x.dim[x.ndim - 1];
    const float *mul = gamma.data;
    double *v;

    TRY(ref_scratch(dev, &v, c));
    for (int64_t row = 0; row < ref_rows(x); row++) {
        double square = 0;

        ref_load(v, x, ref_row(x, row), c);
        for (int64_t i = 0; i < c; i++)
            square += v[i] * v[i];
        for (int64_t i = 0; i < c; i++)
            v[i] = ldexp(ref_act(act, v[i] / fmax(sqrt(square), 1e-12) * sqrt((double)c) * mul[i]),
                         exponent);
        ref_store(out, ref_row(out, row), v, c);
    }
    return ST_OK;
}
