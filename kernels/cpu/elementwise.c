#include "kernels/cpu/cpu.h"

#include <math.h>

#define CHUNK 2048 // elements that a thread holds on its stack at a time

status CPU(gate_add)(struct device *dev, struct tensor out, struct tensor x, struct tensor y,
                     struct tensor gate)
{
    const int64_t c = x.dim[1];
    const int threads = cpu_threads_for(dev, x.dim[0] * c, 0);

#pragma omp parallel for num_threads(threads)
    for (int64_t s = 0; s < x.dim[0]; s++)
        for (int64_t i = 0; i < c; i += CHUNK) {
            const int64_t n = min_of(CHUNK, c - i);
            const float *g = gate.data != NULL ? (const float *)gate.data + i : NULL;
            float v[CHUNK], f32_x[CHUNK], f32_y[CHUNK];
            const float *a = read_row(f32_x, x, s * x.stride[0] + i, n);
            const float *b = read_row(f32_y, y, s * y.stride[0] + i, n);

            for (int64_t j = 0; j < n; j++)
                v[j] = a[j] + (g != NULL ? b[j] * g[j] : b[j]);
            store_row(out, s * out.stride[0] + i, v, n);
        }
    return ST_OK;
}

status CPU(add_rows)(struct device *dev, struct tensor out, struct tensor a, struct tensor b)
{
    const int threads = cpu_threads_for(dev, tensor_count(a), 0);

#pragma omp parallel for num_threads(threads)
    for (int64_t r = 0; r < a.dim[0]; r++) {
        const float *restrict from = (const float *)a.data + r * a.stride[0];
        const float *restrict add = b.data;
        float *restrict to = (float *)out.data + r * out.stride[0];

        for (int64_t i = 0; i < a.dim[1]; i++)
            to[i] = from[i] + add[i];
    }
    return ST_OK;
}

static status activate(struct device *dev, struct tensor out, struct tensor x, enum act act)
{
    const int64_t count = tensor_count(x);
    const int threads = cpu_threads_for(dev, count, 0);

#pragma omp parallel for num_threads(threads)
    for (int64_t i = 0; i < count; i += CHUNK) {
        const int64_t n = min_of(CHUNK, count - i);
        float v[CHUNK];

        load_row(v, x, i, n);
        act_row(v, act, n);
        store_row(out, i, v, n);
    }
    return ST_OK;
}

status CPU(silu)(struct device *dev, struct tensor out, struct tensor x)
{
    return activate(dev, out, x, ACT_SILU);
}

status CPU(gelu)(struct device *dev, struct tensor out, struct tensor x)
{
    return activate(dev, out, x, ACT_GELU);
}

status CPU(gated_gelu)(struct device *dev, struct tensor out, struct tensor gate, struct tensor up)
{
    const int64_t count = tensor_count(out);
    const enum dtype dt = out.dtype;
    const int threads = cpu_threads_for(dev, count, 0);

#pragma omp parallel for num_threads(threads)
    for (int64_t at = 0; at < count; at += CHUNK) {
        const int64_t n = min_of(CHUNK, count - at);
        float x[CHUNK], y[CHUNK], v[CHUNK];

        load_row(x, gate, at, n);
        load_row(y, up, at, n);
        for (int64_t i = 0; i < n; i++)
            v[i] = x[i] * x[i];
        round_row(v, dt, n);
        for (int64_t i = 0; i < n; i++)
            v[i] *= x[i];
        round_row(v, dt, n);
        for (int64_t i = 0; i < n; i++)
            v[i] *= 0.044715f;
        round_row(v, dt, n);
        for (int64_t i = 0; i < n; i++)
            v[i] += x[i];
        round_row(v, dt, n);
        for (int64_t i = 0; i < n; i++)
            v[i] *= 0.79788456f;
        round_row(v, dt, n);
        for (int64_t i = 0; i < n; i++)
            v[i] = 1 - 2 / (1 + exp_of(2 * v[i])); // tanh, with an absolute error of 1e-7
        round_row(v, dt, n);
        for (int64_t i = 0; i < n; i++)
            v[i] += 1;
        round_row(v, dt, n);
        for (int64_t i = 0; i < n; i++) // halving is exact
            v[i] *= 0.5f * x[i];
        round_row(v, dt, n);
        for (int64_t i = 0; i < n; i++)
            v[i] *= y[i];
        store_row(out, at, v, n);
    }
    return ST_OK;
}

status CPU(lincomb)(struct device *dev, struct tensor out, int count, const float *coef,
                    const struct tensor *x)
{
    const int64_t all = tensor_count(out);
    const int threads = cpu_threads_for(dev, all * count, 0);

#pragma omp parallel for num_threads(threads)
    for (int64_t at = 0; at < all; at += CHUNK) {
        const int64_t n = min_of(CHUNK, all - at);
        float v[CHUNK] = { 0 };

        for (int j = 0; j < count; j++)
            if (coef[j] != 0) {
                const float *from = (const float *)x[j].data + at;
                for (int64_t i = 0; i < n; i++)
                    v[i] += coef[j] * from[i];
            }
        store_row(out, at, v, n);
    }
    return ST_OK;
}

/* Copies a row of n elements, `step` elements from one to the next. */
static void copy_row(void *to, int64_t step_to, const void *from, int64_t step_from, size_t size,
                     int64_t n)
{
    if (step_to == 1 && step_from == 1)
        memcpy(to, from, (size_t)n * size);
    else if (size == 4)
        for (int64_t i = 0; i < n; i++)
            ((uint32_t *)to)[i * step_to] = ((const uint32_t *)from)[i * step_from];
    else if (size == 2)
        for (int64_t i = 0; i < n; i++)
            ((uint16_t *)to)[i * step_to] = ((const uint16_t *)from)[i * step_from];
    else
        for (int64_t i = 0; i < n; i++)
            memcpy((char *)to + i * step_to * (int64_t)size,
                   (const char *)from + i * step_from * (int64_t)size, size);
}

/* The same with a conversion; to, from: element offsets. */
static void convert_row(struct tensor out, int64_t to, int64_t step_to, struct tensor x,
                        int64_t from, int64_t step_from, int64_t n)
{
    for (int64_t first = 0; first < n; first += CHUNK) {
        const int64_t m = min_of(CHUNK, n - first);
        float v[CHUNK];

        if (step_from == 1)
            load_row(v, x, from + first, m);
        else
            for (int64_t i = 0; i < m; i++)
                load_row(v + i, x, from + (first + i) * step_from, 1);
        if (step_to == 1)
            store_row(out, to + first, v, m);
        else
            for (int64_t i = 0; i < m; i++)
                store_row(out, to + (first + i) * step_to, v + i, 1);
    }
}

status CPU(copy)(struct device *dev, struct tensor out, struct tensor x)
{
    const int last = x.ndim - 1;
    const int64_t n = last < 0 ? 1 : x.dim[last], rows = rows_of(x);
    const int64_t step_x = last < 0 ? 1 : x.stride[last];
    const int64_t step_out = last < 0 ? 1 : out.stride[last];
    const int threads = cpu_threads_for(dev, rows * n, 0);

#pragma omp parallel for num_threads(threads)
    for (int64_t row = 0; row < rows; row++) {
        const int64_t from = row_at(x, row), to = row_at(out, row);

        if (x.dtype == out.dtype)
            copy_row((char *)out.data + to * (int64_t)dtype_size(out.dtype), step_out,
                     element(x, from), step_x, dtype_size(x.dtype), n);
        else
            convert_row(out, to, step_out, x, from, step_x, n);
    }
    return ST_OK;
}

status CPU(channel_affine)(struct device *dev, struct tensor out, struct tensor x,
                           struct tensor scale, struct tensor shift)
{
    const int64_t c = x.dim[x.ndim - 1], rows = rows_of(x);
    const int threads = cpu_threads_for(dev, rows * c, 0);

#pragma omp parallel for num_threads(threads)
    for (int64_t row = 0; row < rows; row++)
        for (int64_t i = 0; i < c; i += CHUNK) {
            const int64_t n = min_of(CHUNK, c - i);
            const float *mul = (const float *)scale.data + i, *add = (const float *)shift.data + i;
            float v[CHUNK];

            load_row(v, x, row_at(x, row) + i, n);
            for (int64_t j = 0; j < n; j++)
                v[j] = v[j] * mul[j] + add[j];
            store_row(out, row_at(out, row) + i, v, n);
        }
    return ST_OK;
}

/* An exponent of all ones, and nothing else, carries into the sign's bit. */
/* The element offset of channel 0 of pixel (row, col) of a frame. */
static int64_t pixel(struct tensor t, int64_t frame, int64_t row, int64_t col)
{
    return frame * t.stride[0] + row * t.stride[1] + col * t.stride[2];
}

status CPU(average_down)(struct device *dev, struct tensor out, struct tensor x, int frames)
{
    const int64_t s = x.dim[1] / out.dim[1], c = out.dim[3], cell = s * s * frames;
    const int64_t n = x.dim[3] * cell / c, missing = frames * out.dim[0] - x.dim[0];
    const int threads = cpu_threads_for(dev, tensor_count(x), 0);

#pragma omp parallel for num_threads(threads)
    for (int64_t row = 0; row < rows_of(out); row++) {
        const int64_t col = row % out.dim[2], line = row / out.dim[2] % out.dim[1];
        const int64_t first = row / out.dim[2] / out.dim[1] * frames - missing;
        int64_t at[CELL_PIXELS]; // of the cell's pixels; -1: in a frame of zeros

        for (int64_t k = 0; k < cell; k++) {
            const int64_t frame = first + k / (s * s);

            at[k] = frame < 0 ? -1 : pixel(x, frame, line * s + k / s % s, col * s + k % s);
        }
        for (int64_t i = 0; i < c; i++) {
            float sum = 0;

            for (int64_t k = i * n; k < (i + 1) * n; k++) {
                float v = 0;

                if (at[k % cell] >= 0)
                    load_row(&v, x, at[k % cell] + k / cell, 1);
                sum += v;
            }
            sum /= (float)n;
            store_row(out, row_at(out, row) + i, &sum, 1);
        }
    }
    return ST_OK;
}

status CPU(repeat_up)(struct device *dev, struct tensor out, struct tensor x, struct tensor y,
                      int frames)
{
    const int64_t s = out.dim[1] / y.dim[1], c = out.dim[3], cell = s * s * frames;
    const int64_t n = c * cell / y.dim[3], missing = frames * y.dim[0] - out.dim[0];
    const int threads = cpu_threads_for(dev, tensor_count(out), 0);

#pragma omp parallel for num_threads(threads)
    for (int64_t row = 0; row < rows_of(out); row++) {
        const int64_t col = row % out.dim[2], line = row / out.dim[2] % out.dim[1];
        const int64_t frame = row / out.dim[2] / out.dim[1] + missing;
        const int64_t place = (frame % frames * s + line % s) * s + col % s; // in the cell
        const int64_t from = pixel(y, frame / frames, line / s, col / s);

        for (int64_t first = 0; first < c; first += CHUNK) {
            const int64_t m = min_of(CHUNK, c - first);
            float v[CHUNK];

            load_row(v, x, row_at(x, row) + first, m);
            for (int64_t i = 0; i < m; i++) {
                float add;

                load_row(&add, y, from + ((first + i) * cell + place) / n, 1);
                v[i] += add;
            }
            store_row(out, row_at(out, row) + first, v, m);
        }
    }
    return ST_OK;
}

status CPU(find_nonfinite)(struct device *dev, struct tensor mark, struct tensor x, float value)
{
    const int64_t count = tensor_count(x);
    const int threads = cpu_threads_for(dev, count, 0);
    float *at = mark.data;
    uint32_t found = 0;

    if (*at != 0)
        return ST_OK;
#pragma omp parallel for num_threads(threads) reduction(| : found)
    for (int64_t i = 0; i < count; i += CHUNK) {
        const int64_t n = min_of(CHUNK, count - i);

        if (x.dtype == DT_BF16) {
            const uint16_t *bits = (const uint16_t *)x.data + i;
            uint16_t any = 0;

            for (int64_t j = 0; j < n; j++)
                any |= (uint16_t)((bits[j] & 0x7fffu) + 0x80u);
            found |= any & 0x8000u;
        } else {
            const float *v = (const float *)x.data + i;
            uint32_t any = 0;

            for (int64_t j = 0; j < n; j++)
                any |= (f32_bits(v[j]) & 0x7fffffffu) + 0x800000u;
            found |= any & 0x80000000u;
        }
    }
    if (found != 0)
        *at = value;
    return ST_OK;
}

status CPU(row_sums)(struct device *dev, struct tensor out, struct tensor a, struct tensor b)
{
    const int64_t n = a.dim[1];
    const int threads = cpu_threads_for(dev, a.dim[0] * n, 0);

#pragma omp parallel for num_threads(threads)
    for (int64_t row = 0; row < a.dim[0]; row++) {
        const float *v = (const float *)a.data + row * n, *w = (const float *)b.data + row * n;
        float *to = (float *)out.data + row * out.stride[0];
        float changes = 0, sizes = 0, squares = 0;

#pragma omp simd reduction(+ : changes, sizes, squares)
        for (int64_t i = 0; i < n; i++) {
            changes += fabsf(v[i] - w[i]);
            sizes += fabsf(w[i]);
            squares += v[i] * v[i];
        }
        to[0] = changes;
        to[1] = sizes;
        to[2] = squares;
    }
    return ST_OK;
}
