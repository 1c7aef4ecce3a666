#include "tests/checkops.h"

#include <math.h>

static const struct tensor none;
static const char dtype_letter[] = { [DT_F32] = 'f', [DT_BF16] = 'b' };

static const struct tol one_f32 = { 2e-7, 1e-6, "two f32 roundings" };
static const struct tol one_bf16 = { 2.5e-3, 4.2e-3, "one rounding to bf16" };

static struct tol rounding(enum dtype out)
{
    return out == DT_BF16 ? one_bf16 : one_f32;
}

static void check_row_ops(struct check *c)
{
    static const struct {
        int64_t rows, cols, gap;
        enum dtype x, y, out;
    } cases[] = {
        { 1, 1, 0, DT_F32, DT_F32, DT_F32 },        { 0, 5, 0, DT_F32, DT_F32, DT_F32 },
        { 37, 1536, 3, DT_F32, DT_F32, DT_F32 },    { 5, 5120, 0, DT_F32, DT_BF16, DT_F32 },
        { 20, 4097, 1, DT_BF16, DT_BF16, DT_BF16 }, { 3, 100, 0, DT_BF16, DT_F32, DT_F32 },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        const int64_t r = cases[i].rows, n = cases[i].cols, gap = cases[i].gap;
        const struct tensor x = check_normal(c, cases[i].x, 0, 1, gap, DIMS(r, n));
        const struct tensor y = check_normal(c, cases[i].y, 0, 1, gap, DIMS(r, n));
        const struct tensor gate = check_normal(c, DT_F32, 0, 1, 0, DIMS(n));

        for (int gated = 0; gated < 2; gated++) {
            const struct tensor g = gated ? gate : none;

            if (!check_begin(c, gate_add, "%lldx%lld %c%c%c%s", (long long)r, (long long)n,
                             dtype_letter[cases[i].x], dtype_letter[cases[i].y],
                             dtype_letter[cases[i].out], gated ? " gated" : ""))
                continue;

            const struct tensor want = check_output(DT_F32, 0, DIMS(r, n));
            const struct tensor got = check_output(cases[i].out, gap, DIMS(r, n));

            check_status(c, op_gate_add(&c->ref, want, x, y, g));
            check_run(c, op_gate_add(&c->got, got, x, y, g));
            check_close(c, got, want, rounding(cases[i].out));
            if (cases[i].x == cases[i].out) {
                const struct tensor both = check_clone(x, cases[i].x);
                check_status(c, op_gate_add(&c->got, both, both, y, g));
                check_same(c, both, got);
            }
        }
        if (cases[i].x == DT_F32 && cases[i].out == DT_F32 &&
            check_begin(c, add_rows, "%lldx%lld", (long long)r, (long long)n)) {
            const struct tensor want = check_output(DT_F32, 0, DIMS(r, n));
            const struct tensor got = check_output(DT_F32, gap, DIMS(r, n));

            check_status(c, op_add_rows(&c->ref, want, x, gate));
            check_run(c, op_add_rows(&c->got, got, x, gate));
            check_close(c, got, want, one_f32);
        }
        check_end_case(c);
    }
}

static void check_find_nonfinite(struct check *c)
{
    static const struct {
        int64_t n, at; // at -1: all values are finite
        enum dtype x;
        uint32_t bits; // of the value at `at`, as f32
    } cases[] = {
        { 1, -1, DT_F32, 0 },
        { 1, 0, DT_F32, 0x7f800000 },
        { 40001, 40000, DT_F32, 0xffc00000 },
        { 3000000, 2999999, DT_F32, 0x7fc00000 },
        { 3000000, -1, DT_F32, 0 },
        { 4099, 4098, DT_BF16, 0xff800000 },
        { 4099, -1, DT_BF16, 0 },
        { 40001, 17, DT_F32, 0x7f7fffff }, // the largest
        { 40001, 17, DT_F32, 0xff800001 }, // a NaN with the lowest bit only
        { 4099, 2048, DT_BF16, 0xff7f0000 },
        { 4099, 2047, DT_BF16, 0x7f810000 },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        const int64_t n = cases[i].n;
        const struct tensor x = check_normal(c, cases[i].x, 0, 1, 0, DIMS(n));

        if (cases[i].at >= 0 && cases[i].x == DT_F32)
            ((uint32_t *)x.data)[cases[i].at] = cases[i].bits;
        else if (cases[i].at >= 0)
            ((uint16_t *)x.data)[cases[i].at] = (uint16_t)(cases[i].bits >> 16);
        if (check_begin(c, find_nonfinite, "%lld %c, %#x at %lld", (long long)n,
                        dtype_letter[cases[i].x], cases[i].bits, (long long)cases[i].at)) {
            const struct tensor want = check_output(DT_F32, 0, DIMS(1));
            const struct tensor got = check_output(DT_F32, 0, DIMS(1));

            *(float *)want.data = *(float *)got.data = 0;
            check_status(c, op_find_nonfinite(&c->ref, want, x, 3));
            check_run(c, op_find_nonfinite(&c->got, got, x, 3));
            check_same(c, got, want);
            check_run(c, op_find_nonfinite(&c->got, got, x, 4)); // the first stays
            if (*(float *)want.data == 3)
                check_same(c, got, want);
        }
        check_end_case(c);
    }
}

static void check_flat_ops(struct check *c)
{
    static const struct {
        int64_t n;
        enum dtype x, out;
        float sigma;
    } cases[] = {
        { 1, DT_F32, DT_F32, 1 },       { 40000, DT_F32, DT_F32, 1 },  { 5000, DT_F32, DT_F32, 40 },
        { 4099, DT_F32, DT_BF16, 1 },   { 4099, DT_BF16, DT_BF16, 3 }, { 100, DT_BF16, DT_F32, 3 },
        { 300, DT_F32, DT_F32, 1e-6f },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        const int64_t n = cases[i].n;
        const struct tensor x = check_normal(c, cases[i].x, 0, cases[i].sigma, 0, DIMS(n));
        const struct tensor y = check_normal(c, cases[i].x, 0, 1, 0, DIMS(n));

        if (check_begin(c, silu, "%lld %c%c sigma %g", (long long)n, dtype_letter[cases[i].x],
                        dtype_letter[cases[i].out], (double)cases[i].sigma)) {
            const struct tensor want = check_output(DT_F32, 0, DIMS(n));
            const struct tensor got = check_output(cases[i].out, 0, DIMS(n));

            check_status(c, op_silu(&c->ref, want, x));
            check_run(c, op_silu(&c->got, got, x));
            check_close(c, got, want, rounding(cases[i].out));
        }
        if (check_begin(c, gelu, "%lld %c%c sigma %g", (long long)n, dtype_letter[cases[i].x],
                        dtype_letter[cases[i].out], (double)cases[i].sigma)) {
            const struct tensor want = check_output(DT_F32, 0, DIMS(n));
            const struct tensor got = check_output(cases[i].out, 0, DIMS(n));

            check_status(c, op_gelu(&c->ref, want, x));
            check_run(c, op_gelu(&c->got, got, x));
            check_close(c, got, want, rounding(cases[i].out));
        }
        if (cases[i].x == cases[i].out &&
            check_begin(c, gated_gelu, "%lld %c sigma %g", (long long)n, dtype_letter[cases[i].x],
                        (double)cases[i].sigma)) {
            const struct tensor want = check_output(cases[i].x, 0, DIMS(n));
            const struct tensor got = check_output(cases[i].x, 0, DIMS(n));
            const struct tensor gate = check_clone(x, x.dtype), up = check_clone(y, y.dtype);

            check_status(c, op_gated_gelu(&c->ref, want, x, y));
            check_run(c, op_gated_gelu(&c->got, got, x, y));
            check_close(c, got, want,
                        cases[i].x == DT_F32 // n = 1 is negative, where 1 + tanh cancels
                            ? (struct tol){ n == 1 ? 5e-6 : 1e-6, 5e-6,
                                            "tanh has an absolute error of 1e-7" }
                            : (struct tol){ 1e-3, 1e-2,
                                            "a tanh midway between two bf16 may round "
                                            "to either" });
            check_status(c, op_gated_gelu(&c->got, gate, gate, y));
            check_same(c, gate, got);
            check_status(c, op_gated_gelu(&c->got, up, x, up));
            check_same(c, up, got);
        }
        check_end_case(c);
    }
}

static void check_lincomb(struct check *c)
{
    static const int64_t sizes[] = { 1, 100, 4097, 60000 };

    for (size_t i = 0; i < COUNT(sizes); i++)
        for (int count = 1; count <= LINCOMB_TERMS; count++) {
            const float coef[LINCOMB_TERMS] = { 0.7f, 0, -1.3f, 40, 1e-3f, -2 };
            struct tensor x[LINCOMB_TERMS], both;

            if (!check_begin(c, lincomb, "%d of %lld", count, (long long)sizes[i]))
                continue;
            for (int j = 0; j < count; j++)
                x[j] = j == 1 ? check_constant(DT_F32, NAN, 0, DIMS(sizes[i])) // must not be read
                              : check_normal(c, DT_F32, 0, 1, 0, DIMS(sizes[i]));

            const struct tensor want = check_output(DT_F32, 0, DIMS(sizes[i]));
            const struct tensor got = check_output(DT_F32, 0, DIMS(sizes[i]));

            check_status(c, op_lincomb(&c->ref, want, count, coef, x));
            check_run(c, op_lincomb(&c->got, got, count, coef, x));
            check_close(c, got, want, (struct tol){ 5e-7, 3e-6, "f32 sums of six terms" });
            x[count - 1] = both = check_clone(x[count - 1], DT_F32);
            check_status(c, op_lincomb(&c->got, both, count, coef, x));
            check_same(c, both, got);
            check_end_case(c);
        }
}

/* The dots of rows, and what is left of c without its projection on u. */
static void check_projection(struct check *c)
{
    static const struct {
        int64_t rows, cols;
        float u; // sigma; 0: the sum of the squares is 0
    } cases[] = {
        { 1, 64, 1 }, { 3, 1, 2 }, { 257, 64, 0 }, { 3000, 192, 1e-3f }, { 700, 64, 40 }
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        const int64_t rows = cases[i].rows, cols = cases[i].cols;
        const struct tensor x = check_normal(c, DT_F32, 0.5f, 1, 0, DIMS(rows, cols));
        const struct tensor u =
            check_normal(c, DT_F32, 0.5f * cases[i].u, cases[i].u, 0, DIMS(rows, cols));
        const struct tensor dots = check_output(DT_F32, 0, DIMS(rows, 2));

        check_status(c, op_row_dots(&c->ref, dots, x, u));
        if (check_begin(c, row_dots, "%lldx%lld", (long long)rows, (long long)cols)) {
            const struct tensor got = check_output(DT_F32, 0, DIMS(rows, 2));

            check_run(c, op_row_dots(&c->got, got, x, u));
            check_close(c, got, dots, (struct tol){ 5e-7, 3e-6, "f32 sums of a row" });
        }
        if (check_begin(c, subtract_projection, "%lldx%lld", (long long)rows, (long long)cols)) {
            const struct tensor want = check_output(DT_F32, 0, DIMS(rows, cols));
            const struct tensor got = check_output(DT_F32, 0, DIMS(rows, cols));
            const struct tensor both = check_clone(x, DT_F32);

            check_status(c, op_subtract_projection(&c->ref, want, x, u, dots));
            check_run(c, op_subtract_projection(&c->got, got, x, u, dots));
            check_close(c, got, want, (struct tol){ 5e-7, 3e-6, "one f32 product and sum" });
            check_status(c, op_subtract_projection(&c->got, both, both, u, dots));
            check_same(c, both, got);
        }
        check_end_case(c);
    }
}

/* Packing, unpacking, permutation and conversion. */
static void check_copy(struct check *c)
{
    static const int orders[][4] = {
        { 0, 1, 2, 3 }, { 3, 0, 1, 2 }, { 1, 2, 3, 0 }, { 0, 2, 1, 3 }
    };
    static const enum dtype kinds[][2] = {
        { DT_F32, DT_F32 }, { DT_BF16, DT_BF16 }, { DT_F32, DT_BF16 }, { DT_BF16, DT_F32 }
    };

    // rows at multiples of 16 bytes, and others
    for (size_t i = 0; i < 2 * COUNT(orders); i++)
        for (size_t j = 0; j < COUNT(kinds); j++) {
            const int *order = orders[i / 2];
            const int64_t inner = i % 2 == 0 ? 90 : 96, gap = i % 2 == 0 ? 3 : 8;

            if (!check_begin(c, copy, "order %d%d%d%d of %lld %c%c", order[0], order[1], order[2],
                             order[3], (long long)inner, dtype_letter[kinds[j][0]],
                             dtype_letter[kinds[j][1]]))
                continue;

            const struct tensor x = tensor_permute(
                check_normal(c, kinds[j][0], 0, 1, gap, DIMS((int64_t)5, 6, 7, inner)), order);
            const struct tensor got = check_output(kinds[j][1], 2 * gap, 4, x.dim);
            const struct tensor want = check_output(kinds[j][1], 0, 4, x.dim);

            check_status(c, op_copy(&c->ref, want, x));
            check_run(c, op_copy(&c->got, got, x));
            check_same(c, got, want);
            check_end_case(c);
        }
}

static void check_frames(struct check *c)
{
    static const struct {
        int64_t a, b, h, w, channels, gap;
        enum dtype dt;
    } cases[] = {
        { 1, 1, 1, 1, 1, 0, DT_F32 },   { 1, 3, 5, 7, 96, 4, DT_F32 },
        { 2, 2, 3, 4, 20, 0, DT_BF16 }, { 1, 2, 64, 31, 16, 2, DT_F32 },
        { 1, 3, 5, 8, 3, 0, DT_F32 },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        const int64_t a = cases[i].a, b = cases[i].b, h = cases[i].h, w = cases[i].w;
        const int64_t n = cases[i].channels, gap = cases[i].gap;
        const enum dtype dt = cases[i].dt;
        const struct tensor x = check_normal(c, dt, 0, 1, gap, DIMS(a, b, h, w, n));
        const struct tensor mul = check_normal(c, DT_F32, 0, 1, 0, DIMS(n));
        const struct tensor add = check_normal(c, DT_F32, 0, 1, 0, DIMS(n));

        if (check_begin(c, channel_affine, "%lldx%lldx%lldx%lldx%lld %c", (long long)a,
                        (long long)b, (long long)h, (long long)w, (long long)n, dtype_letter[dt])) {
            const struct tensor want = check_output(DT_F32, 0, DIMS(a, b, h, w, n));
            const struct tensor got = check_output(dt, gap, DIMS(a, b, h, w, n));
            const struct tensor both = check_clone(x, dt);

            check_status(c, op_channel_affine(&c->ref, want, x, mul, add));
            check_run(c, op_channel_affine(&c->got, got, x, mul, add));
            check_close(c, got, want, rounding(dt));
            check_status(c, op_channel_affine(&c->got, both, both, mul, add));
            check_same(c, both, got);
        }
        if (check_begin(c, to_u8, "%lldx%lldx%lldx%lld %c", (long long)b, (long long)h,
                        (long long)w, (long long)n, dtype_letter[dt])) {
            const struct tensor want = check_output(DT_U8, 0, DIMS(b, h, w, n));
            const struct tensor got = check_output(DT_U8, gap, DIMS(b, h, w, n));

            const float add = h % 2 == 0 ? 0.5f : 0;

            check_status(c, op_to_u8(&c->ref, want, tensor_at(x, 0), add));
            check_run(c, op_to_u8(&c->got, got, tensor_at(x, 0), add));
            check_same(c, got, want);
            if (h > 2) { // some rows of each frame
                const struct tensor part =
                    tensor_slice(check_output(DT_U8, gap, DIMS(b, h, w, n)), 1, 1, h - 2);

                check_status(
                    c, op_to_u8(&c->got, part, tensor_slice(tensor_at(x, 0), 1, 1, h - 2), add));
                check_same(c, part, tensor_slice(want, 1, 1, h - 2));
            }
        }
        check_end_case(c);
    }
}

/* Cells as in the VAE, and of other sizes. */
static void check_cells(struct check *c)
{
    static const struct {
        int64_t t, h, w, few, s, many; // [t, h, w, few], [.., s h, s w, many]
        int frames, missing;
        int64_t gap;
        enum dtype dt, to;
    } cases[] = {
        { 1, 1, 1, 1, 1, 1, 1, 0, 0, DT_F32, DT_F32 },
        { 2, 3, 5, 40, 1, 40, 1, 0, 3, DT_F32, DT_F32 },
        { 2, 3, 5, 12, 2, 12, 1, 0, 0, DT_F32, DT_F32 },
        { 2, 3, 5, 24, 2, 12, 2, 0, 4, DT_F32, DT_F32 },
        { 1, 4, 3, 24, 2, 12, 2, 1, 0, DT_F32, DT_F32 }, // the first chunk
        { 1, 4, 3, 32, 2, 16, 1, 0, 8, DT_BF16, DT_BF16 },
        { 2, 2, 4, 16, 2, 16, 2, 0, 0, DT_BF16, DT_BF16 },
        { 2, 2, 4, 15, 3, 5, 3, 2, 2, DT_BF16, DT_F32 },
        { 1, 33, 40, 320, 2, 160, 2, 0, 0, DT_BF16, DT_BF16 },
        { 1, 5, 7, 64, 2, 32, 2, 1, 8, DT_BF16, DT_F32 },
        { 2, 5, 7, 32, 2, 32, 2, 0, 8, DT_F32, DT_BF16 },
        { 1, 4, 9, 96, 2, 24, 1, 0, 0, DT_BF16, DT_BF16 },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        const int64_t t = cases[i].t, h = cases[i].h, w = cases[i].w, s = cases[i].s;
        const int64_t few = cases[i].few, many = cases[i].many, gap = cases[i].gap;
        const int frames = cases[i].frames;
        const int64_t all = t * frames - cases[i].missing;
        const enum dtype dt = cases[i].dt, to = cases[i].to;
        const struct tensor x = check_normal(c, dt, 0, 1, gap, DIMS(all, s * h, s * w, many));
        const struct tensor y = check_normal(c, dt, 0, 1, gap, DIMS(t, h, w, few));

        if (check_begin(c, average_down, "%lldx%lldx%lldx%lld of %lld, %lld, %d by %lldx%lld %c%c",
                        (long long)t, (long long)h, (long long)w, (long long)few, (long long)many,
                        (long long)all, frames, (long long)s, (long long)s, dtype_letter[dt],
                        dtype_letter[to])) {
            const struct tensor want = check_output(DT_F32, 0, DIMS(t, h, w, few));
            const struct tensor got = check_output(to, gap, DIMS(t, h, w, few));

            check_status(c, op_average_down(&c->ref, want, x, frames));
            check_run(c, op_average_down(&c->got, got, x, frames));
            check_close(c, got, want, rounding(to));
        }
        if (check_begin(c, repeat_up, "%lldx%lldx%lldx%lld of %lld, %lld, %d by %lldx%lld %c%c",
                        (long long)t, (long long)h, (long long)w, (long long)few, (long long)many,
                        (long long)all, frames, (long long)s, (long long)s, dtype_letter[dt],
                        dtype_letter[to])) {
            const struct tensor want = check_output(DT_F32, 0, DIMS(all, s * h, s * w, many));
            const struct tensor got = check_output(to, gap, DIMS(all, s * h, s * w, many));

            check_status(c, op_repeat_up(&c->ref, want, x, y, frames));
            check_run(c, op_repeat_up(&c->got, got, x, y, frames));
            check_close(c, got, want, rounding(to));
            if (dt == to) {
                const struct tensor both = check_clone(x, dt);

                check_status(c, op_repeat_up(&c->got, both, both, y, frames));
                check_same(c, both, got);
            }
        }
        check_end_case(c);
    }
}

/* Rows as of a latent's tokens and of the residual stream. */
static void check_row_sums(struct check *c)
{
    static const struct {
        int64_t rows, cols, gap;
        float sigma;
    } cases[] = {
        { 1, 1, 0, 1 },     { 3, 31, 2, 1e-3f }, { 257, 64, 0, 1 },
        { 9, 1536, 6, 30 }, { 70, 5120, 0, 1 },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        const int64_t r = cases[i].rows, n = cases[i].cols;
        const struct tensor a = check_normal(c, DT_F32, 0, cases[i].sigma, 0, DIMS(r, n));
        const struct tensor b = check_normal(c, DT_F32, 0, cases[i].sigma, 0, DIMS(r, n));

        if (check_begin(c, row_sums, "%lldx%lld", (long long)r, (long long)n)) {
            const struct tensor want = check_output(DT_F32, 0, DIMS(r, ROW_SUMS));
            const struct tensor got = check_output(DT_F32, cases[i].gap, DIMS(r, ROW_SUMS));
            const struct tensor last = check_output(DT_F32, 0, DIMS(1, ROW_SUMS));

            check_status(c, op_row_sums(&c->ref, want, a, b));
            check_run(c, op_row_sums(&c->got, got, a, b));
            check_close(c, got, want, (struct tol){ 1e-6, 5e-6, "sums of 5,120 values in f32" });
            check_run(c, op_row_sums(&c->got, last, tensor_slice(a, 0, r - 1, 1),
                                     tensor_slice(b, 0, r - 1, 1)));
            check_same(c, last, tensor_slice(got, 0, r - 1, 1)); // whatever rows are beside it
        }
        check_end_case(c);
    }
}

void check_elementwise(struct check *c)
{
    check_row_ops(c);
    check_find_nonfinite(c);
    check_flat_ops(c);
    check_lincomb(c);
    check_projection(c);
    check_copy(c);
    check_frames(c);
    check_cells(c);
    check_row_sums(c);
}
