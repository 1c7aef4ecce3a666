/* bench_dense [products | rows] [SECONDS]
 *
 * The GPU's matrix products and row ops at the transformers' real sizes, each repeated for SECONDS
 * (default 0.3) on random numbers, and compared with a plain copy and with the product of two large
 * square matrices in the same run. */
#include "kernels/table.h"
#include "runtime/arena.h"
#include "runtime/clock.h"
#include "runtime/half.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double seconds = 0.3;
static double copy_rate, product_rate; // the ceilings, B/s and FLOP/s

static void need(status st)
{
    if (st != ST_OK) {
        printf("bench_dense: %s\n", status_line());
        exit(1);
    }
}

/* Approximately normal: the sum of four uniform numbers. */
static float draw(void)
{
    static uint64_t state = 2025;
    float sum = 0;

    for (int i = 0; i < 4; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        sum += (float)(state >> 40) / (float)(1 << 24) - 0.5f;
    }
    return sum * 1.732f;
}

#define BLOCK ((int64_t)1 << 20) // random numbers, repeated to fill a tensor

static struct tensor random_tensor(struct device *dev, struct arena *a, enum dtype dt, float size,
                                   int64_t rows, int64_t cols)
{
    static char block[BLOCK * sizeof(float)];
    const int64_t count = rows * cols;
    struct tensor t;

    need(arena_take(a, &t, dt, count));
    for (int64_t i = 0; i < BLOCK && i < count; i++) {
        if (dt == DT_BF16)
            ((uint16_t *)block)[i] = bf16_from_f32(draw() * size);
        else
            ((float *)block)[i] = draw() * size;
    }
    for (int64_t i = 0; i < count; i += BLOCK)
        need(device_upload(dev, tensor_slice(t, 0, i, count - i < BLOCK ? count - i : BLOCK),
                           block));
    return tensor_reshape(t, rows, cols);
}

/* Sets `result` to the mean seconds of `call`, repeated for `seconds`. */
#define TIME(result, call)                                                                         \
    do {                                                                                           \
        double spent_ = 0;                                                                         \
        need(call);                                                                                \
        need(device_wait(dev));                                                                    \
        for (int count_ = 1; spent_ < seconds;                                                     \
             count_ = spent_ <= 0 || seconds / spent_ > 8                                          \
                          ? 8 * count_                                                             \
                          : (int)(count_ * 1.1 * seconds / spent_) + 1) {                          \
            const double start_ = clock_seconds();                                                 \
            for (int i_ = 0; i_ < count_; i_++)                                                    \
                need(call);                                                                        \
            need(device_wait(dev));                                                                \
            spent_ = clock_seconds() - start_;                                                     \
            result = spent_ / count_;                                                              \
        }                                                                                          \
    } while (0)

static void ceilings(struct device *dev, struct arena *a)
{
    const size_t mark = a->used;
    const int64_t n = 8192;
    const struct tensor x = random_tensor(dev, a, DT_BF16, 1, n, n);
    const struct tensor w = random_tensor(dev, a, DT_BF16, 0.02f, n, n);
    struct tensor from, to, out;
    double t = 0;

    need(arena_take(a, &out, DT_BF16, n, n));
    need(arena_take(a, &from, DT_BF16, (int64_t)1 << 30));
    need(arena_take(a, &to, DT_BF16, (int64_t)1 << 30));
    need(device_zero(dev, from));
    TIME(t, op_copy(dev, to, from));
    copy_rate = 2 * (double)tensor_bytes(from) / t;
    TIME(t, op_gemm(dev, out, x, w, (struct tensor){ 0 }, ACT_NONE));
    product_rate = 2.0 * (double)(n * n * n) / t;
    printf("copy %.0f GB/s, 8192 x 8192 x 8192 %.0f TFLOP/s\n", copy_rate * 1e-9,
           product_rate * 1e-12);
    arena_release(a, mark);
}

struct product {
    const char *name;
    int64_t n, k;
    enum dtype dt;
    enum act act;
};

static void bench_product(struct device *dev, struct arena *a, const struct product *p, int64_t m)
{
    const size_t mark = a->used;
    const struct tensor x = random_tensor(dev, a, p->dt, 1, m, p->k);
    const struct tensor w = random_tensor(dev, a, p->dt, 0.02f, p->n, p->k);
    const struct tensor b = tensor_at(random_tensor(dev, a, p->dt, 1, 1, p->n), 0);
    struct tensor out;
    double t = 0;

    need(arena_take(a, &out, p->dt, m, p->n));
    TIME(t, op_gemm(dev, out, x, w, b, p->act));
    const double rate = 2.0 * (double)m * (double)p->n * (double)p->k / t;
    printf("%-16s %6lld x %5lld x %5lld %9.3f ms %7.1f TFLOP/s %5.1f %%\n", p->name, (long long)m,
           (long long)p->n, (long long)p->k, t * 1e3, rate * 1e-12, 100 * rate / product_rate);
    arena_release(a, mark);
}

static void bench_products(struct device *dev, struct arena *a)
{
    static const struct product wan[][4] = {
        { { "14B qkv", 15360, 5120, DT_BF16, ACT_NONE },
          { "14B o", 5120, 5120, DT_BF16, ACT_NONE },
          { "14B up, gelu", 13824, 5120, DT_BF16, ACT_GELU_TANH },
          { "14B down", 5120, 13824, DT_BF16, ACT_NONE } },
        { { "1.3B qkv", 4608, 1536, DT_BF16, ACT_NONE },
          { "1.3B o", 1536, 1536, DT_BF16, ACT_NONE },
          { "1.3B up, gelu", 8960, 1536, DT_BF16, ACT_GELU_TANH },
          { "1.3B down", 1536, 8960, DT_BF16, ACT_NONE } },
    };
    static const int64_t rows[] = { 75600, 32760, 16380, 8190, 4095, 18900, 9450 };
    static const struct product text[] = {
        { "umT5 q, k, v, o", 4096, 4096, DT_BF16, ACT_NONE },
        { "umT5 up", 10240, 4096, DT_BF16, ACT_NONE },
        { "umT5 down", 4096, 10240, DT_BF16, ACT_NONE },
        { "14B text k, v", 10240, 5120, DT_BF16, ACT_NONE },
    };
    static const struct product wide[] = {
        { "14B head f32", 64, 5120, DT_F32, ACT_NONE },
        { "1.3B head f32", 64, 1536, DT_F32, ACT_NONE },
    };
    static const struct product time_mod = { "14B time f32", 30720, 5120, DT_F32, ACT_NONE };

    for (size_t model = 0; model < COUNT(wan); model++)
        for (size_t m = 0; m < COUNT(rows); m++)
            for (size_t i = 0; i < COUNT(wan[0]); i++)
                bench_product(dev, a, &wan[model][i], rows[m]);
    for (size_t i = 0; i < COUNT(text); i++)
        bench_product(dev, a, &text[i], 512);
    for (size_t i = 0; i < COUNT(wide); i++)
        for (size_t m = 0; m < 3; m++)
            bench_product(dev, a, &wide[i], rows[m]);
    bench_product(dev, a, &time_mod, 50);
}

/* `bytes`: the minimum that the call must read and write. */
#define ROW_OP(name, bytes, call)                                                                  \
    do {                                                                                           \
        double t_ = 0;                                                                             \
        TIME(t_, call);                                                                            \
        const double rate_ = (bytes) / t_;                                                         \
        printf("%-28s %6lld x %5lld %9.3f ms %7.0f GB/s %5.1f %%\n", name, (long long)s,           \
               (long long)c, t_ * 1e3, rate_ * 1e-9, 100 * rate_ / copy_rate);                     \
    } while (0)

static void bench_rows(struct device *dev, struct arena *a, int64_t s, int64_t c)
{
    const size_t mark = a->used;
    const struct tensor none = { 0 };
    const struct tensor x = random_tensor(dev, a, DT_F32, 1, s, c);
    const struct tensor y = random_tensor(dev, a, DT_BF16, 1, s, c);
    const struct tensor qkv = random_tensor(dev, a, DT_BF16, 1, s, 3 * c);
    const struct tensor vec = tensor_at(random_tensor(dev, a, DT_F32, 1e-3f, 1, c), 0);
    const struct tensor rope =
        tensor_reshape(random_tensor(dev, a, DT_F32, 1, 128, 128), 128, 64, 2);
    const struct token_grid grid = { 32, 48, 80, 0 };
    const struct tensor q = tensor_slice(qkv, 1, 0, c);
    const double n = (double)(s * c);
    const int64_t heads = c / 128, part = heads / 4;
    struct tensor h, to;

    need(arena_take(a, &h, DT_BF16, s, c));
    need(arena_take(a, &to, DT_F32, s, c));
    ROW_OP("norm_modulate f32 to bf16", 6 * n, op_norm_modulate(dev, h, x, vec, vec, 1e-6f));
    ROW_OP("layer_norm f32 to bf16", 6 * n, op_layer_norm(dev, h, x, vec, vec, 1e-6f));
    ROW_OP("norm_modulate f32", 8 * n, op_norm_modulate(dev, to, x, vec, vec, 1e-6f));
    ROW_OP("gate_add", 10 * n, op_gate_add(dev, x, x, y, vec));
    ROW_OP("add_norm_modulate", 12 * n,
           op_add_norm_modulate(dev, h, x, x, y, vec, vec, vec, 1e-6f));
    ROW_OP("add_layer_norm", 12 * n, op_add_layer_norm(dev, h, x, x, y, none, vec, vec, 1e-6f));
    ROW_OP("rms_norm", 4 * n, op_rms_norm(dev, y, y, vec, 1e-6f));
    ROW_OP("norm_rope", 4 * n,
           op_norm_rope(dev, tensor_split(q, 1, 2 * rope.dim[1]), q, vec, 1e-6f, rope, grid));
    ROW_OP("copy f32 to bf16", 6 * n, op_copy(dev, h, x));
    ROW_OP("copy bf16 to f32", 6 * n, op_copy(dev, to, y));
    ROW_OP("copy bf16 rows of 3C", 4 * n, op_copy(dev, h, q));
    // heads grouped by rank, as before an all-to-all: [S, P, N/P * D] to [P, S, N/P * D]
    const struct tensor split = tensor_split(tensor_slice(q, 1, 0, 4 * part * 128), 1, part * 128);
    const struct tensor packed = tensor_of(h.data, DT_BF16, (int64_t)4, s, part * 128);
    ROW_OP("copy heads to 4 ranks", 4 * n * (double)(4 * part) / (double)heads,
           op_copy(dev, packed, tensor_permute(split, (const int[]){ 1, 0, 2 })));
    const struct tensor acc = tensor_split(x, 1, 128), more = tensor_split(y, 1, 128);
    const struct tensor la = random_tensor(dev, a, DT_F32, 1, s, heads);
    const struct tensor lb = random_tensor(dev, a, DT_F32, 1, s, heads);
    ROW_OP("attention_merge", 10 * n, op_attention_merge(dev, acc, la, more, lb));
    arena_release(a, mark);
}

int main(int argc, char **argv)
{
    static const int64_t rows[] = { 75600, 32760, 8190 };
    const char *what = argc > 1 ? argv[1] : "all";
    struct table table;
    struct device dev;
    struct arena a;

    if (argc > 2)
        seconds = atof(argv[2]);
    setvbuf(stdout, NULL, _IOLBF, 0);
    table_cuda(&table);
    need(device_open_cuda(&dev, 0, &table, table.workspace));
    need(arena_init(&a, &dev, "bench", (size_t)20 << 30));
    ceilings(&dev, &a);
    if (strcmp(what, "rows") != 0)
        bench_products(&dev, &a);
    for (size_t i = 0; i < COUNT(rows) && strcmp(what, "products") != 0; i++) {
        bench_rows(&dev, &a, rows[i], 5120);
        bench_rows(&dev, &a, rows[i], 1536);
    }
    ceilings(&dev, &a);
    arena_done(&a);
    device_close(&dev);
    return 0;
}
