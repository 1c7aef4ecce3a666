/* bench_block THREADS REPEATS
 * bench_block cuda 14B|1.3B TOKENS [SECONDS]
 *
 * A transformer block, op by op. On the CPU: the 1.3B model's block on 2,048 tokens in f32; minimum
 * over the repeats for each op and for the whole block, in wall time and in processor time.
 * bench/peer_block.py runs it alternating with PyTorch. On a GPU: in bf16, each op repeated for
 * SECONDS (default 0.5), then the whole block, at the GPU clock that this mixture of ops allows. */
#include "kernels/table.h"
#include "runtime/arena.h"
#include "runtime/clock.h"
#include "runtime/half.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT 512
#define HEAD 128

struct shape {
    const char *name;
    int64_t tokens, dim, ffn;
    enum dtype cdt;
};

static void need(status st)
{
    if (st != ST_OK) {
        printf("bench_block: %s\n", status_line());
        exit(1);
    }
}

/* Fills `t` with one array of random numbers, repeated. */
static void fill(struct device *dev, struct tensor t, float size)
{
    static float random[1 << 20];
    static uint16_t narrow[COUNT(random)];
    const int64_t count = tensor_count(t), step = COUNT(random);
    const struct tensor flat = tensor_reshape(t, count);

    for (int64_t i = 0; i < step && i < count; i++) {
        random[i] = ((float)rand() / (float)RAND_MAX * 2 - 1) * size;
        narrow[i] = bf16_from_f32(random[i]);
    }
    for (int64_t i = 0; i < count; i += step)
        need(device_upload(dev, tensor_slice(flat, 0, i, count - i < step ? count - i : step),
                           t.dtype == DT_BF16 ? (void *)narrow : random));
}

static struct tensor random_tensor(struct device *dev, struct arena *a, enum dtype dt, float size,
                                   int ndim, const int64_t *dim)
{
    struct tensor t;

    need(arena_take_dims(a, &t, dt, ndim, dim));
    fill(dev, t, size);
    return t;
}

#define RANDOM(dt, size, ...)                                                                      \
    random_tensor(dev, a, dt, size, (int)(sizeof((int64_t[]){ __VA_ARGS__ }) / sizeof(int64_t)),   \
                  (int64_t[]){ __VA_ARGS__ })

struct linear {
    struct tensor w, b;
};

/* Tensors and weights of a block. */
struct block {
    struct shape shape;
    struct tensor x, h, y, att, q, k, v, text, kv, tk, tv, wide, vec, rope;
    struct linear self_q, self_k, self_v, o, text_q, text_kv, text_o, up, down;
    struct token_grid grid;
};

static struct linear linear(struct device *dev, struct arena *a, enum dtype dt, int64_t out,
                            int64_t in)
{
    return (struct linear){ RANDOM(dt, 0.04f, out, in), RANDOM(dt, 0.1f, out) };
}

static struct block make_block(struct device *dev, struct arena *a, const struct shape *shape)
{
    const int64_t s = shape->tokens, c = shape->dim, f = shape->ffn;
    const enum dtype dt = shape->cdt;
    struct block b = {
        .shape = *shape,
        .x = RANDOM(DT_F32, 1, s, c),
        .h = RANDOM(dt, 1, s, c),
        .y = RANDOM(dt, 1, s, c),
        .att = RANDOM(dt, 1, s, c),
        .q = RANDOM(dt, 1, s, c),
        .k = RANDOM(dt, 1, s, c),
        .v = RANDOM(dt, 1, s, c),
        .text = RANDOM(dt, 1, TEXT, c),
        .kv = RANDOM(dt, 1, TEXT, 2 * c),
        .wide = RANDOM(dt, 1, s, f),
        .vec = RANDOM(DT_F32, 0.1f, c),
        .rope = RANDOM(DT_F32, 1, 128, HEAD / 2, 2),
        .self_q = linear(dev, a, dt, c, c),
        .self_k = linear(dev, a, dt, c, c),
        .self_v = linear(dev, a, dt, c, c),
        .o = linear(dev, a, dt, c, c),
        .text_q = linear(dev, a, dt, c, c),
        .text_kv = linear(dev, a, dt, 2 * c, c),
        .text_o = { RANDOM(dt, 0.04f, c, c), RANDOM(DT_F32, 0.1f, c) },
        .up = linear(dev, a, dt, f, c),
        .down = linear(dev, a, dt, c, f),
        .grid = { 32, 48, 80, 0 },
    };

    b.tk = tensor_slice(b.kv, 1, 0, c);
    b.tv = tensor_slice(b.kv, 1, c, c);
    return b;
}

#define HEADS_OF(t) tensor_split(t, 1, HEAD)
#define STEPS 16 // of a block
#define ALL_STEPS                                                                                  \
    18 // and the text's k and v: computed once per run; PyTorch computes them each time
#define SELF_ATTENTION 5
#define CROSS_ATTENTION 10

static const char *const step_names[ALL_STEPS] = {
    "v",
    "k",
    "k norm, rope",
    "q",
    "q norm, rope",
    "self attention",
    "o",
    "gate, add, norm",
    "cross q",
    "q norm",
    "cross attention",
    "cross o, add",
    "norm, modulate",
    "ffn up, gelu",
    "ffn down",
    "gate, add, norm",
    "text k, v",
    "text k norm",
};

/* Queues one op, in the model's order. */
static status run_step(struct device *dev, const struct block *b, int step)
{
    const struct tensor none = { 0 }, vec = b->vec;
    const float scale = 0.08838835f, eps = 1e-6f;

    switch (step) {
    case 0:
        return op_gemm(dev, b->v, b->h, b->self_v.w, b->self_v.b, ACT_NONE);
    case 1:
        return op_gemm(dev, b->k, b->h, b->self_k.w, b->self_k.b, ACT_NONE);
    case 2:
        return op_norm_rope(dev, HEADS_OF(b->k), b->k, vec, eps, b->rope, b->grid);
    case 3:
        return op_gemm(dev, b->q, b->h, b->self_q.w, b->self_q.b, ACT_NONE);
    case 4:
        return op_norm_rope(dev, HEADS_OF(b->q), b->q, vec, eps, b->rope, b->grid);
    case SELF_ATTENTION:
        return op_attention(dev, HEADS_OF(b->att), none, HEADS_OF(b->q), HEADS_OF(b->k),
                            HEADS_OF(b->v), scale);
    case 6:
        return op_gemm(dev, b->y, b->att, b->o.w, b->o.b, ACT_NONE);
    case 7:
        return op_add_layer_norm(dev, b->h, b->x, b->x, b->y, vec, vec, vec, eps);
    case 8:
        return op_gemm(dev, b->y, b->h, b->text_q.w, b->text_q.b, ACT_NONE);
    case 9:
        return op_rms_norm(dev, b->y, b->y, vec, eps);
    case CROSS_ATTENTION:
        return op_attention(dev, HEADS_OF(b->att), none, HEADS_OF(b->y), HEADS_OF(b->tk),
                            HEADS_OF(b->tv), scale);
    case 11:
        return op_gemm_add(dev, b->x, b->att, b->text_o.w, b->text_o.b);
    case 12:
        return op_norm_modulate(dev, b->h, b->x, vec, vec, eps);
    case 13:
        return op_gemm(dev, b->wide, b->h, b->up.w, b->up.b, ACT_GELU_TANH);
    case 14:
        return op_gemm(dev, b->y, b->wide, b->down.w, b->down.b, ACT_NONE);
    case 15:
        return op_add_norm_modulate(dev, b->h, b->x, b->x, b->y, vec, vec, vec, eps);
    case 16:
        return op_gemm(dev, b->kv, b->text, b->text_kv.w, b->text_kv.b, ACT_NONE);
    default:
        return op_rms_norm(dev, b->tk, b->tk, vec, eps);
    }
}

struct timing {
    double seconds, flops;
};

static void print_steps(const struct timing *t, int steps, double scale)
{
    for (int i = 0; i < steps; i++)
        printf("  %-20s %9.3f ms %8.1f %s\n", step_names[i], t[i].seconds * 1e3,
               t[i].flops / t[i].seconds / scale, scale > 1e11 ? "TFLOP/s" : "GFLOP/s");
}

/* Minimum time of each op and of the block. */
static void bench_cpu(struct device *dev, const struct block *b, int repeats)
{
    struct timing least[ALL_STEPS];
    double whole = 1e30, whole_used = 1e30;

    for (int i = 0; i < ALL_STEPS; i++)
        least[i].seconds = 1e30;
    for (int r = 0; r < repeats; r++) {
        const double start = clock_seconds(), start_used = clock_cpu_seconds();

        for (int i = 0; i < ALL_STEPS; i++) {
            const double flops = dev->flops, begun = clock_seconds();

            need(run_step(dev, b, i));
            least[i].seconds = fmin(least[i].seconds, clock_seconds() - begun);
            least[i].flops = dev->flops - flops;
        }
        whole = fmin(whole, clock_seconds() - start);
        whole_used = fmin(whole_used, clock_cpu_seconds() - start_used);
    }
    print_steps(least, ALL_STEPS, 1e9);
    printf("block %.4f s, %.4f s of processor time\n", whole, whole_used);
}

/* Mean seconds of a step, or of the block with step < 0, repeated for `seconds`. */
static double sustained(struct device *dev, const struct block *b, int step, double seconds)
{
    int count = 1;

    for (;;) {
        double start, spent;

        need(device_wait(dev));
        start = clock_seconds();
        for (int i = 0; i < count; i++) {
            if (step >= 0)
                need(run_step(dev, b, step));
            for (int all = 0; step < 0 && all < STEPS; all++)
                need(run_step(dev, b, all));
        }
        need(device_wait(dev));
        spent = clock_seconds() - start;
        if (spent >= seconds)
            return spent / count;
        count = spent * 4 < seconds ? count * 4 : (int)(count * 1.2 * seconds / spent) + 1;
    }
}

static void bench_gpu(struct device *dev, const struct block *b, double seconds)
{
    struct timing t[STEPS];
    double sum = 0, flops = 0, attention = 0, whole;

    for (int i = 0; i < STEPS; i++) {
        const double before = dev->flops;

        fill(dev, b->x, 1); // in-place ops change these at every repetition
        fill(dev, b->q, 1);
        fill(dev, b->k, 1);
        need(run_step(dev, b, i));
        t[i].flops = dev->flops - before;
        t[i].seconds = sustained(dev, b, i, seconds);
        sum += t[i].seconds;
        flops += t[i].flops;
        attention += i == SELF_ATTENTION || i == CROSS_ATTENTION ? t[i].seconds : 0;
    }
    whole = sustained(dev, b, -1, 4 * seconds);
    print_steps(t, STEPS, 1e12);
    printf("%s, %lld tokens: block %.3f ms, %.1f TFLOP/s; sum of the single ops %.3f ms, of which "
           "attention %.3f, other ops %.3f\n",
           b->shape.name, (long long)b->shape.tokens, whole * 1e3, flops / whole * 1e-12, sum * 1e3,
           attention * 1e3, (sum - attention) * 1e3);
}

static int bench(struct device *dev, const struct shape *shape, int repeats, double seconds)
{
    const double bytes = (double)shape->tokens * (double)(8 * shape->dim + shape->ffn) * 4 +
                         (double)(8 * shape->dim + 2 * shape->ffn) * (double)shape->dim * 4;
    struct arena a;
    struct block b;

    need(arena_init(&a, dev, "bench", (size_t)(bytes * 1.2) + ((size_t)64 << 20)));
    b = make_block(dev, &a, shape);
    if (repeats > 0)
        bench_cpu(dev, &b, repeats);
    else
        bench_gpu(dev, &b, seconds);
    arena_done(&a);
    device_close(dev);
    return 0;
}

int main(int argc, char **argv)
{
    const bool cuda = argc >= 4 && strcmp(argv[1], "cuda") == 0;
    const bool large = cuda && strcmp(argv[2], "14B") == 0;
    const struct shape shape = { .name = large ? "14B" : "1.3B",
                                 .tokens = cuda ? atoi(argv[3]) : 2048,
                                 .dim = large ? 5120 : 1536,
                                 .ffn = large ? 13824 : 8960,
                                 .cdt = cuda ? DT_BF16 : DT_F32 };
    struct table table;
    struct device dev;

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (cuda && shape.tokens > 0) {
        table_cuda(&table);
        need(device_open_cuda(&dev, 0, &table, table.workspace));
        return bench(&dev, &shape, 0, argc > 4 ? atof(argv[4]) : 0.5);
    }
    if (argc != 3 || atoi(argv[1]) < 1 || atoi(argv[2]) < 1) {
        printf("usage: bench_block THREADS REPEATS | cuda 14B|1.3B TOKENS [SECONDS]\n");
        return 2;
    }
    table_cpu(&table);
    need(device_open_cpu(&dev, atoi(argv[1]), &table, table.workspace));
    return bench(&dev, &shape, atoi(argv[2]), 0);
}
