#include "tests/checkops.h"

#include <math.h>

static const struct tensor none;
static const char dtype_letter[] = { [DT_F32] = 'f', [DT_BF16] = 'b' };

/* Limits of the error of a log-sum-exp [Sq, N] f32, contiguous: relative, but absolute where it is
 * near 0, as it can be for a few keys. */
static struct tol lse_tol(struct tensor lse)
{
    const float *v = lse.data;
    const int64_t n = tensor_count(lse);
    double norm = 0;

    for (int64_t i = 0; i < n; i++)
        norm += (double)v[i] * v[i];

    const double size = fmin(1, sqrt(norm / (double)n));

    return (struct tol){ 5e-6 / size, 1e-5 / size, "f32 logits and sums" };
}

static void check_attention(struct check *c)
{
    static const struct {
        int64_t sq, sk, n, d, gap;
        enum dtype dt;
        float mean, sigma;
    } cases[] = {
        { 1, 1, 1, 1, 0, DT_F32, 0, 1 },
        { 0, 5, 2, 8, 0, DT_F32, 0, 1 },
        { 1, 300, 3, 64, 0, DT_F32, 0, 1 },
        { 61, 61, 2, 20, 4, DT_F32, 0, 1 },
        { 130, 257, 3, 128, 8, DT_F32, 0, 1 },
        { 500, 129, 1, 96, 0, DT_F32, 0, 1 },
        { 40, 64, 1, 384, 0, DT_F32, 0, 1 },
        { 33, 200, 2, 128, 0, DT_F32, 0, 6 }, // logits of hundreds: one key has nearly all weight
        { 33, 200, 2, 64, 0, DT_F32, 30,
          1e-3f }, // large and nearly equal: the maximum must be subtracted
        { 33, 200, 2, 64, 0, DT_F32, 0, 1e-6f },
        { 17, 140, 2, 128, 2, DT_BF16, 0, 1 },
        { 65, 31, 4, 33, 0, DT_BF16, 0, 1 },
        { 1, 1, 1, 128, 0, DT_BF16, 0, 1 },
        { 37, 150, 2, 80, 0, DT_BF16, 0, 1 },
        { 130, 257, 3, 128, 8, DT_BF16, 0, 1 },
        { 150, 129, 2, 128, 0, DT_BF16, 0, 6 },
        { 40, 200, 2, 128, 0, DT_BF16, 30, 1e-3f },
        { 300, 1, 2, 128, 0, DT_BF16, 0, 1 },
        // the following are for a GPU only
        { 1025, 1300, 2, 128, 256, DT_BF16, 0, 1 },
        { 513, 2048, 3, 64, 64, DT_BF16, 0, 3 },
        { 129, 4099, 5, 128, 0, DT_BF16, 0, 1 },
        { 150, 333, 2, 200, 4, DT_F32, 0, 1 },
        { 70, 131, 2, 640, 8, DT_F32, 0, 1 },
        { 130, 333, 1, 1024, 0, DT_BF16, 0, 3 },
        { 65, 64, 1, 1000, 4, DT_BF16, 0, 1 },
        { 5, 3, 1, 1030, 0, DT_F32, 0, 1 },
        { 150, 133, 1, 384, 0, DT_BF16, 0, 1 },
        { 150, 700, 2, 128, 0, DT_BF16, 0, 6 }, // later keys far above the first ones
        { 70, 300, 1, 384, 8, DT_BF16, 0, 6 },
        { 200, 1000, 2, 128, 12, DT_F32, 0, 4 },
        { 70, 1003, 2, 640, 640, DT_BF16, 0, 3 },   // by two products; keys not a multiple of 8
        { 1700, 7000, 1, 264, 264, DT_BF16, 0, 1 }, // in two blocks of rows
    };
    const size_t small = COUNT(cases) - 14;

    for (size_t i = 0; i < (c->got.kind == DEVICE_CUDA ? COUNT(cases) : small); i++) {
        const int64_t sq = cases[i].sq, sk = cases[i].sk, n = cases[i].n, d = cases[i].d;
        const enum dtype dt = cases[i].dt;
        const float scale = 1 / sqrtf((float)d);

        if (sq * sk * n * d > 1 << 28 && check_is_plain(c, attention))
            continue;
        if (!check_begin(c, attention, "%lld of %lld, %lldx%lld %c around %g, sigma %g",
                         (long long)sq, (long long)sk, (long long)n, (long long)d, dtype_letter[dt],
                         (double)cases[i].mean, (double)cases[i].sigma))
            continue;

        const float mean = cases[i].mean, sigma = cases[i].sigma;
        const int64_t gap = cases[i].gap;
        const struct tensor q = check_normal(c, dt, mean, sigma, gap, DIMS(sq, n, d));
        const struct tensor k = check_normal(c, dt, mean, sigma, gap, DIMS(sk, n, d));
        const struct tensor v = check_normal(c, dt, 0, 1, gap, DIMS(sk, n, d));
        const struct tensor want = check_output(dt, 0, DIMS(sq, n, d));
        const struct tensor want_lse = check_output(DT_F32, 0, DIMS(sq, n));
        const struct tensor got = check_output(dt, gap, DIMS(sq, n, d));
        const struct tensor lse = check_output(DT_F32, 0, DIMS(sq, n));
        const struct tensor both = check_clone(q, dt);
        // an f32 logit of size l has an error of about l * 2^-23, its exponential a relative error
        // of that

        const double logit = (double)scale * (double)d * (mean * mean + sigma * sigma * 6);
        const double f32 = 2e-6 + 3e-7 * logit;
        const struct tol tol = { dt == DT_BF16 ? 3e-3 : f32, dt == DT_BF16 ? 8e-3 : 10 * f32,
                                 dt == DT_BF16 ? "both round to bf16" : "f32 logits and sums" };

        check_status(c, op_attention(&c->ref, want, want_lse, q, k, v, scale));
        check_run(c, op_attention(&c->got, got, lse, q, k, v, scale));
        check_close(c, got, want, tol);
        check_close(c, lse, want_lse, lse_tol(want_lse));
        check_status(c, op_attention(&c->got, both, none, both, k, v, scale));
        check_same(c, both, got);
        if (sq > 20) {
            const struct tensor upper = check_output(dt, 0, DIMS((int64_t)19, n, d));
            const struct tensor lower = check_output(dt, gap, DIMS(sq - 19, n, d));
            const struct attention_part parts[] = {
                { .first = 0, .count = 19, .out = upper },
                { .first = 19, .count = 0, .out = tensor_slice(upper, 0, 0, 0) },
                { .first = 19, .count = sq - 19, .out = lower },
            };
            const struct tensor part = check_output(dt, 0, DIMS((int64_t)15, n, d));

            check_status(c,
                         op_attention_parts(&c->got, parts, COUNT(parts), NULL, 0, q, k, v, scale));
            check_same(c, upper, tensor_slice(got, 0, 0, 19));
            check_same(c, lower, tensor_slice(got, 0, 19, sq - 19));
            check_status(c,
                         op_attention(&c->got, part, none, tensor_slice(q, 0, 4, 15), k, v, scale));
            check_same(c, part, tensor_slice(got, 0, 4, 15));
        }
        check_end_case(c);
    }
}

static void check_attention8(struct check *c)
{
    static const struct {
        int64_t sq, sk, n, gap;
        float k_mean, sigma, v_mean;
        double exact; // error allowed against exact attention
    } cases[] = {
        { 1, 1, 1, 0, 0, 1, 0, 1e-2 },
        { 0, 5, 2, 0, 0, 1, 0, 0 },
        { 25, 150, 2, 0, 0, 1, 0, 2.5e-2 },
        { 37, 300, 2, 8, 5, 1, 3, 5e-3 },
        { 30, 257, 1, 0, 0, 3, 0, 5e-2 }, // logits up to 100: one key has nearly all weight
        // the following are for a GPU only
        { 300, 129, 3, 8, 0, 1, 0, 2.5e-2 },
        { 130, 512, 2, 0, 0, 1, 0, 2.5e-2 },
        { 70, 1025, 3, 256, 2, 1, 1, 1.2e-2 },
        { 129, 4099, 5, 0, 0, 1, 0, 2.5e-2 },
        { 65, 700, 1, 0, 0, 1e-6f, 0, 2.5e-2 },
    };
    const size_t small = COUNT(cases) - 5;

    for (size_t i = 0; i < (c->got.kind == DEVICE_CUDA ? COUNT(cases) : small); i++) {
        const int64_t sq = cases[i].sq, sk = cases[i].sk, n = cases[i].n, gap = cases[i].gap;
        const int64_t d = 128;
        const float scale = 1 / sqrtf((float)d), sigma = cases[i].sigma;
        // scratch for one head at a time in one call, for all of them in the other
        const int64_t one = (int64_t)attention8_scratch(sq, sk, 1, d);
        const int64_t all = (int64_t)attention8_scratch(sq, sk, n, d);

        if (!check_begin(c, attention8, "%lld of %lld, %lld heads, keys around %g, sigma %g",
                         (long long)sq, (long long)sk, (long long)n, (double)cases[i].k_mean,
                         (double)sigma))
            continue;

        const struct tensor q = check_normal(c, DT_BF16, 0, sigma, gap, DIMS(sq, n, d));
        const struct tensor k =
            check_normal(c, DT_BF16, cases[i].k_mean, sigma, gap, DIMS(sk, n, d));
        const struct tensor v = check_normal(c, DT_BF16, cases[i].v_mean, 1, gap, DIMS(sk, n, d));
        const struct tensor exact = check_output(DT_BF16, 0, DIMS(sq, n, d));
        const struct tensor exact_lse = check_output(DT_F32, 0, DIMS(sq, n));
        const struct tensor want = check_output(DT_BF16, 0, DIMS(sq, n, d));
        const struct tensor want_lse = check_output(DT_F32, 0, DIMS(sq, n));
        const struct tensor got = check_output(DT_BF16, gap, DIMS(sq, n, d));
        const struct tensor lse = check_output(DT_F32, 0, DIMS(sq, n));
        const struct tensor first = check_output(DT_U8, 0, DIMS(all));
        const struct tensor small_scratch = check_output(DT_U8, 0, DIMS(one));
        const struct tensor both = check_clone(q, DT_BF16);
        const struct attention_part to_want = { 0, sq, want, { 0 } };
        const struct attention_part to_got = { 0, sq, got, { 0 } };
        const struct attention_part in_place = { 0, sq, both, { 0 } };
        const double size = sigma < 1 ? 1 : (double)sigma;

        check_status(c, op_attention(&c->ref, exact, exact_lse, q, k, v, scale));
        check_status(c, op_attention8(&c->ref, &to_want, 1, want_lse, q, k, v, scale, first));
        check_run(c, op_attention8(&c->got, &to_got, 1, lse, q, k, v, scale, first));
        check_close(c, got, want,
                    (struct tol){ 4e-3, 6e-2,
                                  "rounding to bf16; p near the middle of two integers "
                                  "may round to either" });
        check_close(c, lse, want_lse, (struct tol){ 2e-3, 1e-2, "the same" });
        check_close(c, got, exact,
                    (struct tol){ cases[i].exact, 40 * cases[i].exact, "8 bits, normal numbers" });
        check_close(c, lse, exact_lse, (struct tol){ 5e-3 * size, 5e-2 * size, "8 bits" });
        check_status(c,
                     op_attention8(&c->got, &in_place, 1, none, both, k, v, scale, small_scratch));
        check_same(c, both, got);
        if (sq > 20) {
            const struct tensor upper = check_output(DT_BF16, 0, DIMS((int64_t)19, n, d));
            const struct tensor lower = check_output(DT_BF16, gap, DIMS(sq - 19, n, d));
            const struct attention_part parts[] = {
                { .first = 0, .count = 19, .out = upper },
                { .first = 19, .count = 0, .out = tensor_slice(upper, 0, 0, 0) },
                { .first = 19, .count = sq - 19, .out = lower },
            };
            const struct tensor head = check_output(DT_BF16, 0, DIMS((int64_t)15, (int64_t)1, d));
            const struct attention_part one_head = { 0, 15, head, { 0 } };

            check_status(c,
                         op_attention8(&c->got, parts, COUNT(parts), none, q, k, v, scale, first));
            check_same(c, upper, tensor_slice(got, 0, 0, 19));
            check_same(c, lower, tensor_slice(got, 0, 19, sq - 19));
            check_status(c, op_attention8(&c->got, &one_head, 1, none,
                                          tensor_slice(tensor_slice(q, 1, n - 1, 1), 0, 4, 15),
                                          tensor_slice(k, 1, n - 1, 1),
                                          tensor_slice(v, 1, n - 1, 1), scale, first));
            check_same(c, head, tensor_slice(tensor_slice(got, 1, n - 1, 1), 0, 4, 15));
        }
        check_end_case(c);
    }
}

/* The last keys are equal, and their values. */
static void check_attention_repeated(struct check *c)
{
    static const struct {
        int64_t sq, sk, equal, n, d;
        enum dtype dt;
        float sigma;
    } cases[] = {
        { 7, 12, 5, 2, 16, DT_F32, 1 },        { 33, 20, 20, 1, 40, DT_BF16, 1 },
        { 70, 512, 400, 3, 128, DT_BF16, 1 },  { 130, 512, 385, 2, 128, DT_BF16, 3 },
        { 130, 512, 384, 2, 128, DT_BF16, 1 }, { 5, 512, 512, 2, 128, DT_BF16, 2 },
        { 70, 300, 1, 2, 128, DT_BF16, 1 },    { 40, 128, 1, 2, 128, DT_BF16, 1 },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        const int64_t sq = cases[i].sq, sk = cases[i].sk, n = cases[i].n, d = cases[i].d;
        const int64_t equal = cases[i].equal, row = n * d;
        const enum dtype dt = cases[i].dt;
        const float scale = 1 / sqrtf((float)d);

        if (!check_begin(c, attention_repeated, "%lld of %lld, %lld equal, %lldx%lld %c sigma %g",
                         (long long)sq, (long long)sk, (long long)equal, (long long)n, (long long)d,
                         dtype_letter[dt], (double)cases[i].sigma))
            continue;

        const struct tensor q = check_normal(c, dt, 0, cases[i].sigma, 0, DIMS(sq, n, d));
        const struct tensor k = check_normal(c, dt, 0, cases[i].sigma, 0, DIMS(sk, n, d));
        const struct tensor v = check_normal(c, dt, 0, 1, 0, DIMS(sk, n, d));
        const struct tensor want = check_output(DT_F32, 0, DIMS(sq, n, d));
        const struct tensor got = check_output(dt, 0, DIMS(sq, n, d));
        const size_t bytes = (size_t)row * dtype_size(dt);

        for (int64_t j = sk - equal + 1; j < sk; j++) {
            memcpy((char *)k.data + (size_t)j * bytes, tensor_slice(k, 0, j - 1, 1).data, bytes);
            memcpy((char *)v.data + (size_t)j * bytes, tensor_slice(v, 0, j - 1, 1).data, bytes);
        }
        const struct tensor wide[] = { check_clone(q, DT_F32), check_clone(k, DT_F32),
                                       check_clone(v, DT_F32) };

        check_status(c,
                     op_attention_repeated(&c->ref, want, wide[0], wide[1], wide[2], scale, equal));
        check_run(c, op_attention_repeated(&c->got, got, q, k, v, scale, equal));
        check_close(c, got, want,
                    dt == DT_F32 ? (struct tol){ 3e-6, 3e-5, "f32 logits and sums" }
                                 : (struct tol){ 4e-3, 1e-2, "probabilities and result in bf16" });
        if (sq > 20) {
            const struct tensor part = check_output(dt, 0, DIMS((int64_t)15, n, d));

            check_status(c, op_attention_repeated(&c->got, part, tensor_slice(q, 0, 4, 15), k, v,
                                                  scale, equal));
            check_same(c, part, tensor_slice(got, 0, 4, 15));
        }
        check_end_case(c);
    }
}

static void check_attention_merge(struct check *c)
{
    static const struct {
        int64_t s, n, d, gap;
        enum dtype part;
        float sigma; // of lse
        bool empty;  // acc is over no keys
    } cases[] = {
        { 1, 1, 1, 0, DT_F32, 1, false },      { 37, 3, 20, 4, DT_F32, 1, false },
        { 300, 2, 128, 0, DT_F32, 40, false }, { 9, 2, 128, 8, DT_BF16, 1, false },
        { 5, 2, 64, 0, DT_F32, 1, true },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        const int64_t s = cases[i].s, n = cases[i].n, d = cases[i].d;

        if (!check_begin(c, attention_merge, "%lldx%lldx%lld %c sigma %g%s", (long long)s,
                         (long long)n, (long long)d, dtype_letter[cases[i].part],
                         (double)cases[i].sigma, cases[i].empty ? ", empty acc" : ""))
            continue;

        struct tensor acc = check_normal(c, DT_F32, 0, 1, 0, DIMS(s, n, d));
        struct tensor lse = check_normal(c, DT_F32, 0, cases[i].sigma, 0, DIMS(s, n));
        const struct tensor part =
            check_normal(c, cases[i].part, 0, 1, cases[i].gap, DIMS(s, n, d));
        const struct tensor part_lse = check_normal(c, DT_F32, 0, cases[i].sigma, 0, DIMS(s, n));

        if (cases[i].empty) {
            acc = check_constant(DT_F32, NAN, 0, DIMS(s, n, d));
            lse = check_constant(DT_F32, -INFINITY, 0, DIMS(s, n));
        }

        const struct tensor want = check_clone(acc, DT_F32), want_lse = check_clone(lse, DT_F32);
        const struct tensor got = check_clone(acc, DT_F32), got_lse = check_clone(lse, DT_F32);
        const struct tol tol = { 5e-6, 2e-5, "exponentials of f32 differences" };

        check_status(c, op_attention_merge(&c->ref, want, want_lse, part, part_lse));
        check_status(c, op_attention_merge(&c->got, got, got_lse, part, part_lse));
        check_close(c, got, want, tol);
        check_close(c, got_lse, want_lse, tol);
        check_end_case(c);
    }
}

static void check_relative_attention(struct check *c)
{
    static const struct {
        int64_t s, n, d, gap;
        enum dtype dt, table;
    } cases[] = {
        { 1, 1, 4, 0, DT_F32, DT_F32 },       { 29, 3, 20, 4, DT_F32, DT_F32 },
        { 270, 2, 64, 0, DT_F32, DT_F32 },    { 29, 3, 20, 0, DT_BF16, DT_BF16 },
        { 140, 2, 64, 64, DT_BF16, DT_BF16 }, { 17, 2, 8, 0, DT_BF16, DT_F32 },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        const int64_t s = cases[i].s, n = cases[i].n, d = cases[i].d, gap = cases[i].gap;
        const enum dtype dt = cases[i].dt;

        if (!check_begin(c, relative_attention, "%lldx%lldx%lld %c%c", (long long)s, (long long)n,
                         (long long)d, dtype_letter[dt], dtype_letter[cases[i].table]))
            continue;

        const struct tensor q = check_normal(c, dt, 0, 0.3f, gap, DIMS(s, n, d));
        const struct tensor k = check_normal(c, dt, 0, 1, gap, DIMS(s, n, d));
        const struct tensor v = check_normal(c, dt, 0, 1, gap, DIMS(s, n, d));
        const struct tensor table = check_normal(c, cases[i].table, 0, 3, 0, DIMS((int64_t)32, n));
        const struct tensor want = check_output(dt, 0, DIMS(s, n, d));
        const struct tensor got = check_output(dt, gap, DIMS(s, n, d));

        check_status(c, op_relative_attention(&c->ref, want, q, k, v, table));
        check_run(c, op_relative_attention(&c->got, got, q, k, v, table));
        check_close(c, got, want,
                    dt == DT_F32
                        ? (struct tol){ 3e-6, 3e-5, "f32 logits and sums" }
                        : (struct tol){ 4e-3, 2e-2,
                                        "a logit midway between two bf16 may round to either" });
        check_end_case(c);
    }
}

void check_attentions(struct check *c)
{
    check_attention(c);
    check_attention8(c);
    check_attention_repeated(c);
    check_attention_merge(c);
    check_relative_attention(c);
}
