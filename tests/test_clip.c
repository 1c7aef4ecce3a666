/* The image encoder compared with the official one (golden/make_clip.py), with its tensors as in
 * official files and as in transformers', and its plan with a run.
 *
 *     test_clip GOLDEN [cuda] */
#include "model/vision/clip.h"
#include "tests/check.h"
#include "tests/dit_model.h"
#include "tests/golden.h"
#include "tests/levels.h"

static const struct clip_config config = {
    .dim = 160, .ffn_dim = 320, .patch = 14, .side = 56, .out_dim = 32, .heads = 2, .layers = 3
};

enum { IMAGES = 3 };
static const int sizes[IMAGES][2] = { { 37, 23 }, { 56, 56 }, { 20, 61 } };

#define MEMORY ((size_t)16 << 20)

static struct golden golden;

/* ---- weights from a formula ---- */

struct formula {
    int reads, fail_at; // counts reads; fails at this one, 0: never
};

/* The official tensor of which the tensor is a part, and the first of its elements. */
static int64_t official_part(const char *name, char *official, size_t size)
{
    static const char *const parts[] = { "attn.q.", "attn.k.", "attn.v." };

    for (int i = 0; i < 3; i++) {
        const char *at = strstr(name, parts[i]);

        if (at == NULL)
            continue;
        snprintf(official, size, "%.*sattn.to_qkv.%s", (int)(at - name), name,
                 at + strlen(parts[i]));
        return i * config.dim * (strstr(name, "weight") != NULL ? config.dim : 1);
    }
    snprintf(official, size, "%s", name);
    return 0;
}

static status formula_read(void *payload, const struct weight_spec *spec, const char *name,
                           int64_t first, int64_t count, void *dst)
{
    const int64_t p = config.patch, pixels = p * p;
    struct formula *f = payload;
    char official[WEIGHT_NAME_BYTES + 16];
    const int64_t begin = official_part(name, official, sizeof(official));
    const bool norm = strstr(name, "norm") != NULL && strstr(name, "weight") != NULL;
    const float scale = norm                                                   ? 0.25f
                        : strstr(name, "cls_") != NULL || strstr(name, "pos_") ? 1
                                                                               : 0.125f;
    const uint64_t seed = dit_seed(official);

    if (++f->reads == f->fail_at)
        return fail(ST_IO, "read %d fails", f->reads);
    for (int64_t i = first; i < first + count; i++) {
        const int64_t row = i / (3 * pixels), in_row = i % (3 * pixels);
        // in memory [out, y, x, channel], in the file [out, channel, y, x]
        const int64_t at =
            spec->channels_last ? row * 3 * pixels + in_row % 3 * pixels + in_row / 3 : begin + i;

        ((float *)dst)[i - first] = (norm ? 1 : 0) + scale * dit_value(seed, at);
    }
    return ST_OK;
}

/* ---- images ---- */

static struct image make_image(int w, int h)
{
    struct image image = { 0 };
    char name[32];
    uint64_t seed;

    snprintf(name, sizeof(name), "image.%dx%d", w, h);
    seed = dit_seed(name);
    golden_need(image_init(&image, w, h));
    for (int i = 0; i < w * h * 3; i++)
        image.rgb[i] = (uint8_t)((dit_value(seed, i) * 64 + 63.5f) * 2);
    return image;
}

/* The patches of all images, compared with the official program's pixels. */
static float *make_patches(void)
{
    const int64_t values = clip_patches_count(&config), side = config.side, p = config.patch;
    float *all = malloc((size_t)(IMAGES * values) * sizeof(*all));

    for (int i = 0; i < IMAGES; i++) {
        struct image image = make_image(sizes[i][0], sizes[i][1]);
        float *want = golden_f32(&golden, NULL, "in.%dx%d", image.w, image.h);
        float worst = 0;

        golden_need(clip_patches(all + i * values, &config, &image,
                                 (struct window){ 0, 0, image.w, image.h }));
        for (int64_t k = 0; k < values; k++) {
            const int64_t patch = k / (3 * p * p), in = k % (3 * p * p), pixel = in / 3;
            const int64_t y = patch / (side / p) * p + pixel / p;
            const int64_t x = patch % (side / p) * p + pixel % p;
            const float d = all[i * values + k] - want[(in % 3 * side + y) * side + x];

            worst = fmaxf(worst, fabsf(d));
        }
        CHECK(worst <= 1e-6f, "%d x %d: pixels differ by %g", image.w, image.h, (double)worst);
        free(want);
        image_done(&image);
    }
    return all;
}

/* ---- the encoder ---- */

/* Bytes that the plan says. */
static size_t planned(void)
{
    struct formula f = { 0 };
    struct device dev = { 0 };
    struct arena a = { 0 };
    struct clip_weights w;
    size_t peak;

    golden_need(device_open_plan(&dev, &table_plan, 0));
    golden_need(arena_init(&a, &dev, "clip", 0));
    golden_need(clip_open(&w, &config, &a,
                          (struct weight_source){ .read = formula_read, .payload = &f }, false));
    golden_need(clip_encode(&config, &dev, &a, &w, IMAGES, NULL, NULL));
    clip_close(&w);
    peak = a.peak;
    arena_done(&a);
    device_close(&dev);
    return peak;
}

static status encode(const struct table *table, const struct clip_config *c, struct formula *f,
                     int count, const float *patches, float *out, size_t *peak)
{
    struct device dev = { 0 };
    struct arena a = { 0 };
    struct clip_weights w;
    size_t used;
    status st;

    golden_need(levels_device(&dev, 0, table));
    golden_need(arena_init(&a, &dev, "clip", MEMORY));
    TRY_OUT(
        clip_open(&w, c, &a, (struct weight_source){ .read = formula_read, .payload = f }, false));
    used = a.used;
    st = clip_encode(c, &dev, &a, &w, count, patches, out);
    CHECK(a.used == used, "%zu bytes are not released", a.used - used);
    *peak = a.peak;
out:
    clip_close(&w);
    arena_done(&a);
    device_close(&dev);
    return st;
}

static void check_encode(const struct table *table, const float *patches)
{
    const int64_t n = clip_tokens(&config) * config.dim;
    float *out = malloc((size_t)(IMAGES * n) * sizeof(*out)), *one = malloc((size_t)n * 4);
    struct clip_config split = config;
    struct formula f = { 0 };
    size_t peak = 0;

    CHECK(encode(table, &config, &f, IMAGES, patches, out, &peak) == ST_OK, "%s", status_line());
    CHECK(peak == planned(), "%zu bytes, planned %zu", peak, planned());
    for (int i = 0; i < IMAGES; i++) {
        float *want = golden_f32(&golden, NULL, "out.%dx%d", sizes[i][0], sizes[i][1]);
        const double d = check_distance(out + i * n, want, n);

        CHECK(d <= (levels_cuda ? 1e-5 : 2e-6), "image %d: relative error %.3g", i, d);
        free(want);
    }
    f = (struct formula){ 0 };
    CHECK(encode(table, &config, &f, 1, patches + clip_patches_count(&config), one, &peak) == ST_OK,
          "%s", status_line());
    CHECK(memcmp(one, out + n, (size_t)n * sizeof(*one)) == 0, "an image alone differs");
    split.split = true;
    f = (struct formula){ 0 };
    CHECK(encode(table, &split, &f, 1, patches + clip_patches_count(&config), one, &peak) == ST_OK,
          "%s", status_line());
    CHECK(memcmp(one, out + n, (size_t)n * sizeof(*one)) == 0, "q, k and v alone differ");
    for (int i = 1; i <= 8; i++) {
        f = (struct formula){ .fail_at = i };
        CHECK(encode(table, &config, &f, 1, patches, one, &peak) == ST_IO, "read %d", i);
    }
    free(out);
    free(one);
}

static void check_refused(void)
{
    struct clip_config bad[] = { config, config, config };

    bad[0].heads = 3;
    bad[1].layers = 1;
    bad[2].patch = 15;
    for (size_t i = 0; i < COUNT(bad); i++)
        CHECK(clip_check(&bad[i], "F") == ST_FORMAT, "config %zu", i);
    CHECK(clip_check(&config, "F") == ST_OK, "%s", status_line());
}

int main(int argc, char **argv)
{
    struct table tables[LEVELS];
    float *patches;

    levels_open(tables, &argc, argv);
    if (argc < 2)
        return 1;
    golden = golden_open(argv[1], "clip.safetensors");
    patches = make_patches();
    for (int i = 0; i < LEVELS; i++)
        check_encode(&tables[i], patches);
    check_refused();
    free(patches);
    golden_close(&golden);
    return check_end("clip");
}
