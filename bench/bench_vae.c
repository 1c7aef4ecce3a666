/* bench_vae [--vae 2.1|2.2] [--device cpu|cuda] [--precision bf16|tf32|fp32] [--threads N]
 *           [--frames N] [--height N] [--width N] [--runs N] [--only decode|encode] [--ops]
 *           [--save FILE]
 *
 * Decode and encode with the real VAE's dimensions and random weights, on the ranks of mpirun: wall
 * time and CPU time (compare CPU time with one thread if other programs run on the machine), the
 * minimum of `runs` after a warm-up run on a GPU, and the peak bytes of the step arena and of the
 * whole device. The warm-up run prints a hash of the frames or of the latent, which must not depend
 * on the number of ranks. --save (one rank) writes the
 * pixels, or the latent, as f32. --ops synchronizes after each op and prints a table of the time by
 * op. bench/peer_vae.py times the official code at the same sizes, bench/vae.sh runs both. */
#include "kernels/table.h"
#include "model/pipeline/model.h"
#include "parallel/world.h"
#include "runtime/clock.h"
#include "tests/vae_random.h"

#include <stdio.h>

/* ---- time by op ---- */

enum kind { CONV_333, CONV_311, CONV_133, NORM, COPY, GEMM, ATTENTION, REST, KINDS };

static const char *const kind_name[KINDS] = {
    "conv 3x3x3", "conv 3x1x1", "conv 1x3x3", "norm", "copy", "gemm", "attention", "others",
};

static struct {
    struct table table; // the ops that are timed
    double start, flops;
    struct {
        double seconds, flops;
        int calls;
    } kind[KINDS];
} ops;

static status begin(struct device *dev)
{
    TRY(device_wait(dev));
    ops.start = clock_seconds();
    return ST_OK;
}

/* An op adds its FLOPs to the device's count before it begins, so its own are those added since the
 * previous op ended. */
static status end(struct device *dev, enum kind kind)
{
    TRY(device_wait(dev));
    ops.kind[kind].seconds += clock_seconds() - ops.start;
    ops.kind[kind].flops += dev->flops - ops.flops;
    ops.kind[kind].calls++;
    ops.flops = dev->flops;
    return ST_OK;
}

#define TIMED(kind, call)                                                                          \
    do {                                                                                           \
        TRY(begin(dev));                                                                           \
        TRY(ops.table.call);                                                                       \
        return end(dev, kind);                                                                     \
    } while (0)

static status timed_gemm(struct device *dev, struct tensor out, struct tensor a, struct tensor w,
                         struct tensor bias, enum act act)
{
    TIMED(GEMM, gemm(dev, out, a, w, bias, act));
}

static status timed_attention(struct device *dev, struct tensor out, struct tensor lse,
                              struct tensor q, struct tensor k, struct tensor v, float scale)
{
    TIMED(ATTENTION, attention(dev, out, lse, q, k, v, scale));
}

static status timed_gate_add(struct device *dev, struct tensor out, struct tensor x,
                             struct tensor y, struct tensor gate)
{
    TIMED(REST, gate_add(dev, out, x, y, gate));
}

static status timed_copy(struct device *dev, struct tensor out, struct tensor x)
{
    TIMED(COPY, copy(dev, out, x));
}

static status timed_conv3d(struct device *dev, struct tensor out, struct tensor x,
                           struct tensor past, struct tensor w, struct tensor bias,
                           struct tensor residual, struct conv conv)
{
    TIMED(w.dim[2] == 1   ? CONV_311
          : w.dim[1] == 1 ? CONV_133
                          : CONV_333,
          conv3d(dev, out, x, past, w, bias, residual, conv));
}

static status timed_channel_norm(struct device *dev, struct tensor out, struct tensor x,
                                 struct tensor gamma, enum act act, int exponent)
{
    TIMED(NORM, channel_norm(dev, out, x, gamma, act, exponent));
}

static status timed_channel_affine(struct device *dev, struct tensor out, struct tensor x,
                                   struct tensor scale, struct tensor shift)
{
    TIMED(REST, channel_affine(dev, out, x, scale, shift));
}

static status timed_average_down(struct device *dev, struct tensor out, struct tensor x, int frames)
{
    TIMED(REST, average_down(dev, out, x, frames));
}

static status timed_repeat_up(struct device *dev, struct tensor out, struct tensor x,
                              struct tensor y, int frames)
{
    TIMED(REST, repeat_up(dev, out, x, y, frames));
}

static status timed_to_u8(struct device *dev, struct tensor out, struct tensor x, float add)
{
    TIMED(REST, to_u8(dev, out, x, add));
}

/* A table that times the ops of `t`. */
static struct table time_table(const struct table *t)
{
    struct table timed = *t;

    ops.table = *t;
    timed.gemm = timed_gemm;
    timed.attention = timed_attention;
    timed.gate_add = timed_gate_add;
    timed.copy = timed_copy;
    timed.conv3d = timed_conv3d;
    timed.channel_norm = timed_channel_norm;
    timed.channel_affine = timed_channel_affine;
    timed.average_down = timed_average_down;
    timed.repeat_up = timed_repeat_up;
    timed.to_u8 = timed_to_u8;
    return timed;
}

static void print_ops(void)
{
    double sum = 0;

    for (int i = 0; i < KINDS; i++)
        sum += ops.kind[i].seconds;
    for (int i = 0; i < KINDS; i++)
        if (ops.kind[i].calls > 0)
            printf("    %-12s %6d calls %8.3f s %5.1f %% %8.1f GFLOP/s\n", kind_name[i],
                   ops.kind[i].calls, ops.kind[i].seconds, 100 * ops.kind[i].seconds / sum,
                   1e-9 * ops.kind[i].flops / ops.kind[i].seconds);
    printf("    %-12s              %8.3f s\n", "all", sum);
    memset(ops.kind, 0, sizeof(ops.kind));
}

/* ---- runs ---- */

struct settings {
    bool cuda, wan22, ops, decode, encode;
    enum dtype dtype; // of vae_open
    int64_t threads, frames, height, width, runs;
    const char *save; // NULL: not written
};

struct bench {
    struct settings set;
    struct world world;
    struct group group;
    struct device dev;
    struct vae vae;
    struct arena weights, step;
    const struct vae_config *config;
    int64_t t, h, w, px;
    float *latent, *pixels;
    bool hashing;
    uint64_t hash; // FNV-1a of the results, if `hashing`
};

static void hash_bytes(struct bench *b, const void *data, int64_t bytes)
{
    for (int64_t i = 0; i < bytes; i++)
        b->hash = (b->hash ^ ((const uint8_t *)data)[i]) * 0x100000001b3u;
}

static status take_frames(void *payload, const uint8_t *rgb, int64_t count, int64_t h, int64_t w)
{
    struct bench *b = payload;

    if (b->hashing)
        hash_bytes(b, rgb, count * h * w * 3);
    return ST_OK;
}

static status run(struct bench *b, bool decode)
{
    const struct vae_tiling whole = { 0 };

    if (decode)
        return vae_decode(&b->vae, &b->step, b->latent, b->t, b->h, b->w, whole,
                          (struct frame_sink){ .put = take_frames, .payload = b }, NULL);

    const struct clip clip = { b->pixels, 4 * b->t - 3, b->px * b->h, b->px * b->w };

    return vae_encode(&b->vae, &b->step, b->latent, clip_source(&clip), whole);
}

static status run_hashed(struct bench *b, bool decode)
{
    b->hash = 0xcbf29ce484222325u;
    b->hashing = true;
    TRY(run(b, decode));
    b->hashing = false;
    if (!decode)
        hash_bytes(b, b->latent, b->t * b->h * b->w * b->config->z * (int64_t)sizeof(float));
    if (b->world.rank == 0)
        printf("%s hash %016llx\n", decode ? "frames" : "latent", (unsigned long long)b->hash);
    return ST_OK;
}

/* Opens everything on b->dev; `w` is the real world, or a described one for the plan. */
static status open_all(struct bench *b, struct world *w, size_t weights, size_t step)
{
    int members[64];

    for (int i = 0; i < w->size && i < (int)COUNT(members); i++)
        members[i] = i;
    TRY(group_open(&b->group, "vae", w, &b->dev, 0, members, w->size));
    TRY(arena_init(&b->weights, &b->dev, "weights", weights));
    TRY(arena_init(&b->step, &b->dev, "step", step));
    return vae_open(&b->vae, b->config, &b->group, &b->dev, &b->weights, b->set.dtype,
                    b->set.encode, b->set.decode, vae_random_source());
}

static void close_all(struct bench *b)
{
    vae_close(&b->vae);
    arena_done(&b->weights);
    arena_done(&b->step);
    group_close(&b->group);
    device_close(&b->dev);
}

/* Writes the result of another run to b->set.save. */
static status save(struct bench *b, bool decode)
{
    const int64_t latents = b->t * b->h * b->w * b->config->z;
    const int64_t pixels = (4 * b->t - 3) * b->h * b->w * b->px * b->px * 3;
    const size_t count = (size_t)(decode ? pixels : latents);
    FILE *f = NULL;
    status st = ST_OK;

    if (decode)
        st = vae_decode(&b->vae, &b->step, b->latent, b->t, b->h, b->w, (struct vae_tiling){ 0 },
                        (struct frame_sink){ .put = NULL }, b->pixels);
    if (st == ST_OK && b->world.rank == 0 &&
        ((f = fopen(b->set.save, "wb")) == NULL ||
         fwrite(decode ? b->pixels : b->latent, sizeof(float), count, f) != count))
        st = fail(ST_IO, "%s: cannot be written", b->set.save);
    if (f != NULL)
        fclose(f);
    return st;
}

static status time_one(struct bench *b, bool decode)
{
    double best = 0, busy = 0;

    if (b->set.cuda)
        TRY(run_hashed(b, decode));
    for (int i = 0; i < b->set.runs; i++) {
        const double start = clock_seconds(), start_busy = clock_cpu_seconds();

        b->dev.flops = ops.flops = 0;
        b->step.peak = 0;
        memset(ops.kind, 0, sizeof(ops.kind));
        TRY(run(b, decode));
        TRY(device_wait(&b->dev));

        const double took = clock_seconds() - start;
        const double used = clock_cpu_seconds() - start_busy;

        best = i == 0 || took < best ? took : best;
        busy = i == 0 || used < busy ? used : busy;
    }
    if (b->world.rank > 0)
        return ST_OK;
    printf("%s %lld frames of %lld x %lld, %s, %s, %d ranks: %.3f s, CPU %.2f s, %.1f GFLOP/s, "
           "step %.1f MiB, device %.1f MiB\n",
           decode ? "decode" : "encode", (long long)(4 * b->t - 3), (long long)(b->px * b->w),
           (long long)(b->px * b->h), b->set.cuda ? "GPU" : "CPU", vae_precision_name(b->set.dtype),
           b->world.size, best, busy, b->dev.flops / best * 1e-9, (double)b->step.peak / (1 << 20),
           (double)b->dev.held_peak / (1 << 20));
    if (b->set.ops)
        print_ops();
    return b->set.save != NULL ? save(b, decode) : ST_OK;
}

static status parse(struct settings *s, int argc, char **argv)
{
    const struct {
        const char *name;
        int64_t *value;
    } numbers[] = {
        { "--threads", &s->threads }, { "--frames", &s->frames }, { "--height", &s->height },
        { "--width", &s->width },     { "--runs", &s->runs },
    };

    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        bool known = true;

        if (strcmp(argv[i], "--ops") == 0) {
            s->ops = true;
            continue;
        }
        if (strcmp(argv[i], "--device") == 0) {
            s->cuda = strcmp(value, "cuda") == 0;
        } else if (strcmp(argv[i], "--precision") == 0) {
            s->dtype = vae_precision(strcmp(value, "bf16") == 0   ? VAE_BF16
                                     : strcmp(value, "tf32") == 0 ? VAE_TF32
                                                                  : VAE_FP32);
        } else if (strcmp(argv[i], "--save") == 0) {
            s->save = value;
        } else if (strcmp(argv[i], "--vae") == 0) {
            s->wan22 = strcmp(value, "2.2") == 0;
        } else if (strcmp(argv[i], "--only") == 0) {
            s->decode = strcmp(value, "decode") == 0;
            s->encode = !s->decode;
        } else {
            known = false;
            for (size_t j = 0; j < COUNT(numbers); j++)
                if (strcmp(argv[i], numbers[j].name) == 0) {
                    *numbers[j].value = atoll(value);
                    known = *numbers[j].value > 0;
                }
        }
        if (!known)
            return fail(ST_USAGE, "unknown argument %s %s", argv[i], value);
        i++;
    }
    return ST_OK;
}

int main(int argc, char **argv)
{
    struct bench b = {
        .set = { .dtype = DT_F32,
                 .decode = true,
                 .encode = true,
                 .threads = 2,
                 .frames = 17,
                 .height = 128,
                 .width = 128,
                 .runs = 1 },
    };
    struct world described;
    struct table table, timed;
    size_t weights, step;
    status st;

    TRY_OUT(world_open(&b.world, &argc, &argv));
    TRY_OUT(parse(&b.set, argc, argv));
    b.config = part_variant(&part_vae, b.set.wan22 ? "wan2.2" : "wan2.1");
    b.px = b.config->stride;
    b.t = (b.set.frames + 3) / 4, b.h = b.set.height / b.px, b.w = b.set.width / b.px;
    b.latent = random_input("latent", b.t * b.h * b.w * b.config->z, 1.75f);
    b.pixels = random_input("pixels", (4 * b.t - 3) * b.h * b.w * b.px * b.px * 3, 1);

    world_describe(&described, b.world.rank, b.world.size, 1);
    TRY_OUT(device_open_plan(&b.dev, &table_plan, 0));
    TRY_OUT(open_all(&b, &described, 0, 0));
    if (b.set.decode)
        TRY_OUT(run(&b, true));
    if (b.set.encode)
        TRY_OUT(run(&b, false));
    weights = b.weights.peak, step = b.step.peak;
    close_all(&b);

    if (b.set.cuda)
        table_cuda(&table);
    else
        table_cpu(&table);
    timed = b.set.ops ? time_table(&table) : table;
    TRY_OUT(b.set.cuda ? device_open_cuda(&b.dev, b.world.rank, &timed, timed.workspace)
                       : device_open_cpu(&b.dev, (int)b.set.threads, &timed, timed.workspace));
    TRY_OUT(open_all(&b, &b.world, weights, step));
    if (b.set.decode)
        TRY_OUT(time_one(&b, true));
    if (b.set.encode)
        TRY_OUT(time_one(&b, false));
out:
    if (st != ST_OK)
        fprintf(stderr, "bench_vae: %s\n", status_line());
    close_all(&b);
    free(b.latent);
    free(b.pixels);
    world_close(&b.world);
    return st == ST_OK ? 0 : 1;
}
