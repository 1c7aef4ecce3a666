#include "runtime/half.h"
#include "tests/checkops.h"

#include <math.h>

static const struct tensor none;

/* Random tiles of `rows` rows: full ones, but about one in three has fewer, where `ragged`. */
static struct tensor make_tiles(struct check *c, int64_t total, int rows, bool ragged)
{
    int32_t first[512] = { 0 };
    int64_t tiles = 0;

    while (first[tiles] < total) {
        int64_t n = ragged && check_random(c, 3) == 0 ? 1 + check_random(c, rows) : rows;

        n = n < total - first[tiles] ? n : total - first[tiles];
        first[tiles + 1] = first[tiles] + (int32_t)n;
        tiles++;
    }

    const struct tensor t = check_constant(DT_I32, 0, 0, DIMS(tiles + 1));

    memcpy(t.data, first, (size_t)(tiles + 1) * sizeof(*first));
    return t;
}

/* Random lists of 1 to `most` tiles, or of all. */
static struct tile_lists make_lists(struct check *c, struct tensor q_first, struct tensor k_first,
                                    int q_rows, int k_rows, int64_t heads, int64_t most)
{
    const int64_t q_tiles = q_first.dim[0] - 1, k_tiles = k_first.dim[0] - 1;
    const struct tile_lists lists = {
        .q_first = q_first,
        .k_first = k_first,
        .count = check_constant(DT_I32, 0, 0, DIMS(heads, q_tiles)),
        .index = check_constant(DT_I32, -1, 0, DIMS(heads, q_tiles, most)),
        .q_rows = q_rows,
        .k_rows = k_rows,
    };

    for (int64_t i = 0; i < heads * q_tiles; i++) {
        int32_t *const list = (int32_t *)lists.index.data + i * most;
        int64_t left = most == k_tiles ? most : 1 + check_random(c, most), n = 0;

        ((int32_t *)lists.count.data)[i] = (int32_t)left;
        for (int64_t j = 0; left > 0; j++)
            if (check_random(c, k_tiles - j) < left) {
                list[n++] = (int32_t)j;
                left--;
            }
    }
    return lists;
}

static void check_sparse_attention(struct check *c)
{
    static const struct {
        int64_t sq, sk, n, d, gap, most; // most: tiles of a list; 0: all of them
        int q_rows, k_rows;
        bool ragged;
        enum dtype dt;
        float sigma;
    } cases[] = {
        { 1, 1, 1, 8, 0, 0, 64, 64, false, DT_F32, 1 },
        { 0, 70, 1, 8, 0, 1, 64, 64, false, DT_F32, 1 },
        { 130, 300, 2, 20, 4, 2, 64, 64, true, DT_F32, 1 },
        { 150, 333, 2, 16, 0, 0, 128, 64, true, DT_F32, 4 },
        { 200, 260, 1, 128, 0, 2, 64, 128, true, DT_BF16, 1 },
        { 129, 200, 2, 128, 8, 0, 128, 128, false, DT_BF16, 1 },
        // the following are for a GPU only
        { 1, 1, 1, 128, 0, 0, 128, 64, false, DT_BF16, 1 },
        { 700, 1000, 3, 128, 0, 5, 128, 64, true, DT_BF16, 1 },
        { 700, 1000, 3, 128, 256, 5, 64, 64, true, DT_BF16, 1 },
        { 513, 1290, 2, 128, 0, 4, 128, 128, true, DT_BF16, 1 },
        { 513, 1290, 2, 128, 0, 4, 64, 128, false, DT_BF16, 1 },
        { 640, 2048, 5, 128, 0, 0, 128, 64, false, DT_BF16, 1 },
        { 640, 2048, 2, 128, 0, 7, 64, 64, false, DT_BF16, 1 },
        { 300, 1700, 2, 128, 0, 12, 128, 64, true, DT_BF16, 6 }, // later keys far above the first
        { 300, 1700, 2, 128, 8, 12, 64, 64, true, DT_BF16, 6 },
        { 300, 1700, 2, 64, 8, 12, 64, 64, true, DT_BF16, 1 },
        { 300, 900, 2, 128, 8, 3, 128, 128, true, DT_F32, 1 },
    };
    const size_t small = COUNT(cases) - 11;

    for (size_t i = 0; i < (c->got.kind == DEVICE_CUDA ? COUNT(cases) : small); i++) {
        const int64_t sq = cases[i].sq, sk = cases[i].sk, n = cases[i].n, d = cases[i].d;
        const int64_t gap = cases[i].gap;
        const enum dtype dt = cases[i].dt;
        const float scale = 1 / sqrtf((float)d), sigma = cases[i].sigma;

        if (!check_begin(c, sparse_attention,
                         "%lld of %lld, %lldx%lld %c, tiles of %d and %d%s, %lld in a list, sigma "
                         "%g",
                         (long long)sq, (long long)sk, (long long)n, (long long)d,
                         dt == DT_F32 ? 'f' : 'b', cases[i].q_rows, cases[i].k_rows,
                         cases[i].ragged ? " at most" : "", (long long)cases[i].most,
                         (double)sigma))
            continue;

        const struct tensor q_first = make_tiles(c, sq, cases[i].q_rows, cases[i].ragged);
        const struct tensor k_first = make_tiles(c, sk, cases[i].k_rows, cases[i].ragged);
        const int64_t most = cases[i].most != 0 ? cases[i].most : k_first.dim[0] - 1;
        const struct tile_lists lists =
            make_lists(c, q_first, k_first, cases[i].q_rows, cases[i].k_rows, n, most);
        const struct tensor q = check_normal(c, dt, 0, sigma, gap, DIMS(sq, n, d));
        const struct tensor k = check_normal(c, dt, 0, sigma, gap, DIMS(sk, n, d));
        const struct tensor v = check_normal(c, dt, 0, 1, gap, DIMS(sk, n, d));
        const struct tensor want = check_output(dt, 0, DIMS(sq, n, d));
        const struct tensor want_lse = check_output(DT_F32, 0, DIMS(sq, n));
        const struct tensor got = check_output(dt, gap, DIMS(sq, n, d));
        const struct tensor lse = check_output(DT_F32, 0, DIMS(sq, n));
        const struct tensor both = check_clone(q, dt);
        const double f32 = 2e-6 + 2e-6 * (double)scale * (double)d * (double)(sigma * sigma);
        // p is rounded to bf16: of 64 queries and 18 random lists of up to 5 tiles, that alone
        // costs up to 2.2e-3, and 1.1e-2 of one element in a row with few keys
        const struct tol tol = { dt == DT_BF16 ? 3e-3 : f32, dt == DT_BF16 ? 1.6e-2 : 10 * f32,
                                 dt == DT_BF16 ? "p and out round to bf16"
                                               : "f32 logits and sums" };

        check_status(c, op_sparse_attention(&c->ref, want, want_lse, q, k, v, scale, &lists));
        check_run(c, op_sparse_attention(&c->got, got, lse, q, k, v, scale, &lists));
        check_close(c, got, want, tol);
        check_close(c, lse, want_lse, (struct tol){ 1e-5, 5e-5, "f32 logits and sums" });
        check_status(c, op_sparse_attention(&c->got, both, none, both, k, v, scale, &lists));
        check_same(c, both, got);
        if (n > 1 && sq > 0) { // a head alone
            const struct tensor head = check_output(dt, 0, DIMS(sq, (int64_t)1, d));
            struct tile_lists one = lists;

            one.count = tensor_slice(lists.count, 0, n - 1, 1);
            one.index = tensor_slice(lists.index, 0, n - 1, 1);
            check_status(c, op_sparse_attention(&c->got, head, none, tensor_slice(q, 1, n - 1, 1),
                                                tensor_slice(k, 1, n - 1, 1),
                                                tensor_slice(v, 1, n - 1, 1), scale, &one));
            check_same(c, head, tensor_slice(got, 1, n - 1, 1));
        }
        if (cases[i].most == 0) { // of all tiles: attention
            check_status(c, op_attention(&c->ref, want, none, q, k, v, scale));
            check_close(c, got, want, tol);
        }
        check_end_case(c);
    }
}

static void check_tile_means(struct check *c)
{
    static const struct {
        int64_t s, n, d, gap;
        int rows;
        enum dtype x, out;
    } cases[] = {
        { 1, 1, 1, 0, 64, DT_F32, DT_F32 },          { 200, 3, 20, 4, 64, DT_F32, DT_F32 },
        { 333, 2, 128, 8, 64, DT_BF16, DT_BF16 },    { 333, 2, 128, 0, 128, DT_BF16, DT_F32 },
        { 700, 3, 128, 256, 128, DT_BF16, DT_BF16 },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        const int64_t n = cases[i].n, d = cases[i].d;

        if (!check_begin(c, tile_means, "%lldx%lldx%lld, tiles of %d", (long long)cases[i].s,
                         (long long)n, (long long)d, cases[i].rows))
            continue;

        const struct tensor first = make_tiles(c, cases[i].s, cases[i].rows, true);
        const struct tensor x =
            check_normal(c, cases[i].x, 1, 1, cases[i].gap, DIMS(cases[i].s, n, d));
        const struct tensor want = check_output(DT_F32, 0, DIMS(first.dim[0] - 1, n, d));
        const struct tensor got = check_output(cases[i].out, 0, DIMS(first.dim[0] - 1, n, d));

        check_status(c, op_tile_means(&c->ref, want, x, first));
        check_run(c, op_tile_means(&c->got, got, x, first));
        check_close(c, got, want,
                    cases[i].out == DT_F32 ? (struct tol){ 1e-6, 1e-5, "a sum in f32" }
                                           : (struct tol){ 2e-3, 4e-3, "one rounding to bf16" });
        check_end_case(c);
    }
}

/* Numbers are small integers, so that products are exact and many are equal. */
static struct tensor make_integers(struct check *c, enum dtype dt, int64_t t, int64_t n, int64_t d)
{
    struct tensor x = check_normal(c, dt, 0, 1.5f, 0, DIMS(t, n, d));

    for (int64_t i = 0; i < tensor_count(x); i++)
        if (dt == DT_F32) {
            float *const at = (float *)x.data + i;

            *at = rintf(*at);
        } else {
            uint16_t *const at = (uint16_t *)x.data + i;

            *at = bf16_from_f32(rintf(f32_from_bf16(*at)));
        }
    return x;
}

static void check_tile_lists(struct check *c)
{
    static const struct {
        int64_t q, k, n, d, most;
        enum dtype dt;
    } cases[] = {
        { 1, 1, 1, 1, 1, DT_F32 },        { 5, 7, 2, 20, 3, DT_F32 },
        { 9, 40, 3, 128, 1, DT_BF16 },    { 20, 40, 2, 128, 39, DT_BF16 },
        { 17, 257, 2, 128, 64, DT_BF16 }, { 3, 1440, 1, 128, 144, DT_BF16 },
        { 4, 2000, 2, 16, 777, DT_F32 },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        const int64_t q = cases[i].q, k = cases[i].k, n = cases[i].n, d = cases[i].d;
        const int64_t most = cases[i].most;

        if (!check_begin(c, tile_lists, "%lld of %lld for %lld, %lldx%lld", (long long)most,
                         (long long)k, (long long)q, (long long)n, (long long)d))
            continue;

        const struct tensor qs = make_integers(c, cases[i].dt, q, n, d);
        const struct tensor ks = make_integers(c, cases[i].dt, k, n, d);
        const struct tensor want_count = check_output(DT_I32, 0, DIMS(n, q));
        const struct tensor want = check_output(DT_I32, 0, DIMS(n, q, most));
        const struct tensor count = check_output(DT_I32, 0, DIMS(n, q));
        const struct tensor got = check_output(DT_I32, 0, DIMS(n, q, most));

        check_status(c, op_tile_lists(&c->ref, want_count, want, qs, ks));
        check_run(c, op_tile_lists(&c->got, count, got, qs, ks));
        check_same(c, count, want_count);
        check_same(c, got, want);
        check_end_case(c);
    }
}

void check_sparse(struct check *c)
{
    check_sparse_attention(c);
    check_tile_means(c);
    check_tile_lists(c);
}
