/* Attention in 8-bit integers: what op_attention8 specifies, value by value. Quantization is in f32
 * as on a GPU, so that both get the same integers. */
#include "kernels/ref/ref.h"
#include "runtime/half.h"

#include <math.h>

#define LEAST 1e-20F // magnitude that a scale is computed from, so that none is 0
#define LOG255 7.994353436858858
#define FAR 30.0

/* Quantized keys and values of one head, in the op's scratch; d: head size. */
struct head8 {
    int64_t keys, d;
    int8_t *k, *v;          // [keys, D]
    float *k_scale;         // [blocks of 128 keys, 4]
    float *v_tile;          // [tiles]
    float *k_mean, *v_mean; // [D]
    float *v_channel;       // [D]
};

static float at(struct tensor t, int64_t token, int64_t head, int64_t i)
{
    double x;

    ref_load(&x, t, token * t.stride[0] + head * t.stride[1] + i, 1);
    return (float)x;
}

static float mean_of(struct tensor t, int64_t head, int64_t i)
{
    double sum = 0;

    for (int64_t j = 0; j < t.dim[0]; j++)
        sum += (double)at(t, j, head, i);
    return bf16_round((float)(sum / (double)t.dim[0]));
}

/* fmaxf that keeps NaN. */
static float larger(float a, float b)
{
    return a > b || isnan(a) ? a : b;
}

static int8_t integer(float x)
{
    return isfinite(x) ? (int8_t)lrintf(x) : 0;
}

static void quantize_k(const struct head8 *h, struct tensor k, int64_t head)
{
    for (int64_t i = 0; i < h->d; i++)
        h->k_mean[i] = mean_of(k, head, i);
    for (int64_t block = 0; block * 128 < h->keys; block++)
        for (int64_t t = 0; t < 4; t++) {
            float most = LEAST;

            for (int pass = 0; pass < 2; pass++)
                for (int64_t j = block * 128; j < h->keys && j < block * 128 + 128; j++)
                    for (int64_t i = 0; i < h->d && j % 8 / 2 == t; i++) {
                        const float x = at(k, j, head, i) - h->k_mean[i];

                        if (pass == 0)
                            most = larger(fabsf(x), most);
                        else
                            h->k[j * h->d + i] = integer(x * (127 / most));
                    }
            h->k_scale[block * 4 + t] = most / 127;
        }
}

static void quantize_v(const struct head8 *h, struct tensor v, int64_t head)
{
    for (int64_t i = 0; i < h->d; i++) {
        float most = LEAST;

        h->v_mean[i] = mean_of(v, head, i);
        for (int64_t j = 0; j < h->keys; j++)
            most = larger(fabsf(at(v, j, head, i) - h->v_mean[i]), most);
        h->v_channel[i] = most;
    }
    for (int64_t first = 0; first < h->keys; first += ATTENTION8_KEYS) {
        float most = LEAST;

        for (int pass = 0; pass < 2; pass++)
            for (int64_t j = first; j < h->keys && j < first + ATTENTION8_KEYS; j++)
                for (int64_t i = 0; i < h->d; i++) {
                    const float x = (at(v, j, head, i) - h->v_mean[i]) * (1 / h->v_channel[i]);

                    if (pass == 0)
                        most = larger(fabsf(x), most);
                    else
                        h->v[j * h->d + i] = integer(x * (127 / most));
                }
        h->v_tile[first / ATTENTION8_KEYS] = most;
    }
}

/* One row: q8 [D] of scale q_scale (with log2 e), logits: scratch of a tile, o [D]. Returns the
 * log2 of the sum of the powers. */
static double row(const struct head8 *h, const int8_t *q8, double q_scale, double *logits,
                  double *o)
{
    double top = -INFINITY, ref = -INFINITY, sum = 0;

    for (int64_t i = 0; i < h->d; i++)
        o[i] = 0;
    for (int64_t first = 0; first < h->keys; first += ATTENTION8_KEYS) {
        const int64_t n =
            h->keys - first < ATTENTION8_KEYS ? h->keys - first : (int64_t)ATTENTION8_KEYS;
        double most = -INFINITY;

        for (int64_t j = 0; j < n; j++) {
            const int8_t *k8 = h->k + (first + j) * h->d;
            int32_t dot = 0;

            for (int64_t i = 0; i < h->d; i++)
                dot += q8[i] * k8[i];
            logits[j] = dot * (q_scale * (double)h->k_scale[(first + j) / 128 * 4 + j % 8 / 2]);
            most = fmax(most, logits[j]);
        }
        top = fmax(top, most);

        const double next = fmax(most, top - FAR), change = exp2(ref - next);

        sum *= change;
        for (int64_t i = 0; i < h->d; i++)
            o[i] *= change;
        for (int64_t j = 0; j < n; j++) {
            const double p = rint(exp2(logits[j] - next + LOG255));
            const double by = p * (double)h->v_tile[first / ATTENTION8_KEYS] / 127;

            sum += p;
            for (int64_t i = 0; i < h->d; i++)
                o[i] += by * h->v[(first + j) * h->d + i];
        }
        ref = next;
    }
    for (int64_t i = 0; i < h->d; i++)
        o[i] = o[i] / sum * (double)h->v_channel[i] + (double)h->v_mean[i] +
               0 * (double)(h->k_scale[0] + h->v_tile[0]); // NaN is kept
    return ref - LOG255 + log2(sum);
}

static int8_t *take(char **p, int64_t bytes)
{
    char *from = *p;

    *p += (bytes + 15) / 16 * 16;
    return (int8_t *)from;
}

status ref_attention8(struct device *dev, const struct attention_part *part, int parts,
                      struct tensor lse, struct tensor q, struct tensor k, struct tensor v,
                      float scale, struct tensor scratch)
{
    const int64_t heads = q.dim[1], d = q.dim[2], keys = k.dim[0];
    char *p = scratch.data;
    struct head8 h = { .keys = keys, .d = d };
    double *query, *o, *logits;
    int8_t *q8;

    (void)parts;
    TRY(ref_scratch(dev, &query, 2 * d + ATTENTION8_KEYS));
    o = query + d;
    logits = o + d;
    h.k = take(&p, keys * d);
    h.v = take(&p, keys * d);
    h.k_scale = (float *)take(&p, (keys + 127) / 128 * 16);
    h.v_tile = (float *)take(&p, (keys + ATTENTION8_KEYS - 1) / ATTENTION8_KEYS * 4);
    h.k_mean = (float *)take(&p, 4 * d);
    h.v_mean = (float *)take(&p, 4 * d);
    h.v_channel = (float *)take(&p, 4 * d);
    q8 = take(&p, d);
    for (int64_t n = 0; n < heads; n++) {
        int at_part = 0;

        quantize_k(&h, k, n);
        quantize_v(&h, v, n);
        for (int64_t s = 0; s < q.dim[0]; s++) {
            float most = LEAST;
            double dot = 0;

            while (s >= part[at_part].first + part[at_part].count)
                at_part++;
            ref_load(query, q, s * q.stride[0] + n * q.stride[1], d);
            for (int64_t i = 0; i < d; i++) {
                most = larger(fabsf((float)query[i]), most);
                dot += query[i] * (double)h.k_mean[i];
            }
            for (int64_t i = 0; i < d; i++)
                q8[i] = integer((float)query[i] * (127 / most));

            const float q_scale = most / 127 * (scale * 1.4426950408889634F);
            const double power = row(&h, q8, (double)q_scale, logits, o);
            const struct tensor out = part[at_part].out;

            for (int64_t i = 0; i < d && !isfinite(q_scale); i++)
                o[i] = NAN;
            ref_store(out, (s - part[at_part].first) * out.stride[0] + n * out.stride[1], o, d);
            if (lse.data != NULL)
                ((float *)lse.data)[s * heads + n] =
                    (float)(power * log(2.0) + (double)scale * dot);
        }
    }
    return ST_OK;
}
