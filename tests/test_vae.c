/* The VAE: against results of the official code (tests/golden/make_vae.py), several ranks against
 * one, u8 frames against f32 pixels, and memory, FLOPs and messages against a run on the plan
 * device.
 *
 *     test_vae GOLDEN ref|cpu|cuda|plain */
#include "kernels/table.h"
#include "model/vae/vae_part.h"
#include "parallel/world.h"
#include "runtime/tensorfile.h"
#include "tests/levels.h"
#include "tests/ranks.h"
#include "tests/vae_random.h"

#define RANKS_MAX 64
#define TOLERANCE 2e-5      // of float32 against float32
#define BF16_TOLERANCE 2e-2 // its rounding costs 0.5 to 1.5 %
#define F16_TOLERANCE 2e-3  // 10 bits of mantissa in the factors of convolutions

struct golden {
    const char *name, *variant;
    int64_t base, decoder_base, z, t, h, w;
    struct vae_tiling tiling;
};

static const struct golden goldens[] = {
    { "wide", "wan2.1", 8, 8, 16, 5, 2, 3, { 0 } },
    { "tall", "wan2.1", 16, 16, 4, 5, 5, 2, { 0 } },
    { "tiles", "wan2.1", 8, 8, 4, 2, 7, 6, { 4, 3, 2, 1 } },
    { "wide22", "wan2.2", 8, 12, 48, 4, 2, 2, { 0 } },
    { "tall22", "wan2.2", 8, 4, 6, 3, 5, 1, { 0 } },
    { "tiles22", "wan2.2", 4, 4, 4, 2, 3, 2, { 2, 1, 1, 1 } },
};

static struct vae_config config_of(const struct golden *g)
{
    struct vae_config c = *(const struct vae_config *)part_variant(&part_vae, g->variant);

    c.base = g->base;
    c.decoder_base = g->decoder_base;
    c.z = g->z;
    return c;
}

/* A group, its device (borrowed) and memory, and a VAE with random weights on them. */
struct fixture {
    struct world world;
    struct group group;
    struct device *dev;
    enum dtype dtype; // of vae_open
    struct arena weights, step;
    struct vae vae;
};

/* weights, step: bytes of the arenas, of no account on the plan device. */
static void fixture_open(struct fixture *s, const struct golden *g, size_t weights, size_t step)
{
    const struct vae_config config = config_of(g);
    CHECK(arena_init(&s->weights, s->dev, "weights", weights) == ST_OK, "%s", status_line());
    CHECK(arena_init(&s->step, s->dev, "step", step) == ST_OK, "%s", status_line());
    CHECK(vae_open(&s->vae, &config, &s->group, s->dev, &s->weights, s->dtype, true, true,
                   vae_random_source()) == ST_OK,
          "%s", status_line());
}

static void fixture_close(struct fixture *s)
{
    vae_close(&s->vae);
    arena_done(&s->weights);
    arena_done(&s->step);
    group_close(&s->group);
}

/* The frames that the sink got so far, one after the other. */
struct frames {
    uint8_t *rgb;
    int64_t bytes, capacity;
    bool planned; // plan device: there is no data
};

static status keep_frames(void *payload, const uint8_t *rgb, int64_t count, int64_t h, int64_t w)
{
    struct frames *f = payload;
    const int64_t bytes = count * h * w * 3;

    if (f->bytes + bytes > f->capacity)
        return fail(ST_USAGE, "more frames than the video has");
    if (!f->planned)
        memcpy(f->rgb + f->bytes, rgb, (size_t)bytes);
    f->bytes += bytes;
    return ST_OK;
}

/* The video to encode, as the callback gives it. */
struct video {
    const float *pixels;
    int64_t frame; // elements of a frame
    int64_t next;  // frame
    int64_t still; // frames from this one on are given as NULL; 0: none
    int64_t done;  // chunks, from the callback for progress
};

static status next_frame(void *payload, int64_t index, const float **pixels)
{
    struct video *v = payload;

    CHECK(index == v->next || index == 0, "frame %lld is asked for, not %lld", (long long)index,
          (long long)v->next);
    *pixels = v->still == 0 || index < v->still ? v->pixels + index * v->frame : NULL;
    v->next = index + 1;
    return ST_OK;
}

static void count_chunk(void *payload, int64_t done, int64_t total)
{
    struct video *v = payload;

    CHECK(done == v->done + 1 && done <= total, "chunk %lld of %lld", (long long)done,
          (long long)total);
    v->done = done;
}

/* The latent of t latent frames of the video. */
static void encode(struct fixture *s, const struct golden *g, int64_t t, struct video *video,
                   float *latent)
{
    const int64_t stride = s->vae.config.stride;

    CHECK(vae_encode(&s->vae, &s->step, latent,
                     (struct frame_source){ .get = next_frame,
                                            .payload = video,
                                            .frames = 4 * t - 3,
                                            .h = g->h * stride,
                                            .w = g->w * stride,
                                            .progress = count_chunk },
                     g->tiling) == ST_OK,
          "%s", status_line());
}

/* The results of one run; decoded only on rank 0. */
struct result {
    float *decoded, *encoded;
    int64_t decoded_count, encoded_count;
    size_t weights_peak, decode_peak, encode_peak; // bytes, the last two of the step arena
    double flops, sent, messages;
};

/* Decodes and encodes the first t latent frames. */
static void run(struct fixture *s, const struct golden *g, int64_t t, struct result *r)
{
    const int64_t stride = s->vae.config.stride;
    const int64_t frames = 4 * t - 3, frame = g->h * stride * g->w * stride * 3;
    const int64_t px = frames * frame;
    const int64_t latents = t * g->h * g->w * g->z;
    const bool rounded = t % 2 == 0; // as for images
    char name[64];

    snprintf(name, sizeof(name), "%s.latent", g->name);
    float *latent = random_input(name, latents, 1.75f);
    snprintf(name, sizeof(name), "%s.pixels", g->name);
    float *pixels = random_input(name, px, 1);
    struct frames sink = { .rgb = malloc((size_t)px),
                           .capacity = px,
                           .planned = s->dev->kind == DEVICE_PLAN };

    *r = (struct result){ .decoded = calloc((size_t)px, sizeof(float)),
                          .encoded = calloc((size_t)latents, sizeof(float)),
                          .decoded_count = px,
                          .encoded_count = latents };
    s->step.peak = 0;
    s->dev->flops = s->group.sent = s->group.messages = 0;
    CHECK(
        vae_decode(&s->vae, &s->step, latent, t, g->h, g->w, g->tiling,
                   (struct frame_sink){ .put = keep_frames, .payload = &sink, .rounded = rounded },
                   r->decoded) == ST_OK,
        "%s", status_line());
    r->decode_peak = s->step.peak;
    s->step.peak = 0;
    encode(s, g, t, &(struct video){ .pixels = pixels, .frame = frame }, r->encoded);
    r->encode_peak = s->step.peak;
    r->weights_peak = s->weights.peak;
    CHECK(s->step.used == 0, "%zu bytes were not released", s->step.used);
    r->flops = s->dev->flops;
    r->sent = s->group.sent;
    r->messages = s->group.messages;

    if (s->group.rank == 0) {
        int64_t wrong = 0;

        CHECK(sink.bytes == px, "%lld bytes of frames, not %lld", (long long)sink.bytes,
              (long long)px);
        for (int64_t i = 0; i < sink.bytes && s->dev->kind != DEVICE_PLAN; i++) {
            const float x = r->decoded[i] < -1 ? -1 : r->decoded[i] > 1 ? 1 : r->decoded[i];
            const double value = ((double)x + 1) / 2 * 255 + (rounded ? 0.5 : 0);
            const double error = value - sink.rgb[i];

            wrong += error < -1e-3 || error > 1 + 1e-3;
        }
        CHECK(wrong == 0, "%lld bytes of frames differ from the pixels", (long long)wrong);
    }
    free(latent);
    free(pixels);
    free(sink.rgb);
}

static void result_free(struct result *r)
{
    free(r->decoded);
    free(r->encoded);
}

static void check_within(struct tensorfile *file, const struct golden *g, const char *which,
                         const float *got, int64_t count, double tolerance)
{
    char name[64];
    float *want = calloc((size_t)count, sizeof(float));

    snprintf(name, sizeof(name), "%s.%s", g->name, which);

    const struct file_tensor *t = tensorfile_find(file, name);

    CHECK(t != NULL && tensor_count(t->shape) >= count, "%s: not in the file", name);
    if (t != NULL)
        CHECK(tensorfile_read(file, t, 0, count, DT_F32, want) == ST_OK, "%s", status_line());
    check_near(name, got, want, count, tolerance);
    free(want);
}

static void check_golden(struct tensorfile *file, const struct golden *g, const char *which,
                         const float *got, int64_t count)
{
    check_within(file, g, which, got, count, levels_tolerance(TOLERANCE));
}

static void check_same(const char *what, const float *got, const float *want, int64_t n, bool bits)
{
    if (bits)
        CHECK(memcmp(got, want, (size_t)n * sizeof(float)) == 0,
              "%s: bits differ from one rank, distance %.3g", what, check_distance(got, want, n));
    else
        check_near(what, got, want, n, 1e-5);
}

/* Rank `rank` of `size` on the plan device. */
static void run_plan(const struct golden *g, enum dtype dtype, int64_t t, int rank, int size,
                     struct result *r)
{
    struct device plan;
    struct fixture s = { .dev = &plan, .dtype = dtype };
    int members[RANKS_MAX];

    for (int i = 0; i < size; i++)
        members[i] = i;
    world_describe(&s.world, rank, size, size);
    CHECK(device_open_plan(&plan, &table_plan, 0) == ST_OK, "%s", status_line());
    CHECK(group_open(&s.group, "vae", &s.world, &plan, 0, members, size) == ST_OK, "%s",
          status_line());
    fixture_open(&s, g, 0, 0);
    run(&s, g, t, r);
    fixture_close(&s);
    device_close(&plan);
}

/* Plans rank `rank` of `size`: the same memory, FLOPs and messages as in the real run. */
static void check_plan(const struct golden *g, enum dtype dtype, int64_t t, int rank, int size,
                       const struct result *real)
{
    struct result r;

    run_plan(g, dtype, t, rank, size, &r);
    CHECK(r.weights_peak == real->weights_peak, "weights: %zu bytes planned, %zu used",
          r.weights_peak, real->weights_peak);
    CHECK(r.decode_peak == real->decode_peak, "decode: %zu bytes planned, %zu used", r.decode_peak,
          real->decode_peak);
    CHECK(r.encode_peak == real->encode_peak, "encode: %zu bytes planned, %zu used", r.encode_peak,
          real->encode_peak);
    CHECK(r.flops == real->flops, "%g FLOPs planned, %g done", r.flops, real->flops);
    CHECK(r.sent == real->sent && r.messages == real->messages,
          "%g bytes in %g messages planned, %g in %g sent", r.sent, r.messages, real->sent,
          real->messages);
    result_free(&r);
}

/* With the memory of its plan for all frames. */
static void fixture_open_planned(struct fixture *s, const struct golden *g)
{
    struct result r;

    run_plan(g, s->dtype, g->t, s->group.rank, s->group.size, &r);
    fixture_open(s, g, r.weights_peak,
                 r.decode_peak > r.encode_peak ? r.decode_peak : r.encode_peak);
    result_free(&r);
}

/* Decodes frame by frame: the same bits, as planned, with less memory where a chunk has more than
 * one frame and the image is larger than a tile. */
static void check_frame_by_frame(struct fixture *s, const struct golden *g, int64_t t,
                                 const struct result *whole)
{
    struct result r;

    s->vae.frame_by_frame = true;
    run(s, g, t, &r);
    s->vae.frame_by_frame = false;
    check_same("frame by frame", r.decoded, whole->decoded, whole->decoded_count, true);
    CHECK(r.decode_peak <= whole->decode_peak &&
              (t == 1 || whole->decode_peak == 0 || r.decode_peak < whole->decode_peak),
          "%zu bytes frame by frame, %zu in chunks", r.decode_peak, whole->decode_peak);
    result_free(&r);
}

/* An image and then frames of zeros, which the source gives as NULL: the same bits as zeros in
 * memory, and not the latent of the image alone. */
static void check_still(struct fixture *s, const struct golden *g, int64_t t)
{
    const int64_t stride = s->vae.config.stride, latents = t * g->h * g->w * g->z;
    const int64_t frame = g->h * stride * g->w * stride * 3;
    float *pixels = random_input("still", (4 * t - 3) * frame, 1);
    float *got = calloc((size_t)latents, sizeof(float));
    float *want = calloc((size_t)latents, sizeof(float));

    memset(pixels + frame, 0, (size_t)((4 * t - 4) * frame) * sizeof(float));
    encode(s, g, t, &(struct video){ .pixels = pixels, .frame = frame }, want);
    encode(s, g, t, &(struct video){ .pixels = pixels, .frame = frame, .still = 1 }, got);
    check_same("image and zeros", got, want, latents, true);
    CHECK(memcmp(want, want + latents / t, (size_t)(latents / t) * sizeof(float)) != 0,
          "the latent of zeros is that of the image");
    free(pixels);
    free(got);
    free(want);
}

/* The same with factors of 16 bits, within what their rounding costs, as planned, and the same for
 * any number of ranks. */
static void check_rounded(struct world *w, struct device *dev, struct tensorfile *file,
                          const struct golden *g, enum dtype dtype, double tolerance, bool bits)
{
    struct fixture s = { .world = *w, .dev = dev, .dtype = dtype };
    struct fixture alone = { .dev = dev, .dtype = dtype };
    struct result r, want;

    CHECK(group_open(&s.group, "rounded", w, dev, 0, NULL, 0) == ST_OK, "%s", status_line());
    fixture_open_planned(&s, g);
    run(&s, g, g->t, &r);
    if (w->rank == 0)
        check_within(file, g, "decoded", r.decoded, r.decoded_count, tolerance);
    check_within(file, g, "encoded", r.encoded, r.encoded_count, tolerance);
    check_plan(g, dtype, g->t, w->rank, w->size, &r);
    if (w->size > 1 && w->rank == 0 && bits) {
        world_describe(&alone.world, 0, 1, 1);
        CHECK(group_open(&alone.group, "alone", &alone.world, dev, 0, &w->rank, 1) == ST_OK, "%s",
              status_line());
        fixture_open_planned(&alone, g);
        run(&alone, g, g->t, &want);
        check_same("rounded, decoded", r.decoded, want.decoded, want.decoded_count, true);
        check_same("rounded, encoded", r.encoded, want.encoded, want.encoded_count, true);
        result_free(&want);
        fixture_close(&alone);
    }
    result_free(&r);
    fixture_close(&s);
}

static void check_case(struct world *w, struct device *dev, struct tensorfile *file,
                       const struct golden *g, bool bits)
{
    const bool compared = w->size > 1 && w->rank == 0;
    struct fixture all = { .world = *w, .dev = dev, .dtype = DT_F32 };
    struct fixture alone = { .dev = dev, .dtype = DT_F32 };
    struct result got, want;

    CHECK(group_open(&all.group, "all", w, dev, 0, NULL, 0) == ST_OK, "%s", status_line());
    fixture_open_planned(&all, g);
    if (compared) {
        world_describe(&alone.world, 0, 1, 1);
        CHECK(group_open(&alone.group, "alone", &alone.world, dev, 0, &w->rank, 1) == ST_OK, "%s",
              status_line());
        fixture_open_planned(&alone, g);
    }
    for (int64_t t = 1; t <= g->t; t = t < 2 || t == g->t ? t + 1 : g->t) {
        if ((g->tiling.size_h > 0 || (w->size > 1 && t == 2)) && t != g->t)
            continue;
        run(&all, g, t, &got);
        if (w->rank == 0)
            check_golden(file, g, "decoded", got.decoded, got.decoded_count);
        check_golden(file, g, "encoded", got.encoded, got.encoded_count);
        check_plan(g, DT_F32, t, w->rank, w->size, &got);
        check_frame_by_frame(&all, g, t, &got);
        if (compared) {
            run(&alone, g, t, &want);
            check_same("decoded", got.decoded, want.decoded, want.decoded_count, bits);
            check_same("encoded", got.encoded, want.encoded, want.encoded_count, bits);
            result_free(&want);
        }
        result_free(&got);
    }
    check_still(&all, g, 2);
    if (compared)
        fixture_close(&alone);
    fixture_close(&all);
    check_rounded(w, dev, file, g, DT_BF16, BF16_TOLERANCE, bits);
    check_rounded(w, dev, file, g, DT_F16, F16_TOLERANCE, bits);
}

int main(int argc, char **argv)
{
    struct tensorfile file;
    struct table tables[LEVELS], *table;
    struct device dev;
    struct world w;

    if (world_open(&w, &argc, &argv) != ST_OK || argc != 3) {
        printf("usage: test_vae GOLDEN ref|cpu|cuda|plain\n");
        return 1;
    }
    CHECK(w.size <= RANKS_MAX, "%d ranks", w.size);
    levels_open(tables, &argc, argv);
    table = &tables[levels_cuda || strcmp(argv[2], "cpu") == 0];
    CHECK(levels_device(&dev, w.local_rank, table) == ST_OK, "%s", status_line());
    CHECK(tensorfile_open(&file, (const char *const *)&argv[1], 1) == ST_OK, "%s", status_line());
    for (size_t i = 0; i < COUNT(goldens); i++)
        check_case(&w, &dev, &file, &goldens[i], strcmp(argv[2], "cpu") != 0);
    tensorfile_close(&file);
    device_close(&dev);
    return ranks_end(&w, "vae");
}
