/* bench_vae [threads [frames [height [width [runs]]]]]
 *
 * Decoding and encoding with the real VAE's dimensions and random weights, on one rank: seconds on
 * the clock and of CPU time (what counts with one thread on a machine that others use), the best of
 * `runs`, and what peaks in the step arena. bench/peer_vae.py times the official code on the same
 * sizes, bench/vae.sh both in turn. */
#include "kernels/table.h"
#include "model/config.h"
#include "parallel/world.h"
#include "tests/vae_random.h"

#include <stdio.h>
#include <time.h>

static double now(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

struct bench {
    struct world world;
    struct group group;
    struct device dev;
    struct vae vae;
    struct arena weights, step;
    struct vae_random random;
    int64_t t, h, w;
    float *latent, *pixels;
};

static status no_sink(void *payload, const uint8_t *rgb, int64_t count, int64_t h, int64_t w)
{
    return ST_OK;
}

static status run(struct bench *b, bool decode)
{
    const struct vae_tiling whole = { 0 };

    if (decode)
        return vae_decode(&b->vae, &b->step, b->latent, b->t, b->h, b->w, whole,
                          (struct frame_sink){ .put = no_sink }, NULL);
    return vae_encode(&b->vae, &b->step, b->latent, b->pixels, 4 * b->t - 3, 8 * b->h, 8 * b->w,
                      whole);
}

/* Opens everything on b->dev. */
static status open_all(struct bench *b, struct world *w, size_t weights, size_t step)
{
    TRY(group_open(&b->group, "vae", w, &b->dev, 0, (const int[]){ 0 }, 1));
    TRY(arena_init(&b->weights, &b->dev, "weights", weights));
    TRY(arena_init(&b->step, &b->dev, "step", step));
    return vae_open(&b->vae, &preset_find("t2v-1.3B")->config.vae, &b->group, &b->dev, &b->weights,
                    DT_F32, true, true, vae_random_source(&b->random));
}

static void close_all(struct bench *b)
{
    vae_close(&b->vae);
    arena_done(&b->weights);
    arena_done(&b->step);
    group_close(&b->group);
    device_close(&b->dev);
}

static status time_one(struct bench *b, bool decode, int runs)
{
    double best = 0, busy = 0;

    for (int i = 0; i < runs; i++) {
        const double start = now(CLOCK_MONOTONIC), start_busy = now(CLOCK_PROCESS_CPUTIME_ID);

        b->dev.flops = 0;
        b->step.peak = 0;
        TRY(run(b, decode));

        const double took = now(CLOCK_MONOTONIC) - start;
        const double used = now(CLOCK_PROCESS_CPUTIME_ID) - start_busy;

        best = i == 0 || took < best ? took : best;
        busy = i == 0 || used < busy ? used : busy;
    }
    printf(
        "%s %lld frames of %lld x %lld, %d threads: %.2f s, CPU %.2f s, %.1f GFLOP/s, %.1f MiB\n",
        decode ? "decode" : "encode", (long long)(4 * b->t - 3), (long long)(8 * b->w),
        (long long)(8 * b->h), b->dev.threads, best, busy, b->dev.flops / best * 1e-9,
        (double)b->step.peak / (1 << 20));
    return ST_OK;
}

int main(int argc, char **argv)
{
    int64_t number[] = { 2, 17, 128, 128, 1 };
    struct world described;
    struct table table;
    struct bench b = { 0 };
    size_t weights, step;
    status st;

    TRY_OUT(world_open(&b.world, &argc, &argv));
    for (int i = 1; i < argc && i <= (int)COUNT(number); i++)
        number[i - 1] = atoll(argv[i]);
    b.t = (number[1] + 3) / 4, b.h = number[2] / 8, b.w = number[3] / 8;
    if (number[0] < 1 || b.t < 1 || b.h < 1 || b.w < 1 || number[4] < 1)
        TRY_OUT(fail(ST_USAGE, "bench_vae [threads [frames [height [width [runs]]]]]"));
    TRY_OUT(vae_random_open(&b.random, &preset_find("t2v-1.3B")->config.vae));
    b.latent = random_input("latent", b.t * b.h * b.w * 16, 1.75f);
    b.pixels = random_input("pixels", (4 * b.t - 3) * b.h * b.w * 64 * 3, 1);

    world_describe(&described, 0, 1, 1);
    TRY_OUT(device_open_plan(&b.dev, &table_plan, 0));
    TRY_OUT(open_all(&b, &described, 0, 0));
    TRY_OUT(run(&b, true));
    TRY_OUT(run(&b, false));
    weights = b.weights.peak, step = b.step.peak;
    close_all(&b);

    table_cpu(&table);
    TRY_OUT(device_open_cpu(&b.dev, (int)number[0], &table, table.workspace));
    TRY_OUT(open_all(&b, &b.world, weights, step));
    TRY_OUT(time_one(&b, true, (int)number[4]));
    TRY_OUT(time_one(&b, false, (int)number[4]));
out:
    if (st != ST_OK)
        fprintf(stderr, "bench_vae: %s\n", status_line());
    close_all(&b);
    vae_random_close(&b.random);
    free(b.latent);
    free(b.pixels);
    world_close(&b.world);
    return st == ST_OK ? 0 : 1;
}
