#include "tests/checkops.h"

/* Indices 0 to most - 1, the last one among them. */
static struct tensor make_index(struct check *c, int64_t n, int64_t most)
{
    const struct tensor t = check_constant(DT_I32, 0, 0, DIMS(n));

    for (int64_t i = 0; i < n; i++)
        ((int32_t *)t.data)[i] = (int32_t)(i == 0 ? most - 1 : check_random(c, most));
    return t;
}

static void check_take_rows(struct check *c)
{
    static const struct {
        int64_t from, to, n, d, gap;
        enum dtype dt;
    } cases[] = {
        { 1, 1, 1, 1, 0, DT_F32 },       { 5, 0, 1, 3, 0, DT_F32 },
        { 9, 40, 3, 5, 2, DT_F32 },      { 40, 40, 2, 6, 0, DT_BF16 },
        { 300, 77, 3, 128, 8, DT_BF16 }, { 70, 300, 2, 64, 4, DT_F32 },
        { 7, 9, 5, 24, 0, DT_BF16 },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        const int64_t n = cases[i].n, d = cases[i].d, gap = cases[i].gap;
        const enum dtype dt = cases[i].dt;

        if (!check_begin(c, take_rows, "%lld of %lld, %lldx%lld %c", (long long)cases[i].to,
                         (long long)cases[i].from, (long long)n, (long long)d,
                         dt == DT_F32 ? 'f' : 'b'))
            continue;

        const struct tensor x = check_normal(c, dt, 0, 1, gap, DIMS(cases[i].from, n, d));
        const struct tensor index = make_index(c, cases[i].to, cases[i].from);
        const struct tensor want = check_output(dt, 0, DIMS(cases[i].to, n, d));
        const struct tensor got = check_output(dt, gap, DIMS(cases[i].to, n, d));

        check_status(c, op_take_rows(&c->ref, want, x, index));
        check_run(c, op_take_rows(&c->got, got, x, index));
        check_same(c, got, want);
        check_end_case(c);
    }
}

static void check_add_gated_rows(struct check *c)
{
    static const struct {
        int64_t rows, from, cols, gap;
        enum dtype sum, x, gate;
    } cases[] = {
        { 1, 1, 1, 0, DT_F32, DT_F32, DT_F32 },
        { 0, 2, 5, 0, DT_F32, DT_F32, DT_F32 },
        { 33, 7, 300, 3, DT_F32, DT_BF16, DT_F32 },
        { 20, 4, 4097, 1, DT_BF16, DT_BF16, DT_BF16 },
        { 65, 9, 1536, 8, DT_BF16, DT_BF16, DT_BF16 },
    };
    static const struct tol f32 = { 3e-7, 3e-6, "one or two f32 roundings" };
    static const struct tol bf16 = { 2.5e-3, 4.2e-3, "one rounding to bf16" };

    for (size_t i = 0; i < COUNT(cases); i++) {
        const int64_t r = cases[i].rows, n = cases[i].cols, gap = cases[i].gap;

        if (!check_begin(c, add_gated_rows, "%lldx%lld of %lld", (long long)r, (long long)n,
                         (long long)cases[i].from))
            continue;

        const struct tensor x = check_normal(c, cases[i].sum, 0, 1, gap, DIMS(r, n));
        const struct tensor rows = check_normal(c, cases[i].x, 0, 1, gap, DIMS(cases[i].from, n));
        const struct tensor gate = check_normal(c, cases[i].gate, 0, 1, gap, DIMS(r, n));
        const struct tensor index = make_index(c, r, cases[i].from);
        const struct tensor want = check_clone(x, DT_F32), got = check_clone(x, cases[i].sum);

        check_status(c, op_add_gated_rows(&c->ref, want, rows, index, gate));
        check_status(c, op_add_gated_rows(&c->got, got, rows, index, gate)); // in place: once
        check_status(c, device_wait(&c->got));
        check_close(c, got, want, cases[i].sum == DT_F32 ? f32 : bf16);
        check_end_case(c);
    }
}

static void check_linear_attention(struct check *c)
{
    static const struct {
        int64_t sq, sk, n, d, gap;
        enum dtype dt;
        float sigma;
    } cases[] = {
        { 1, 1, 1, 1, 0, DT_F32, 1 },
        { 0, 3, 1, 8, 0, DT_F32, 1 },
        { 9, 40, 3, 20, 2, DT_F32, 1 },
        { 20, 33, 2, 16, 0, DT_BF16, 2 },
        { 70, 2100, 1, 128, 0, DT_BF16, 1 },
        // the following are for a GPU only
        { 300, 5000, 3, 128, 8, DT_BF16, 3 },
        { 63, 64, 2, 128, 2, DT_BF16, 1 },
        { 33, 2049, 2, 128, 0, DT_F32, 1 },
    };
    const size_t small = COUNT(cases) - 3;

    for (size_t i = 0; i < (c->got.kind == DEVICE_CUDA ? COUNT(cases) : small); i++) {
        const int64_t sq = cases[i].sq, sk = cases[i].sk, n = cases[i].n, d = cases[i].d;
        const int64_t gap = cases[i].gap;
        const enum dtype dt = cases[i].dt;
        const struct tol tol = { dt == DT_BF16 ? 4e-3 : 3e-6, dt == DT_BF16 ? 8e-3 : 2e-5,
                                 dt == DT_BF16 ? "phi, its sums with w, and the result in bf16"
                                               : "f32 sums of thousands of terms" };

        if (!check_begin(c, linear_attention, "%lld of %lld, %lldx%lld %c, sigma %g", (long long)sq,
                         (long long)sk, (long long)n, (long long)d, dt == DT_F32 ? 'f' : 'b',
                         (double)cases[i].sigma))
            continue;

        const struct tensor q = check_normal(c, dt, 0, cases[i].sigma, gap, DIMS(sq, n, d));
        const struct tensor k = check_normal(c, dt, 0, cases[i].sigma, gap, DIMS(sk, n, d));
        const struct tensor v = check_normal(c, dt, 1, 1, gap, DIMS(sk, n, d));
        const struct tensor w = check_normal(c, DT_F32, 0, 0.1f, 0, DIMS(d, d));
        const struct tensor b = check_normal(c, DT_F32, 0, 0.1f, 0, DIMS(d));
        const struct tensor x = check_normal(c, dt, 0, 0.1f, gap, DIMS(sq, n, d));
        const int64_t bytes = (int64_t)linear_attention_scratch(sk, n, d);
        const struct tensor scratch = check_constant(DT_U8, 0, 0, DIMS(bytes));
        const struct tensor want = check_clone(x, dt), got = check_clone(x, dt);

        check_status(c, op_linear_attention(&c->ref, want, q, k, v, w, b, scratch));
        check_status(c, op_linear_attention(&c->got, got, q, k, v, w, b, scratch)); // once
        check_status(c, device_wait(&c->got));
        check_close(c, got, want, tol);
        check_end_case(c);
    }
}

void check_rows(struct check *c)
{
    check_linear_attention(c);
    check_take_rows(c);
    check_add_gated_rows(c);
}
