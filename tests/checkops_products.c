#include "tests/checkops.h"

static const struct tensor none;
static const char *const act_name[] = { "", " gelu", " gelu tanh", " silu", " relu" };
static const char dtype_letter[] = { [DT_F32] = 'f', [DT_BF16] = 'b', [DT_F16] = 'h' };

static struct tol product_tol(enum dtype a, enum dtype out, enum act act)
{
    if (a == DT_BF16 && out == DT_F32)
        return (struct tol){ 1e-5, 4e-5, "tensor cores sum with fewer bits than f32" };
    if (out == DT_F32)
        return (struct tol){ 3e-6, 4e-5, "f32 sums of up to 14,000 terms in a different order" };
    if (act == ACT_NONE)
        return (struct tol){ 2.5e-3, 4.2e-3, "one rounding to bf16; the sum is f32" };
    return (struct tol){ 4e-3, 1e-2, "rounded to bf16 before and after the activation" };
}

/* Rows [first, first + count) computed alone are bitwise equal to the same rows of out. */
static void gemm_rows_alone(struct check *c, struct tensor out, struct tensor a, struct tensor w,
                            struct tensor bias, enum act act, int64_t first, int64_t count)
{
    const struct tensor got = check_output(out.dtype, 0, DIMS(count, w.dim[0]));

    check_status(c, op_gemm(&c->got, got, tensor_slice(a, 0, first, count), w, bias, act));
    check_same(c, got, tensor_slice(out, 0, first, count));
}

static void check_gemm(struct check *c)
{
    static const struct {
        int64_t m, n, k, gap;
        enum dtype a, w, bias, out;
        enum act act;
        float sigma;
    } cases[] = {
        { 1, 1, 1, 0, DT_F32, DT_F32, DT_NONE, DT_F32, ACT_NONE, 1 },
        { 0, 7, 5, 0, DT_F32, DT_F32, DT_NONE, DT_F32, ACT_NONE, 1 },
        { 1, 130, 256, 0, DT_F32, DT_F32, DT_F32, DT_F32, ACT_SILU, 1 },
        { 5, 3, 2, 3, DT_F32, DT_F32, DT_F32, DT_F32, ACT_NONE, 1 },
        { 97, 161, 385, 5, DT_F32, DT_F32, DT_F32, DT_F32, ACT_NONE, 30 },
        { 12, 32, 384, 0, DT_F32, DT_F32, DT_NONE, DT_F32, ACT_NONE, 1e-12f },
        { 13, 17, 8960, 0, DT_F32, DT_F32, DT_NONE, DT_F32, ACT_NONE, 1 },
        { 200, 300, 769, 1, DT_F32, DT_F32, DT_F32, DT_F32, ACT_GELU_TANH, 0.1f },
        { 31, 40, 100, 0, DT_F32, DT_F32, DT_F32, DT_F32, ACT_GELU_TANH, 30 },
        { 31, 40, 100, 0, DT_F32, DT_F32, DT_F32, DT_F32, ACT_GELU, 30 },
        { 257, 320, 640, 0, DT_F32, DT_F32, DT_F32, DT_F32, ACT_GELU, 0.1f },
        { 40, 96, 1536, 0, DT_BF16, DT_BF16, DT_BF16, DT_BF16, ACT_GELU, 0.1f },
        { 2, 1000, 2100, 0, DT_F32, DT_F32, DT_F32, DT_BF16, ACT_NONE, 1 },
        { 33, 65, 130, 7, DT_F32, DT_BF16, DT_BF16, DT_F32, ACT_NONE, 1 },
        { 14, 96, 1537, 0, DT_F32, DT_BF16, DT_F32, DT_F32, ACT_GELU_TANH, 0.1f },
        { 97, 161, 386, 3, DT_BF16, DT_BF16, DT_BF16, DT_BF16, ACT_NONE, 1 },
        { 50, 48, 33, 0, DT_BF16, DT_BF16, DT_F32, DT_BF16, ACT_NONE, 1 },
        { 29, 130, 1536, 2, DT_BF16, DT_BF16, DT_BF16, DT_BF16, ACT_GELU_TANH, 0.1f },
        { 7, 20, 4096, 0, DT_BF16, DT_BF16, DT_NONE, DT_F32, ACT_NONE, 1 },
        { 3, 9, 70, 0, DT_BF16, DT_BF16, DT_F32, DT_BF16, ACT_SILU, 30 },
        { 1, 64, 256, 0, DT_F32, DT_F32, DT_F32, DT_F32, ACT_SILU, 1 },
        { 50, 96, 2048, 4, DT_F32, DT_F32, DT_F32, DT_F32, ACT_NONE, 1 },
        { 21, 64, 5120, 0, DT_F32, DT_F32, DT_F32, DT_F32, ACT_GELU_TANH, 0.1f },
        { 150, 264, 640, 8, DT_BF16, DT_BF16, DT_BF16, DT_BF16, ACT_NONE, 1 },
        { 40, 96, 1536, 0, DT_BF16, DT_BF16, DT_BF16, DT_BF16, ACT_GELU_TANH, 0.1f },
        { 33, 40, 72, 0, DT_BF16, DT_BF16, DT_BF16, DT_BF16, ACT_SILU, 0.1f },
        { 65, 128, 320, 8, DT_BF16, DT_BF16, DT_F32, DT_F32, ACT_NONE, 1 },
        { 31, 40, 100, 0, DT_F32, DT_F32, DT_F32, DT_F32, ACT_RELU, 1 },
        { 40, 96, 1152, 0, DT_BF16, DT_BF16, DT_BF16, DT_BF16, ACT_RELU, 1 },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        const int64_t m = cases[i].m, n = cases[i].n, k = cases[i].k;

        if (!check_begin(c, gemm, "%lldx%lldx%lld %c%c%c sigma %g%s", (long long)m, (long long)n,
                         (long long)k, dtype_letter[cases[i].a], dtype_letter[cases[i].w],
                         dtype_letter[cases[i].out], (double)cases[i].sigma,
                         act_name[cases[i].act]))
            continue;

        const struct tensor a =
            check_normal(c, cases[i].a, 0, cases[i].sigma, cases[i].gap, DIMS(m, k));
        const struct tensor w = check_normal(c, cases[i].w, 0, 1, 0, DIMS(n, k));
        const struct tensor bias =
            cases[i].bias == DT_NONE ? none : check_normal(c, cases[i].bias, 0, 1, 0, DIMS(n));
        const struct tensor want = check_output(DT_F32, 0, DIMS(m, n));
        const struct tensor got = check_output(cases[i].out, cases[i].gap, DIMS(m, n));

        check_status(c, op_gemm(&c->ref, want, a, w, bias, cases[i].act));
        check_run(c, op_gemm(&c->got, got, a, w, bias, cases[i].act));
        check_close(c, got, want, product_tol(cases[i].a, cases[i].out, cases[i].act));
        if (m > 2)
            gemm_rows_alone(c, got, a, w, bias, cases[i].act, 1, 1);
        if (m > 20)
            gemm_rows_alone(c, got, a, w, bias, cases[i].act, 3, 14);
        check_end_case(c);
    }
}

static void check_gemm_add(struct check *c)
{
    static const struct {
        int64_t m, n, k, gap;
        enum dtype a, bias;
    } cases[] = {
        { 1, 1, 1, 0, DT_F32, DT_F32 },        { 37, 50, 33, 3, DT_F32, DT_NONE },
        { 70, 96, 512, 4, DT_F32, DT_F32 },    { 33, 130, 386, 2, DT_BF16, DT_BF16 },
        { 130, 264, 640, 8, DT_BF16, DT_F32 }, { 17, 64, 1536, 0, DT_BF16, DT_NONE },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        const int64_t m = cases[i].m, n = cases[i].n, k = cases[i].k;

        if (!check_begin(c, gemm_add, "%lldx%lldx%lld %c", (long long)m, (long long)n, (long long)k,
                         dtype_letter[cases[i].a]))
            continue;

        const struct tensor a = check_normal(c, cases[i].a, 0, 1, cases[i].gap, DIMS(m, k));
        const struct tensor w = check_normal(c, cases[i].a, 0, 1, 0, DIMS(n, k));
        const struct tensor bias =
            cases[i].bias == DT_NONE ? none : check_normal(c, cases[i].bias, 0, 1, 0, DIMS(n));
        const struct tensor x = check_normal(c, DT_F32, 0, 10, cases[i].gap, DIMS(m, n));
        const struct tensor want = check_clone(x, DT_F32), got = check_clone(x, DT_F32);

        check_status(c, op_gemm_add(&c->ref, want, a, w, bias));
        check_status(c, op_gemm_add(&c->got, got, a, w, bias));
        check_close(c, got, want, product_tol(cases[i].a, DT_F32, ACT_NONE));
        if (m > 16) { // some rows alone are bitwise equal
            const struct tensor few = check_clone(tensor_slice(x, 0, 2, 13), DT_F32);

            check_status(c, op_gemm_add(&c->got, few, tensor_slice(a, 0, 2, 13), w, bias));
            check_same(c, few, tensor_slice(got, 0, 2, 13));
        }
        check_end_case(c);
    }
}

/* Many rows, for which a library uses other kernels than for few: any part of them, computed alone,
 * is bitwise equal. So is each of 32 calls of a large product, in which it tries several kernels.
 */
static void check_gemm_rows(struct check *c)
{
    static const struct {
        int64_t n, k;
        enum dtype dt;
        enum act act;
    } cases[] = {
        { 1536, 1536, DT_BF16, ACT_NONE }, { 2560, 512, DT_BF16, ACT_GELU_TANH },
        { 384, 8960, DT_BF16, ACT_NONE },  { 2560, 1536, DT_BF16, ACT_GELU_TANH },
        { 64, 5120, DT_F32, ACT_NONE },
    };
    static const int64_t parts[] = { 1, 2, 17, 64, 120, 256, 512, 1300, 2500 };
    const int64_t m = 3001;

    if (c->got.kind != DEVICE_CUDA || check_is_plain(c, gemm))
        return;
    for (size_t i = 0; i < COUNT(cases); i++) {
        const int64_t n = cases[i].n, k = cases[i].k;
        const enum dtype dt = cases[i].dt;

        if (!check_begin(c, gemm, "rows of %lldx%lldx%lld %c%s", (long long)m, (long long)n,
                         (long long)k, dtype_letter[dt], act_name[cases[i].act]))
            continue;

        const struct tensor a = check_normal(c, dt, 0, 1, 0, DIMS(m, k));
        const struct tensor w = check_normal(c, dt, 0, 1, 0, DIMS(n, k));
        const struct tensor bias = check_normal(c, dt, 0, 1, 0, DIMS(n));
        const struct tensor got = check_output(dt, 0, DIMS(m, n));

        check_status(c, op_gemm(&c->got, got, a, w, bias, cases[i].act));
        for (size_t j = 0; j < COUNT(parts); j++)
            gemm_rows_alone(c, got, a, w, bias, cases[i].act, 3000 - parts[j], parts[j]);
        const struct tensor again = check_output(dt, 0, DIMS(m, n));

        for (int call = 1; call < 32 && n * k >= (int64_t)2560 * 1536; call++) {
            memset(again.data, 0xff, tensor_bytes(again));
            check_status(c, op_gemm(&c->got, again, a, w, bias, cases[i].act));
            check_same(c, again, got);
        }
        check_end_case(c);
    }
}

static void check_conv3d(struct check *c)
{
    static const struct {
        int64_t t, h, w, cin, cout, kt, k, gap;
        struct conv conv;
        enum dtype x, out;
        const char *with; // p: past, b: bias, r: residual; t: TF32, s: scaled by 2^9
    } cases[] = {
        { 1, 1, 1, 3, 5, 1, 1, 0, CONV(1, 1, 0, 0, 0, 0, 0, false), DT_F32, DT_F32, "" },
        { 3, 4, 5, 16, 8, 3, 3, 0, CONV(1, 1, 0, 0, 0, 1, 1, false), DT_F32, DT_F32, "br" },
        { 4, 9, 7, 20, 33, 3, 3, 6, CONV(1, 1, 0, 0, 0, 1, 1, false), DT_F32, DT_F32, "br" },
        { 3, 6, 19, 96, 3, 3, 3, 0, CONV(1, 1, 0, 0, 0, 1, 1, false), DT_F32, DT_F32, "b" },
        { 3, 5, 12, 3, 96, 3, 3, 2, CONV(1, 1, 0, 0, 0, 1, 1, false), DT_F32, DT_F32, "b" },
        { 2, 9, 10, 12, 24, 1, 3, 0, CONV(1, 2, 0, 0, 0, 0, 1, false), DT_F32, DT_F32, "b" },
        { 5, 3, 4, 40, 40, 3, 1, 4, CONV(2, 1, 0, 0, 0, 0, 0, false), DT_F32, DT_F32, "b" },
        { 3, 3, 4, 17, 34, 3, 1, 0, CONV(1, 1, 0, 0, 0, 0, 0, false), DT_F32, DT_F32, "" },
        { 3, 5, 4, 500, 40, 3, 3, 0, CONV(1, 1, 0, 0, 0, 1, 1, false), DT_F32, DT_F32, "br" },
        { 1, 5, 3, 8, 8, 1, 3, 0, CONV(1, 1, 0, 0, 0, 2, 2, false), DT_F32, DT_F32, "b" },
        { 3, 7, 8, 32, 40, 3, 3, 2, CONV(1, 1, 0, 0, 0, 1, 1, false), DT_BF16, DT_BF16, "br" },
        { 3, 4, 6, 5, 7, 3, 3, 0, CONV(1, 1, 0, 0, 0, 1, 1, false), DT_BF16, DT_BF16, "b" },
        { 2, 9, 10, 16, 20, 1, 3, 0, CONV(1, 2, 0, 0, 0, 0, 1, false), DT_BF16, DT_F32, "b" },
        { 1, 37, 71, 40, 24, 1, 3, 8, CONV(1, 2, 0, 0, 0, 0, 1, false), DT_BF16, DT_BF16, "b" },
        { 5, 9, 17, 96, 104, 3, 1, 0, CONV(2, 1, 0, 0, 0, 0, 0, false), DT_BF16, DT_BF16, "b" },
        { 4, 21, 35, 24, 16, 3, 3, 8, CONV(1, 1, 0, 0, 0, 1, 1, false), DT_BF16, DT_F32, "br" },
        { 3, 4, 9, 64, 8, 3, 3, 0, CONV(1, 1, 0, 0, 0, 1, 1, false), DT_BF16, DT_F32, "br" },
        { 2, 5, 7, 12, 9, 1, 3, 6, CONV(1, 1, 0, 0, 0, 1, 1, true), DT_F32, DT_F32, "b" },
        { 3, 3, 1, 5, 8, 3, 3, 0, CONV(1, 1, 0, 0, 0, 1, 1, true), DT_F32, DT_F32, "br" },
        { 2, 6, 9, 32, 24, 1, 3, 0, CONV(1, 1, 0, 0, 0, 1, 1, true), DT_BF16, DT_BF16, "b" },
        { 4, 21, 35, 24, 16, 3, 3, 8, CONV(1, 1, 0, 0, 0, 1, 1, false), DT_F32, DT_F32, "br" },
        { 4, 33, 18, 96, 104, 3, 3, 0, CONV(1, 1, 0, 0, 0, 1, 1, false), DT_F32, DT_F32, "br" },
        { 1, 37, 71, 40, 24, 1, 3, 8, CONV(1, 2, 0, 0, 0, 0, 1, false), DT_F32, DT_F32, "b" },
        { 5, 9, 17, 96, 104, 3, 1, 0, CONV(2, 1, 0, 0, 0, 0, 0, false), DT_F32, DT_F32, "b" },
        { 2, 12, 19, 48, 24, 1, 3, 0, CONV(1, 1, 0, 0, 0, 1, 1, true), DT_F32, DT_F32, "b" },
        { 3, 18, 20, 96, 3, 3, 3, 0, CONV(1, 1, 0, 0, 0, 1, 1, false), DT_F32, DT_F32, "b" },
        // the first and the last convolution of the VAEs
        { 3, 18, 35, 8, 96, 3, 3, 0, CONV(1, 1, 0, 0, 0, 1, 1, false), DT_BF16, DT_BF16, "b" },
        { 3, 18, 20, 16, 160, 3, 3, 0, CONV(1, 1, 0, 0, 0, 1, 1, false), DT_F32, DT_F32, "b" },
        { 3, 20, 35, 64, 12, 3, 3, 0, CONV(1, 1, 0, 0, 0, 1, 1, false), DT_BF16, DT_F32, "b" },
        { 3, 18, 20, 96, 12, 3, 3, 0, CONV(1, 1, 0, 0, 0, 1, 1, false), DT_F32, DT_F32, "br" },
        // more weights than fit a GPU's workspace
        { 3, 3, 18, 1024, 1000, 3, 3, 0, CONV(1, 1, 0, 0, 0, 1, 1, false), DT_F32, DT_F32, "br" },
        // with padding in front, at the top and at the bottom
        { 1, 5, 6, 16, 8, 3, 3, 0, CONV(1, 1, 2, 1, 1, 1, 1, false), DT_F32, DT_F32, "br" },
        { 2, 7, 9, 20, 33, 3, 3, 6, CONV(1, 1, 2, 1, 0, 1, 1, false), DT_F32, DT_F32, "pbr" },
        { 4, 6, 5, 12, 24, 3, 1, 0, CONV(2, 1, 1, 0, 0, 0, 0, false), DT_F32, DT_F32, "pb" },
        { 1, 8, 10, 12, 24, 1, 3, 0, CONV(1, 2, 0, 0, 1, 0, 1, false), DT_F32, DT_F32, "b" },
        { 2, 5, 7, 12, 9, 1, 3, 6, CONV(1, 1, 0, 1, 0, 1, 1, true), DT_F32, DT_F32, "b" },
        { 1, 5, 6, 16, 8, 3, 3, 0, CONV(1, 1, 2, 1, 1, 1, 1, false), DT_BF16, DT_BF16, "br" },
        { 2, 19, 9, 64, 96, 3, 3, 8, CONV(1, 1, 2, 0, 1, 1, 1, false), DT_BF16, DT_BF16, "pbr" },
        { 1, 9, 17, 96, 104, 3, 1, 0, CONV(1, 1, 2, 0, 0, 0, 0, false), DT_BF16, DT_BF16, "pb" },
        { 4, 9, 17, 96, 104, 3, 1, 0, CONV(2, 1, 1, 0, 0, 0, 0, false), DT_BF16, DT_BF16, "pb" },
        { 1, 36, 71, 40, 24, 1, 3, 8, CONV(1, 2, 0, 0, 1, 0, 1, false), DT_BF16, DT_BF16, "b" },
        { 2, 6, 9, 32, 24, 1, 3, 0, CONV(1, 1, 0, 1, 1, 1, 1, true), DT_BF16, DT_BF16, "b" },
        // multiples of 192 outputs: tiles of 192 where there are many tiles, else of 96
        { 1, 82, 128, 8, 384, 1, 3, 0, CONV(1, 1, 0, 0, 0, 1, 1, false), DT_BF16, DT_BF16, "br" },
        { 1, 80, 128, 64, 384, 1, 1, 0, CONV(1, 1, 0, 0, 0, 0, 0, false), DT_BF16, DT_BF16, "b" },
        { 1, 42, 64, 8, 384, 1, 3, 0, CONV(1, 1, 0, 0, 0, 1, 1, true), DT_BF16, DT_BF16, "b" },
        // tiles of 128 and of 160 outputs
        { 2, 64, 140, 8, 256, 1, 3, 0, CONV(1, 1, 0, 1, 1, 1, 1, false), DT_BF16, DT_BF16, "br" },
        { 2, 64, 140, 64, 232, 1, 1, 0, CONV(1, 1, 0, 0, 0, 0, 0, false), DT_BF16, DT_BF16, "b" },
        { 2, 64, 156, 64, 256, 1, 1, 0, CONV(1, 1, 0, 0, 0, 0, 0, false), DT_BF16, DT_BF16, "br" },
        { 1, 42, 64, 8, 256, 1, 3, 0, CONV(1, 1, 0, 0, 0, 1, 1, true), DT_BF16, DT_BF16, "b" },
        { 2, 64, 140, 8, 320, 1, 3, 0, CONV(1, 1, 0, 1, 1, 1, 1, false), DT_BF16, DT_BF16, "br" },
        { 2, 80, 128, 64, 160, 1, 1, 0, CONV(1, 1, 0, 0, 0, 0, 0, false), DT_BF16, DT_BF16, "b" },
        // the same of 8 x 32 pixels
        { 5, 24, 64, 64, 256, 1, 3, 0, CONV(1, 1, 0, 1, 1, 1, 1, false), DT_BF16, DT_BF16, "br" },
        { 5, 24, 64, 128, 256, 3, 1, 0, CONV(1, 1, 2, 0, 0, 0, 0, false), DT_BF16, DT_BF16, "pb" },
        { 1, 42, 64, 8, 320, 1, 3, 0, CONV(1, 1, 0, 0, 0, 1, 1, true), DT_BF16, DT_BF16, "b" },
        // TF32
        { 1, 3, 4, 16, 16, 1, 1, 0, CONV(1, 1, 0, 0, 0, 0, 0, false), DT_F32, DT_F32, "tb" },
        { 2, 19, 9, 64, 96, 3, 3, 8, CONV(1, 1, 2, 0, 1, 1, 1, false), DT_F32, DT_F32, "tpbr" },
        { 3, 18, 35, 8, 104, 3, 3, 0, CONV(1, 1, 0, 0, 0, 1, 1, false), DT_F32, DT_F32, "tb" },
        { 1, 37, 71, 40, 24, 1, 3, 8, CONV(1, 2, 0, 0, 0, 0, 1, false), DT_F32, DT_F32, "tb" },
        { 4, 9, 17, 96, 104, 3, 1, 0, CONV(2, 1, 1, 0, 0, 0, 0, false), DT_F32, DT_F32, "tpb" },
        { 2, 6, 9, 32, 24, 1, 3, 0, CONV(1, 1, 0, 1, 1, 1, 1, true), DT_F32, DT_F32, "tb" },
        { 2, 12, 19, 48, 104, 1, 3, 0, CONV(1, 1, 0, 0, 0, 1, 1, true), DT_F32, DT_F32, "tb" },
        { 1, 5, 6, 20, 8, 1, 3, 0, CONV(1, 1, 0, 0, 0, 1, 1, true), DT_F32, DT_F32, "t" },
        // f16
        { 2, 5, 7, 12, 9, 1, 3, 6, CONV(1, 1, 0, 1, 0, 1, 1, true), DT_F16, DT_F32, "b" },
        { 1, 1, 1, 3, 5, 1, 1, 0, CONV(1, 1, 0, 0, 0, 0, 0, false), DT_F16, DT_F32, "s" },
        { 3, 7, 8, 32, 40, 3, 3, 2, CONV(1, 1, 0, 0, 0, 1, 1, false), DT_F16, DT_F32, "brs" },
        { 2, 19, 9, 64, 96, 3, 3, 8, CONV(1, 1, 2, 0, 1, 1, 1, false), DT_F16, DT_F32, "pbrs" },
        { 3, 20, 35, 96, 3, 3, 3, 0, CONV(1, 1, 0, 0, 0, 1, 1, false), DT_F16, DT_F32, "bs" },
        { 3, 20, 35, 64, 12, 3, 3, 0, CONV(1, 1, 0, 0, 0, 1, 1, false), DT_F16, DT_F32, "b" },
        { 1, 82, 128, 8, 384, 1, 3, 0, CONV(1, 1, 0, 0, 0, 1, 1, false), DT_F16, DT_F32, "brs" },
        { 1, 80, 128, 64, 384, 1, 1, 0, CONV(1, 1, 0, 0, 0, 0, 0, false), DT_F16, DT_F32, "bs" },
        { 2, 64, 140, 8, 256, 1, 3, 0, CONV(1, 1, 0, 1, 1, 1, 1, false), DT_F16, DT_F32, "br" },
        { 2, 64, 140, 8, 320, 1, 3, 0, CONV(1, 1, 0, 1, 1, 1, 1, false), DT_F16, DT_F32, "brs" },
        { 5, 24, 64, 64, 256, 1, 3, 0, CONV(1, 1, 0, 1, 1, 1, 1, false), DT_F16, DT_F32, "br" },
        { 3, 3, 18, 1024, 1000, 3, 3, 0, CONV(1, 1, 0, 0, 0, 1, 1, false), DT_F16, DT_F32, "br" },
    };
    static const struct tol factors_tol = { 5e-4, 3e-3, "factors of 10 bits of mantissa" };

    for (size_t i = 0; i < COUNT(cases); i++) {
        const int64_t t = cases[i].t, h = cases[i].h, w = cases[i].w, k = cases[i].k;
        const int64_t cin = cases[i].cin, cout = cases[i].cout, kt = cases[i].kt;
        const bool tf32 = strchr(cases[i].with, 't') != NULL;
        const bool scaled = strchr(cases[i].with, 's') != NULL;
        const bool with_past = strchr(cases[i].with, 'p') != NULL;
        const bool with_residual = strchr(cases[i].with, 'r') != NULL;
        struct conv conv = cases[i].conv;
        const int64_t to = (conv.front + t - kt) / conv.stride_t + 1;
        const int64_t hi = conv.top + h + conv.bottom;
        const int64_t ho = conv.upsample2x ? 2 * (hi - 2) : (hi - k) / conv.stride + 1;
        const int64_t wo =
            conv.upsample2x ? 2 * w : (w + conv.left + conv.right - k) / conv.stride + 1;

        // the large ones are for tiles on GPUs
        if (t * h * w * cin * cout * kt * k * k > 1 << 27 &&
            (c->got.kind != DEVICE_CUDA || check_is_plain(c, conv3d)))
            continue;
        if (!check_begin(c, conv3d, "%lldx%lldx%lldx%lld to %lld, %lldx%lldx%lld %c%c%s%s%s",
                         (long long)t, (long long)h, (long long)w, (long long)cin, (long long)cout,
                         (long long)kt, (long long)k, (long long)k, dtype_letter[cases[i].x],
                         dtype_letter[cases[i].out], conv.upsample2x ? " upsample2x" : "",
                         tf32 ? " TF32" : "", scaled ? " scaled" : ""))
            continue;
        conv.tf32 = tf32;
        conv.exponent = scaled ? 9 : 0;

        const enum dtype dt = cases[i].x;
        const float sigma = scaled ? 512 : 1, w_sigma = scaled ? 1e-6f : 1;
        const struct tensor x = check_normal(c, dt, 0, sigma, cases[i].gap, DIMS(t, h, w, cin));
        const struct tensor past = with_past ? check_normal(c, dt, 0, sigma, cases[i].gap,
                                                            DIMS((int64_t)conv.front, h, w, cin))
                                             : none;
        const struct tensor weight =
            check_normal(c, dt == DT_F16 ? DT_F32 : dt, 0, w_sigma, 0, DIMS(cout, kt, k, k, cin));
        const struct tensor bias = strchr(cases[i].with, 'b') != NULL
                                       ? check_normal(c, DT_F32, 0, w_sigma, 0, DIMS(cout))
                                       : none;
        const struct tensor got = check_output(cases[i].out, cases[i].gap, DIMS(to, ho, wo, cout));
        const struct tensor want = check_output(DT_F32, 0, DIMS(to, ho, wo, cout));
        struct tensor residual = none, wide = none;

        if (with_residual) {
            residual =
                check_normal(c, cases[i].out, 0, w_sigma, cases[i].gap, DIMS(to, ho, wo, cout));
            wide = check_clone(residual, DT_F32);
        }
        check_status(c, op_conv3d(&c->ref, want, x, past, weight, bias, wide, conv));
        check_run(c, op_conv3d(&c->got, got, x, past, weight, bias, residual, conv));
        check_close(c, got, want,
                    (tf32 || dt == DT_F16) && c->got.kind == DEVICE_CUDA ? factors_tol
                    : dt == DT_F32 && c->got.kind == DEVICE_CUDA
                        ? (struct tol){ 6e-6, 4e-5, "f32 as two bf16 each, relative error 2^-17" }
                    : conv.upsample2x && dt == DT_BF16 && c->got.kind == DEVICE_CUDA
                        ? (struct tol){ 3.5e-3, 2e-2, "sums of weights are rounded, too" }
                        : product_tol(dt, cases[i].out, ACT_NONE));
        if (with_residual) { // in place
            const struct tensor both = check_clone(residual, cases[i].out);
            check_status(c, op_conv3d(&c->got, both, x, past, weight, bias, both, conv));
            check_same(c, both, got);
        }
        if (ho > 2 && conv.stride == 1) { // the last two rows alone
            const struct tensor part =
                check_output(cases[i].out, 0, DIMS(to, (int64_t)2, wo, cout));
            const int64_t rows = (conv.upsample2x ? 3 : k + 1) - conv.bottom; // of x that they need
            struct conv lower = conv;
            lower.top = 0;
            check_status(
                c, op_conv3d(&c->got, part, tensor_slice(x, 1, h - rows, rows),
                             with_past ? tensor_slice(past, 1, h - rows, rows) : none, weight, bias,
                             with_residual ? tensor_slice(residual, 1, ho - 2, 2) : none, lower));
            check_same(c, part, tensor_slice(got, 1, ho - 2, 2));
        }
        check_end_case(c);
    }
}

void check_products(struct check *c)
{
    check_gemm(c);
    check_gemm_add(c);
    check_gemm_rows(c);
    check_conv3d(c);
}
