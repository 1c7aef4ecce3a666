#include "tests/checkops.h"

#include "kernels/cpu/select.h"
#include "runtime/half.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static void run_all(struct check *c)
{
    check_products(c);
    check_fp8(c);
    check_arrivals(c);
    check_attentions(c);
    check_sparse(c);
    check_rows(c);
    check_norms(c);
    check_elementwise(c);
    check_merges(c);
    check_expand(c);
}

/* ---- self-test: kernels with one error each ---- */

static status gemm_overrun(struct device *dev, struct tensor out, struct tensor a, struct tensor w,
                           struct tensor bias, enum act act)
{
    TRY(table_ref.gemm(dev, out, a, w, bias, act));
    memset((char *)out.data + tensor_bytes(out), 0, 2); // after the last element
    return ST_OK;
}

static status gemm_gap(struct device *dev, struct tensor out, struct tensor a, struct tensor w,
                       struct tensor bias, enum act act)
{
    TRY(table_ref.gemm(dev, out, a, w, bias, act));
    if (out.dim[0] > 1 && out.stride[0] > out.dim[1]) // between two rows of a view
        memset((char *)out.data + (size_t)out.dim[1] * dtype_size(out.dtype), 0, 1);
    return ST_OK;
}

static status gemm_last_column(struct device *dev, struct tensor out, struct tensor a,
                               struct tensor w, struct tensor bias, enum act act)
{
    const int64_t k = w.dim[1]; // leaves out the last column of K where K is odd

    if (k % 2 == 1 && k > 1)
        a.dim[1] = k - 1;
    for (int64_t n = 0; a.dim[1] < k && n < w.dim[0]; n++) {
        struct tensor one = tensor_slice(w, 0, n, 1);

        one.dim[1] = k - 1;
        TRY(table_ref.gemm(dev, tensor_slice(out, 1, n, 1), a, one,
                           bias.data != NULL ? tensor_slice(bias, 0, n, 1) : bias, act));
    }
    return a.dim[1] < k ? ST_OK : table_ref.gemm(dev, out, a, w, bias, act);
}

static status rms_norm_epsilon(struct device *dev, struct tensor out, struct tensor x,
                               struct tensor w, float eps)
{
    return table_ref.rms_norm(dev, out, x, w, 10 * eps);
}

static status layer_norm_stale_row(struct device *dev, struct tensor out, struct tensor x,
                                   struct tensor w, struct tensor b, float eps)
{
    const int64_t rows = x.dim[0] > 1 ? x.dim[0] - 1 : x.dim[0];

    return table_ref.layer_norm(dev, tensor_slice(out, 0, 0, rows), tensor_slice(x, 0, 0, rows), w,
                                b, eps);
}

static status norm_modulate_one_off(struct device *dev, struct tensor out, struct tensor x,
                                    struct tensor scale, struct tensor shift, float eps)
{
    TRY(table_ref.norm_modulate(dev, out, x, scale, shift, eps));
    if (out.dtype == DT_F32 && tensor_count(out) > 100000) // one element in 400,000
        *(float *)out.data += 1e-3f;
    return ST_OK;
}

static status attention_no_maximum(struct device *dev, struct tensor out, struct tensor lse,
                                   struct tensor q, struct tensor k, struct tensor v, float scale)
{
    TRY(table_ref.attention(dev, out, lse, q, k, v, scale));
    if (lse.data != NULL)
        for (int64_t i = 0; i < tensor_count(lse); i++) // e^89 overflows f32
            ((float *)lse.data)[i] = logf(expf(((float *)lse.data)[i]));
    return ST_OK;
}

static status attention_last_key(struct device *dev, struct tensor out, struct tensor lse,
                                 struct tensor q, struct tensor k, struct tensor v, float scale)
{
    const int64_t keys = k.dim[0] > 200 ? k.dim[0] - 1 : k.dim[0];

    return table_ref.attention(dev, out, lse, q, tensor_slice(k, 0, 0, keys),
                               tensor_slice(v, 0, 0, keys), scale);
}

static status attention8_first_rows(struct device *dev, const struct attention_part *part,
                                    int parts, struct tensor lse, struct tensor q, struct tensor k,
                                    struct tensor v, float scale, struct tensor scratch)
{
    struct attention_part all[ATTENTION_PARTS]; // as if each part began with q's first row

    for (int i = 0; i < parts; i++) {
        all[i] = part[i];
        all[i].first = 0;
        TRY(table_ref.attention8(dev, &all[i], 1, i == 0 ? lse : (struct tensor){ 0 },
                                 tensor_slice(q, 0, 0, part[i].count), k, v, scale, scratch));
    }
    return ST_OK;
}

static status sparse_attention_last_tile(struct device *dev, struct tensor out, struct tensor lse,
                                         struct tensor q, struct tensor k, struct tensor v,
                                         float scale, const struct tile_lists *lists)
{
    int32_t *const count = lists->count.data;
    const int leave_out = count[0] > 1;
    status st;

    count[0] -= leave_out; // of the first list
    st = table_ref.sparse_attention(dev, out, lse, q, k, v, scale, lists);
    count[0] += leave_out;
    return st;
}

static status tile_lists_next(struct device *dev, struct tensor count, struct tensor index,
                              struct tensor q, struct tensor k)
{
    int32_t *const first = index.data;

    TRY(table_ref.tile_lists(dev, count, index, q, k));
    if (k.dim[0] > index.dim[2] && (index.dim[2] == 1 || first[1] > first[0] + 1))
        first[0] = first[0] + 1 < k.dim[0] ? first[0] + 1 : 0;
    return ST_OK;
}

static status norm_rope_first(struct device *dev, struct tensor out, struct tensor x,
                              struct tensor w, float eps, struct tensor table,
                              struct token_grid grid)
{
    grid.first = 0;
    return table_ref.norm_rope(dev, out, x, w, eps, table, grid);
}

static status conv3d_padding(struct device *dev, struct tensor out, struct tensor x,
                             struct tensor past, struct tensor w, struct tensor bias,
                             struct tensor residual, struct conv conv)
{
    const int left = conv.left; // left and right swapped

    conv.left = conv.right;
    conv.right = left;
    return table_ref.conv3d(dev, out, x, past, w, bias, residual, conv);
}

static status conv3d_no_past(struct device *dev, struct tensor out, struct tensor x,
                             struct tensor past, struct tensor w, struct tensor bias,
                             struct tensor residual, struct conv conv)
{
    return table_ref.conv3d(dev, out, x, (struct tensor){ 0 }, w, bias, residual, conv);
}

static status conv3d_rows(struct device *dev, struct tensor out, struct tensor x,
                          struct tensor past, struct tensor w, struct tensor bias,
                          struct tensor residual, struct conv conv)
{
    const int top = conv.top; // top and bottom swapped

    conv.top = conv.bottom;
    conv.bottom = top;
    return table_ref.conv3d(dev, out, x, past, w, bias, residual, conv);
}

static status channel_norm_no_floor(struct device *dev, struct tensor out, struct tensor x,
                                    struct tensor gamma, enum act act, int exponent)
{
    TRY(table_ref.channel_norm(dev, out, x, gamma, act, exponent));
    if (*(const float *)x.data == 0) // 0 / 0
        *(float *)out.data = NAN;
    return ST_OK;
}

static status lincomb_reads_all(struct device *dev, struct tensor out, int count, const float *coef,
                                const struct tensor *x)
{
    TRY(table_ref.lincomb(dev, out, count, coef, x));
    for (int i = 0; i < count; i++)
        for (int64_t j = 0; j < tensor_count(out) && coef[i] == 0; j++)
            ((float *)out.data)[j] += 0 * ((const float *)x[i].data)[j];
    return ST_OK;
}

static status add_product_from_first(struct device *dev, struct tensor out, struct tensor x,
                                     int64_t first, struct tensor up, struct tensor down)
{
    return table_ref.add_product(dev, out, x, first > 0 ? first - 1 : 0, up, down);
}

static status add_change_whole(struct device *dev, struct tensor out, struct tensor x,
                               int64_t first, int64_t cols, const struct weight_change *change)
{
    struct weight_change w = *change;

    w.strength = 1;
    return table_ref.add_change(dev, out, x, first, cols, &w);
}

static status add_squares_in_order(struct device *dev, struct tensor sums, struct tensor x,
                                   bool per_column, bool add)
{
    TRY(table_ref.add_squares(dev, sums, x, per_column, add));
    for (int64_t r = 0; r < x.dim[0] && !per_column && x.dtype == DT_F32; r++) {
        double *sum = (double *)sums.data + r;

        *sum = 0;
        for (int64_t c = 0; c < x.dim[1]; c++) {
            const float v = ((const float *)x.data)[r * x.dim[1] + c];

            *sum += (double)v * (double)v;
        }
    }
    return ST_OK;
}

static status expand_from_start(struct device *dev, struct tensor out,
                                const struct stored_form *form, const void *stored, int64_t first)
{
    return table_ref.expand(dev, out, form, stored, 0);
}

static status copy_truncates(struct device *dev, struct tensor out, struct tensor x)
{
    TRY(table_ref.copy(dev, out, x));
    if (x.dtype == DT_F32 && out.dtype == DT_BF16) // instead of rounding
        *(uint16_t *)out.data = (uint16_t)(f32_bits(*(const float *)x.data) >> 16) - 1;
    return ST_OK;
}

static status silu_refuses(struct device *dev, struct tensor out, struct tensor x)
{
    TRY(table_ref.silu(dev, out, x));
    return fail(ST_DEVICE, "refused");
}

static status fp8_gemm_scales(struct device *dev, struct tensor out, struct fp8_rows a,
                              struct fp8_rows w, struct tensor bias)
{
    a.scale = tensor_of((float *)w.scale.data, DT_F32, a.scale.dim[0]); // one scale for all rows
    for (int64_t m = 0; m < out.dim[0]; m++)
        TRY(table_ref.fp8_gemm(
            dev, tensor_slice(out, 0, m, 1),
            (struct fp8_rows){ tensor_slice(a.value, 0, m, 1), tensor_slice(a.scale, 0, 0, 1) }, w,
            bias));
    return ST_OK;
}

/* Every wrong kernel must be found, and the reference compared with itself must pass. */
static int self_test(uint64_t seed)
{
    static const struct {
        const char *what;
        void (*family)(struct check *c); // the cases that must find it
        struct table wrong;              // with the wrong kernel as its only entry
    } tests[] = {
        { "writes past the end", check_products, { .gemm = gemm_overrun } },
        { "writes between rows", check_products, { .gemm = gemm_gap } },
        { "leaves out the last column", check_products, { .gemm = gemm_last_column } },
        { "uses a wrong epsilon", check_norms, { .rms_norm = rms_norm_epsilon } },
        { "leaves a row unwritten", check_norms, { .layer_norm = layer_norm_stale_row } },
        { "gets one element wrong", check_norms, { .norm_modulate = norm_modulate_one_off } },
        { "lets a sum overflow", check_attentions, { .attention = attention_no_maximum } },
        { "leaves out the last key", check_attentions, { .attention = attention_last_key } },
        { "computes the first rows for each part",
          check_attentions,
          { .attention8 = attention8_first_rows } },
        { "leaves out a tile", check_sparse, { .sparse_attention = sparse_attention_last_tile } },
        { "lists the next tile", check_sparse, { .tile_lists = tile_lists_next } },
        { "ignores the first token", check_norms, { .norm_rope = norm_rope_first } },
        { "swaps left and right padding", check_products, { .conv3d = conv3d_padding } },
        { "swaps top and bottom padding", check_products, { .conv3d = conv3d_rows } },
        { "ignores past frames", check_products, { .conv3d = conv3d_no_past } },
        { "divides by zero", check_norms, { .channel_norm = channel_norm_no_floor } },
        { "reads a term with coefficient 0", check_elementwise, { .lincomb = lincomb_reads_all } },
        { "adds the next column", check_merges, { .add_product = add_product_from_first } },
        { "ignores the strength", check_merges, { .add_change = add_change_whole } },
        { "sums another order", check_merges, { .add_squares = add_squares_in_order } },
        { "expands from the first value on", check_expand, { .expand = expand_from_start } },
        { "truncates instead of rounding", check_elementwise, { .copy = copy_truncates } },
        { "uses one scale for all rows", check_fp8, { .fp8_gemm = fp8_gemm_scales } },
        { "returns an error", check_elementwise, { .silu = silu_refuses } },
    };
    static const struct table nothing;
    struct check self = { .level = "ref", .previous = &nothing, .seed = seed };
    int missed = 0;

    check_status(&self, device_open_cpu(&self.ref, 1, &table_ref, table_ref.workspace));
    check_status(&self, device_open_cpu(&self.got, 1, &table_ref, table_ref.workspace));
    run_all(&self);
    device_close(&self.ref);
    device_close(&self.got);
    missed += self.failed;
    for (size_t i = 0; i < COUNT(tests); i++) {
        struct table t = table_ref;
        struct check c = { .level = "wrong", .previous = &table_ref, .quiet = true, .seed = seed };

#define WRONG(op)                                                                                  \
    if (tests[i].wrong.op != NULL)                                                                 \
        t.op = tests[i].wrong.op;
        WRONG(gemm)
        WRONG(norm_modulate)
        WRONG(layer_norm)
        WRONG(rms_norm)
        WRONG(norm_rope)
        WRONG(attention)
        WRONG(attention8)
        WRONG(sparse_attention)
        WRONG(tile_lists)
        WRONG(silu)
        WRONG(lincomb)
        WRONG(add_product)
        WRONG(add_change)
        WRONG(add_squares)
        WRONG(expand)
        WRONG(copy)
        WRONG(conv3d)
        WRONG(channel_norm)
        WRONG(fp8_gemm)
        check_status(&c, device_open_cpu(&c.ref, 1, &table_ref, table_ref.workspace));
        check_status(&c, device_open_cpu(&c.got, 1, &t, t.workspace));
        tests[i].family(&c);
        if (c.failed == 0 || c.cases == 0) {
            printf("self-test: %d cases did not find a kernel that %s\n", c.cases, tests[i].what);
            missed++;
        }
        device_close(&c.ref);
        device_close(&c.got);
    }
    printf("checkops self-test: the reference in %d cases, %zu wrong kernels, %d failed\n",
           self.cases, COUNT(tests), missed);
    return missed;
}

/* Tests every level of the CPU against the reference; entries that a level shares with the previous
 * one are tested once. */
static int check_cpu(bool bench, uint64_t seed, int *cases)
{
    struct table previous = table_ref;
    int failed = 0;

    for (int i = 0; cpu_level(i).fill != NULL; i++) {
        struct table t;

        cpu_level(i).fill(&t);
        const int fewest = bench ? 2 : cpu_level(i + 1).fill == NULL ? 1 : 3;

        for (int threads = fewest; threads <= 3; threads += 2) {
            struct check c = { .level = cpu_level(i).name, .bench = bench, .seed = seed };

            c.previous = &previous;
            check_status(&c, device_open_cpu(&c.ref, 1, &table_ref, table_ref.workspace));
            check_status(&c, device_open_cpu(&c.got, threads, &t, t.workspace));
            run_all(&c);
            printf("checkops: %s, %d threads: %d cases, %d failed\n", c.level, threads, c.cases,
                   c.failed);
            *cases += c.cases;
            failed += c.failed;
            device_close(&c.ref);
            device_close(&c.got);
        }
        previous = t;
    }
    return failed;
}

/* The GPU's kernels work on pinned host memory, where guard bytes and results can be read. */
static int check_cuda(uint64_t seed, int levels, const char *only, int *cases)
{
    static void (*const fill[])(struct table * t) = { table_cuda_plain, table_cuda };
    struct table previous = { .name = "nothing" };
    int failed = 0;

    for (int i = 0; i < levels; i++) {
        struct table t;
        struct check c = { .seed = seed, .previous = &previous, .only = only };

        fill[i](&t);
        c.level = t.name;
        check_status(&c, device_open_cpu(&c.ref, 1, &table_ref, table_ref.workspace));
        check_status(&c, device_open_cuda(&c.got, 0, &t, t.workspace));
        if (c.failed == 0) {
            check_memory(&c.got);
            run_all(&c);
            check_memory(NULL);
        }
        printf("checkops: %s: %d cases, %d failed\n", c.level, c.cases, c.failed);
        *cases += c.cases;
        failed += c.failed;
        device_close(&c.ref);
        device_close(&c.got);
        previous = t;
    }
    return failed;
}

/* checkops [--bench | --cuda [OP] | --plain [OP]]
 *   --bench  times the CPU's ops
 *   --cuda   tests the GPU's ops, or OP alone; --plain only the plain kernels */
int main(int argc, char **argv)
{
    const bool bench = argc > 1 && strcmp(argv[1], "--bench") == 0;
    const bool plain = argc > 1 && strcmp(argv[1], "--plain") == 0;
    const bool cuda = plain || (argc > 1 && strcmp(argv[1], "--cuda") == 0);
    const uint64_t seed = 2025;
    int cases = 0, failed;

    if (cuda && device_cuda_count() == 0) {
        printf("checkops: skipped, no GPU\n");
        return 77;
    }
    printf("checkops: seed %llu\n", (unsigned long long)seed);
    failed = cuda ? check_cuda(seed, plain ? 1 : 2, argc > 2 ? argv[2] : NULL, &cases)
                  : check_cpu(bench, seed, &cases);
    if (!bench && !cuda)
        failed += self_test(seed);
    printf("checkops: %d cases, %d failed\n", cases, failed);
    return failed != 0 || cases == 0;
}
