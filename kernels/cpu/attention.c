#include "kernels/cpu/cpu.h"
#include "kernels/ref/ref.h"
#include "runtime/alive.h"

#include <assert.h>
#include <math.h>

/* Attention in one pass over the keys. A task is one head and some queries. For each query it keeps
 * the maximum logit so far and, relative to it, the sum of exponentials and the weighted sum of
 * values. Blocks of keys have a fixed size, so the result for a query does not depend on the number
 * of queries. Source: Dao et al. 2022, FlashAttention. */
#define KEYS 128                 // in a block
#define QUERIES (TILE_ROWS * 32) // of a task, at most; more queries share the cost of packing keys

/* n rounded up to whole panels of TILE_COLS columns. */
static int64_t padded(int64_t n)
{
    return div_up(n, TILE_COLS) * TILE_COLS;
}

/* A thread's part of the workspace, as f32. */
struct slab {
    float *k;     // [KEYS / TILE_COLS][D][TILE_COLS]
    float *v;     // [padded(D) / TILE_COLS][keys][TILE_COLS]
    float *p;     // [TILE_ROWS][KEYS]: logits, then their exponentials
    float *q;     // [TILE_ROWS][D]: bf16 queries converted to f32
    float *o;     // [queries][padded(D)]
    float *max;   // [queries]
    float *total; // [queries]
};

/* Number of floats of a slab for `queries` queries. */
static int64_t slab_floats(int64_t d, int64_t queries)
{
    return KEYS * (d + padded(d)) + TILE_ROWS * (KEYS + d) + queries * (padded(d) + 2);
}

static struct slab slab_at(float *base, int64_t d, int64_t queries)
{
    struct slab s = { .k = base };

    s.v = s.k + KEYS * d;
    s.p = s.v + KEYS * padded(d);
    s.q = s.p + TILE_ROWS * KEYS;
    s.o = s.q + TILE_ROWS * d;
    s.max = s.o + queries * padded(d);
    s.total = s.max + queries;
    return s;
}

static struct tensor one_head(struct tensor t, int64_t head)
{
    return tensor_slice(t, 1, head, 1);
}

/* Packs rows [first, first + n) of v into panels [padded(D) / TILE_COLS][n][TILE_COLS]. */
static void pack_values(float *panel, struct tensor v, int64_t first, int64_t n)
{
    const int64_t d = v.dim[2];

    for (int64_t c = 0; c < d; c += TILE_COLS)
        for (int64_t j = 0; j < n; j++, panel += TILE_COLS) {
            const int64_t width = min_of(TILE_COLS, d - c);

            load_row(panel, v, (first + j) * v.stride[0] + c, width);
            for (int64_t i = width; i < TILE_COLS; i++)
                panel[i] = 0;
        }
}

/* Packs rows [first, first + n) of k, transposed: [n / TILE_COLS][D][TILE_COLS]. */
static void pack_keys(float *panel, struct tensor k, int64_t first, int64_t n)
{
    const int64_t d = k.dim[2];

    for (int64_t j = 0; j < n; j += TILE_COLS, panel += d * TILE_COLS)
        CPU(pack)
    (panel, element(k, (first + j) * k.stride[0]), k.dtype, k.stride[0], min_of(TILE_COLS, n - j),
     d, UNIT_F32);
}

/* Addresses of queries [first, first + rows) as f32; bf16 is converted into `converted`. */
static void find_queries(const void **query, float *converted, struct tensor q, int64_t first,
                         int rows)
{
    for (int i = 0; i < rows; i++) {
        query[i] = element(q, (first + i) * q.stride[0]);
        if (q.dtype == DT_BF16) {
            load_row(converted + i * q.dim[2], q, (first + i) * q.stride[0], q.dim[2]);
            query[i] = converted + i * q.dim[2];
        }
    }
}

/* The maximum of p[n], n a multiple of VEC. Ignores NaN, which then appears in the exponentials. */
static float max_of(const float *p, int64_t n)
{
    float lane[VEC], max;

    for (int l = 0; l < VEC; l++)
        lane[l] = p[l];
    for (int64_t j = VEC; j < n; j += VEC)
        for (int l = 0; l < VEC; l++)
            lane[l] = p[j + l] > lane[l] ? p[j + l] : lane[l];
    max = lane[0];
    for (int l = 1; l < VEC; l++)
        max = lane[l] > max ? lane[l] : max;
    return max;
}

/* p = e^(p - max). Returns the sum. */
static float exponentials(float *p, int64_t n, float max)
{
    float sum = 0;

#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < n; j++) {
        p[j] = exp_of(p[j] - max);
        sum += p[j];
    }
    return sum;
}

/* Turns the logits of one query against a block of n keys into exponentials relative to the new
 * maximum, and rescales *total and o[d] to it. */
static void online_softmax(float *p, int64_t n, float scale, float *max, float *total, float *o,
                           int64_t d)
{
    const float old = *max;
    float rescale;

    for (int64_t j = 0; j < n; j++)
        p[j] *= scale;
    for (int64_t j = n; j < KEYS; j++)
        p[j] = -INFINITY;
    *max = fmaxf(old, max_of(p, KEYS));
    rescale = exp_of(old - *max);
    *total = *total * rescale + exponentials(p, KEYS, *max);
    if (rescale != 1)
        for (int64_t i = 0; i < d; i++)
            o[i] *= rescale;
}

/* Queries [first, first + count) of one head; lse points to the head's first value, or is NULL. */
static void run_task(const struct slab *s, struct tensor out, float *lse, int64_t heads,
                     struct tensor q, struct tensor k, struct tensor v, float scale, int64_t first,
                     int64_t count)
{
    const int64_t d = q.dim[2], wide = padded(d);

    for (int64_t i = 0; i < count; i++) {
        s->max[i] = -INFINITY;
        s->total[i] = 0;
        for (int64_t j = 0; j < wide; j++)
            s->o[i * wide + j] = 0;
    }
    for (int64_t key = 0; key < k.dim[0]; key += KEYS) {
        const int64_t n = min_of(KEYS, k.dim[0] - key);

        pack_keys(s->k, k, key, n);
        pack_values(s->v, v, key, n);
        for (int64_t row = 0; row < count; row += TILE_ROWS) {
            const int rows = (int)min_of(TILE_ROWS, count - row);
            const void *a[TILE_ROWS]; // rows that the tile multiplies

            find_queries(a, s->q, q, first + row, rows);
            for (int64_t j = 0; j < n; j += TILE_COLS)
                CPU(tile)
            (s->p + j, KEYS, a, 1, d, s->k + j * d, UNIT_F32, rows, n - j, false);
            for (int i = 0; i < rows; i++) {
                online_softmax(s->p + i * KEYS, n, scale, s->max + row + i, s->total + row + i,
                               s->o + (row + i) * wide, d);
                a[i] = s->p + i * KEYS;
            }
            for (int64_t c = 0; c < d; c += TILE_COLS)
                CPU(tile)
            (s->o + row * wide + c, wide, a, 1, n, s->v + c * n, UNIT_F32, rows, d - c, true);
        }
    }
    for (int64_t i = 0; i < count; i++) {
        float *o = s->o + i * wide;

        for (int64_t j = 0; j < d; j++)
            o[j] /= s->total[i];
        store_row(out, (first + i) * out.stride[0], o, d);
        if (lse != NULL)
            lse[(first + i) * heads] = s->max[i] + logf(s->total[i]);
    }
}

status CPU(attention)(struct device *dev, struct tensor out, struct tensor lse, struct tensor q,
                      struct tensor k, struct tensor v, float scale)
{
    const int64_t heads = q.dim[1], d = q.dim[2];
    const int64_t available = (int64_t)(CPU_WORKSPACE / sizeof(float));
    const int64_t min_floats = slab_floats(d, TILE_ROWS);
    int64_t threads = cpu_threads(dev), queries = QUERIES;

    if (min_floats > available)
        return fail(ST_MEMORY,
                    "attention with head size %lld does not fit the workspace of %zu MiB",
                    (long long)d, CPU_WORKSPACE >> 20);
    threads = min_of(threads, available / min_floats);
    // enough tasks for an even load of the threads, and slabs that fit the workspace
    while (queries > TILE_ROWS && (slab_floats(d, queries) > available / threads ||
                                   heads * div_up(q.dim[0], queries) < 3 * threads))
        queries -= TILE_ROWS;

    const int64_t blocks = div_up(q.dim[0], queries);

#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t task = 0; task < heads * blocks; task++) {
        const int64_t head = task / blocks, first = task % blocks * queries;
        const struct slab s =
            slab_at((float *)dev->workspace + cpu_thread() * (available / threads), d, queries);

        alive();
        run_task(&s, one_head(out, head), lse.data ? (float *)lse.data + head : NULL, heads,
                 one_head(q, head), one_head(k, head), one_head(v, head), scale, first,
                 min_of(queries, q.dim[0] - first));
    }
    return ST_OK;
}

status CPU(attention_merge)(struct device *dev, struct tensor acc, struct tensor lse,
                            struct tensor part, struct tensor part_lse)
{
    const int64_t d = acc.dim[2], rows = acc.dim[0] * acc.dim[1];
    const int threads = cpu_threads_for(dev, rows * d, (size_t)d * sizeof(float));
    float *la = lse.data;
    const float *lb = part_lse.data;

#pragma omp parallel for num_threads(threads)
    for (int64_t row = 0; row < rows; row++) {
        const float max = fmaxf(la[row], lb[row]);
        const float ea = isinf(la[row]) ? 0 : exp_of(la[row] - max);
        const float eb = isinf(lb[row]) ? 0 : exp_of(lb[row] - max);
        const float sum = ea + eb != 0 ? ea + eb : 1, wa = ea / sum, wb = eb / sum;
        float *a = (float *)acc.data + row * d;
        const float *b =
            read_row((float *)dev->workspace + cpu_thread() * d, part,
                     row / acc.dim[1] * part.stride[0] + row % acc.dim[1] * part.stride[1], d);

        if (wa == 0)
            memset(a, 0, (size_t)d * sizeof(float));
        if (wb != 0)
            for (int64_t i = 0; i < d; i++)
                a[i] = a[i] * wa + b[i] * wb;
        else
            for (int64_t i = 0; i < d; i++)
                a[i] *= wa;
        la[row] = max + logf(ea + eb);
    }
    return ST_OK;
}

/* umT5's attention keeps all logits of a tile's rows, because each is rounded, biased and rounded
 * again before the softmax. Workspace of a head, as f32:
 * | keys [padded(S) / TILE_COLS][D][TILE_COLS] | values [padded(D) / TILE_COLS][S][TILE_COLS] |
 * p [TILE_ROWS][padded(S)] | queries [TILE_ROWS][D] | o [TILE_ROWS][padded(D)] | bias [2 S - 1] |
 */
static int64_t relative_floats(int64_t s, int64_t d)
{
    return padded(s) * d + padded(d) * s + TILE_ROWS * (padded(s) + d + padded(d)) + 2 * s;
}

static void run_relative(float *base, struct tensor out, struct tensor q, struct tensor k,
                         struct tensor v, struct tensor table, int64_t head)
{
    const int64_t keys = k.dim[0], d = q.dim[2], wide = padded(keys);
    float *packed_v = base + wide * d, *p = packed_v + padded(d) * keys;
    float *queries = p + TILE_ROWS * wide, *o = queries + TILE_ROWS * d;
    float *bias = o + TILE_ROWS * padded(d) + keys - 1; // at distance 0

    for (int64_t i = 1 - keys; i < keys; i++)
        load_row(bias + i, table, ref_bucket(i) * table.dim[1] + head, 1);
    pack_keys(base, k, 0, keys);
    pack_values(packed_v, v, 0, keys);
    for (int64_t row = 0; row < q.dim[0]; row += TILE_ROWS) {
        const int rows = (int)min_of(TILE_ROWS, q.dim[0] - row);
        const void *a[TILE_ROWS];

        find_queries(a, queries, q, row, rows);
        for (int64_t j = 0; j < keys; j += TILE_COLS)
            CPU(tile)
        (p + j, wide, a, 1, d, base + j * d, UNIT_F32, rows, keys - j, false);
        for (int i = 0; i < rows; i++) {
            float *x = p + i * wide, sum;
            const float *add = bias - row - i; // add[j] is the bias of distance j - row - i

            round_row(x, q.dtype, keys);
            for (int64_t j = 0; j < keys; j++)
                x[j] += add[j];
            round_row(x, q.dtype, keys);
            for (int64_t j = keys; j < wide; j++)
                x[j] = -INFINITY;
            sum = exponentials(x, wide, max_of(x, wide));
            for (int64_t j = 0; j < keys; j++)
                x[j] /= sum;
            round_row(x, q.dtype, keys);
            a[i] = x;
        }
        for (int64_t c = 0; c < d; c += TILE_COLS)
            CPU(tile)
        (o + c, padded(d), a, 1, keys, packed_v + c * keys, UNIT_F32, rows, d - c, false);
        for (int i = 0; i < rows; i++)
            store_row(out, (row + i) * out.stride[0], o + i * padded(d), d);
    }
}

status CPU(relative_attention)(struct device *dev, struct tensor out, struct tensor q,
                               struct tensor k, struct tensor v, struct tensor table)
{
    const int64_t available = (int64_t)(CPU_WORKSPACE / sizeof(float));
    const int64_t need = relative_floats(k.dim[0], q.dim[2]);
    const int64_t threads = min_of(cpu_threads(dev), available / need);

    if (threads < 1) // not even one head fits: tens of thousands of tokens
        return ref_relative_attention(dev, out, q, k, v, table);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t head = 0; head < q.dim[1]; head++) {
        alive();
        run_relative((float *)dev->workspace + cpu_thread() * need, one_head(out, head),
                     one_head(q, head), one_head(k, head), one_head(v, head), table, head);
    }
    return ST_OK;
}
