/* Linear attention: softmax of queries and keys over their channels in place of that of logits. */
#include "kernels/ref/ref.h"

/* p[D] = the softmax of one row of x. */
static void softmax_row(double *p, struct tensor x, int64_t s, int64_t head)
{
    const int64_t d = x.dim[2];
    double max;

    ref_load(p, x, s * x.stride[0] + head * x.stride[1], d);

    const double sum = ref_exponentials(p, d, &max);

    for (int64_t i = 0; i < d; i++)
        p[i] /= sum;
}

/* kv[D, D] = the sum of phi(k) v^T, and total[D] that of phi(k), over all keys of a head. */
static void sum_keys(double *kv, double *total, double *p, double *row, struct tensor k,
                     struct tensor v, int64_t head)
{
    const int64_t d = k.dim[2];

    for (int64_t i = 0; i < d * d; i++)
        kv[i] = 0;
    for (int64_t i = 0; i < d; i++)
        total[i] = 0;
    for (int64_t s = 0; s < k.dim[0]; s++) {
        softmax_row(p, k, s, head);
        ref_load(row, v, s * v.stride[0] + head * v.stride[1], d);
        for (int64_t i = 0; i < d; i++) {
            total[i] += p[i];
            for (int64_t j = 0; j < d; j++)
                kv[i * d + j] += p[i] * row[j];
        }
    }
}

status ref_linear_attention(struct device *dev, struct tensor sum, struct tensor q, struct tensor k,
                            struct tensor v, struct tensor w, struct tensor b,
                            struct tensor scratch)
{
    const int64_t d = q.dim[2];
    const float *weight = w.data, *bias = b.data;
    double *kv, *total, *p, *row;

    TRY(ref_scratch(dev, &kv, d * d + 3 * d));
    total = kv + d * d;
    p = total + d;
    row = p + d;
    for (int64_t n = 0; n < q.dim[1]; n++) {
        sum_keys(kv, total, p, row, k, v, n);
        for (int64_t s = 0; s < q.dim[0]; s++) {
            const int64_t at = s * sum.stride[0] + n * sum.stride[1];

            softmax_row(p, q, s, n);

            const double divisor = LINEAR_ATTENTION_EPS + ref_dot(p, total, d);

            for (int64_t j = 0; j < d; j++) {
                row[j] = 0;
                for (int64_t i = 0; i < d; i++)
                    row[j] += p[i] * kv[i * d + j];
                row[j] /= divisor;
            }
            ref_load(p, sum, at, d);
            for (int64_t j = 0; j < d; j++) {
                p[j] += (double)bias[j];
                for (int64_t i = 0; i < d; i++)
                    p[j] += (double)weight[j * d + i] * row[i];
            }
            ref_store(sum, at, p, d);
        }
    }
    return ST_OK;
}
