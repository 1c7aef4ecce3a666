#include "runtime/fp8.h"
#include "kernels/ref/ref.h"
#include "runtime/alive.h"

/* Row `row` of out = v, quantized from f32. */
static void store_row(struct fp8_rows out, int64_t row, const double *v, float *values)
{
    const int64_t c = out.value.dim[1];
    float *scale = (float *)out.scale.data + row;

    alive();
    for (int64_t i = 0; i < c; i++)
        values[i] = (float)v[i];
    *scale = fp8_scale(values, (size_t)c);
    fp8_quantize((uint8_t *)out.value.data + ref_row(out.value, row), values, *scale, (size_t)c);
}

status ref_fp8_quantize(struct device *dev, struct fp8_rows out, struct tensor x, enum act act)
{
    const int64_t c = x.dim[1];
    double *v;

    TRY(ref_scratch(dev, &v, 2 * c));
    for (int64_t s = 0; s < x.dim[0]; s++) {
        ref_load(v, x, ref_row(x, s), c);
        for (int64_t i = 0; i < c; i++)
            v[i] = ref_round(x.dtype, ref_act(act, v[i]));
        store_row(out, s, v, (float *)(v + c));
    }
    return ST_OK;
}

status ref_fp8_norm(struct device *dev, struct fp8_rows out, struct tensor sum, struct tensor x,
                    struct tensor y, struct tensor gate, struct tensor mul, struct tensor add,
                    bool modulate, float eps)
{
    const int64_t c = x.dim[1];
    double *v;

    if (y.data != NULL) {
        TRY(ref_gate_add(dev, sum, x, y, gate));
        x = sum;
    }
    TRY(ref_scratch(dev, &v, 2 * c));
    for (int64_t s = 0; s < x.dim[0]; s++) {
        ref_norm_row(v, x, s, mul, add, modulate, eps);
        store_row(out, s, v, (float *)(v + c));
    }
    return ST_OK;
}

/* v[n] = the values of row `row`, without their scale. */
static void load_row(double *v, struct tensor value, int64_t row)
{
    const uint8_t *from = (const uint8_t *)value.data + ref_row(value, row);

    for (int64_t i = 0; i < value.dim[1]; i++)
        v[i] = f32_from_e4m3(from[i]);
}

static double dot(const double *a, const double *b, int64_t n)
{
    double sum = 0;

#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

#define ROWS 16 // of a, for which a row of w is decoded once

status ref_fp8_gemm(struct device *dev, struct tensor out, struct fp8_rows a, struct fp8_rows w,
                    struct tensor bias)
{
    const int64_t n = w.value.dim[0], k = w.value.dim[1];
    const float *scale_a = a.scale.data, *scale_w = w.scale.data;
    double *rows, *row, *sums;

    TRY(ref_scratch(dev, &rows, (ROWS + 1) * k + ROWS * n));
    row = rows + ROWS * k;
    sums = row + k;
    for (int64_t m = 0; m < a.value.dim[0]; m += ROWS) {
        const int64_t count = a.value.dim[0] - m < ROWS ? a.value.dim[0] - m : ROWS;

        for (int64_t i = 0; i < count; i++)
            load_row(rows + i * k, a.value, m + i);
        for (int64_t j = 0; j < n; j++) {
            double b = 0;

            load_row(row, w.value, j);
            if (bias.data != NULL)
                ref_load(&b, bias, j, 1);
            for (int64_t i = 0; i < count; i++)
                sums[i * n + j] = dot(rows + i * k, row, k) * scale_a[m + i] * scale_w[j] + b;
        }
        for (int64_t i = 0; i < count; i++)
            ref_store(out, ref_row(out, m + i), sums + i * n, n);
    }
    return ST_OK;
}
