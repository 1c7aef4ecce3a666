/* bench_gemm 14B|1.3B|other [ROWS,ROWS,... [proposals]]
 *
 * Which kernel of cuBLASLt is the fastest for each product of a transformer, and whether all give
 * the same bits. The kernels are the library's proposals and, unless only proposals are asked for,
 * variations of the fastest ones: other tiles, clusters, orders of tiles and custom options.
 *
 * Each kernel that works is compared with the first proposal's output and timed briefly; then the
 * fastest ones, the first proposal and op_gemm are timed in ROUNDS rounds, each round in a random
 * order and each sample SAMPLE_SECONDS long, without a pause, so that the GPU is at its power limit
 * as in a forward. Ratios are of two times of the same round. */
#include "bench/same_bits.h"
#include "kernels/cuda/context.h"
#include "runtime/arena.h"
#include "runtime/half.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PROPOSALS 32      // asked for
#define FIRST_PROPOSALS 8 // as many as gemm.c asks for
#define MOST 512          // kernels per product
#define SHORT_SECONDS 0.002
#define BUDGET_SECONDS 0.3 // for the brief timing of each set of kernels
#define SAMPLE_SECONDS 0.030
#define ROUNDS 6
#define FINALISTS 7
#define BEST 4 // kernels whose variations are tried
#define ELEMENTS_MAX ((int64_t)75600 * 13824)

struct product {
    const char *name;
    int64_t n, k;
    enum act act;
    bool add; // to f32
};

struct kernel {
    cublasLtMatmulAlgo_t algo;
    int proposal; // its place among the proposals, -1 for a variation, OP for op_gemm
    double brief; // seconds, the sum of two samples
    double seconds[ROUNDS];
};

#define OP -2

struct bench {
    struct device *dev;
    cublasLtHandle_t lt;
    struct tensor x, w, bias, bias_f32, base, out, want, count; // flat
    const struct product *p;
    int64_t m;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t lw, lx, lo;
    struct kernel kernels[MOST];
    int kernels_count, tried, different;
};

struct result {
    char name[64];
    double op, first, first_eight, proposed, best; // TFLOP/s
};

static void need(status st)
{
    if (st != ST_OK) {
        printf("bench_gemm: %s\n", status_line());
        exit(1);
    }
}

#define need_lt(call) need(lt_status(call, "bench_gemm"))
#define need_cuda(call) need(cuda_status(call, "bench_gemm"))

static uint64_t random_bits(void)
{
    static uint64_t state = 2025;

    state = state * 6364136223846793005u + 1442695040888963407u;
    return state >> 33;
}

/* Approximately normal: the sum of four uniform numbers. */
static float draw(void)
{
    float sum = 0;

    for (int i = 0; i < 4; i++)
        sum += (float)random_bits() / (float)(1u << 31) - 0.5f;
    return sum * 1.732f;
}

#define BLOCK ((int64_t)1 << 22) // random numbers, repeated to fill a tensor

static struct tensor random_tensor(struct bench *b, struct arena *a, enum dtype dt, float size,
                                   int64_t count)
{
    static char block[BLOCK * sizeof(float)];
    struct tensor t;

    need(arena_take(a, &t, dt, count));
    for (int64_t i = 0; i < BLOCK && i < count; i++) {
        if (dt == DT_BF16)
            ((uint16_t *)block)[i] = bf16_from_f32(draw() * size);
        else
            ((float *)block)[i] = draw() * size;
    }
    for (int64_t i = 0; i < count; i += BLOCK)
        need(device_upload(b->dev, tensor_slice(t, 0, i, count - i < BLOCK ? count - i : BLOCK),
                           block));
    return t;
}

/* The first rows * cols elements. */
static struct tensor matrix(struct tensor flat, enum dtype dt, int64_t rows, int64_t cols)
{
    return tensor_of(flat.data, dt, rows, cols);
}

static enum dtype out_dtype(const struct bench *b)
{
    return b->p->add ? DT_F32 : DT_BF16;
}

#define SET(handle, kind, name, value)                                                             \
    need_lt(cublasLtMatmul##kind##SetAttribute(handle, name, &(value), sizeof(value)))

/* The descriptors, as in gemm.c. */
static void describe(struct bench *b)
{
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const cublasLtEpilogue_t end =
        b->p->act == ACT_GELU_TANH ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_BIAS;
    const cudaDataType_t out = b->p->add ? CUDA_R_32F : CUDA_R_16BF;
    void *const bias = b->p->add ? b->bias_f32.data : b->bias.data;
    const uint64_t n = (uint64_t)b->p->n, k = (uint64_t)b->p->k, m = (uint64_t)b->m;

    need_lt(cublasLtMatmulDescCreate(&b->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    SET(b->desc, Desc, CUBLASLT_MATMUL_DESC_TRANSA, transposed);
    SET(b->desc, Desc, CUBLASLT_MATMUL_DESC_EPILOGUE, end);
    SET(b->desc, Desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, out);
    SET(b->desc, Desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
    need_lt(cublasLtMatrixLayoutCreate(&b->lw, CUDA_R_16BF, k, n, b->p->k));
    need_lt(cublasLtMatrixLayoutCreate(&b->lx, CUDA_R_16BF, k, m, b->p->k));
    need_lt(cublasLtMatrixLayoutCreate(&b->lo, out, n, m, b->p->n));
}

static void describe_done(struct bench *b)
{
    cublasLtMatmulDescDestroy(b->desc);
    cublasLtMatrixLayoutDestroy(b->lw);
    cublasLtMatrixLayoutDestroy(b->lx);
    cublasLtMatrixLayoutDestroy(b->lo);
}

/* ---- a kernel's settings ---- */

struct settings {
    int32_t id;
    uint32_t tile, stages, swizzle, custom;
    uint16_t cluster;
};

#define GET(algo, name, member)                                                                    \
    cublasLtMatmulAlgoConfigGetAttribute(algo, name, &(member), sizeof(member), NULL)

static struct settings settings_of(const cublasLtMatmulAlgo_t *algo)
{
    struct settings s = { 0 };

    GET(algo, CUBLASLT_ALGO_CONFIG_ID, s.id);
    GET(algo, CUBLASLT_ALGO_CONFIG_TILE_ID, s.tile);
    GET(algo, CUBLASLT_ALGO_CONFIG_STAGES_ID, s.stages);
    GET(algo, CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING, s.swizzle);
    GET(algo, CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, s.custom);
    GET(algo, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, s.cluster);
    return s;
}

#define PUT(algo, name, member)                                                                    \
    cublasLtMatmulAlgoConfigSetAttribute(algo, name, &(member), sizeof(member))

static cublasLtMatmulAlgo_t with_settings(const cublasLtMatmulAlgo_t *algo, struct settings s)
{
    cublasLtMatmulAlgo_t other = *algo;

    PUT(&other, CUBLASLT_ALGO_CONFIG_TILE_ID, s.tile);
    PUT(&other, CUBLASLT_ALGO_CONFIG_STAGES_ID, s.stages);
    PUT(&other, CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING, s.swizzle);
    PUT(&other, CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, s.custom);
    PUT(&other, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, s.cluster);
    return other;
}

#define NAME(kind, name) [CUBLASLT_##kind##_##name] = #name

static void print_name(const char *const *names, size_t count, unsigned id)
{
    if (id < count && names[id] != NULL)
        printf("%s", names[id]);
    else
        printf("#%u", id);
}

/* Tile: rows of w x rows of x. */
static void print_settings(const cublasLtMatmulAlgo_t *algo)
{
    static const char *const tiles[CUBLASLT_MATMUL_TILE_END] = {
        NAME(MATMUL_TILE, 64x128),  NAME(MATMUL_TILE, 128x64),  NAME(MATMUL_TILE, 64x256),
        NAME(MATMUL_TILE, 128x128), NAME(MATMUL_TILE, 256x64),  NAME(MATMUL_TILE, 128x256),
        NAME(MATMUL_TILE, 256x128), NAME(MATMUL_TILE, 128x160), NAME(MATMUL_TILE, 160x128),
        NAME(MATMUL_TILE, 192x128), NAME(MATMUL_TILE, 128x192), NAME(MATMUL_TILE, 192x192),
        NAME(MATMUL_TILE, 320x128), NAME(MATMUL_TILE, 128x320), NAME(MATMUL_TILE, 256x192),
        NAME(MATMUL_TILE, 192x256),
    };
    static const char *const clusters[CUBLASLT_CLUSTER_SHAPE_END] = {
        NAME(CLUSTER_SHAPE, 1x1x1), NAME(CLUSTER_SHAPE, 2x1x1), NAME(CLUSTER_SHAPE, 4x1x1),
        NAME(CLUSTER_SHAPE, 1x2x1), NAME(CLUSTER_SHAPE, 2x2x1), NAME(CLUSTER_SHAPE, 1x4x1),
    };
    const struct settings s = settings_of(algo);

    printf("id %d tile ", (int)s.id);
    print_name(tiles, COUNT(tiles), s.tile);
    printf(" cluster ");
    print_name(clusters, COUNT(clusters), s.cluster);
    printf(" stages #%u order %u custom %u", s.stages, s.swizzle, s.custom);
}

/* ---- the kernels of a product ---- */

static bool is_known(const struct bench *b, const cublasLtMatmulAlgo_t *algo)
{
    const struct settings s = settings_of(algo);

    for (int i = 0; i < b->kernels_count; i++) {
        const struct settings t = settings_of(&b->kernels[i].algo);

        if (s.id == t.id && s.tile == t.tile && s.stages == t.stages && s.swizzle == t.swizzle &&
            s.custom == t.custom && s.cluster == t.cluster)
            return true;
    }
    return false;
}

static bool works(const struct bench *b, const cublasLtMatmulAlgo_t *algo)
{
    cublasLtMatmulHeuristicResult_t r;

    return cublasLtMatmulAlgoCheck(b->lt, b->desc, b->lw, b->lx, b->lo, b->lo, algo, &r) ==
               CUBLAS_STATUS_SUCCESS &&
           r.workspaceSize <= b->dev->table->workspace;
}

static void add_kernel(struct bench *b, const cublasLtMatmulAlgo_t *algo, int proposal)
{
    if (b->kernels_count < MOST && !is_known(b, algo) && works(b, algo))
        b->kernels[b->kernels_count++] = (struct kernel){ .algo = *algo, .proposal = proposal };
}

static void propose(struct bench *b)
{
    const uint32_t align = 16, no_split = CUBLASLT_REDUCTION_SCHEME_NONE;
    const size_t workspace = b->dev->table->workspace;
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t found[PROPOSALS];
    int count = 0;

    need_lt(cublasLtMatmulPreferenceCreate(&preference));
    SET(preference, Preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace);
    SET(preference, Preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, no_split);
    SET(preference, Preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, align);
    SET(preference, Preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, align);
    SET(preference, Preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, align);
    SET(preference, Preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, align);
    need_lt(cublasLtMatmulAlgoGetHeuristic(b->lt, b->desc, b->lw, b->lx, b->lo, b->lo, preference,
                                           PROPOSALS, found, &count));
    cublasLtMatmulPreferenceDestroy(preference);
    for (int i = 0; i < count; i++)
        add_kernel(b, &found[i].algo, i);
}

/* Adds the first proposal with every tile and number of stages that its family has. */
static void vary_tiles(struct bench *b)
{
    const cublasLtMatmulAlgo_t first = b->kernels[0].algo;
    uint32_t tiles[CUBLASLT_MATMUL_TILE_END] = { 0 }, stages[CUBLASLT_MATMUL_STAGES_END] = { 0 };
    size_t tile_bytes = 0, stage_bytes = 0;

    cublasLtMatmulAlgoCapGetAttribute(&first, CUBLASLT_ALGO_CAP_TILE_IDS, tiles, sizeof(tiles),
                                      &tile_bytes);
    cublasLtMatmulAlgoCapGetAttribute(&first, CUBLASLT_ALGO_CAP_STAGES_IDS, stages, sizeof(stages),
                                      &stage_bytes);
    for (size_t t = 0; t < tile_bytes / sizeof(*tiles); t++)
        for (size_t i = 0; i < stage_bytes / sizeof(*stages); i++) {
            struct settings s = settings_of(&first);
            cublasLtMatmulAlgo_t algo;

            s.tile = tiles[t];
            s.stages = stages[i];
            algo = with_settings(&first, s);
            add_kernel(b, &algo, -1);
        }
}

/* Adds the kernel with other clusters, orders of tiles and custom options. */
static void vary_others(struct bench *b, const cublasLtMatmulAlgo_t *base)
{
    static const uint16_t clusters[] = {
        CUBLASLT_CLUSTER_SHAPE_AUTO,  CUBLASLT_CLUSTER_SHAPE_1x1x1, CUBLASLT_CLUSTER_SHAPE_2x1x1,
        CUBLASLT_CLUSTER_SHAPE_1x2x1, CUBLASLT_CLUSTER_SHAPE_2x2x1, CUBLASLT_CLUSTER_SHAPE_4x1x1,
        CUBLASLT_CLUSTER_SHAPE_1x4x1,
    };
    uint32_t orders = 0;
    int32_t custom_max = 0;

    cublasLtMatmulAlgoCapGetAttribute(base, CUBLASLT_ALGO_CAP_CTA_SWIZZLING_SUPPORT, &orders,
                                      sizeof(orders), NULL);
    cublasLtMatmulAlgoCapGetAttribute(base, CUBLASLT_ALGO_CAP_CUSTOM_OPTION_MAX, &custom_max,
                                      sizeof(custom_max), NULL);
    for (size_t c = 0; c < COUNT(clusters); c++)
        for (uint32_t order = 0; order <= (orders != 0); order++)
            for (int32_t custom = 0; custom <= custom_max && custom < 8; custom++) {
                struct settings s = settings_of(base);
                cublasLtMatmulAlgo_t algo;

                s.cluster = clusters[c];
                s.swizzle = order;
                s.custom = (uint32_t)custom;
                algo = with_settings(base, s);
                add_kernel(b, &algo, -1);
            }
}

/* ---- running and timing ---- */

static bool run(struct bench *b, const struct kernel *k)
{
    const float one = 1, keep = b->p->add ? 1 : 0;

    if (k->proposal == OP) {
        const struct tensor x = matrix(b->x, DT_BF16, b->m, b->p->k);
        const struct tensor w = matrix(b->w, DT_BF16, b->p->n, b->p->k);
        const struct tensor out = matrix(b->out, out_dtype(b), b->m, b->p->n);
        const struct tensor bias =
            tensor_of((b->p->add ? b->bias_f32 : b->bias).data, out_dtype(b), b->p->n);

        need(b->p->add ? op_gemm_add(b->dev, out, x, w, bias)
                       : op_gemm(b->dev, out, x, w, bias, b->p->act));
        return true;
    }
    return cublasLtMatmul(b->lt, b->desc, &one, b->w.data, b->lw, b->x.data, b->lx, &keep,
                          b->out.data, b->lo, b->out.data, b->lo, &k->algo, b->dev->workspace,
                          b->dev->table->workspace, cuda_stream(b->dev)) == CUBLAS_STATUS_SUCCESS;
}

static int repetitions(double sample, double once)
{
    return once >= sample ? 1 : (int)(sample / once + 0.5);
}

/* Queues a sample between two new events. */
static void queue_sample(struct bench *b, const struct kernel *k, int runs, cudaEvent_t event[2])
{
    need_cuda(cudaEventCreate(&event[0]));
    need_cuda(cudaEventCreate(&event[1]));
    need_cuda(cudaEventRecord(event[0], cuda_stream(b->dev)));
    for (int i = 0; i < runs; i++)
        run(b, k);
    need_cuda(cudaEventRecord(event[1], cuda_stream(b->dev)));
}

static double sample_seconds(cudaEvent_t event[2], int runs)
{
    float ms;

    need_cuda(cudaEventElapsedTime(&ms, event[0], event[1]));
    need_cuda(cudaEventDestroy(event[0]));
    need_cuda(cudaEventDestroy(event[1]));
    return 1e-3 * (double)ms / runs;
}

static double expected_seconds(const struct bench *b)
{
    return 2 * (double)b->m * (double)b->p->n * (double)b->p->k / 650e12;
}

/* Clears the output, or sets it to what is added to, and runs the kernel. */
static bool run_anew(struct bench *b, const struct kernel *k, struct tensor out)
{
    if (b->p->add)
        need(device_copy(b->dev, out, matrix(b->base, DT_F32, b->m, b->p->n)));
    else
        need(device_zero(b->dev, out));
    return run(b, k);
}

/* Compares and briefly times the kernels from `from` on. Removes those that do not run or give
 * other bits than the first proposal, and those for which there is no time. */
static void try_kernels(struct bench *b, int from)
{
    const struct tensor out = matrix(b->out, out_dtype(b), b->m, b->p->n);
    const struct tensor want = matrix(b->want, out_dtype(b), b->m, b->p->n);
    const double once = expected_seconds(b);
    const int runs = repetitions(SHORT_SECONDS, once);
    const int most = (int)(BUDGET_SECONDS / (2 * once * (runs + 1))) + PROPOSALS;
    int kept = from, count = b->kernels_count - from;

    for (int i = 0; i < count; i++) { // a random order, the proposals first
        struct kernel *k = &b->kernels[from + i];
        const int j = i + (int)(random_bits() % (uint64_t)(count - i));
        const struct kernel other = b->kernels[from + j];

        if (k->proposal >= 0 || other.proposal >= 0)
            continue;
        b->kernels[from + j] = *k;
        *k = other;
    }
    if (count > most)
        count = most;
    for (int i = from; i < from + count; i++) {
        struct kernel k = b->kernels[i];
        cudaEvent_t event[2];
        unsigned different = 0;

        b->tried++;
        if (!run_anew(b, &k, out)) {
            if (i == 0)
                need(fail(ST_DEVICE, "the first proposal does not run"));
            continue;
        }
        if (i == 0)
            need(device_copy(b->dev, want, out));
        need(same_bits(b->dev, out, want, b->count.data, &different));
        if (different != 0) {
            if (++b->different > 4)
                continue;
            printf("    %u of %lld words differ: ", different,
                   (long long)(tensor_bytes(out) / sizeof(uint16_t)));
            print_settings(&k.algo);
            printf("\n");
            continue;
        }
        queue_sample(b, &k, runs, event);
        need(device_wait(b->dev));
        k.brief = sample_seconds(event, runs);
        b->kernels[kept++] = k;
    }
    b->kernels_count = kept;
}

/* The first call's output of op_gemm has the bits of the first proposal's. */
static void check_op(struct bench *b, const struct kernel *op)
{
    const struct tensor out = matrix(b->out, out_dtype(b), b->m, b->p->n);
    const struct tensor want = matrix(b->want, out_dtype(b), b->m, b->p->n);
    unsigned different = 0;

    run_anew(b, op, out);
    need(same_bits(b->dev, out, want, b->count.data, &different));
    if (different != 0)
        printf("  op_gemm: %u words differ\n", different);
}

/* Adds a second brief time, in another order and without waiting between the kernels. */
static void time_again(struct bench *b)
{
    const int runs = repetitions(SHORT_SECONDS, expected_seconds(b));
    cudaEvent_t event[MOST][2];

    for (int i = b->kernels_count - 1; i >= 0; i--)
        queue_sample(b, &b->kernels[i], runs, event[i]);
    need(device_wait(b->dev));
    for (int i = 0; i < b->kernels_count; i++)
        b->kernels[i].brief += sample_seconds(event[i], runs);
}

static int by_brief(const void *a, const void *b)
{
    const double s = ((const struct kernel *)a)->brief, t = ((const struct kernel *)b)->brief;

    return (s > t) - (s < t);
}

static int by_size(const void *a, const void *b)
{
    const double s = *(const double *)a, t = *(const double *)b;

    return (s > t) - (s < t);
}

static double sorted_median(double x[ROUNDS])
{
    qsort(x, ROUNDS, sizeof(*x), by_size);
    return (x[(ROUNDS - 1) / 2] + x[ROUNDS / 2]) / 2;
}

/* Adds to the finalists the `count` fastest kernels, of the first `proposals` proposals or of all
 * if 0; `all` is sorted. */
static int choose(struct kernel *finalists, int have, const struct kernel *all, int all_count,
                  int proposals, int count)
{
    for (int i = 0; i < all_count && count > 0 && have < FINALISTS; i++) {
        bool there = false;

        if (proposals > 0 && (all[i].proposal < 0 || all[i].proposal >= proposals))
            continue;
        for (int j = 0; j < have; j++)
            there = there || (finalists[j].proposal != OP &&
                              memcmp(&finalists[j].algo, &all[i].algo, sizeof(all[i].algo)) == 0);
        if (!there)
            finalists[have++] = all[i];
        count--;
    }
    return have;
}

static void time_finalists(struct bench *b, struct kernel *finalists, int count)
{
    const int runs = repetitions(SAMPLE_SECONDS, expected_seconds(b));
    cudaEvent_t event[ROUNDS][FINALISTS][2];

    for (int i = 0; i < 40; i++) // op_gemm chooses its kernel
        run(b, &finalists[0]);
    need(device_wait(b->dev));
    for (int r = 0; r < ROUNDS; r++) {
        int order[FINALISTS] = { 0 };

        for (int i = 0; i < count; i++) {
            const int j = (int)(random_bits() % (uint64_t)(i + 1));

            order[i] = order[j];
            order[j] = i;
        }
        for (int i = 0; i < count; i++)
            queue_sample(b, &finalists[order[i]], runs, event[r][order[i]]);
    }
    need(device_wait(b->dev));
    for (int r = 0; r < ROUNDS; r++)
        for (int i = 0; i < count; i++)
            finalists[i].seconds[r] = sample_seconds(event[r][i], runs);
}

/* finalists[0] is op_gemm, finalists[1] the first proposal. */
static void report(const struct bench *b, const struct kernel *finalists, int count,
                   struct result *r)
{
    const double flop = 2e-12 * (double)b->m * (double)b->p->n * (double)b->p->k;

    for (int i = 0; i < count; i++) {
        const struct kernel *k = &finalists[i];
        double rate[ROUNDS], ratio[ROUNDS], median, gain;

        for (int j = 0; j < ROUNDS; j++) {
            rate[j] = flop / k->seconds[j];
            ratio[j] = finalists[1].seconds[j] / k->seconds[j];
        }
        median = sorted_median(rate);
        gain = sorted_median(ratio);
        printf("  %6.1f TFLOP/s (%.1f to %.1f), x %.3f (%.3f to %.3f)  ", median, rate[0],
               rate[ROUNDS - 1], gain, ratio[0], ratio[ROUNDS - 1]);
        if (k->proposal == OP) {
            printf("op_gemm\n");
            r->op = median;
            continue;
        }
        if (k->proposal >= 0)
            printf("proposal %d: ", k->proposal + 1);
        else
            printf("variation: ");
        print_settings(&k->algo);
        printf("\n");
        if (k->proposal == 0)
            r->first = median;
        if (k->proposal >= 0 && k->proposal < FIRST_PROPOSALS)
            r->first_eight = fmax(r->first_eight, median);
        if (k->proposal >= 0)
            r->proposed = fmax(r->proposed, median);
        r->best = fmax(r->best, median);
    }
}

static void bench_product(struct bench *b, bool vary, struct result *r)
{
    static struct kernel sorted[MOST];
    struct kernel finalists[FINALISTS] = { { .proposal = OP } };
    int count = 1, proposals;

    snprintf(r->name, sizeof(r->name), "%-10s %6lld x %5lld x %5lld", b->p->name, (long long)b->m,
             (long long)b->p->n, (long long)b->p->k);
    printf("%s\n", r->name);
    b->kernels_count = b->tried = b->different = 0;
    describe(b);
    propose(b);
    if (b->kernels_count == 0 || b->kernels[0].proposal != 0)
        need(fail(ST_DEVICE, "no proposal"));
    proposals = b->kernels_count;
    if (vary)
        vary_tiles(b);
    try_kernels(b, 0);
    finalists[count++] = b->kernels[0];
    check_op(b, &finalists[0]);
    if (vary) {
        const int tried = b->kernels_count;

        memcpy(sorted, b->kernels, (size_t)tried * sizeof(*sorted));
        qsort(sorted, (size_t)tried, sizeof(*sorted), by_brief);
        for (int i = 0; i < BEST && i < tried; i++)
            vary_others(b, &sorted[i].algo);
        try_kernels(b, tried);
    }
    time_again(b);
    printf("  %d proposals, %d kernels tried, %d with other bits\n", proposals, b->tried,
           b->different);
    memcpy(sorted, b->kernels, (size_t)b->kernels_count * sizeof(*sorted));
    qsort(sorted, (size_t)b->kernels_count, sizeof(*sorted), by_brief);
    count = choose(finalists, count, sorted, b->kernels_count, FIRST_PROPOSALS, 2);
    count = choose(finalists, count, sorted, b->kernels_count, PROPOSALS, 1);
    count = choose(finalists, count, sorted, b->kernels_count, 0, FINALISTS);
    time_finalists(b, finalists, count);
    report(b, finalists, count, r);
    describe_done(b);
}

int main(int argc, char **argv)
{
    static const struct product products[][4] = {
        { { "o", 5120, 5120, ACT_NONE, false },
          { "o, added", 5120, 5120, ACT_NONE, true },
          { "up, gelu", 13824, 5120, ACT_GELU_TANH, false },
          { "down", 5120, 13824, ACT_NONE, false } },
        { { "o", 1536, 1536, ACT_NONE, false },
          { "o, added", 1536, 1536, ACT_NONE, true },
          { "up, gelu", 8960, 1536, ACT_GELU_TANH, false },
          { "down", 1536, 8960, ACT_NONE, false } },
        { { "text k, v", 10240, 5120, ACT_NONE, false },
          { "umT5 up", 10240, 4096, ACT_NONE, false },
          { "vae scores", 6240, 384, ACT_NONE, false },
          { "vae values", 384, 6240, ACT_NONE, false } },
    };
    static struct bench b;
    static struct result results[64];
    char rows[256] = "4095,8190,9450,16380,18900,32760";
    static const char *const models[] = { "14B", "1.3B", "other" };
    const bool vary = argc <= 3 || strcmp(argv[3], "proposals") != 0;
    struct cuda_context *context;
    struct table table;
    struct device dev;
    struct arena a;
    size_t model = 0;
    int count = 0;

    while (argc > 1 && model < COUNT(models) && strcmp(argv[1], models[model]) != 0)
        model++;
    if (argc < 2 || model == COUNT(models)) {
        printf("bench_gemm 14B|1.3B|other [ROWS,ROWS,... [proposals]]\n");
        return 1;
    }
    if (argc > 2)
        snprintf(rows, sizeof(rows), "%s", argv[2]);
    setvbuf(stdout, NULL, _IOLBF, 0);
    table_cuda(&table);
    need(device_open_cuda(&dev, 0, &table, table.workspace));
    need(arena_init(&a, &dev, "bench", (size_t)20 << 30));
    need(cuda_context(&dev, &context));
    b.dev = &dev;
    b.lt = context->lt;
    b.x = random_tensor(&b, &a, DT_BF16, 1, ELEMENTS_MAX);
    b.w = random_tensor(&b, &a, DT_BF16, 0.02f, (int64_t)13824 * 5120);
    b.bias = random_tensor(&b, &a, DT_BF16, 1, 13824);
    b.bias_f32 = random_tensor(&b, &a, DT_F32, 1, 13824);
    b.base = random_tensor(&b, &a, DT_F32, 1, ELEMENTS_MAX / 2);
    need(arena_take(&a, &b.out, DT_BF16, ELEMENTS_MAX));
    need(arena_take(&a, &b.want, DT_BF16, ELEMENTS_MAX));
    need(arena_take(&a, &b.count, DT_F32, 1));
    for (char *m = strtok(rows, ","); m != NULL; m = strtok(NULL, ","))
        for (int i = 0; i < 4 && count < (int)COUNT(results); i++) {
            b.m = atoll(m);
            b.p = &products[model][i];
            if (b.m < 1 || b.m > 75600) {
                printf("rows: 1 to 75600, not %s\n", m);
                return 1;
            }
            bench_product(&b, vary, &results[count++]);
        }
    printf(
        "\nTFLOP/s                            op_gemm   first  of 8  of 32    all   all/first\n");
    for (int i = 0; i < count; i++)
        printf("%-34s %7.1f %7.1f %7.1f %7.1f %7.1f  %.3f\n", results[i].name, results[i].op,
               results[i].first, results[i].first_eight, results[i].proposed, results[i].best,
               results[i].best / results[i].first);
    arena_done(&a);
    device_close(&dev);
    return 0;
}
