/* Images resized as PIL, PyTorch, the official programs and DiffSynth do, bit for bit, and the
 * sizes of videos that follow from images (golden/make_media.py).
 *
 *     test_media GOLDEN */
#include "model/media/frame.h"
#include "tests/check.h"
#include "tests/golden.h"

#include <string.h>

static struct golden golden;

/* The image of make_media.py. */
static struct image picture(int w, int h)
{
    struct image image = { 0 };

    golden_need(image_init(&image, w, h));
    for (int64_t i = 0; i < (int64_t)w * h * 3; i++) {
        const uint64_t c = (uint64_t)(i % 3), x = (uint64_t)(i / 3 % w), y = (uint64_t)(i / 3 / w);
        const uint64_t smooth = (3 * x + 2 * y + 40 * c) % 512;
        const uint64_t noise = (x + 641 * y + 97 * c + 1) * 2654435761 >> 13 & 255;

        image.rgb[i] = (uint8_t)(2 * x >= (uint64_t)w ? noise
                                 : smooth > 255       ? 511 - smooth
                                                      : smooth);
    }
    return image;
}

static void check_bits(const char *name, const float *got, const float *want, int64_t n)
{
    int64_t wrong = 0;
    double worst = 0;

    for (int64_t i = 0; i < n; i++) {
        wrong += memcmp(&got[i], &want[i], sizeof(float)) != 0;
        worst = fmax(worst, fabs((double)got[i] - want[i]));
    }
    CHECK(wrong == 0, "%s: %lld of %lld values differ, by at most %g", name, (long long)wrong,
          (long long)n, worst);
}

static void check_bytes(const char *name, const struct image *got, const uint8_t *want)
{
    int64_t wrong = 0;

    for (int64_t i = 0; i < (int64_t)got->w * got->h * 3; i++)
        wrong += got->rgb[i] != want[i];
    CHECK(wrong == 0, "%s: %lld bytes differ", name, (long long)wrong);
}

static struct window whole(const struct image *image)
{
    return (struct window){ 0, 0, image->w, image->h };
}

/* One recorded tensor; false if its name has no such rule. */
static bool check_recorded(const struct file_tensor *t)
{
    const int64_t n = tensor_count(t->shape);
    int d[6] = { 0 };
    char rule[16] = "", kind[16] = "";
    struct image in, resized = { 0 }, first;
    struct window window;
    float *got = malloc((size_t)n * sizeof(float)), *want = NULL;
    uint8_t *bytes;

    golden_need(got != NULL ? ST_OK : fail(ST_MEMORY, "no memory"));
    if (sscanf(t->name, "pil.%15[a-z].%d.%d.%d.%d", kind, d, d + 1, d + 2, d + 3) == 5) {
        in = picture(d[0], d[1]);
        bytes = golden_read(&golden, t, DT_U8, NULL);
        golden_need(resize_pil(&resized, &in, d[2], d[3],
                               strcmp(kind, "lanczos") == 0 ? PIL_LANCZOS : PIL_BICUBIC));
        check_bytes(t->name, &resized, bytes);
        image_done(&resized);
        free(bytes);
    } else if (sscanf(t->name, "last.%d.%d.%d.%d.%d.%d", d, d + 1, d + 2, d + 3, d + 4, d + 5) ==
               6) {
        want = golden_read(&golden, t, DT_F32, NULL);
        first = (struct image){ d[0], d[1], NULL };
        in = picture(d[2], d[3]);
        golden_need(frame_last_window(&window, &first, &in));
        golden_need(resize_torch(got, d[4], d[5], &in, window));
        check_bits(t->name, got, want, n);
    } else if (sscanf(t->name, "stretch.%15[a-z0-9].%d.%d.%d.%d", kind, d, d + 1, d + 2, d + 3) ==
               5) {
        want = golden_read(&golden, t, DT_F32, NULL);
        in = picture(d[0], d[1]);
        golden_need(frame_stretch(got, d[2], d[3], &in, strcmp(kind, "bf16") == 0));
        check_bits(t->name, got, want, n);
    } else if (sscanf(t->name, "%15[a-z].%d.%d.%d.%d", rule, d, d + 1, d + 2, d + 3) == 5) {
        want = golden_read(&golden, t, DT_F32, NULL);
        in = picture(d[0], d[1]);
        golden_need(strcmp(rule, "fill") == 0 ? frame_fill(got, d[2], d[3], &in)
                                              : resize_torch(got, d[2], d[3], &in, whole(&in)));
        check_bits(t->name, got, want, n);
    } else {
        free(got);
        return false;
    }
    image_done(&in);
    free(got);
    free(want);
    return true;
}

static void check_sizes(void)
{
    int64_t n = 0;
    float *in = golden_f32(&golden, &n, "size.in"); // exact: all are below 2^24
    float *area = golden_f32(&golden, NULL, "size.area");
    float *grid = golden_f32(&golden, NULL, "size.grid");

    for (int64_t i = 0; i < n / 3; i++) {
        const int w = (int)in[3 * i], h = (int)in[3 * i + 1], pixels = (int)in[3 * i + 2];
        int a[2] = { 0 }, g[2] = { 0 };
        const status sa = frame_size_area(a, w, h, pixels);
        const status sg = frame_size_grid(g, w, h, pixels, 32);

        CHECK(sa == (area[2 * i] > 0 ? ST_OK : ST_USAGE) && a[0] == (int)area[2 * i] &&
                  a[1] == (int)area[2 * i + 1],
              "%d x %d, %d: %d * %d", w, h, pixels, a[0], a[1]);
        CHECK(sg == (grid[2 * i] > 0 ? ST_OK : ST_USAGE) && g[0] == (int)grid[2 * i] &&
                  g[1] == (int)grid[2 * i + 1],
              "%d x %d, %d: %d * %d", w, h, pixels, g[0], g[1]);
    }
    free(in);
    free(area);
    free(grid);
}

/* Images whose last frame would be padded to 5,000 x 25,000,000, or cropped to nothing. */
static void check_narrow(void)
{
    static const struct image first = { 5000, 5000, NULL }, thin = { 1, 5000, NULL };
    static const struct image low = { 4000, 1, NULL }, wide = { 40000, 20, NULL };
    struct window window;

    CHECK(frame_last_window(&window, &first, &thin) == ST_USAGE, "a window is too large");
    CHECK(frame_last_window(&window, &low, &wide) == ST_OK && window.w == 2 && window.h == 4000,
          "%d x %d", window.w, window.h);
}

int main(int argc, char **argv)
{
    int recorded = 0;

    if (argc < 2)
        return 1;
    golden = golden_open(argv[1], "media.safetensors");
    for (int i = 0; i < golden.file.count; i++)
        recorded += check_recorded(&golden.file.tensors[i]);
    CHECK(recorded == 49, "%d recorded images", recorded);
    check_sizes();
    check_narrow();
    golden_close(&golden);
    return check_end("media");
}
