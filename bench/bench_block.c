/* bench_block THREADS REPEATS
 *
 * A transformer block of the 1.3B model on 2,048 tokens, op by op: the least time of each op over
 * the repeats, and the least of the whole, by the clock and of the processors. bench/peer_block.py
 * runs it in turns with PyTorch. */
#include "kernels/table.h"
#include "runtime/arena.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define TOKENS 2048
#define TEXT 512
#define DIM 1536
#define FFN 8960
#define HEADS 12

static double clock_s(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double now(void)
{
    return clock_s(CLOCK_MONOTONIC);
}

/* Time of this process on all cores: what a shared machine does not blur. */
static double used(void)
{
    return clock_s(CLOCK_PROCESS_CPUTIME_ID);
}

static void need(status st)
{
    if (st != ST_OK) {
        printf("bench_block: %s\n", status_line());
        exit(1);
    }
}

static struct tensor random_tensor(struct arena *a, float size, int ndim, const int64_t *dim)
{
    struct tensor t;

    need(arena_take_dims(a, &t, DT_F32, ndim, dim));
    for (int64_t i = 0; i < tensor_count(t); i++)
        ((float *)t.data)[i] = ((float)rand() / (float)RAND_MAX * 2 - 1) * size;
    return t;
}

#define RANDOM(size, ...)                                                                          \
    random_tensor(a, size, (int)(sizeof((int64_t[]){ __VA_ARGS__ }) / sizeof(int64_t)),            \
                  (int64_t[]){ __VA_ARGS__ })

struct timing {
    const char *name;
    double least, flops;
};

static struct timing timings[64];
static int timed;

/* One op: its time, and its FLOPs, under its place in the block. */
#define STEP(label, call)                                                                          \
    do {                                                                                           \
        const double flops_ = dev->flops, start_ = now();                                          \
        need(call);                                                                                \
        const double took_ = now() - start_;                                                       \
        struct timing *t_ = &timings[timed++];                                                     \
        t_->name = label;                                                                          \
        t_->flops = dev->flops - flops_;                                                           \
        t_->least = t_->least == 0 || took_ < t_->least ? took_ : t_->least;                       \
    } while (0)

struct linear {
    struct tensor w, b;
};

static struct linear linear(struct arena *a, int64_t out, int64_t in)
{
    return (struct linear){ RANDOM(0.04f, out, in), RANDOM(0.1f, out) };
}

static void bench_block(struct device *dev, struct arena *a, int repeats)
{
    const struct tensor x = RANDOM(1, TOKENS, DIM), text = RANDOM(1, TEXT, DIM);
    const struct tensor h = RANDOM(1, TOKENS, DIM), att = RANDOM(1, TOKENS, DIM);
    const struct tensor qkv = RANDOM(1, TOKENS, 3 * DIM);
    const struct tensor kv = RANDOM(1, TEXT, 2 * DIM);
    const struct tensor wide = RANDOM(1, TOKENS, FFN);
    const struct linear self = linear(a, 3 * DIM, DIM), o = linear(a, DIM, DIM);
    const struct linear cross_q = linear(a, DIM, DIM);
    const struct linear cross_kv = linear(a, 2 * DIM, DIM);
    const struct linear cross_o = linear(a, DIM, DIM);
    const struct linear up = linear(a, FFN, DIM), down = linear(a, DIM, FFN);
    const struct tensor vec = RANDOM(1, DIM), rope = RANDOM(1, 32, 64, 2);
    const struct tensor q = tensor_slice(qkv, 1, 0, DIM), k = tensor_slice(qkv, 1, DIM, DIM);
    const struct tensor v = tensor_slice(qkv, 1, 2 * DIM, DIM);
    const struct tensor tk = tensor_slice(kv, 1, 0, DIM), tv = tensor_slice(kv, 1, DIM, DIM);
    const struct tensor none = { 0 };
    const struct token_grid grid = { 8, 16, 16, 0 };
    const float scale = 0.08838835f;
    double least = 1e30, least_used = 1e30;

#define HEADS_OF(t) tensor_split(t, 1, DIM / HEADS)
    for (int r = 0; r < repeats; r++) {
        const double start = now(), start_used = used();

        timed = 0;
        STEP("norm, modulate", op_norm_modulate(dev, h, x, vec, vec, 1e-6f));
        STEP("q, k, v", op_gemm(dev, qkv, h, self.w, self.b, ACT_NONE));
        STEP("qk norm, rope", op_qk_norm_rope(dev, q, k, vec, vec, 1e-6f, rope, grid));
        STEP("self attention",
             op_attention(dev, HEADS_OF(att), none, HEADS_OF(q), HEADS_OF(k), HEADS_OF(v), scale));
        STEP("o", op_gemm(dev, h, att, o.w, o.b, ACT_NONE));
        STEP("gate, add", op_gate_add(dev, x, x, h, vec));
        STEP("norm", op_layer_norm(dev, h, x, vec, vec, 1e-6f));
        STEP("cross q", op_gemm(dev, q, h, cross_q.w, cross_q.b, ACT_NONE));
        STEP("cross k, v", op_gemm(dev, kv, text, cross_kv.w, cross_kv.b, ACT_NONE));
        STEP("q norm", op_rms_norm(dev, q, q, vec, 1e-6f));
        STEP("k norm", op_rms_norm(dev, tk, tk, vec, 1e-6f));
        STEP("cross attention", op_attention(dev, HEADS_OF(att), none, HEADS_OF(q), HEADS_OF(tk),
                                             HEADS_OF(tv), scale));
        STEP("cross o", op_gemm(dev, h, att, cross_o.w, cross_o.b, ACT_NONE));
        STEP("add", op_gate_add(dev, x, x, h, none));
        STEP("norm, modulate", op_norm_modulate(dev, h, x, vec, vec, 1e-6f));
        STEP("ffn up, gelu", op_gemm(dev, wide, h, up.w, up.b, ACT_GELU_TANH));
        STEP("ffn down", op_gemm(dev, h, wide, down.w, down.b, ACT_NONE));
        STEP("gate, add", op_gate_add(dev, x, x, h, vec));
        least = fmin(least, now() - start);
        least_used = fmin(least_used, used() - start_used);
    }
    for (int i = 0; i < timed; i++)
        printf("  %-18s %9.2f ms %8.1f GFLOP/s\n", timings[i].name, timings[i].least * 1e3,
               timings[i].flops / timings[i].least * 1e-9);
    printf("block %.4f s, %.4f s of processor time\n", least, least_used);
}

int main(int argc, char **argv)
{
    struct table table;
    struct device dev;
    struct arena a;

    if (argc != 3 || atoi(argv[1]) < 1 || atoi(argv[2]) < 1) {
        printf("usage: bench_block THREADS REPEATS\n");
        return 2;
    }
    table_cpu(&table);
    need(device_open_cpu(&dev, atoi(argv[1]), &table, table.workspace));
    need(arena_init(&a, &dev, "bench", (size_t)1 << 30));
    bench_block(&dev, &a, atoi(argv[2]));
    arena_done(&a);
    device_close(&dev);
    return 0;
}
