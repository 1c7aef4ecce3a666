#include "kernels/cpu/cpu.h"
#include "kernels/ref/ref.h"

#include <assert.h>
#include <math.h>

/* Attention in one pass over the keys (Dao et al. 2022, FlashAttention): a task is one head and
 * some queries, and keeps for each query the largest logit so far, the sum of exponentials and the
 * weighted sum of values relative to it. Blocks of keys have one size, so what a query gets does
 * not depend on how many others there are. */
#define KEYS 128
#define QUERIES (TILE_ROWS * 32) // of one task, at most: over these the packing is spread

/* Column count of whole panels. */
static int64_t padded(int64_t n)
{
    return div_up(n, TILE_COLS) * TILE_COLS;
}

/* A thread's part of the workspace. */
struct slab {
    float *k;     // [KEYS / TILE_COLS][D][TILE_COLS]
    float *v;     // [padded(D) / TILE_COLS][keys][TILE_COLS]
    float *p;     // [TILE_ROWS][KEYS]: logits, then their exponentials
    float *q;     // [TILE_ROWS][D]: bf16 queries as f32
    float *o;     // [queries][padded(D)]
    float *max;   // [queries]
    float *total; // [queries]
};

/* Floats of a slab for `queries`, of which each takes padded(D) + 2. */
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

/* v rows [first, first + n), columns in panels: [padded(D) / TILE_COLS][n][TILE_COLS]. */
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

/* keys [first, first + n): [n / TILE_COLS][D][TILE_COLS]. */
static void pack_keys(float *panel, struct tensor k, int64_t first, int64_t n)
{
    const int64_t d = k.dim[2];

    for (int64_t j = 0; j < n; j += TILE_COLS, panel += d * TILE_COLS)
        CPU(pack)
    (panel, element(k, (first + j) * k.stride[0]), k.dtype, k.stride[0], min_of(TILE_COLS, n - j),
     d, UNIT_F32);
}

/* Addresses of queries [first, first + rows) as f32. */
static void find_queries(const void **piece, float *wide, struct tensor q, int64_t first, int rows)
{
    for (int i = 0; i < rows; i++) {
        piece[i] = element(q, (first + i) * q.stride[0]);
        if (q.dtype == DT_BF16) {
            load_row(wide + i * q.dim[2], q, (first + i) * q.stride[0], q.dim[2]);
            piece[i] = wide + i * q.dim[2];
        }
    }
}

/* The largest of p[n], n a multiple of VEC; NaN is passed over, and shows in the exponentials. */
static float largest(const float *p, int64_t n)
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

/* p = e^(p - max); their sum. */
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

/* Logits of one query against a block of `n` keys to exponentials; o is brought to the new maximum.
 */
static void soften(float *p, int64_t n, float scale, float *max, float *total, float *o, int64_t d)
{
    const float old = *max;
    float shrink;

    for (int64_t j = 0; j < n; j++)
        p[j] *= scale;
    for (int64_t j = n; j < KEYS; j++)
        p[j] = -INFINITY;
    *max = fmaxf(old, largest(p, KEYS));
    shrink = exp_of(old - *max);
    *total = *total * shrink + exponentials(p, KEYS, *max);
    if (shrink != 1)
        for (int64_t i = 0; i < d; i++)
            o[i] *= shrink;
}

/* Queries [first, first + count) of one head. */
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
            const void *piece[TILE_ROWS];

            find_queries(piece, s->q, q, first + row, rows);
            for (int64_t j = 0; j < n; j += TILE_COLS)
                CPU(tile)
            (s->p + j, KEYS, piece, 1, d, s->k + j * d, UNIT_F32, rows, n - j, false);
            for (int i = 0; i < rows; i++) {
                soften(s->p + i * KEYS, n, scale, s->max + row + i, s->total + row + i,
                       s->o + (row + i) * wide, d);
                piece[i] = s->p + i * KEYS;
            }
            for (int64_t c = 0; c < d; c += TILE_COLS)
                CPU(tile)
            (s->o + row * wide + c, wide, piece, 1, n, s->v + c * n, UNIT_F32, rows, d - c, true);
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
    const int64_t room = (int64_t)(CPU_WORKSPACE / sizeof(float));
    const int64_t least = slab_floats(d, TILE_ROWS);
    int64_t threads = cpu_threads(dev), queries = QUERIES;

    if (least > room)
        return fail(ST_MEMORY, "attention over heads of %lld does not fit the workspace of %zu MiB",
                    (long long)d, CPU_WORKSPACE >> 20);
    threads = min_of(threads, room / least);
    // enough tasks that the threads finish together, while a slab is within its share
    while (queries > TILE_ROWS && (slab_floats(d, queries) > room / threads ||
                                   heads * div_up(q.dim[0], queries) < 3 * threads))
        queries -= TILE_ROWS;

    const int64_t blocks = div_up(q.dim[0], queries);

#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t task = 0; task < heads * blocks; task++) {
        const int64_t head = task / blocks, first = task % blocks * queries;
        const struct slab s =
            slab_at((float *)dev->workspace + cpu_thread() * (room / threads), d, queries);

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
    const int threads = cpu_crew(dev, rows * d, (size_t)d * sizeof(float));
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

/* umT5's attention keeps all logits of a tile's rows, as each is rounded with its bias: per head
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
        const void *piece[TILE_ROWS];

        find_queries(piece, queries, q, row, rows);
        for (int64_t j = 0; j < keys; j += TILE_COLS)
            CPU(tile)
        (p + j, wide, piece, 1, d, base + j * d, UNIT_F32, rows, keys - j, false);
        for (int i = 0; i < rows; i++) {
            float *x = p + i * wide, sum;
            const float *add = bias - row - i;

            round_row(x, q.dtype, keys);
            for (int64_t j = 0; j < keys; j++)
                x[j] += add[j];
            round_row(x, q.dtype, keys);
            for (int64_t j = keys; j < wide; j++)
                x[j] = -INFINITY;
            sum = exponentials(x, wide, largest(x, wide));
            for (int64_t j = 0; j < keys; j++)
                x[j] /= sum;
            round_row(x, q.dtype, keys);
            piece[i] = x;
        }
        for (int64_t c = 0; c < d; c += TILE_COLS)
            CPU(tile)
        (o + c, padded(d), piece, 1, keys, packed_v + c * keys, UNIT_F32, rows, d - c, false);
        for (int i = 0; i < rows; i++)
            store_row(out, (row + i) * out.stride[0], o + i * padded(d), d);
    }
}

status CPU(relative_attention)(struct device *dev, struct tensor out, struct tensor q,
                               struct tensor k, struct tensor v, struct tensor table)
{
    const int64_t room = (int64_t)(CPU_WORKSPACE / sizeof(float));
    const int64_t need = relative_floats(k.dim[0], q.dim[2]);
    const int64_t threads = min_of(cpu_threads(dev), room / need);

    if (threads < 1) // a text of ten thousands of tokens
        return ref_relative_attention(dev, out, q, k, v, table);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t head = 0; head < q.dim[1]; head++)
        run_relative((float *)dev->workspace + cpu_thread() * need, one_head(out, head),
                     one_head(q, head), one_head(k, head), one_head(v, head), table, head);
    return ST_OK;
}
