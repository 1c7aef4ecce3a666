#include "kernels/cpu/cpu.h"

#include <math.h>

static float sum_of(const float *v, int64_t n)
{
    float sum = 0;

#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++)
        sum += v[i];
    return sum;
}

/* Sum of (v - mean)^2. */
static float squares_of(const float *v, float mean, int64_t n)
{
    float sum = 0;

#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++)
        sum += (v[i] - mean) * (v[i] - mean);
    return sum;
}

/* The calling thread's scratch of n floats. */
static float *scratch(struct device *dev, int64_t n)
{
    return (float *)dev->workspace + cpu_thread() * n;
}

/* v = (x - mean) / sqrt(variance + eps). The mean is computed in two steps, the second over x minus
 * the first: for a row far from zero, the rounding of one f32 sum would be as large as the
 * differences from the mean. */
static void standardize(float *restrict v, const float *x, int64_t n, float eps)
{
    const float first = sum_of(x, n) / (float)n;
    float mean, scale;

    for (int64_t i = 0; i < n; i++)
        v[i] = x[i] - first;
    mean = sum_of(v, n) / (float)n;
    scale = 1 / sqrtf(squares_of(v, mean, n) / (float)n + eps);
    for (int64_t i = 0; i < n; i++)
        v[i] = (v[i] - mean) * scale;
}

status CPU(norm_modulate)(struct device *dev, struct tensor out, struct tensor x,
                          struct tensor scale, struct tensor shift, float eps)
{
    const int64_t c = x.dim[1];
    const float *mul = scale.data, *add = shift.data;
    const int threads = cpu_threads_for(dev, x.dim[0] * c, (size_t)c * 2 * sizeof(float));

#pragma omp parallel for num_threads(threads)
    for (int64_t s = 0; s < x.dim[0]; s++) {
        float *v = scratch(dev, 2 * c), *converted = v + c;

        standardize(v, read_row(converted, x, s * x.stride[0], c), c, eps);
        round_row(v, x.dtype, c);
        for (int64_t i = 0; i < c; i++)
            v[i] = v[i] * (1 + mul[i]) + add[i];
        store_row(out, s * out.stride[0], v, c);
    }
    return ST_OK;
}

status CPU(layer_norm)(struct device *dev, struct tensor out, struct tensor x, struct tensor w,
                       struct tensor b, float eps)
{
    const int64_t c = x.dim[1];
    const float *mul = w.data, *add = b.data;
    const int threads = cpu_threads_for(dev, x.dim[0] * c, (size_t)c * 2 * sizeof(float));

#pragma omp parallel for num_threads(threads)
    for (int64_t s = 0; s < x.dim[0]; s++) {
        float *v = scratch(dev, 2 * c), *converted = v + c;

        standardize(v, read_row(converted, x, s * x.stride[0], c), c, eps);
        for (int64_t i = 0; i < c; i++)
            v[i] = v[i] * mul[i] + add[i];
        store_row(out, s * out.stride[0], v, c);
    }
    return ST_OK;
}

status CPU(add_norm_modulate)(struct device *dev, struct tensor out, struct tensor sum,
                              struct tensor x, struct tensor y, struct tensor gate,
                              struct tensor scale, struct tensor shift, float eps)
{
    TRY(CPU(gate_add)(dev, sum, x, y, gate));
    return CPU(norm_modulate)(dev, out, sum, scale, shift, eps);
}

status CPU(add_layer_norm)(struct device *dev, struct tensor out, struct tensor sum,
                           struct tensor x, struct tensor y, struct tensor gate, struct tensor w,
                           struct tensor b, float eps)
{
    TRY(CPU(gate_add)(dev, sum, x, y, gate));
    return CPU(layer_norm)(dev, out, sum, w, b, eps);
}

/* v = rounded(x / sqrt(mean of x^2 + eps)) */
static void root_mean_square(float *restrict v, const float *x, int64_t n, float eps, enum dtype dt)
{
    const float scale = 1 / sqrtf(squares_of(x, 0, n) / (float)n + eps);

    for (int64_t i = 0; i < n; i++)
        v[i] = x[i] * scale;
    round_row(v, dt, n);
}

status CPU(rms_norm)(struct device *dev, struct tensor out, struct tensor x, struct tensor w,
                     float eps)
{
    const int64_t c = x.dim[1];
    const int threads = cpu_threads_for(dev, x.dim[0] * c, (size_t)c * 3 * sizeof(float));

#pragma omp parallel for num_threads(threads)
    for (int64_t s = 0; s < x.dim[0]; s++) {
        float *v = scratch(dev, 3 * c), *converted = v + c;
        const float *mul = read_row(converted + c, w, 0, c);

        root_mean_square(v, read_row(converted, x, s * x.stride[0], c), c, eps, x.dtype);
        for (int64_t i = 0; i < c; i++)
            v[i] *= mul[i];
        store_row(out, s * out.stride[0], v, c);
    }
    return ST_OK;
}

/* angle[pairs][2] = (cos, sin) of each pair of a head at one token. */
static void find_angles(float *angle, struct tensor table, struct token_grid grid, int64_t token)
{
    const int64_t pairs = table.dim[1], third = pairs / 3;
    const int64_t at[3] = { token / grid.w / grid.h, token / grid.w % grid.h, token % grid.w };
    const int64_t first[4] = { 0, pairs - 2 * third, pairs - third, pairs };

    for (int axis = 0; axis < 3; axis++)
        memcpy(angle + 2 * first[axis],
               (const float *)table.data + 2 * (at[axis] * pairs + first[axis]),
               (size_t)(first[axis + 1] - first[axis]) * 2 * sizeof(float));
}

/* v[pairs][2] = v * w * angle, pairs as complex numbers, w elementwise. */
static void rotate(float *restrict v, const float *restrict w, const float *restrict angle,
                   int64_t pairs)
{
    for (int64_t i = 0; i < pairs; i++) {
        const float re = v[2 * i] * w[2 * i], im = v[2 * i + 1] * w[2 * i + 1];

        v[2 * i] = re * angle[2 * i] - im * angle[2 * i + 1];
        v[2 * i + 1] = re * angle[2 * i + 1] + im * angle[2 * i];
    }
}

status CPU(norm_rope)(struct device *dev, struct tensor out, struct tensor x, struct tensor w,
                      float eps, struct tensor table, struct token_grid grid)
{
    const int64_t c = x.dim[1], pairs = table.dim[1];
    const int threads = cpu_threads_for(dev, x.dim[0] * c, (size_t)c * 3 * sizeof(float));

#pragma omp parallel for num_threads(threads)
    for (int64_t s = 0; s < x.dim[0]; s++) {
        float *v = scratch(dev, 3 * c), *converted = v + c, *angle = converted + c;

        find_angles(angle, table, grid, grid.first + s);
        root_mean_square(v, read_row(converted, x, s * x.stride[0], c), c, eps, x.dtype);
        for (int64_t n = 0; n < out.dim[1]; n++) {
            float *head = v + n * 2 * pairs;

            rotate(head, (const float *)w.data + n * 2 * pairs, angle, pairs);
            store_row(out, s * out.stride[0] + n * out.stride[1], head, 2 * pairs);
        }
    }
    return ST_OK;
}

status CPU(channel_norm)(struct device *dev, struct tensor out, struct tensor x,
                         struct tensor gamma, enum act act, int exponent)
{
    const int64_t c = x.dim[x.ndim - 1], rows = rows_of(x);
    const float *mul = gamma.data, root = sqrtf((float)c), power = ldexpf(1, exponent);
    const int threads = cpu_threads_for(dev, rows * c, (size_t)c * 2 * sizeof(float));

#pragma omp parallel for num_threads(threads)
    for (int64_t row = 0; row < rows; row++) {
        float *v = scratch(dev, 2 * c), *converted = v + c;
        const float *from = read_row(converted, x, row_at(x, row), c);
        const float length = sqrtf(squares_of(from, 0, c));
        const float scale = root / (length > 1e-12f ? length : 1e-12f);

        for (int64_t i = 0; i < c; i++)
            v[i] = from[i] * scale * mul[i];
        act_row(v, act, c);
        for (int64_t i = 0; i < c; i++)
            v[i] *= power;
        store_row(out, row_at(out, row), v, c);
    }
    return ST_OK;
}
