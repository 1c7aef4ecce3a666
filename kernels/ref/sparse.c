/* Attention over lists of tiles of keys, and the making of lists. */
#include "kernels/ref/ref.h"

#include <math.h>

static int32_t i32_at(struct tensor t, int64_t i)
{
    return ((const int32_t *)t.data)[i];
}

/* The tile [first[i], first[i + 1]) that has the row; `tile` is one at or before it. */
static int64_t tile_of(struct tensor first, int64_t row, int64_t tile)
{
    while (row >= i32_at(first, tile + 1))
        tile++;
    return tile;
}

status ref_sparse_attention(struct device *dev, struct tensor out, struct tensor lse,
                            struct tensor q, struct tensor k, struct tensor v, float scale,
                            const struct tile_lists *lists)
{
    const int64_t heads = q.dim[1], d = q.dim[2];
    const int64_t q_tiles = lists->count.dim[1], most = lists->index.dim[2];
    double *p, *query, *row, *o, max;
    int64_t tile = 0;

    TRY(ref_scratch(dev, &p, k.dim[0] + 3 * d));
    query = p + k.dim[0];
    row = query + d;
    o = row + d;
    for (int64_t s = 0; s < q.dim[0]; s++) {
        tile = tile_of(lists->q_first, s, tile);
        for (int64_t n = 0; n < heads; n++) {
            const int32_t *const index =
                (const int32_t *)lists->index.data + (n * q_tiles + tile) * most;
            const int count = i32_at(lists->count, n * q_tiles + tile);
            int64_t keys = 0;

            ref_load(query, q, s * q.stride[0] + n * q.stride[1], d);
            for (int i = 0; i < count; i++)
                for (int64_t j = i32_at(lists->k_first, index[i]);
                     j < i32_at(lists->k_first, index[i] + 1); j++) {
                    ref_load(row, k, j * k.stride[0] + n * k.stride[1], d);
                    p[keys++] = (double)scale * ref_dot(query, row, d);
                }

            const double sum = ref_exponentials(p, keys, &max);

            keys = 0;
            for (int64_t c = 0; c < d; c++)
                o[c] = 0;
            for (int i = 0; i < count; i++)
                for (int64_t j = i32_at(lists->k_first, index[i]);
                     j < i32_at(lists->k_first, index[i] + 1); j++, keys++) {
                    ref_load(row, v, j * v.stride[0] + n * v.stride[1], d);
                    for (int64_t c = 0; c < d; c++)
                        o[c] += p[keys] / sum * row[c];
                }
            ref_store(out, s * out.stride[0] + n * out.stride[1], o, d);
            if (lse.data != NULL)
                ((float *)lse.data)[s * heads + n] = (float)(max + log(sum));
        }
    }
    return ST_OK;
}

status ref_tile_means(struct device *dev, struct tensor out, struct tensor x, struct tensor first)
{
    const int64_t d = x.dim[2];
    double *sum, *row;

    TRY(ref_scratch(dev, &sum, 2 * d));
    row = sum + d;
    for (int64_t t = 0; t < out.dim[0]; t++)
        for (int64_t n = 0; n < x.dim[1]; n++) {
            const int32_t from = i32_at(first, t), end = i32_at(first, t + 1);

            for (int64_t c = 0; c < d; c++)
                sum[c] = 0;
            for (int64_t s = from; s < end; s++) {
                ref_load(row, x, s * x.stride[0] + n * x.stride[1], d);
                for (int64_t c = 0; c < d; c++)
                    sum[c] += row[c];
            }
            for (int64_t c = 0; c < d; c++)
                sum[c] /= end - from;
            ref_store(out, t * out.stride[0] + n * out.stride[1], sum, d);
        }
    return ST_OK;
}

/* Takes the largest score that is not taken yet; of equal ones the first. */
static void take_largest(double *score, bool *taken, int64_t n)
{
    int64_t best = -1;

    for (int64_t j = 0; j < n; j++)
        if (!taken[j] && (best < 0 || score[j] > score[best]))
            best = j;
    taken[best] = true;
}

status ref_tile_lists(struct device *dev, struct tensor count, struct tensor index, struct tensor q,
                      struct tensor k)
{
    const int64_t q_tiles = q.dim[0], k_tiles = k.dim[0], heads = q.dim[1], d = q.dim[2];
    const int64_t most = index.dim[2];
    double *score, *query, *key;
    bool *taken;

    TRY(ref_scratch(dev, &score, 2 * k_tiles + 2 * d));
    query = score + k_tiles;
    key = query + d;
    taken = (bool *)(key + d);
    for (int64_t n = 0; n < heads; n++)
        for (int64_t i = 0; i < q_tiles; i++) {
            int32_t *to = (int32_t *)index.data + (n * q_tiles + i) * most;

            ref_load(query, q, (i * heads + n) * d, d);
            for (int64_t j = 0; j < k_tiles; j++) {
                ref_load(key, k, (j * heads + n) * d, d);
                score[j] = (double)(float)ref_dot(query, key, d);
                taken[j] = false;
            }
            for (int64_t m = 0; m < most; m++)
                take_largest(score, taken, k_tiles);
            for (int64_t j = 0; j < k_tiles; j++)
                if (taken[j])
                    *to++ = (int32_t)j;
            ((int32_t *)count.data)[n * q_tiles + i] = (int32_t)most;
        }
    return ST_OK;
}
