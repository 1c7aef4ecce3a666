/* bench_attention - the GPU's attention at the sizes of Wan's transformers: TFLOP/s of each kernel
 * over a second or more, its error, and whether a subset of the queries gives the same bits as all
 * of them. 8-bit attention is timed with its quantization. Then the errors for inputs with
 * outliers, as bench/peers/attention8.py prints them for FlashAttention 3.
 *
 *     bench_attention [SECONDS per measurement] */
#include "bench/attention_cudnn.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/context.h"
#include "kernels/cuda/plain.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct tensor scratch8; // of attention_8bit

static status attention_8bit(struct device *dev, struct tensor out, struct tensor lse,
                             struct tensor q, struct tensor k, struct tensor v, float scale)
{
    const struct attention_part all = { .count = q.dim[0], .out = out };

    return op_attention8(dev, &all, 1, lse, q, k, v, scale, scratch8);
}

static const struct {
    const char *name;
    enum dtype dt;
    attention_fn *attention;
} kernels[] = {
    { "8bit", DT_BF16, attention_8bit },
    { "sm90", DT_BF16, attention_sm90 },
    { "cudnn", DT_BF16, attention_cudnn },
    { "f32", DT_F32, attention_f32 },
};

#define NOISE 1048573 // a prime, so that no two heads get the same numbers

static status check(cudaError_t e)
{
    return cuda_status(e, "timing");
}

/* Normal random numbers that are exact in bf16, as bf16 and as f32. */
struct noise {
    uint16_t narrow[NOISE];
    float wide[NOISE];
};

static void draw(struct noise *noise)
{
    uint64_t state = 1;

    for (int i = 0; i < NOISE; i++) {
        double u[2];
        float f;
        uint32_t bits;

        for (int j = 0; j < 2; j++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            u[j] = ((double)(state >> 11) + 0.5) / 9007199254740992.0;
        }
        f = (float)(sqrt(-2 * log(u[0])) * cos(6.283185307179586 * u[1]));
        memcpy(&bits, &f, sizeof(bits));
        noise->narrow[i] = (uint16_t)((bits + 0x8000) >> 16);
        bits = (uint32_t)noise->narrow[i] << 16;
        memcpy(&noise->wide[i], &bits, sizeof(bits));
    }
}

static status fill(struct device *dev, struct tensor t, const struct noise *noise)
{
    const int64_t count = tensor_count(t);
    const size_t size = dtype_size(t.dtype);

    for (int64_t i = 0; i < count; i += NOISE) {
        const int64_t n = count - i < NOISE ? count - i : NOISE;

        TRY(device_upload(dev, tensor_of((char *)t.data + (size_t)i * size, t.dtype, n),
                          t.dtype == DT_BF16 ? (const void *)noise->narrow : noise->wide));
    }
    return ST_OK;
}

static double element(enum dtype dt, const char *p, int64_t i)
{
    uint32_t bits;
    float f;

    if (dt == DT_F32)
        return (double)((const float *)p)[i];
    bits = (uint32_t)((const uint16_t *)p)[i] << 16;
    memcpy(&f, &bits, sizeof(f));
    return (double)f;
}

/* |a - b| / |b| */
static double distance(enum dtype dt, const char *a, const char *b, int64_t count)
{
    double off = 0, whole = 0;

    for (int64_t i = 0; i < count; i++) {
        const double want = element(dt, b, i), d = element(dt, a, i) - want;

        off += d * d;
        whole += want * want;
    }
    return sqrt(off / whole);
}

#define PART 37 // rows compared at each of three positions

struct sizes {
    int64_t sq, sk, heads, d;
};

/* Measures one kernel at one size. */
static status measure(struct device *dev, size_t which, struct sizes s, const struct noise *noise,
                      double seconds)
{
    const enum dtype dt = kernels[which].dt;
    const int64_t d = s.d, c = s.heads * d, rows = s.sq > s.sk ? s.sq : s.sk;
    const size_t size = dtype_size(dt), bytes = (size_t)(rows * 3 * c) * size;
    const size_t out_bytes = (size_t)(s.sq * c) * size, part_bytes = (size_t)(PART * c) * size;
    const float scale = 1 / sqrtf((float)d);
    const struct tensor none = { 0 };
    void *qkv = NULL, *result = NULL, *parts = NULL;
    char *host = malloc(3 * part_bytes);
    cudaEvent_t from = NULL, to = NULL;
    double off = 0, took = 0;
    int runs = 2, different = 0;
    status st = ST_OK;

    TRY_OUT(check(cudaEventCreate(&from)));
    TRY_OUT(check(cudaEventCreate(&to)));
    TRY_OUT(device_alloc(dev, &qkv, bytes));
    TRY_OUT(device_alloc(dev, &result, out_bytes));
    TRY_OUT(device_alloc(dev, &parts, part_bytes));
    TRY_OUT(fill(dev, tensor_of(qkv, dt, rows * 3 * c), noise));

    const struct tensor all = tensor_split(tensor_of(qkv, dt, rows, 3 * c), 1, d);
    const struct tensor q = tensor_slice(tensor_slice(all, 1, 0, s.heads), 0, 0, s.sq);
    const struct tensor k = tensor_slice(tensor_slice(all, 1, s.heads, s.heads), 0, 0, s.sk);
    const struct tensor v = tensor_slice(tensor_slice(all, 1, 2 * s.heads, s.heads), 0, 0, s.sk);
    const struct tensor out = tensor_of(result, dt, s.sq, s.heads, d);
    const struct tensor part = tensor_of(parts, dt, PART, s.heads, d);

    TRY_OUT(kernels[which].attention(dev, out, none, q, k, v, scale)); // warm-up
    TRY_OUT(device_wait(dev));
    for (int pass = 0; pass < 2; pass++) { // the first pass finds the number of runs for the second
        float ms;

        TRY_OUT(check(cudaEventRecord(from, dev->stream)));
        for (int i = 0; i < runs; i++)
            TRY_OUT(kernels[which].attention(dev, out, none, q, k, v, scale));
        TRY_OUT(check(cudaEventRecord(to, dev->stream)));
        TRY_OUT(device_wait(dev));
        TRY_OUT(check(cudaEventElapsedTime(&ms, from, to)));
        took = 1e-3 * (double)ms / runs;
        if (pass == 0)
            runs = 1 + (int)(seconds / took);
    }
    for (int i = 0; i < 3 && s.sq >= PART; i++) {
        const int64_t first = i == 0 ? 0 : i == 1 ? (s.sq - PART) / 2 : s.sq - PART;
        const struct tensor some = tensor_slice(q, 0, first, PART);

        TRY_OUT(device_download(dev, host, tensor_slice(out, 0, first, PART)));
        TRY_OUT(kernels[which].attention(dev, part, none, some, k, v, scale));
        TRY_OUT(device_download(dev, host + part_bytes, part));
        TRY_OUT(plain_attention(dev, part, none, some, k, v, scale));
        TRY_OUT(device_download(dev, host + 2 * part_bytes, part));
        TRY_OUT(device_wait(dev));
        different += memcmp(host, host + part_bytes, part_bytes) != 0;
        off = fmax(off, distance(dt, host, host + 2 * part_bytes, PART * c));
    }

    const double flop = 4.0 * (double)s.sq * (double)s.sk * (double)c;

    printf("%6lld of %6lld tokens, %2lld heads of %lld  %-6s %8.3f ms  %5.0f TFLOP/s, %4d runs; "
           "error %.1e; "
           "subset %s\n",
           (long long)s.sq, (long long)s.sk, (long long)s.heads, (long long)d, kernels[which].name,
           1e3 * took, flop / took * 1e-12, runs, off, different == 0 ? "same" : "DIFFERENT");
    fflush(stdout);
out:
    if (from != NULL)
        cudaEventDestroy(from);
    if (to != NULL)
        cudaEventDestroy(to);
    device_free(dev, qkv, bytes);
    device_free(dev, result, out_bytes);
    device_free(dev, parts, part_bytes);
    free(host);
    return st;
}

/* ---- errors with outliers ---- */

enum { Q, K, V, INPUTS };

static const struct {
    const char *name;
    float scale[INPUTS]; // of channels 3, 40, 77 and 101
    float k_bias;        // added to these channels of k
    float q_scale;       // of all of q
    float v_token;       // of every 501st token of v
    float tail;          // of one number in 1000
} kinds[] = {
    { "normal", { 1, 1, 1 }, 0, 1, 1, 1 },
    { "q twice as large", { 1, 1, 1 }, 0, 2, 1, 1 },
    { "4 channels of k x 10", { 1, 10, 1 }, 0, 1, 1, 1 },
    { "4 channels of q, k x 4", { 4, 4, 1 }, 0, 1, 1, 1 },
    { "4 channels k + 20, v x 10", { 1, 1, 10 }, 20, 1, 1, 1 },
    { "tokens of v x 30", { 1, 1, 1 }, 0, 1, 30, 1 },
    { "1 of 1000 x 10", { 1, 1, 1 }, 0, 1, 1, 10 },
};

#define OUTLIER_ROWS 515
#define OUTLIER_KEYS 8190
#define OUTLIER_HEADS 3

static status fill_outliers(struct device *dev, struct tensor t, int input, size_t kind,
                            const struct noise *noise)
{
    const int64_t count = tensor_count(t), c = OUTLIER_HEADS * 128;
    uint16_t *host = malloc((size_t)count * 2);
    status st;

    for (int64_t i = 0; i < count; i++) {
        const int64_t at = (i + 7919 * input) % NOISE, channel = i % 128;
        const bool outlier = channel == 3 || channel == 40 || channel == 77 || channel == 101;
        float x = noise->wide[at];
        uint32_t bits;

        if (outlier)
            x = x * kinds[kind].scale[input] + (input == K ? kinds[kind].k_bias : 0);
        if (input == Q)
            x *= kinds[kind].q_scale;
        if (input == V && i / c % 501 == 0)
            x *= kinds[kind].v_token;
        if ((uint32_t)at * 2654435761u < 4294967u)
            x *= kinds[kind].tail;
        memcpy(&bits, &x, sizeof(bits));
        host[i] = (uint16_t)((bits + 0x8000) >> 16);
    }
    st = device_upload(dev, tensor_of(t.data, DT_BF16, count), host);
    if (st == ST_OK)
        st = device_wait(dev);
    free(host);
    return st;
}

static status measure_outliers(struct device *dev, const struct noise *noise)
{
    const int64_t rows[] = { OUTLIER_ROWS, OUTLIER_KEYS, OUTLIER_KEYS, OUTLIER_ROWS };
    const int64_t count = OUTLIER_ROWS * OUTLIER_HEADS * 128;
    const struct tensor none = { 0 };
    struct tensor t[INPUTS + 1];
    void *data[INPUTS + 1] = { NULL };
    char *host = malloc(2 * (size_t)count * 2);
    status st = ST_OK;

    for (int i = 0; i <= INPUTS; i++) {
        TRY_OUT(device_alloc(dev, &data[i], (size_t)(rows[i] * OUTLIER_HEADS * 128) * 2));
        t[i] = tensor_of(data[i], DT_BF16, rows[i], (int64_t)OUTLIER_HEADS, (int64_t)128);
    }
    for (size_t kind = 0; kind < COUNT(kinds); kind++) {
        for (int i = 0; i < INPUTS; i++)
            TRY_OUT(fill_outliers(dev, t[i], i, kind, noise));
        TRY_OUT(plain_attention(dev, t[INPUTS], none, t[Q], t[K], t[V], 0.088388348F));
        TRY_OUT(device_download(dev, host, t[INPUTS]));
        printf("%-26s", kinds[kind].name);
        for (int i = 0; i < 2; i++) {
            TRY_OUT(kernels[i].attention(dev, t[INPUTS], none, t[Q], t[K], t[V], 0.088388348F));
            TRY_OUT(device_download(dev, host + 2 * count, t[INPUTS]));
            TRY_OUT(device_wait(dev));
            printf("  %s error %.2e", kernels[i].name,
                   distance(DT_BF16, host + 2 * count, host, count));
        }
        printf("\n");
    }
out:
    for (int i = 0; i <= INPUTS; i++)
        device_free(dev, data[i], (size_t)(rows[i] * OUTLIER_HEADS * 128) * 2);
    free(host);
    return st;
}

int main(int argc, char **argv)
{
    static const struct sizes sizes[] = {
        { 32760, 32760, 40, 128 }, { 75600, 75600, 40, 128 }, { 32760, 32760, 12, 128 },
        { 32760, 32760, 5, 128 },  { 75600, 75600, 5, 128 },  { 16380, 32760, 40, 128 },
        { 8190, 16380, 10, 128 },  { 32760, 512, 40, 128 },   { 4095, 512, 40, 128 },
        { 1000, 1000, 5, 128 },    { 14400, 14400, 1, 384 }, // the last is the VAE's
    };
    const double seconds = argc > 1 ? atof(argv[1]) : 1;
    struct noise *noise = malloc(sizeof(*noise));
    struct device dev = { 0 };
    struct table table;
    const size_t scratch_bytes = attention8_scratch(75600, 75600, 40, 128);
    void *scratch = NULL;
    status st = ST_OK;

    if (noise == NULL)
        return 1;
    if (device_cuda_count() == 0) {
        printf("bench_attention: skipped, no GPU\n");
        return 77;
    }
    draw(noise);
    table_cuda(&table);
    TRY_OUT(device_open_cuda(&dev, 0, &table, table.workspace));
    TRY_OUT(device_alloc(&dev, &scratch, scratch_bytes));
    scratch8 = tensor_of(scratch, DT_U8, (int64_t)scratch_bytes);
    TRY_OUT(measure_outliers(&dev, noise));
    for (size_t i = 0; i < COUNT(sizes); i++)
        for (size_t which = 0; which < COUNT(kernels); which++)
            if (kernels[which].dt == DT_F32 ? sizes[i].heads <= 12
                : kernels[which].attention == attention_cudnn
                    ? sizes[i].d <= 256
                    : kernels[which].attention != attention_8bit || sizes[i].d == 128)
                TRY_OUT(measure(&dev, which, sizes[i], noise, seconds));
out:
    if (st != ST_OK)
        printf("bench_attention: %s\n", status_line());
    attention_cudnn_close();
    device_free(&dev, scratch, scratch_bytes);
    device_close(&dev);
    free(noise);
    return st != ST_OK;
}
