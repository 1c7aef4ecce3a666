/* bench_scale PRESET FRAMES HEIGHT WIDTH LAYERS REPEATS [CFG,RING,ULYSSES,FSDP ...]
 *
 * Under mpirun, one rank per GPU: forwards of the first LAYERS blocks of a released model, with
 * random weights, in bf16, on one rank and on all ranks in each of the given meshes. FRAMES, HEIGHT
 * and WIDTH are the latent's size in tokens (21 30 52 is 480P, 21 45 80 is 720P). For each mesh:
 * milliseconds of one forward (minimum and median of the repeats), scaling efficiency, and whether
 * the result has the bits of one rank. "nccl" as last argument: NCCL instead of copy engines. */
#include "model/pipeline/model.h"
#include "model/transformer/dit.h"
#include "parallel/split.h"
#include "runtime/clock.h"
#include "runtime/half.h"
#include "tests/ranks_device.h"

#define TEXT_ROWS 120
#define RANDOM ((int64_t)1 << 20)

static void need(status st)
{
    if (st != ST_OK) {
        fprintf(stderr, "bench_scale: %s\n", status_line());
        fflush(stdout);
        abort(); // ends the job; the other ranks are waiting
    }
}

/* Random numbers with mean 0 and deviation 1; each tensor starts at its own offset. */
static float randoms[RANDOM];

static void make_randoms(void)
{
    uint64_t z = 1;

    for (int64_t i = 0; i < RANDOM; i++) {
        float sum = 0;

        for (int k = 0; k < 4; k++) {
            z = z * 6364136223846793005u + 1442695040888963407u;
            sum += (float)(z >> 40) * 0x1p-24f - 0.5f;
        }
        randoms[i] = sum * 1.732f;
    }
}

static status read_random(void *payload, const struct weight_spec *spec, const char *name,
                          int64_t first, int64_t count, void *dst)
{
    const enum dtype dt = spec->dtype;
    const struct dit_config *c = payload;
    const bool norm = strstr(name, "norm") != NULL && strstr(name, "bias") == NULL;
    const float size = norm || strstr(name, "modulation") != NULL ? 0.1f
                       : strstr(name, "bias") != NULL             ? 0.02f
                                                                  : 1 / sqrtf((float)c->dim);
    uint64_t at = 14695981039346656037u;

    for (const char *p = name; *p; p++)
        at = (at ^ (unsigned char)*p) * 1099511628211u;
    for (int64_t i = 0; i < count; i++) {
        const float v =
            norm + size * randoms[(int64_t)(at % 1000003 + (uint64_t)(first + i)) % RANDOM];

        if (dt == DT_F32)
            ((float *)dst)[i] = v;
        else
            ((uint16_t *)dst)[i] = bf16_from_f32(v);
    }
    return ST_OK;
}

struct job {
    struct dit_config config;
    int64_t f, h, w;
    int repeats;
    struct table table;
};

struct outcome {
    double least_ms, median_ms;
    uint64_t bits; // hash over tokens that does not depend on which rank holds them
};

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

/* Sum of a hash of each row, so that ranks can add their results. */
static uint64_t hash_rows(const float *v, int64_t first, int64_t rows, int64_t row)
{
    uint64_t sum = 0;

    for (int64_t i = 0; i < rows; i++) {
        uint64_t h = 14695981039346656037u + (uint64_t)(first + i);

        for (int64_t j = 0; j < row; j++) {
            uint32_t bits;

            memcpy(&bits, &v[i * row + j], 4);
            h = (h ^ bits) * 1099511628211u;
        }
        sum += h ^ h >> 29;
    }
    return sum;
}

/* One forward of every CFG branch of this rank, `repeats` times. */
static struct outcome forwards(const struct job *j, struct world *w, struct device *dev,
                               struct mesh_shape shape, bool fsdp, bool sync)
{
    const struct dit_config *c = &j->config;
    const int64_t tokens = j->f * j->h * j->w, row = 4 * c->in_dim;
    const int branches = 3 - shape.cfg;
    struct outcome o = { 0 };
    struct mesh mesh;
    struct arena weights, run, step;
    struct dit m;
    struct dit_run r;
    struct conditioning text = { 0 };
    struct tensor x, v[2];
    double *took = calloc((size_t)j->repeats, sizeof(*took));
    float *times = calloc((size_t)j->repeats + 1, sizeof(*times));
    float *host = malloc((size_t)(tokens * row) * sizeof(float));
    size_t free_bytes, total;

    for (int i = 0; i <= j->repeats; i++)
        times[i] = 900;
    for (int64_t i = 0; i < tokens * row; i++)
        host[i] = randoms[(i * 7 + 5) % RANDOM];
    need(mesh_open(&mesh, w, dev, shape));
    need(device_cuda_memory(dev->index, &total, &free_bytes));
    need(arena_init(&weights, dev, "weights", (size_t)(0.35 * (double)free_bytes)));
    need(arena_init(&run, dev, "run", (size_t)4 << 30));
    need(arena_init(&step, dev, "step", (size_t)(0.5 * (double)free_bytes)));
    need(dit_open(&m, c, &mesh, dev, &weights, DT_BF16, fsdp,
                  (struct weight_source){ .read = read_random, .payload = (void *)c }));
    need(dit_complete(&m));
    for (int i = 0; i < 2; i++) {
        const int64_t dim[] = { TEXT_ROWS, c->text_dim };
        float *rows;

        need(conditioning_add(&text, i ? CONDITION_UNCOND : CONDITION_COND, 2, dim, &rows));
        memcpy(rows, randoms + i * 77777, (size_t)(dim[0] * dim[1]) * sizeof(float));
    }
    need(dit_begin(&r, &m, &run, &step,
                   &(struct dit_input){ .f = j->f,
                                        .h = j->h,
                                        .w = j->w,
                                        .steps = j->repeats + 1,
                                        .timestep = times,
                                        .last_step = j->repeats,
                                        .branches = branches,
                                        .first_branch = mesh.cfg,
                                        .conditioning = &text }));
    conditioning_done(&text);
    need(arena_take(&run, &x, DT_F32, r.s_loc, row));
    for (int i = 0; i < 2; i++)
        need(arena_take(&run, &v[i], DT_F32, r.s_loc, 4 * c->out_dim));
    need(device_upload(dev, x, host + r.spans.latent_first * row));
    for (int i = 0; i <= j->repeats; i++) {
        double start;

        need(device_wait(dev));
        if (sync)
            world_barrier(w);
        start = clock_seconds();
        for (int branch = 0; branch < branches; branch++)
            need(dit_forward(&r, &step, i, branch, v[branch], x));
        need(device_wait(dev));
        if (i > 0)
            took[i - 1] = 1e3 * (clock_seconds() - start) / branches;
    }
    for (int branch = 0; branch < branches; branch++) { // in the order of one rank, which has both
        float *out = malloc(tensor_bytes(v[branch]) + 1);

        need(device_download(dev, out, v[branch]));
        need(device_wait(dev));
        o.bits += hash_rows(out, r.spans.latent_first + (mesh.cfg + branch) * tokens, r.s_loc,
                            4 * c->out_dim);
        free(out);
    }
    qsort(took, (size_t)j->repeats, sizeof(*took), by_size);
    o.least_ms = took[0];
    o.median_ms = took[j->repeats / 2];
    dit_close(&m);
    arena_done(&weights);
    arena_done(&run);
    arena_done(&step);
    mesh_close(&mesh);
    free(took);
    free(times);
    free(host);
    return o;
}

static void report(const struct job *j, struct world *w, const struct outcome *alone,
                   const struct outcome *o, struct mesh_shape shape, bool fsdp)
{
    struct outcome all[64];
    uint64_t bits = 0;
    const int sequence = shape.ring * shape.ulysses;

    world_gather(w, o, sizeof(*o), all);
    for (int i = 0; i < w->size; i++)
        bits += all[i].bits;
    if (w->rank == 0)
        printf("cfg %d ring %d ulysses %d%s: %8.2f ms minimum, %8.2f median, %6.3f per layer; "
               "efficiency "
               "%5.1f%%; bits %s\n",
               shape.cfg, shape.ring, shape.ulysses, fsdp ? " sharded" : "", o->least_ms,
               o->median_ms, o->median_ms / j->config.layers,
               100 * alone->median_ms / o->median_ms / sequence,
               bits == alone->bits ? "equal" : "differ");
    fflush(stdout);
}

int main(int argc, char **argv)
{
    struct world w, one;
    struct device dev;
    struct job j = { 0 };
    struct outcome alone, o;
    const bool gpu = world_open(&w, &argc, &argv) == ST_OK && ranks_on_gpus(&w, &argc, argv);

    if (argc <= 6 || part_variant(&part_dit, argv[1]) == NULL || w.size > 64) {
        printf(
            "usage: bench_scale PRESET FRAMES HEIGHT WIDTH LAYERS REPEATS [CFG,RING,ULYSSES,FSDP "
            "...] [cuda|nccl]\n");
        return 1;
    }
    (void)gpu;
    j = (struct job){ .config = *(const struct dit_config *)part_variant(&part_dit, argv[1]),
                      .f = atoi(argv[2]),
                      .h = atoi(argv[3]),
                      .w = atoi(argv[4]),
                      .repeats = atoi(argv[6]) };
    j.config.layers = atoi(argv[5]);
    table_cuda(&j.table);
    make_randoms();
    need(ranks_device(&dev, &w, true, &j.table));
    world_describe(&one, 0, 1, 1);
    alone = forwards(&j, &one, &dev, (struct mesh_shape){ 1, 1, 1 }, false, false);
    if (w.rank == 0)
        printf("%s, %lld tokens, %d layers, %s\none rank: %8.2f ms minimum, %8.2f median, %6.3f "
               "per layer\n",
               argv[1], (long long)(j.f * j.h * j.w), j.config.layers, w.nccl ? "nccl" : "cuda",
               alone.least_ms, alone.median_ms, alone.median_ms / j.config.layers);
    fflush(stdout);
    for (int i = 7; i < argc; i++) {
        struct mesh_shape shape;
        int fsdp;

        if (sscanf(argv[i], "%d,%d,%d,%d", &shape.cfg, &shape.ring, &shape.ulysses, &fsdp) != 4 ||
            shape.cfg * shape.ring * shape.ulysses != w.size)
            continue;
        o = forwards(&j, &w, &dev, shape, fsdp != 0, true);
        report(&j, &w, &alone, &o, shape, fsdp != 0);
    }
    o = forwards(&j, &one, &dev, (struct mesh_shape){ 1, 1, 1 }, false, false);
    if (w.rank == 0)
        printf("one rank: %8.2f ms minimum, %8.2f median, %6.3f per layer; bits %s\n", o.least_ms,
               o.median_ms, o.median_ms / j.config.layers,
               o.bits == alone.bits ? "equal" : "differ");
    device_close(&dev);
    world_close(&w);
    return 0;
}
