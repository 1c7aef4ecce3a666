/* The audio encoder compared with transformers' (golden/make_wav2vec2.py), what S2V makes of its
 * states compared with the official program, and its plan with a run.
 *
 *     test_wav2vec2 GOLDEN [cuda] */
#include "model/audio/speech.h"
#include "model/audio/wav2vec2.h"
#include "model/audio/wav2vec2_part.h"
#include "tests/check.h"
#include "tests/dit_model.h"
#include "tests/golden.h"
#include "tests/levels.h"

static struct wav2vec2_config config; // of the tiny encoder

#define MEMORY ((size_t)64 << 20)
enum { STATES = 4, EACH = 13, STEP = 97 };

static struct golden golden;

/* ---- weights from a formula ---- */

struct formula {
    int reads, fail_at; // counts reads; fails at this one, 0: never
};

static status formula_read(void *payload, const struct weight_spec *spec, const char *name,
                           int64_t first, int64_t count, void *dst)
{
    struct formula *f = payload;
    const bool norm = strstr(name, "norm.weight") != NULL;
    const float scale = norm ? 0.25f : strstr(name, "weight_g") != NULL ? 0.5f : 0.125f;
    const uint64_t seed = dit_seed(name);
    const int64_t in = spec->file_dim[1], kernel = spec->file_dim[2];

    if (++f->reads == f->fail_at)
        return fail(ST_IO, "read %d fails", f->reads);
    for (int64_t i = first; i < first + count; i++) {
        // in memory [out, k, in], in the file [out, in, k]
        const int64_t row = spec->channels_last ? i / (in * kernel) : 0;
        const int64_t in_row = i - row * in * kernel;
        const int64_t at =
            spec->channels_last ? row * in * kernel + in_row % in * kernel + in_row / in : i;

        ((float *)dst)[i - first] = (norm ? 1 : 0) + scale * dit_value(seed, at);
    }
    return ST_OK;
}

/* ---- the encoder ---- */

struct collected {
    float *rows; // [STATES, rows, C]
    int64_t count;
    int next, fail_at; // -1: never
};

static status collect(void *payload, int index, const float *rows)
{
    struct collected *c = payload;

    CHECK(index == c->next++, "state %d", index);
    if (index == c->fail_at)
        return fail(ST_MEMORY, "state %d fails", index);
    memcpy(c->rows + index * c->count, rows, (size_t)c->count * sizeof(float));
    return ST_OK;
}

static status encode(const struct table *table, struct formula *f, const float *samples,
                     int64_t count, struct collected *c, size_t *peak)
{
    const struct weight_source source = { .read = formula_read, .payload = f };
    struct device dev = { 0 };
    struct arena a = { 0 };
    status st;

    if (samples == NULL)
        golden_need(device_open_plan(&dev, &table_plan, 0));
    else
        golden_need(levels_device(&dev, 0, table));
    golden_need(arena_init(&a, &dev, "audio", samples == NULL ? 0 : MEMORY));
    st = wav2vec2_encode(&config, &dev, &a, source, samples, count,
                         (struct wav2vec2_sink){ collect, c });
    CHECK(a.used == 0, "%zu bytes are not released", a.used);
    *peak = a.peak;
    arena_done(&a);
    device_close(&dev);
    return st;
}

static float *make_samples(int64_t count)
{
    float *samples = malloc((size_t)count * sizeof(*samples));

    for (int64_t i = 0; i < count; i++)
        samples[i] = dit_value(dit_seed("samples"), i) / 8 + 0.1f;
    wav2vec2_normalize(samples, count);
    return samples;
}

/* What the official program makes of the states for clips of so many frames. */
static void check_buckets(const struct collected *c, int64_t rows, int64_t samples, int frames)
{
    const int64_t dim = config.dim;
    int64_t n = 0;
    float *want = golden_f32(&golden, &n, "buckets.%d.%d", (int)samples, frames);
    int64_t *clips = golden_i64(&golden, NULL, "clips.%d.%d", (int)samples, frames);
    const int64_t kept = n / (STATES * dim);
    float *got = malloc((size_t)n * sizeof(*got));

    CHECK(speech_clips(rows, frames) == *clips, "%d clips, not %d", speech_clips(rows, frames),
          (int)*clips);
    for (int s = 0; s < STATES; s++)
        for (int64_t i = 0; i < kept; i++) {
            const struct speech_row r = speech_row(rows, i * EACH);

            for (int64_t k = 0; k < dim; k++)
                got[(s * kept + i) * dim + k] =
                    r.weight[0] * c->rows[s * c->count + r.row[0] * dim + k] +
                    r.weight[1] * c->rows[s * c->count + r.row[1] * dim + k];
        }
    check_near("buckets", got, want, n, levels_tolerance(2e-5));
    free(got);
    free(clips);
    free(want);
}

static void check_encode(const struct table *table, int64_t count)
{
    const int64_t rows = wav2vec2_rows(&config, count), dim = config.dim;
    const int64_t kept = (rows + EACH - 1) / EACH;
    float *samples = make_samples(count);
    float *normalized = golden_f32(&golden, NULL, "normalized.%d", (int)count);
    float *want = golden_f32(&golden, NULL, "states.%d", (int)count);
    struct collected c = { .count = rows * dim, .fail_at = -1 };
    size_t peak = 0, planned = 0;
    struct formula f = { 0 };
    float worst = 0;

    c.rows = malloc((size_t)(STATES * c.count) * sizeof(float));
    for (int64_t i = 0; i * STEP < count; i++)
        worst = fmaxf(worst, fabsf(samples[i * STEP] - normalized[i]));
    CHECK(worst <= 1e-5f, "samples differ by %g", (double)worst);
    CHECK(encode(table, &f, samples, count, &c, &peak) == ST_OK, "%s", status_line());
    CHECK(c.next == STATES, "%d states", c.next);
    for (int s = 0; s < STATES; s++)
        for (int64_t i = 0; i < kept; i++) {
            const float *got = c.rows + s * c.count + i * EACH * dim;
            const double d = check_distance(got, want + (s * kept + i) * dim, dim);

            CHECK(d <= levels_tolerance(1e-5), "state %d, row %d: relative error %.3g", s,
                  (int)(i * EACH), d);
        }
    check_buckets(&c, rows, count, 80);
    check_buckets(&c, rows, count, 12);
    CHECK(encode(table, &f, NULL, count, &c, &planned) == ST_OK, "%s", status_line());
    CHECK(peak == planned, "%zu bytes, planned %zu", peak, planned);
    for (int i = 1; i <= 40 && count < 1000; i += 13) {
        f = (struct formula){ .fail_at = i };
        c.next = 0;
        CHECK(encode(table, &f, samples, count, &c, &peak) == ST_IO, "read %d", i);
    }
    f = (struct formula){ 0 };
    c.next = 0;
    c.fail_at = 2;
    CHECK(encode(table, &f, samples, count, &c, &peak) == ST_MEMORY, "the sink's error");
    free(c.rows);
    free(want);
    free(normalized);
    free(samples);
}

static void check_sizes(void)
{
    struct wav2vec2_config bad[] = { config, config, config, config };

    CHECK(wav2vec2_rows(&config, 399) == 0 && wav2vec2_rows(&config, 400) == 1 &&
              wav2vec2_rows(&config, 719) == 1 && wav2vec2_rows(&config, 720) == 2 &&
              wav2vec2_rows(&config, 0) == 0,
          "rows of short sounds");
    CHECK(wav2vec2_rows(&config, 160000) == 499 && speech_features(499) == 299 &&
              speech_clips(499, 80) == 2 && speech_features(1) == 0,
          "10 seconds");
    bad[0].heads = 3;
    bad[1].layers = 0;
    bad[2].position_groups = 3;
    bad[3].position_kernel = 5;
    for (size_t i = 0; i < COUNT(bad); i++)
        CHECK(wav2vec2_check(&bad[i], "F") == ST_FORMAT, "config %zu", i);
    CHECK(wav2vec2_check(&config, "F") == ST_OK, "%s", status_line());
}

int main(int argc, char **argv)
{
    struct table tables[LEVELS];

    config = *(const struct wav2vec2_config *)part_variant(&part_wav2vec2, "wav2vec2-tiny");
    levels_open(tables, &argc, argv);
    if (argc < 2)
        return 1;
    golden = golden_open(argv[1], "wav2vec2.safetensors");
    for (int i = 0; i < LEVELS; i++) {
        check_encode(&tables[i], 720);
        check_encode(&tables[i], 90000);
    }
    check_sizes();
    golden_close(&golden);
    return check_end("wav2vec2");
}
