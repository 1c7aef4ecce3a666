/* What VACE makes of clips, masks and reference images, against the official processor
 * (golden/make_vace.py): sizes and numbers of frames, which frames of a clip are taken, also of one
 * whose frames have different durations and of one that is turned, and the pixels.
 *
 *     test_vace GOLDEN CLIPS      CLIPS: a folder that clips.sh has filled */
#include "launch/video/media.h"
#include "model/media/vace.h"
#include "tests/check.h"
#include "tests/golden.h"

static struct golden golden;

static void check_sizes(void)
{
    int64_t n = 0, *rows = golden_i64(&golden, &n, "sizes");

    for (int64_t *r = rows; r < rows + n; r += 7) {
        int size[2] = { 0, 0 }, frames = 0;

        CHECK(vace_size(size, &frames, (int)r[0], (int)r[1], r[2], r[3]) == ST_OK &&
                  size[0] == r[4] && size[1] == r[5] && frames == r[6],
              "%d x %d, %d frames: %d x %d, %d frames instead of %d x %d, %d", (int)r[0], (int)r[1],
              (int)r[2], size[0], size[1], frames, (int)r[4], (int)r[5], (int)r[6]);
    }
    free(rows);
}

static void check_refused(void)
{
    int size[2], frames;
    struct image thin = { 2000, 1, NULL };
    float out[64 * 48 * 3];

    CHECK(vace_size(size, &frames, 8, 400, 5, 480 * 832) == ST_USAGE, "a clip of 8 x 400");
    CHECK(vace_size(size, &frames, 40000, 16, 5, 64 * 48) == ST_USAGE, "a clip of 40000 x 16");
    CHECK(vace_reference(out, 64, 48, &thin) == ST_USAGE, "an image of 2000 x 1");
}

/* The frame `at` of a clip. */
struct wanted {
    const char *path;
    int64_t at;
    struct image frame;
};

static status keep(void *payload, const struct image *frame)
{
    struct wanted *w = payload;

    return image_crop(&w->frame, frame, 0, 0, frame->w, frame->h);
}

/* Frames of a clip against the recorded ones. channels: 3, or 1 of a mask. */
static void check_pixels(const char *path, const char *name, const int64_t *index, int channels)
{
    const struct file_tensor *t = tensorfile_find(&golden.file, name);

    golden_need(t != NULL ? ST_OK : fail(ST_FORMAT, "no recorded tensor %s", name));

    const int h = (int)t->shape.dim[1], w = (int)t->shape.dim[2];
    uint8_t *want = golden_read(&golden, t, DT_U8, NULL);

    for (int i = 0; i < t->shape.dim[0]; i++) {
        struct wanted wanted = { path, index[i], { 0 } };
        struct image got = { 0 };
        int64_t read, wrong = 0;

        golden_need(media_frames(path, wanted.at, 1, MEDIA_PIXELS_MAX,
                                 (struct media_sink){ keep, &wanted }, &read));
        golden_need(vace_frame(&got, w, h, &wanted.frame));
        for (int p = 0; p < w * h * channels; p++)
            wrong += got.rgb[p / channels * 3 + p % channels] != want[i * w * h * channels + p];
        CHECK(wrong == 0, "%s: %d bytes of frame %d differ", name, (int)wrong, i);
        image_done(&wanted.frame);
        image_done(&got);
    }
    free(want);
}

static void check_clip(const char *folder, const char *name, const char *file, const char *mask)
{
    char path[4096], what[64];
    int64_t n = 0, count = 0, *want = golden_i64(&golden, &n, "frames.%s", name);
    int64_t *index = calloc((size_t)n, sizeof(*index));
    float(*time)[2];

    snprintf(path, sizeof(path), "%s/%s", folder, file);
    golden_need(media_times(path, MEDIA_PIXELS_MAX, &time, &count));
    CHECK(count == 14, "%s: %d frames", name, (int)count);
    vace_sample(index, (int)n, (const float(*)[2])time, count);
    for (int i = 0; i < n; i++)
        CHECK(index[i] == want[i], "%s: frame %d is frame %d of the clip, not %d", name, i,
              (int)index[i], (int)want[i]);
    snprintf(what, sizeof(what), "pixels.%s", name);
    check_pixels(path, what, index, 3);
    snprintf(path, sizeof(path), "%s/%s", folder, mask);
    snprintf(what, sizeof(what), "mask.%s", name);
    if (mask[0] != 0)
        check_pixels(path, what, index, 1);
    free(time);
    free(index);
    free(want);
}

/* PyTorch has another kernel for images as small as this, which rounds in another order. */
static void check_reference(const char *folder)
{
    int64_t n = 0;
    float *want = golden_f32(&golden, &n, "reference.tall"), *got = calloc((size_t)n, sizeof(*got));
    char path[4096];
    struct image image = { 0 };
    double worst = 0;

    snprintf(path, sizeof(path), "%s/image_tall.png", folder);
    golden_need(media_image(&image, NULL, path, MEDIA_PIXELS_MAX));
    golden_need(vace_reference(got, 64, 48, &image));
    for (int64_t i = 0; i < n; i++)
        worst = fmax(worst, fabs((double)got[i] - want[i]));
    CHECK(worst <= 2.4e-7, "the reference image differs by %g", worst);
    image_done(&image);
    free(got);
    free(want);
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 1;
    golden = golden_open(argv[1], "vace.safetensors");
    check_sizes();
    check_refused();
    check_clip(argv[2], "clip", "clip.mkv", "mask.mkv");
    check_clip(argv[2], "rate", "rate.mkv", "");
    check_clip(argv[2], "turned", "turned.mp4", "");
    check_reference(argv[1]);
    golden_close(&golden);
    return check_end("vace");
}
