#include "kernels/ref/ref.h"

#include <math.h>

double ref_exponentials(double *p, int64_t n, double *max)
{
    double sum = 0;

    *max = p[0];
    for (int64_t i = 1; i < n; i++)
        *max = fmax(*max, p[i]);
    for (int64_t i = 0; i < n; i++)
        sum += p[i] = exp(p[i] - *max);
    return sum;
}

double ref_dot(const double *a, const double *b, int64_t n)
{
    double sum = 0;

#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* o = sum over j of p[j] v[j][head]. row: scratch [D]. */
static void weighted_sum(double *o, const double *p, struct tensor v, int64_t head, double *row)
{
    const int64_t d = v.dim[2];

    for (int64_t i = 0; i < d; i++)
        o[i] = 0;
    for (int64_t j = 0; j < v.dim[0]; j++) {
        ref_load(row, v, j * v.stride[0] + head * v.stride[1], d);
        for (int64_t i = 0; i < d; i++)
            o[i] += p[j] * row[i];
    }
}

status ref_attention(struct device *dev, struct tensor out, struct tensor lse, struct tensor q,
                     struct tensor k, struct tensor v, float scale)
{
    const int64_t heads = q.dim[1], d = q.dim[2], keys = k.dim[0];
    double *logits, *query, *row, *o, max;

    TRY(ref_scratch(dev, &logits, keys + 3 * d));
    query = logits + keys;
    row = query + d;
    o = row + d;
    for (int64_t s = 0; s < q.dim[0]; s++)
        for (int64_t n = 0; n < heads; n++) {
            ref_load(query, q, s * q.stride[0] + n * q.stride[1], d);
            for (int64_t j = 0; j < keys; j++) {
                ref_load(row, k, j * k.stride[0] + n * k.stride[1], d);
                logits[j] = scale * ref_dot(query, row, d);
            }

            const double sum = ref_exponentials(logits, keys, &max);

            weighted_sum(o, logits, v, n, row);
            for (int64_t i = 0; i < d; i++)
                o[i] /= sum;
            ref_store(out, s * out.stride[0] + n * out.stride[1], o, d);
            if (lse.data != NULL)
                ((float *)lse.data)[s * heads + n] = (float)(max + log(sum));
        }
    return ST_OK;
}

status ref_attention_merge(struct device *dev, struct tensor acc, struct tensor lse,
                           struct tensor part, struct tensor part_lse)
{
    const int64_t d = acc.dim[2];
    float *la = lse.data;
    const float *lb = part_lse.data;
    double *a, *b;

    TRY(ref_scratch(dev, &a, 2 * d));
    b = a + d;
    for (int64_t row = 0; row < ref_rows(acc); row++) {
        const double max = fmax(la[row], lb[row]);
        // -inf - -inf is NaN
        const double ea = isinf(la[row]) ? 0 : exp(la[row] - max);
        const double eb = isinf(lb[row]) ? 0 : exp(lb[row] - max);
        const double sum = ea + eb != 0 ? ea + eb : 1;

        ref_load(a, acc, ref_row(acc, row), d);
        ref_load(b, part, ref_row(part, row), d);
        for (int64_t i = 0; i < d; i++)
            a[i] = (ea != 0 ? a[i] * (ea / sum) : 0) + (eb != 0 ? b[i] * (eb / sum) : 0);
        ref_store(acc, ref_row(acc, row), a, d);
        la[row] = (float)(max + log(ea + eb));
    }
    return ST_OK;
}

int64_t ref_bucket(int64_t distance)
{
    static const int from[] = {
        8, 12, 16, 23, 32, 46, 64, 91
    }; // first distances of buckets 8 to 15
    const int64_t a = distance < 0 ? -distance : distance;
    int64_t b = a < 8 ? a : 7;

    for (size_t i = 0; i < COUNT(from); i++)
        b += a >= from[i];
    return b + (distance > 0 ? 16 : 0);
}

status ref_relative_attention(struct device *dev, struct tensor out, struct tensor q,
                              struct tensor k, struct tensor v, struct tensor table)
{
    const int64_t heads = q.dim[1], d = q.dim[2], keys = k.dim[0];
    const enum dtype dt = q.dtype;
    double *p, *query, *row, *o, max;

    TRY(ref_scratch(dev, &p, keys + 3 * d));
    query = p + keys;
    row = query + d;
    o = row + d;
    for (int64_t s = 0; s < q.dim[0]; s++)
        for (int64_t n = 0; n < heads; n++) {
            ref_load(query, q, s * q.stride[0] + n * q.stride[1], d);
            for (int64_t j = 0; j < keys; j++) {
                double bias;
                ref_load(row, k, j * k.stride[0] + n * k.stride[1], d);
                ref_load(&bias, table, ref_bucket(j - s) * heads + n, 1);
                p[j] = ref_round(dt, ref_round(dt, ref_dot(query, row, d)) + bias);
            }

            const double sum = ref_exponentials(p, keys, &max);

            for (int64_t j = 0; j < keys; j++)
                p[j] = ref_round(dt, p[j] / sum);
            weighted_sum(o, p, v, n, row);
            ref_store(out, s * out.stride[0] + n * out.stride[1], o, d);
        }
    return ST_OK;
}
