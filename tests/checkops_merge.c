#include "tests/checkops.h"

static void check_add_product(struct check *c)
{
    static const struct {
        int64_t first, count, rows, rank, cols;
        enum dtype x, out;
    } cases[] = {
        { 0, 1, 1, 1, 1, DT_F32, DT_F32 },
        { 0, 130 * 200, 130, 4, 200, DT_BF16, DT_BF16 },
        { 77, 129 * 200, 131, 17, 200, DT_BF16, DT_BF16 }, // from within a row to within another
        { 63, 100, 3, 64, 129, DT_F32, DT_BF16 },
        { 5, 20, 1, 33, 64, DT_F32, DT_F32 },
        { 1000, 300 * 1024 - 1500, 300, 128, 1024, DT_F32, DT_BF16 },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        const int64_t n = cases[i].count;

        if (!check_begin(c, add_product, "%lld of %lld x %lld, rank %lld", (long long)n,
                         (long long)cases[i].rows, (long long)cases[i].cols,
                         (long long)cases[i].rank))
            continue;
        const struct tensor x = check_normal(c, cases[i].x, 0, 1, 0, DIMS(n));
        const struct tensor up =
            check_normal(c, DT_F32, 0, 0.3f, 0, DIMS(cases[i].rows, cases[i].rank));
        const struct tensor down =
            check_normal(c, DT_F32, 0, 0.3f, 0, DIMS(cases[i].rank, cases[i].cols));
        const struct tensor want = check_output(cases[i].out, 0, DIMS(n));
        const struct tensor got = check_output(cases[i].out, 0, DIMS(n));

        check_status(c, op_add_product(&c->ref, want, x, cases[i].first, up, down));
        check_run(c, op_add_product(&c->got, got, x, cases[i].first, up, down));
        check_same(c, got, want);
        if (cases[i].x == cases[i].out) {
            const struct tensor both = check_clone(x, x.dtype);

            check_status(c, op_add_product(&c->got, both, both, cases[i].first, up, down));
            check_same(c, both, got);
        }
        check_end_case(c);
    }
}

static const char *const kind_names[] = { "product", "Hadamard", "Kronecker" };

/* DoRA's magnitude: none, of rows, of columns. */
enum dora { DORA_NONE, DORA_ROWS, DORA_COLUMNS };

static void check_add_change(struct check *c)
{
    static const struct {
        enum change_kind kind;
        int64_t first, count, rows, rank, cols, tall, wide; // Kronecker: tall x wide is its a
        enum dora dora;
        enum dtype x, out;
    } cases[] = {
        { CHANGE_PRODUCT, 0, 1, 1, 1, 1, 1, 1, DORA_NONE, DT_F32, DT_F32 },
        { CHANGE_PRODUCT, 77, 129 * 200, 131, 17, 200, 1, 1, DORA_ROWS, DT_BF16, DT_BF16 },
        { CHANGE_PRODUCT, 0, 130 * 200, 130, 64, 200, 1, 1, DORA_COLUMNS, DT_BF16, DT_BF16 },
        { CHANGE_HADAMARD, 0, 70 * 129, 70, 3, 129, 1, 1, DORA_NONE, DT_F32, DT_BF16 },
        { CHANGE_HADAMARD, 63, 200 * 192 - 100, 200, 33, 192, 1, 1, DORA_NONE, DT_BF16, DT_BF16 },
        { CHANGE_HADAMARD, 5, 100, 3, 16, 65, 1, 1, DORA_COLUMNS, DT_F32, DT_F32 },
        { CHANGE_KRONECKER, 0, 120 * 210, 120, 1, 210, 8, 7, DORA_NONE, DT_BF16, DT_BF16 },
        { CHANGE_KRONECKER, 33, 90 * 96 - 40, 90, 1, 96, 1, 1, DORA_NONE, DT_F32, DT_BF16 },
        { CHANGE_KRONECKER, 95, 50 * 96, 52, 1, 96, 52, 96, DORA_ROWS, DT_F32, DT_F32 },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        const int64_t n = cases[i].count, rows = cases[i].rows, cols = cases[i].cols;
        const int64_t rank = cases[i].rank, tall = cases[i].tall, wide = cases[i].wide;
        const bool kronecker = cases[i].kind == CHANGE_KRONECKER;
        struct weight_change w = { .kind = cases[i].kind,
                                   .scale = 0.7f,
                                   .strength = -1.3f,
                                   .per_column = cases[i].dora == DORA_COLUMNS };

        if (!check_begin(c, add_change, "%s, %lld of %lld x %lld", kind_names[cases[i].kind],
                         (long long)n, (long long)rows, (long long)cols))
            continue;
        const struct tensor x = check_normal(c, cases[i].x, 0, 1, 0, DIMS(n));

        if (kronecker) { // from a row in the middle of the matrix on
            w.row = rows / 3;
            w.a = check_normal(c, DT_F32, 0, 1, 0, DIMS(2 * tall, wide));
            w.b = check_normal(c, DT_F32, 0, 0.3f, 0, DIMS(rows / tall, cols / wide));
        } else {
            w.a = check_normal(c, DT_F32, 0, 0.3f, 0, DIMS(rows, rank));
            w.b = check_normal(c, DT_F32, 0, 0.3f, 0, DIMS(rank, cols));
        }
        if (cases[i].kind == CHANGE_HADAMARD) {
            w.c = check_normal(c, DT_F32, 0, 0.3f, 0, DIMS(rows, rank + 1));
            w.d = check_normal(c, DT_F32, 0, 0.3f, 0, DIMS(rank + 1, cols));
        }
        if (cases[i].dora != DORA_NONE) {
            const int64_t norms = w.per_column ? cols : rows;

            w.magnitude = check_normal(c, DT_F32, 1, 0.1f, 0, DIMS(norms));
            w.squares = check_output(DT_F64, 0, DIMS(norms));
            for (int64_t k = 0; k < norms; k++)
                ((double *)w.squares.data)[k] = 0.3 + (double)k / 7;
        }
        const struct tensor want = check_output(cases[i].out, 0, DIMS(n));
        const struct tensor got = check_output(cases[i].out, 0, DIMS(n));

        check_status(c, op_add_change(&c->ref, want, x, cases[i].first, cols, &w));
        check_run(c, op_add_change(&c->got, got, x, cases[i].first, cols, &w));
        check_same(c, got, want);
        if (cases[i].x == cases[i].out) {
            const struct tensor both = check_clone(x, x.dtype);

            check_status(c, op_add_change(&c->got, both, both, cases[i].first, cols, &w));
            check_status(c, device_wait(&c->got));
            check_same(c, both, got);
        }
        check_end_case(c);
    }
}

static void same_sums(struct check *c, struct tensor got, struct tensor want)
{
    check_same(c, got, want); // as f32, and guard bytes
    if (memcmp(got.data, want.data, tensor_bytes(want)) != 0)
        check_fail(c, "other bits of f64");
}

static void check_add_squares(struct check *c)
{
    static const struct {
        int64_t rows, cols;
        bool per_column;
        enum dtype x;
    } cases[] = {
        { 1, 1, false, DT_F32 },     { 77, 200, false, DT_BF16 }, { 9, 5120, false, DT_F32 },
        { 131, 129, true, DT_BF16 }, { 3, 1000, true, DT_F32 },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        const int64_t rows = cases[i].rows, cols = cases[i].cols;
        const int64_t n = cases[i].per_column ? cols : rows;

        if (!check_begin(c, add_squares, "%lld x %lld, of %s", (long long)rows, (long long)cols,
                         cases[i].per_column ? "columns" : "rows"))
            continue;
        const struct tensor x = check_normal(c, cases[i].x, 0, 3, 0, DIMS(rows, cols));
        const struct tensor want = check_output(DT_F64, 0, DIMS(n));
        const struct tensor got = check_output(DT_F64, 0, DIMS(n));

        check_status(c, op_add_squares(&c->ref, want, x, cases[i].per_column, false));
        check_run(c, op_add_squares(&c->got, got, x, cases[i].per_column, false));
        same_sums(c, got, want);
        if (cases[i].per_column) { // in two parts
            const int64_t half = rows / 2;

            check_status(c, op_add_squares(&c->got, got, tensor_slice(x, 0, 0, half), true, false));
            check_status(
                c, op_add_squares(&c->got, got, tensor_slice(x, 0, half, rows - half), true, true));
            check_status(c, device_wait(&c->got));
            same_sums(c, got, want);
        }
        check_end_case(c);
    }
}

void check_merges(struct check *c)
{
    check_add_product(c);
    check_add_change(c);
    check_add_squares(c);
}
