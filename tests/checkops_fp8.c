/* The ops in fp8. What is quantized is compared by value, with its scales; where both sides
 * computed the same numbers, bit by bit. */
#include "tests/checkops.h"

static const struct tensor none;
static const char dtype_letter[] = { [DT_F32] = 'f', [DT_BF16] = 'b' };

static const struct tol flips = {
    8e-3, 0.13, "a value midway between two e4m3 may round to either: 1/8 of it"
};

static struct fp8_rows output(int64_t rows, int64_t cols, int64_t gap)
{
    return (struct fp8_rows){ check_output(DT_F8_E4M3, gap, DIMS(rows, cols)),
                              check_output(DT_F32, 0, DIMS(rows)) };
}

/* The numbers that quantized rows stand for. */
static struct tensor numbers(struct fp8_rows t)
{
    const struct tensor x = check_make(DT_F32, 0, t.value.ndim, t.value.dim);

    for (int64_t r = 0; r < t.value.dim[0]; r++)
        for (int64_t i = 0; i < t.value.dim[1]; i++)
            ((float *)x.data)[r * t.value.dim[1] + i] =
                check_get(t.value, (int64_t[]){ r, i }) * ((const float *)t.scale.data)[r];
    return x;
}

static void check_quantized(struct check *c, struct fp8_rows got, struct fp8_rows want, bool same)
{
    check_status(c, device_wait(&c->got));
    check_close(c, got.scale, want.scale,
                (struct tol){ 2e-6, 1e-5, "f32 sums and exponentials in another order" });
    check_close(c, numbers(got), numbers(want), flips);
    if (same) {
        check_same(c, got.scale, want.scale);
        check_same(c, got.value, want.value);
    }
}

static void check_quantize(struct check *c)
{
    static const struct {
        int64_t rows, cols, gap;
        enum dtype dt;
        enum act act;
        float mean, sigma;
    } cases[] = {
        { 1, 1, 0, DT_F32, ACT_NONE, 0, 1 },
        { 0, 8, 0, DT_F32, ACT_NONE, 0, 1 },
        { 3, 77, 0, DT_BF16, ACT_NONE, 0, 1 },
        { 5, 1000, 3, DT_F32, ACT_NONE, 1, 1e-20f },
        { 2, 64, 0, DT_BF16, ACT_NONE, 0, 0 },
        { 9, 5120, 8, DT_BF16, ACT_NONE, 0, 30 },
        { 9, 5120, 4, DT_F32, ACT_NONE, 0, 1e15f },
        { 4, 13824, 0, DT_BF16, ACT_GELU_TANH, 0, 1 },
        { 33, 264, 24, DT_BF16, ACT_GELU_TANH, -1, 3 },
        { 7, 1001, 1, DT_F32, ACT_GELU_TANH, 0, 1 },
        { 2, 20484, 0, DT_BF16, ACT_GELU_TANH, 0, 1 },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        const int64_t r = cases[i].rows, n = cases[i].cols, gap = cases[i].gap;

        if (!check_begin(c, fp8_quantize, "%lldx%lld %c%s around %g, sigma %g", (long long)r,
                         (long long)n, dtype_letter[cases[i].dt],
                         cases[i].act == ACT_NONE ? "" : " gelu tanh", (double)cases[i].mean,
                         (double)cases[i].sigma))
            continue;

        const struct tensor x =
            check_normal(c, cases[i].dt, cases[i].mean, cases[i].sigma, gap, DIMS(r, n));
        const struct fp8_rows want = output(r, n, 0), got = output(r, n, gap);

        check_status(c, op_fp8_quantize(&c->ref, want, x, cases[i].act));
        check_run(c, op_fp8_quantize(&c->got, got, x, cases[i].act));
        check_quantized(c, got, want, cases[i].act == ACT_NONE);
        check_end_case(c);
    }
}

/* Against the reference, and bitwise against the separate ops. */
static void check_norm(struct check *c)
{
    static const struct {
        int64_t rows, cols, gap;
        enum dtype x, y;
        bool gated, modulate;
    } cases[] = {
        { 1, 8, 0, DT_F32, DT_NONE, false, true },
        { 0, 8, 0, DT_F32, DT_BF16, true, true },
        { 5, 77, 0, DT_F32, DT_NONE, false, false },
        { 40, 5120, 8, DT_F32, DT_BF16, true, true },
        { 7, 5120, 0, DT_BF16, DT_BF16, true, false },
        { 19, 1536, 4, DT_BF16, DT_NONE, false, true },
        { 3, 1536, 4, DT_F32, DT_BF16, false, true },
        { 3, 100, 1, DT_F32, DT_BF16, true, true },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        const int64_t r = cases[i].rows, n = cases[i].cols, gap = cases[i].gap;
        const bool adds = cases[i].y != DT_NONE, modulate = cases[i].modulate;

        if (!check_begin(c, fp8_norm, "%lldx%lld %c%s%s%s", (long long)r, (long long)n,
                         dtype_letter[cases[i].x], adds ? " of a sum" : "",
                         cases[i].gated ? " gated" : "", modulate ? " modulated" : ""))
            continue;

        const struct tensor x = check_normal(c, cases[i].x, 0, 1, gap, DIMS(r, n));
        const struct tensor y = adds ? check_normal(c, cases[i].y, 0, 1, gap, DIMS(r, n)) : none;
        const struct tensor gate =
            cases[i].gated ? check_normal(c, DT_F32, 0, 1, 0, DIMS(n)) : none;
        const struct tensor mul = check_normal(c, DT_F32, 0, 1, 0, DIMS(n));
        const struct tensor add = check_normal(c, DT_F32, 0, 1, 0, DIMS(n));
        const struct tensor want_sum = adds ? check_output(DT_F32, 0, DIMS(r, n)) : none;
        const struct tensor got_sum = adds ? check_output(DT_F32, gap, DIMS(r, n)) : none;
        const struct fp8_rows want = output(r, n, 0), got = output(r, n, gap);
        const struct tensor normed = check_output(DT_F32, 0, DIMS(r, n));
        const struct fp8_rows two = output(r, n, gap);

        check_status(c,
                     op_fp8_norm(&c->ref, want, want_sum, x, y, gate, mul, add, modulate, 1e-6f));
        check_run(c, op_fp8_norm(&c->got, got, got_sum, x, y, gate, mul, add, modulate, 1e-6f));
        check_quantized(c, got, want, false);
        if (adds) {
            const struct tensor sum = check_output(DT_F32, gap, DIMS(r, n));

            check_status(c, op_gate_add(&c->got, sum, x, y, gate));
            check_same(c, got_sum, sum);
        }
        check_status(c, modulate
                            ? op_norm_modulate(&c->got, normed, adds ? got_sum : x, mul, add, 1e-6f)
                            : op_layer_norm(&c->got, normed, adds ? got_sum : x, mul, add, 1e-6f));
        check_status(c, op_fp8_quantize(&c->got, two, normed, ACT_NONE));
        check_quantized(c, got, two, c->got.kind == DEVICE_CUDA);
        check_end_case(c);
    }
}

/* Quantized rows of normally distributed numbers. */
static struct fp8_rows normal_rows(struct check *c, float sigma, int64_t gap, int64_t rows,
                                   int64_t cols)
{
    const struct fp8_rows t = output(rows, cols, gap);

    check_status(c,
                 op_fp8_quantize(&c->ref, t, check_normal(c, DT_F32, 0, sigma, 0, DIMS(rows, cols)),
                                 ACT_NONE));
    return t;
}

/* Rows [first, first + count) computed alone are bitwise equal to the same rows of out. */
static void rows_alone(struct check *c, struct tensor out, struct fp8_rows a, struct fp8_rows w,
                       struct tensor bias, int64_t first, int64_t count)
{
    const struct tensor got = check_output(out.dtype, 0, DIMS(count, w.value.dim[0]));

    const struct tensor some = tensor_slice(a.scale, 0, first, count);
    const struct tensor scale = first % 4 == 0 ? some : check_clone(some, DT_F32); // aligned
    const struct fp8_rows part = { tensor_slice(a.value, 0, first, count), scale };

    check_status(c, op_fp8_gemm(&c->got, got, part, w, bias));
    check_same(c, got, tensor_slice(out, 0, first, count));
}

static void check_gemm(struct check *c)
{
    static const struct {
        int64_t m, n, k, gap;
        enum dtype out, bias;
        float sigma;
    } cases[] = {
        { 1, 1, 1, 0, DT_F32, DT_NONE, 1 },           { 0, 7, 5, 0, DT_F32, DT_NONE, 1 },
        { 37, 50, 33, 3, DT_F32, DT_F32, 30 },        { 9, 40, 77, 0, DT_BF16, DT_F32, 1 },
        { 21, 64, 384, 16, DT_BF16, DT_BF16, 1e-6f }, { 130, 256, 1536, 0, DT_BF16, DT_BF16, 1 },
        { 65, 128, 5120, 32, DT_BF16, DT_NONE, 1 },   { 33, 48, 13824, 0, DT_BF16, DT_BF16, 1 },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        const int64_t m = cases[i].m, n = cases[i].n, k = cases[i].k, gap = cases[i].gap;

        if (!check_begin(c, fp8_gemm, "%lldx%lldx%lld %c sigma %g", (long long)m, (long long)n,
                         (long long)k, dtype_letter[cases[i].out], (double)cases[i].sigma))
            continue;

        const struct fp8_rows a = normal_rows(c, cases[i].sigma, gap, m, k);
        const struct fp8_rows w = normal_rows(c, 1, 0, n, k);
        const struct tensor bias =
            cases[i].bias == DT_NONE ? none : check_normal(c, cases[i].bias, 0, 1, 0, DIMS(n));
        const struct tensor want = check_output(DT_F32, 0, DIMS(m, n));
        const struct tensor got = check_output(cases[i].out, gap, DIMS(m, n));

        check_status(c, op_fp8_gemm(&c->ref, want, a, w, bias));
        check_run(c, op_fp8_gemm(&c->got, got, a, w, bias));
        check_close(
            c, got, want,
            cases[i].out == DT_F32
                ? (struct tol){ 3e-6, 4e-5, "f32 sums in a different order" }
                : (struct tol){ 2.7e-3, 6e-3, "one rounding to bf16; partial sums have 14 bits" });
        if (m > 20)
            rows_alone(c, got, a, w, bias, 3, 14);
        check_end_case(c);
    }
}

/* Many rows, and calls in which the library's kernels are tried, as in checkops_products.c. */
static void check_gemm_rows(struct check *c)
{
    static const int64_t sizes[][2] = { { 1536, 1536 }, { 384, 8960 }, { 2560, 1536 } };
    static const int64_t parts[] = { 1, 2, 17, 64, 120, 256, 512, 1300, 2500 };
    const int64_t m = 3001;

    if (c->got.kind != DEVICE_CUDA || check_is_plain(c, fp8_gemm))
        return;
    for (size_t i = 0; i < COUNT(sizes); i++) {
        const int64_t n = sizes[i][0], k = sizes[i][1];

        if (!check_begin(c, fp8_gemm, "rows of %lldx%lldx%lld", (long long)m, (long long)n,
                         (long long)k))
            continue;

        const struct fp8_rows a = normal_rows(c, 1, 0, m, k), w = normal_rows(c, 1, 0, n, k);
        const struct tensor bias = check_normal(c, DT_BF16, 0, 1, 0, DIMS(n));
        const struct tensor got = check_output(DT_BF16, 0, DIMS(m, n));

        check_status(c, op_fp8_gemm(&c->got, got, a, w, bias));
        for (size_t j = 0; j < COUNT(parts); j++)
            rows_alone(c, got, a, w, bias, 3000 - parts[j], parts[j]);
        const struct tensor again = check_output(DT_BF16, 0, DIMS(m, n));

        for (int call = 1; call < 32 && n * k >= (int64_t)2560 * 1536; call++) {
            memset(again.data, 0xff, tensor_bytes(again));
            check_status(c, op_fp8_gemm(&c->got, again, a, w, bias));
            check_same(c, again, got);
        }
        check_end_case(c);
    }
}

void check_fp8(struct check *c)
{
    check_quantize(c);
    check_norm(c);
    check_gemm(c);
    check_gemm_rows(c);
}
