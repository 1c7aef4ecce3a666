/* Random numbers for benchmarks: slices of one table, fast enough for 14 billion weights. */
#include "launch/bench/bench.h"
#include "model/checkpoint/quantize.h"
#include "model/synth/synth.h"
#include "runtime/half.h"

#include <stdlib.h>
#include <string.h>

/* splitmix64 */
static uint64_t hash(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* Approximately normal with deviation 1: the sum of four uniform numbers. */
static float approximate_normal(uint64_t index)
{
    const uint64_t z = hash((index + 1) * 0x9e3779b97f4a7c15u);
    const int sum =
        (int)(z & 0xffff) + (int)(z >> 16 & 0xffff) + (int)(z >> 32 & 0xffff) + (int)(z >> 48);

    return (float)(sum - 131070) * (float)(1.7320508075688772 / 65536);
}

/* The first BENCH_VALUES numbers are at scale 1, the second BENCH_VALUES at scale 0.02. */
status bench_values_open(struct bench *b)
{
    void *f32 = NULL, *bf16 = NULL;

    TRY(device_host_alloc(&b->dev, &f32, (size_t)(2 * BENCH_VALUES) * sizeof(float)));
    b->values = f32;
    TRY(device_host_alloc(&b->dev, &bf16, (size_t)(2 * BENCH_VALUES) * sizeof(uint16_t)));
    b->values_bf16 = bf16;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < BENCH_VALUES; i++) {
        const float x = approximate_normal((uint64_t)i);

        b->values[i] = x;
        b->values[BENCH_VALUES + i] = 0.02f * x;
        b->values_bf16[i] = bf16_from_f32(x);
        b->values_bf16[BENCH_VALUES + i] = bf16_from_f32(0.02f * x);
    }
    return ST_OK;
}

void bench_values_close(struct bench *b)
{
    if (b->dev.api == NULL)
        return;
    device_host_free(&b->dev, b->values);
    device_host_free(&b->dev, b->values_bf16);
}

/* Elements [first, first + *count) of the table repeated without end, starting at an offset derived
 * from `key`; *count is at most `most` and stops at the table's end. */
static const void *table_slice(const struct bench *b, enum dtype dt, bool small, uint64_t key,
                               int64_t first, int64_t most, int64_t *count)
{
    const int64_t at = (int64_t)((hash(key) + (uint64_t)first) % (uint64_t)BENCH_VALUES);
    const int64_t left = BENCH_VALUES - at, from = at + (small ? BENCH_VALUES : 0);

    *count = most < left ? most : left;
    return dt == DT_F32 ? (const void *)(b->values + from) : (const void *)(b->values_bf16 + from);
}

status bench_fill(struct bench *b, struct tensor t, float scale)
{
    const struct tensor flat = tensor_reshape(t, tensor_count(t));
    int64_t count;

    for (int64_t i = 0; i < tensor_count(t); i += count) {
        const void *from = table_slice(b, t.dtype, scale < 1, (uint64_t)(uintptr_t)t.data, i,
                                       tensor_count(t) - i, &count);

        TRY(device_upload(&b->dev, tensor_slice(flat, 0, i, count), from));
    }
    return ST_OK;
}

/* "blocks.3.norm1.weight", "norm_q.weight", "...gamma". */
static bool is_norm(const char *name)
{
    const char *last = strrchr(name, '.');

    return strstr(name, "gamma") != NULL ||
           (strstr(name, "norm") != NULL && last != NULL && strcmp(last, ".weight") == 0);
}

static uint64_t key_of(const char *name)
{
    uint64_t key = 0;

    for (const char *c = name; *c != 0; c++)
        key = key * 31 + (unsigned char)*c;
    return key;
}

static status read_values(void *payload, const struct weight_spec *spec, const char *name,
                          int64_t first, int64_t count, void *dst)
{
    const struct weight_source values = { .read = read_values, .payload = payload };
    const enum dtype dt = spec->dtype;
    const struct bench *b = payload;
    const size_t size = dtype_size(dt);
    const uint64_t key = key_of(name);
    int64_t now;

    if (quantize_makes(spec))
        return quantize_read(&values, spec, name, first, count, dst);
    if (dt != DT_F32 && dt != DT_BF16)
        return fail(ST_USAGE, "%s: no random values of type %s", name, dtype_name(dt));
    for (int64_t i = 0; i < count; i += now) {
        char *to = (char *)dst + (size_t)i * size;

        if (is_norm(name)) {
            const float one = 1;
            const uint16_t one_bf16 = bf16_from_f32(1);

            now = 1;
            memcpy(to, dt == DT_F32 ? (const void *)&one : (const void *)&one_bf16, size);
        } else {
            const void *from = table_slice(b, dt, true, key, first + i, count - i, &now);

            memcpy(to, from, (size_t)now * size);
        }
    }
    return ST_OK;
}

static bool form(void *payload, const struct weight_spec *spec, const char *name,
                 struct weight_form *form)
{
    const struct bench *b = payload;
    const int64_t rows = spec->dim[0], cols = spec->dim[1];

    if (b->options->weights == WEIGHTS_BF16 || (b->blocks != NULL && cols % b->blocks->values != 0))
        return false;
    form->stored = (struct stored_form){ .block = b->blocks, .count = rows * cols, .row = cols };
    if (b->blocks == NULL) {
        form->stored.dtype = DT_F8_E4M3;
        form->stored.scale.dtype = DT_F32;
        form->stored.scale.count = rows;
        form->stored.scale.rows = form->stored.scale.per_row = 1;
        form->stored.scale.columns = cols;
        form->stored.scale.factor = 1;
    }
    return true;
}

static status read_form(void *payload, const struct weight_spec *spec, const char *name,
                        size_t first, size_t count, void *dst)
{
    const struct bench *b = payload;
    const size_t size = b->blocks != NULL ? (size_t)b->blocks->bytes : 1, end = first + count;
    const size_t numbers = (size_t)(spec->dim[0] * spec->dim[1]);
    const float scale = 0.02f / synth_rms_e4m3();
    char *to = dst, *blocks;

    if (b->blocks != NULL) {
        const int64_t from = (int64_t)(first / size), after = (int64_t)((end + size - 1) / size);

        blocks = malloc((size_t)(after - from) * size);
        if (blocks == NULL)
            return fail(ST_MEMORY, "cannot allocate host memory for random weights");
        blocks_random(b->blocks, key_of(name), 0.02f, from, after - from, blocks);
        memcpy(to, blocks + (first - (size_t)from * size), count);
        free(blocks);
        return ST_OK;
    }
    if (first < numbers)
        synth_e4m3(key_of(name), (int64_t)first, (int64_t)((end < numbers ? end : numbers) - first),
                   dst);
    for (size_t i = first > numbers ? first : numbers; i < end; i++) // scales, at any byte
        to[i - first] = ((const char *)&scale)[i % sizeof(scale)];
    return ST_OK;
}

struct weight_source bench_source(struct bench *b)
{
    return (struct weight_source){
        .read = read_values, .form = form, .read_form = read_form, .payload = b
    };
}
