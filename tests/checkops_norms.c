#include "tests/checkops.h"

static const char dtype_letter[] = { [DT_F32] = 'f', [DT_BF16] = 'b', [DT_F16] = 'h' };

static const struct {
    int64_t rows, cols, gap;
    enum dtype x, out;
    float mean, sigma; // not only 1: there a wrong epsilon makes no visible difference
} cases[] = {
    { 1, 1, 0, DT_F32, DT_F32, 0, 1 },          { 0, 8, 0, DT_F32, DT_F32, 0, 1 },
    { 1, 128, 0, DT_F32, DT_F32, 0, 1 },        { 257, 1536, 3, DT_F32, DT_F32, 0, 30 },
    { 3, 5120, 0, DT_F32, DT_F32, 0, 1e-3f },   { 5, 100, 28, DT_F32, DT_F32, 1000, 1 },
    { 33, 1000, 0, DT_F32, DT_BF16, 0, 1 },     { 19, 1536, 4, DT_BF16, DT_BF16, 0, 1 },
    { 7, 77, 0, DT_BF16, DT_F32, 0.5f, 1e-3f }, { 2, 40, 0, DT_F32, DT_F32, 0, 1e15f },
    { 40, 5120, 8, DT_F32, DT_BF16, 3, 1 },     { 9, 5120, 16, DT_BF16, DT_BF16, 0, 1 },
    { 3, 1544, 0, DT_BF16, DT_BF16, 0, 1 },     { 5, 384, 0, DT_BF16, DT_F32, 0, 1 },
    { 2, 16388, 0, DT_F32, DT_F32, 0, 1 },
};

static struct tol norm_tol(enum dtype x, enum dtype out, float mean, float sigma, int64_t n)
{
    if (x == DT_BF16)
        return (struct tol){ 3e-3, 1e-2,
                             "a value midway between two bf16 may round to either, "
                             "and is rounded again" };
    if (out == DT_BF16)
        return (struct tol){ 2.5e-3, 4.2e-3, "one rounding to bf16" };
    if (mean > 100 * sigma)
        return (struct tol){ 1e-6, 1e-5, "f32 differences from a large mean" };
    if (n > 10000)
        return (struct tol){ 2e-6, 5e-6, "f32 sums over a long row, in the compiler's order" };
    return (struct tol){ 1e-6, 5e-6, "f32 sums over a row" };
}

static void check_row_norms(struct check *c)
{
    for (size_t i = 0; i < COUNT(cases); i++) {
        const int64_t r = cases[i].rows, n = cases[i].cols, gap = cases[i].gap;
        const struct tol tol = norm_tol(cases[i].x, cases[i].out, cases[i].mean, cases[i].sigma, n);
        const struct tensor x =
            check_normal(c, cases[i].x, cases[i].mean, cases[i].sigma, gap, DIMS(r, n));
        const struct tensor mul = check_normal(c, DT_F32, 0, 1, 0, DIMS(n));
        const struct tensor add = check_normal(c, DT_F32, 0, 1, 0, DIMS(n));
        const struct tensor half = check_normal(c, DT_BF16, 0, 1, 0, DIMS(n));

#define ROW_NORM(op, in_place, ...)                                                                \
    if (check_begin(c, op, "%lldx%lld %c%c around %g, sigma %g", (long long)r, (long long)n,       \
                    dtype_letter[cases[i].x], dtype_letter[cases[i].out], (double)cases[i].mean,   \
                    (double)cases[i].sigma)) {                                                     \
        const struct tensor want = check_output(DT_F32, 0, DIMS(r, n));                            \
        const struct tensor got = check_output(cases[i].out, gap, DIMS(r, n));                     \
        check_status(c, op_##op(&c->ref, want, x, __VA_ARGS__));                                   \
        check_run(c, op_##op(&c->got, got, x, __VA_ARGS__));                                       \
        check_close(c, got, want, tol);                                                            \
        if (in_place && cases[i].x == cases[i].out) {                                              \
            const struct tensor both = check_clone(x, cases[i].x);                                 \
            check_status(c, op_##op(&c->got, both, both, __VA_ARGS__));                            \
            check_same(c, both, got);                                                              \
        }                                                                                          \
    }
        ROW_NORM(norm_modulate, true, mul, add, 1e-6f)
        ROW_NORM(layer_norm, false, mul, add, 1e-6f)
        ROW_NORM(rms_norm, true, mul, 1e-6f)
        ROW_NORM(rms_norm, true, half, 1e-6f)
        check_end_case(c);
    }
}

/* Against the reference, and bitwise against the two separate ops. */
static void check_add_norms(struct check *c)
{
    static const struct {
        int64_t rows, cols, gap;
        enum dtype x, y, out;
        bool gated;
    } sums[] = {
        { 1, 1, 0, DT_F32, DT_F32, DT_F32, true },
        { 0, 8, 0, DT_F32, DT_F32, DT_F32, true },
        { 37, 1536, 3, DT_F32, DT_F32, DT_F32, true },
        { 40, 5120, 8, DT_F32, DT_BF16, DT_BF16, true },
        { 3, 5120, 0, DT_BF16, DT_BF16, DT_BF16, true },
        { 19, 384, 4, DT_F32, DT_BF16, DT_BF16, false },
        { 5, 100, 0, DT_F32, DT_BF16, DT_F32, false },
    };

    for (size_t i = 0; i < COUNT(sums); i++) {
        const int64_t r = sums[i].rows, n = sums[i].cols, gap = sums[i].gap;
        const enum dtype to = sums[i].out;
        const struct tol tol = norm_tol(DT_F32, to, 0, 1, n);
        const struct tensor x = check_normal(c, sums[i].x, 0, 1, gap, DIMS(r, n));
        const struct tensor y = check_normal(c, sums[i].y, 0, 1, gap, DIMS(r, n));
        const struct tensor mul = check_normal(c, DT_F32, 0, 1, 0, DIMS(n));
        const struct tensor add = check_normal(c, DT_F32, 0, 1, 0, DIMS(n));
        const struct tensor gate =
            sums[i].gated ? check_normal(c, DT_F32, 0, 1, 0, DIMS(n)) : (struct tensor){ 0 };

#define ADD_NORM(op, norm)                                                                         \
    if (check_begin(c, op, "%lldx%lld %c%c%c%s", (long long)r, (long long)n,                       \
                    dtype_letter[sums[i].x], dtype_letter[sums[i].y], dtype_letter[to],            \
                    sums[i].gated ? " gated" : "")) {                                              \
        const struct tensor want = check_output(DT_F32, 0, DIMS(r, n));                            \
        const struct tensor want_sum = check_output(DT_F32, 0, DIMS(r, n));                        \
        const struct tensor got = check_output(to, gap, DIMS(r, n));                               \
        const struct tensor got_sum = check_output(DT_F32, gap, DIMS(r, n));                       \
        const struct tensor two = check_output(to, gap, DIMS(r, n));                               \
        const struct tensor both = check_clone(x, DT_F32);                                         \
        check_status(c, op_##op(&c->ref, want, want_sum, x, y, gate, mul, add, 1e-6f));            \
        check_run(c, op_##op(&c->got, got, got_sum, x, y, gate, mul, add, 1e-6f));                 \
        check_close(c, got, want, tol);                                                            \
        check_close(c, got_sum, want_sum, (struct tol){ 2e-7, 1e-6, "two f32 roundings" });        \
        check_status(c, op_gate_add(&c->got, both, both, y, gate));                                \
        check_status(c, op_##norm(&c->got, two, both, mul, add, 1e-6f));                           \
        check_same(c, both, got_sum);                                                              \
        check_same(c, two, got);                                                                   \
        if (sums[i].x == DT_F32) {                                                                 \
            const struct tensor in = check_clone(x, DT_F32);                                       \
            const struct tensor out = check_output(to, gap, DIMS(r, n));                           \
            check_status(c, op_##op(&c->got, out, in, in, y, gate, mul, add, 1e-6f));              \
            check_same(c, in, got_sum);                                                            \
            check_same(c, out, got);                                                               \
        }                                                                                          \
    }
        ADD_NORM(add_norm_modulate, norm_modulate)
        ADD_NORM(add_layer_norm, layer_norm)
        check_end_case(c);
    }
}

static void check_norm_rope(struct check *c)
{
    static const struct {
        struct token_grid grid;
        int64_t rows, heads, d, gap;
        enum dtype dt;
        float sigma;
    } ropes[] = {
        { { 1, 1, 1, 0 }, 1, 1, 2, 0, DT_F32, 1 },
        { { 2, 2, 2, 0 }, 0, 1, 12, 0, DT_F32, 1 },
        { { 3, 4, 5, 0 }, 60, 2, 12, 0, DT_F32, 1 },
        { { 3, 5, 7, 31 }, 47, 3, 128, 128, DT_F32, 1e-3f },
        { { 3, 5, 7, 100 }, 5, 2, 20, 3, DT_F32, 30 },
        { { 3, 5, 7, 2 }, 40, 2, 128, 4, DT_BF16, 1 },
        { { 3, 5, 7, 9 }, 33, 40, 128, 5120, DT_BF16, 1 },
        { { 3, 5, 7, 80 }, 25, 5, 40, 8, DT_BF16, 1 },
    };

    for (size_t i = 0; i < COUNT(ropes); i++) {
        const int64_t r = ropes[i].rows, d = ropes[i].d, n = ropes[i].heads * d;
        const enum dtype dt = ropes[i].dt;

        if (!check_begin(c, norm_rope, "%lldx%lldx%lld from %lld %c sigma %g", (long long)r,
                         (long long)ropes[i].heads, (long long)d, (long long)ropes[i].grid.first,
                         dtype_letter[dt], (double)ropes[i].sigma))
            continue;

        const struct tensor x = check_normal(c, dt, 0, ropes[i].sigma, ropes[i].gap, DIMS(r, n));
        const struct tensor w = check_normal(c, DT_F32, 0, 1, 0, DIMS(n));
        const struct tensor table = check_normal(c, DT_F32, 0, 1, 0, DIMS((int64_t)8, d / 2, 2));
        const struct tensor want = check_clone(x, dt), got = check_clone(x, dt);
        const struct tensor by_heads = check_output(dt, 0, DIMS(ropes[i].heads, r, d));
        const struct tensor in_place = tensor_split(got, 1, d);
        struct tensor strided = in_place;

        for (int axis = 0; axis < 2; axis++)
            strided.stride[axis] = by_heads.stride[1 - axis];
        strided.data = by_heads.data;
        check_status(c, op_norm_rope(&c->ref, tensor_split(want, 1, d), want, w, 1e-6f, table,
                                     ropes[i].grid));
        check_status(c, op_norm_rope(&c->got, strided, x, w, 1e-6f, table, ropes[i].grid));
        check_status(c, op_norm_rope(&c->got, in_place, got, w, 1e-6f, table, ropes[i].grid));
        check_close(c, got, want, norm_tol(dt, dt, 0, 1, n));
        check_same(c, strided, in_place);
        check_end_case(c);
    }
}

static void check_channel_norm(struct check *c)
{
    static const struct {
        int64_t t, h, w, channels, gap;
        enum dtype x, out;
        enum act act;
        float sigma;
        int exponent;
    } norms[] = {
        { 1, 1, 1, 1, 0, DT_F32, DT_F32, ACT_NONE, 1, 0 },
        { 2, 5, 7, 96, 0, DT_F32, DT_F32, ACT_SILU, 1, 0 },
        { 3, 9, 4, 20, 4, DT_F32, DT_F32, ACT_NONE, 1e-3f, 0 },
        { 1, 17, 16, 384, 0, DT_F32, DT_F32, ACT_SILU, 30, 0 },
        { 1, 2, 3, 16, 0, DT_F32, DT_F32, ACT_SILU, 0, 0 }, // norm 0: the lower limit of 1e-12
        { 1, 2, 3, 16, 0, DT_F32, DT_F32, ACT_NONE, 1e-13f, 0 },
        { 1, 3, 5, 40, 2, DT_BF16, DT_BF16, ACT_SILU, 1, 0 },
        { 1, 3, 5, 40, 0, DT_F32, DT_BF16, ACT_NONE, 1, 0 },
        { 1, 3, 5, 384, 0, DT_F32, DT_F32, ACT_SILU, 1, -5 },
        { 2, 5, 7, 96, 0, DT_F32, DT_F16, ACT_SILU, 1, 9 },
        { 3, 2, 4, 20, 4, DT_F32, DT_F16, ACT_NONE, 30, -3 },
    };

    for (size_t i = 0; i < COUNT(norms); i++) {
        const int64_t t = norms[i].t, h = norms[i].h, w = norms[i].w, n = norms[i].channels;

        if (!check_begin(c, channel_norm, "%lldx%lldx%lldx%lld %c%c%s sigma %g, times 2^%d",
                         (long long)t, (long long)h, (long long)w, (long long)n,
                         dtype_letter[norms[i].x], dtype_letter[norms[i].out],
                         norms[i].act == ACT_SILU ? " silu" : "", (double)norms[i].sigma,
                         norms[i].exponent))
            continue;

        const struct tensor x =
            check_normal(c, norms[i].x, 0, norms[i].sigma, norms[i].gap, DIMS(t, h, w, n));
        const struct tensor gamma = check_normal(c, DT_F32, 0, 1, 0, DIMS(n));
        const struct tensor want = check_output(DT_F32, 0, DIMS(t, h, w, n));
        const struct tensor got = check_output(norms[i].out, norms[i].gap, DIMS(t, h, w, n));

        check_status(c, op_channel_norm(&c->ref, want, x, gamma, norms[i].act, norms[i].exponent));
        check_run(c, op_channel_norm(&c->got, got, x, gamma, norms[i].act, norms[i].exponent));
        check_close(c, got, want,
                    norms[i].out == DT_BF16 ? (struct tol){ 2.5e-3, 4.2e-3, "one rounding to bf16" }
                    : norms[i].out == DT_F16 ? (struct tol){ 3e-4, 5.2e-4, "one rounding to f16" }
                                             : (struct tol){ 1e-6, 5e-6, "f32 sums over a pixel" });
        if (norms[i].x == norms[i].out) {
            const struct tensor both = check_clone(x, norms[i].x);
            check_status(
                c, op_channel_norm(&c->got, both, both, gamma, norms[i].act, norms[i].exponent));
            check_same(c, both, got);
        }
        check_end_case(c);
    }
}

void check_norms(struct check *c)
{
    check_row_norms(c);
    check_add_norms(c);
    check_norm_rope(c);
    check_channel_norm(c);
}
