/* bench_sparse - the GPU's attention over lists of tiles of keys, beside attention to all keys, at
 * the sizes of Wan's transformers: TFLOP/s of the listed tiles, and their ratio to the dense rate;
 * then the time of making lists.
 *
 *     bench_sparse [SECONDS per measurement] */
#include "kernels/cuda/context.h"

#include "kernels/table.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define NOISE 1048573 // a prime, so that no two heads get the same numbers
#define HEADS 40
#define D 128

static const struct {
    const char *name;
    int q_rows, k_rows;
    double kept;
    double same; // share of tiles of queries that have the list of the tile before
} cases[] = {
    { "128 x 64", 128, 64, 1, 0 },
    { "128 x 64", 128, 64, 0.5, 0 },
    { "128 x 64", 128, 64, 0.25, 0 },
    { "128 x 64", 128, 64, 0.125, 0 },
    { "128 x 128", 128, 128, 0.125, 0 },
    { "64 x 64", 64, 64, 1, 0 },
    { "64 x 64", 64, 64, 0.125, 0 },
    { "64 x 64, pairs", 64, 64, 0.125, 0.5 },
    { "64 x 128, pairs", 64, 128, 0.1, 0.5 },
};

static uint64_t state = 1;

static double uniform(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return ((double)(state >> 11) + 0.5) / 9007199254740992.0;
}

static status fill(struct device *dev, struct tensor t)
{
    uint16_t *noise = malloc(NOISE * sizeof(*noise));
    const int64_t count = tensor_count(t);
    status st = ST_OK;

    for (int i = 0; i < NOISE; i++) {
        const float f = (float)(sqrt(-2 * log(uniform())) * cos(6.283185307179586 * uniform()));
        union {
            float f;
            uint32_t bits;
        } u = { f };

        noise[i] = (uint16_t)((u.bits + 0x8000) >> 16);
    }
    for (int64_t i = 0; i < count && st == ST_OK; i += NOISE)
        st = device_upload(
            dev, tensor_of((uint16_t *)t.data + i, DT_BF16, count - i < NOISE ? count - i : NOISE),
            noise);
    if (st == ST_OK)
        st = device_wait(dev);
    free(noise);
    return st;
}

static status upload(struct device *dev, struct tensor *t, const int32_t *values, int64_t count)
{
    void *data = NULL;

    TRY(device_alloc(dev, &data, (size_t)count * 4));
    *t = tensor_of(data, DT_I32, count);
    TRY(device_upload(dev, *t, values));
    return device_wait(dev);
}

static status make_tiles(struct device *dev, struct tensor *t, int64_t tokens, int rows)
{
    const int64_t tiles = (tokens + rows - 1) / rows;
    int32_t *first = malloc((size_t)(tiles + 1) * 4);
    status st;

    for (int64_t i = 0; i <= tiles; i++)
        first[i] = (int32_t)(i * rows < tokens ? i * rows : tokens);
    st = upload(dev, t, first, tiles + 1);
    free(first);
    return st;
}

static status make_lists(struct device *dev, struct tile_lists *lists, size_t which, int64_t tokens)
{
    const int64_t q_tiles = (tokens + cases[which].q_rows - 1) / cases[which].q_rows;
    const int64_t k_tiles = (tokens + cases[which].k_rows - 1) / cases[which].k_rows;
    const int64_t most = (int64_t)ceil(cases[which].kept * (double)k_tiles);
    int32_t *count = malloc((size_t)(HEADS * q_tiles) * 4);
    int32_t *index = malloc((size_t)(HEADS * q_tiles * most) * 4);
    status st;

    *lists = (struct tile_lists){ .q_rows = cases[which].q_rows, .k_rows = cases[which].k_rows };
    for (int64_t i = 0; i < HEADS * q_tiles; i++) {
        int32_t *const to = index + i * most;
        const bool same = i % q_tiles % 2 == 1 && uniform() < 2 * cases[which].same;
        int64_t n = 0;

        count[i] = (int32_t)most;
        for (int64_t j = 0; j < k_tiles && n < most; j++)
            if (same)
                to[n] = to[n - most], n++;
            else if (uniform() * (double)(k_tiles - j) < (double)(most - n))
                to[n++] = (int32_t)j;
    }
    TRY_OUT(make_tiles(dev, &lists->q_first, tokens, cases[which].q_rows));
    TRY_OUT(make_tiles(dev, &lists->k_first, tokens, cases[which].k_rows));
    TRY_OUT(upload(dev, &lists->count, count, HEADS * q_tiles));
    TRY_OUT(upload(dev, &lists->index, index, HEADS * q_tiles * most));
    lists->count = tensor_of(lists->count.data, DT_I32, (int64_t)HEADS, q_tiles);
    lists->index = tensor_of(lists->index.data, DT_I32, (int64_t)HEADS, q_tiles, most);
    lists->keys = (double)(most * cases[which].k_rows);
out:
    free(count);
    free(index);
    return st;
}

static void free_lists(struct device *dev, struct tile_lists *lists)
{
    const struct tensor all[] = { lists->q_first, lists->k_first, lists->count, lists->index };

    for (size_t i = 0; i < COUNT(all); i++)
        device_free(dev, all[i].data, tensor_bytes(all[i]));
}

/* What is timed. */
struct work {
    struct tensor out, q, k, v;
    const struct tile_lists *lists; // NULL: dense
    struct tensor q_means, k_means; // with `makes`
    bool means, makes;
};

static status run(struct device *dev, const struct work *w)
{
    const float scale = 0.088388348F;
    const struct tensor none = { 0 };

    if (w->means)
        return op_tile_means(dev, w->q_means, w->q, w->lists->q_first);
    if (w->makes)
        return op_tile_lists(dev, w->lists->count, w->lists->index, w->q_means, w->k_means);
    if (w->lists != NULL)
        return op_sparse_attention(dev, w->out, none, w->q, w->k, w->v, scale, w->lists);
    return op_attention(dev, w->out, none, w->q, w->k, w->v, scale);
}

/* Seconds of one run, over at least `seconds`. */
static status measure(struct device *dev, const struct work *w, double seconds, double *took)
{
    cudaEvent_t from = NULL, to = NULL;
    int runs = 1;
    status st = ST_OK;

    TRY_OUT(cuda_status(cudaEventCreate(&from), "timing"));
    TRY_OUT(cuda_status(cudaEventCreate(&to), "timing"));
    TRY_OUT(run(dev, w));
    for (int pass = 0; pass < 2; pass++) {
        float ms;

        TRY_OUT(cuda_status(cudaEventRecord(from, dev->stream), "timing"));
        for (int i = 0; i < runs; i++)
            TRY_OUT(run(dev, w));
        TRY_OUT(cuda_status(cudaEventRecord(to, dev->stream), "timing"));
        TRY_OUT(device_wait(dev));
        TRY_OUT(cuda_status(cudaEventElapsedTime(&ms, from, to), "timing"));
        *took = 1e-3 * (double)ms / runs;
        runs = 1 + (int)(seconds / *took);
    }
out:
    if (from != NULL)
        cudaEventDestroy(from);
    if (to != NULL)
        cudaEventDestroy(to);
    return st;
}

static status measure_size(struct device *dev, int64_t tokens, double seconds)
{
    const size_t bytes = (size_t)(tokens * HEADS * D) * 2;
    void *data[4] = { NULL }, *means[2] = { NULL };
    struct tensor t[4];
    struct work w;
    double dense = 0, took;
    status st = ST_OK;

    for (int i = 0; i < 4; i++) {
        TRY_OUT(device_alloc(dev, &data[i], bytes));
        t[i] = tensor_of(data[i], DT_BF16, tokens, (int64_t)HEADS, (int64_t)D);
        TRY_OUT(fill(dev, t[i]));
    }
    for (int i = 0; i < 2; i++)
        TRY_OUT(device_alloc(dev, &means[i], bytes / 60));
    w = (struct work){ .out = t[0], .q = t[1], .k = t[2], .v = t[3] };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct tile_lists lists;
        double flop = 4.0 * (double)tokens * (double)tokens * HEADS * D;

        TRY_OUT(make_lists(dev, &lists, i, tokens));
        w.lists = NULL;
        TRY_OUT(measure(dev, &w, seconds, &took));
        dense = flop / took;
        w.lists = &lists;
        TRY_OUT(measure(dev, &w, seconds, &took));
        flop = 4.0 * (double)tokens * lists.keys * HEADS * D;
        printf(
            "%lld tokens, %d heads, tiles of %s, %.1f %% of them%s: %8.3f ms, %4.0f TFLOP/s, dense "
            "%4.0f, ratio %.3f\n",
            (long long)tokens, HEADS, cases[i].name, 100 * cases[i].kept,
            cases[i].same > 0 ? " (the same for both)" : "", 1e3 * took, flop / took * 1e-12,
            dense * 1e-12, flop / took / dense);
        fflush(stdout);
        if (i == 3 || i == 6) {
            w.q_means =
                tensor_of(means[0], DT_BF16, lists.count.dim[1], (int64_t)HEADS, (int64_t)D);
            w.k_means =
                tensor_of(means[1], DT_BF16, lists.k_first.dim[0] - 1, (int64_t)HEADS, (int64_t)D);
            TRY_OUT(op_tile_means(dev, w.k_means, t[2], lists.k_first));
            w.means = true;
            TRY_OUT(measure(dev, &w, 0.02, &took));
            printf("  means of the tiles of queries: %.3f ms\n", 1e3 * took);
            w.means = false;
            w.makes = true;
            TRY_OUT(measure(dev, &w, 0.02, &took));
            printf("  lists: %.3f ms\n", 1e3 * took);
            w.makes = false;
            TRY_OUT(measure(dev, &w, seconds, &took));
            printf("  attention over these lists: %.3f ms\n", 1e3 * took);
        }
        free_lists(dev, &lists);
    }
out:
    for (int i = 0; i < 4; i++)
        device_free(dev, data[i], bytes);
    for (int i = 0; i < 2; i++)
        device_free(dev, means[i], bytes / 60);
    return st;
}

int main(int argc, char **argv)
{
    const double seconds = argc > 1 ? atof(argv[1]) : 1;
    struct device dev = { 0 };
    struct table table;
    status st = ST_OK;

    if (device_cuda_count() == 0) {
        printf("bench_sparse: skipped, no GPU\n");
        return 77;
    }
    table_cuda(&table);
    TRY_OUT(device_open_cuda(&dev, 0, &table, table.workspace));
    TRY_OUT(measure_size(&dev, 32760, seconds));
    TRY_OUT(measure_size(&dev, 75600, seconds));
out:
    if (st != ST_OK)
        printf("bench_sparse: %s\n", status_line());
    device_close(&dev);
    return st != ST_OK;
}
