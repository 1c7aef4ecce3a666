/* Image files of all kinds against PIL (golden/make_images.py), frames of clips, and files that
 * must be refused with one line: cut, damaged, huge, and no files at all.
 *
 *     test_images GOLDEN */
#include "launch/video/media.h"
#include "launch/video/video.h"
#include "tests/golden.h"
#include "tests/scratch.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

static struct golden golden;

static const char *write_file(const char *name, const void *bytes, size_t size)
{
    const char *path = scratch_path(name);
    FILE *f = fopen(path, "w");

    golden_need(f != NULL && fwrite(bytes, 1, size, f) == size && fclose(f) == 0
                    ? ST_OK
                    : fail(ST_IO, "cannot write %s", path));
    return path;
}

/* The recorded file and its size; the caller frees it. */
static uint8_t *file_of(const char *name, int64_t *size)
{
    char full[128];

    snprintf(full, sizeof(full), "file.%s", name);
    const struct file_tensor *t = tensorfile_find(&golden.file, full);
    golden_need(t != NULL ? ST_OK : fail(ST_FORMAT, "no recorded %s", full));
    return golden_read(&golden, t, DT_U8, size);
}

static bool ends_in(const char *name, const char *suffix)
{
    const size_t n = strlen(name), m = strlen(suffix);

    return n >= m && strcmp(name + n - m, suffix) == 0;
}

/* Fails with one line that names the file, and gives no image. */
static void check_refused(const char *path, status expected, const char *line)
{
    struct image image = { 0 };
    const status st = media_image(&image, NULL, path, MEDIA_PIXELS_MAX);

    CHECK(st == expected && image.rgb == NULL && strstr(status_line(), path) == status_line() &&
              strstr(status_line(), line) != NULL && strchr(status_line(), '\n') == NULL,
          "%s: status %d, expected %d with '%s': %s", path, st, expected, line, status_line());
    image_done(&image);
}

/* A recorded file against the recorded pixels, most of which must be equal. */
static void check_file(const char *name, const struct file_tensor *rgb)
{
    const bool avif = ends_in(name, ".avif"), clip = ends_in(name, ".mp4");
    const int most = avif ? 255 : clip ? 10 : strcmp(name, "cmyk.tif") == 0 ? 1 : 0;
    int64_t size = 0, n = 0;
    uint8_t *bytes = file_of(name, &size), *want = golden_read(&golden, rgb, DT_U8, &n);
    const char *path = write_file(name, bytes, (size_t)size);
    struct image image = { 0 };
    int worst = 0;
    double sum = 0;

    if (n == 0) {
        check_refused(path, ST_FORMAT, "");
    } else {
        CHECK(media_image(&image, NULL, path, MEDIA_PIXELS_MAX) == ST_OK, "%s", status_line());
        CHECK(image.w == rgb->shape.dim[1] && image.h == rgb->shape.dim[0], "%s: %d x %d", name,
              image.w, image.h);
        for (int64_t i = 0; image.rgb != NULL && i < n; i++) {
            const int d = abs(image.rgb[i] - want[i]);
            worst = d > worst ? d : worst;
            sum += d;
        }
        CHECK(worst <= most && sum / (double)n < (avif ? 10 : 1),
              "%s: differs by up to %d, %g on average", name, worst, sum / (double)n);
    }
    image_done(&image);
    unlink(path);
    free(bytes);
    free(want);
}

/* Every beginning of a file is refused; without the last bytes some formats are complete. */
static void check_cut(const char *name, int64_t spare)
{
    int64_t size = 0;
    uint8_t *bytes = file_of(name, &size);

    for (int64_t n = 1; n < size - spare; n += 1 + n / 16) {
        const char *path = write_file("cut", bytes, (size_t)n);
        check_refused(path, ST_FORMAT, "");
        unlink(path);
    }
    free(bytes);
}

/* The file with `count` bytes replaced at `at`. */
static void check_changed(const char *name, int64_t at, const char *with, size_t count,
                          const char *line)
{
    int64_t size = 0;
    uint8_t *bytes = file_of(name, &size);

    memcpy(bytes + at, with, count);
    const char *path = write_file("changed", bytes, (size_t)size);
    check_refused(path, ST_FORMAT, line);
    unlink(path);
    free(bytes);
}

static void check_heic(void)
{
    const char *path = write_file("photo.heic",
                                  "\0\0\0\x18"
                                  "ftypheic\0\0\0\0mif1heic",
                                  24);

    check_refused(path, ST_FORMAT, "HEIC is not supported");
    unlink(path);
}

static void check_text(const char *text)
{
    const char *path = write_file("text.jpg", text, strlen(text));

    check_refused(path, ST_FORMAT, "no image or clip");
    unlink(path);
}

static void check_others(void)
{
    const char *pipe = scratch_path("pipe"), *empty = write_file("empty.png", "", 0);
    char playlist[600];

    golden_need(mkfifo(pipe, 0600) == 0 ? ST_OK : fail(ST_IO, "mkfifo"));
    check_refused(scratch, ST_IO, "a folder");
    check_refused(pipe, ST_IO, "a pipe");
    check_refused("/dev/null", ST_IO, "a pipe or device");
    check_refused(scratch_path("missing.png"), ST_IO, "No such file");
    check_refused(empty, ST_FORMAT, "empty");
    check_text("a cat\n");
    snprintf(playlist, sizeof(playlist), "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n%s\n",
             empty);
    check_text(playlist);
    snprintf(playlist, sizeof(playlist), "ffconcat version 1.0\nfile %s\n", empty);
    check_text(playlist);
    check_text("http://localhost/a.mp4\n");
    unlink(pipe);
    unlink(empty);
}

static struct image drawn(int w, int h, int t)
{
    struct image image = { 0 };

    golden_need(image_init(&image, w, h));
    for (int i = 0; i < w * h; i++) {
        image.rgb[3 * i] = (uint8_t)(40 + 12 * t);
        image.rgb[3 * i + 1] = (uint8_t)(60 + 100 * (i % w) / w);
        image.rgb[3 * i + 2] = (uint8_t)(200 - 100 * (i / w) / h);
    }
    return image;
}

struct frames {
    int first, seen;
    double worst;
};

static status see(void *payload, const struct image *frame)
{
    struct frames *f = payload;
    struct image want = drawn(64, 48, f->first + f->seen++);
    double sum = 0;

    CHECK(frame->w == want.w && frame->h == want.h, "%d x %d", frame->w, frame->h);
    for (int i = 0; i < want.w * want.h * 3; i++)
        sum += abs(frame->rgb[i] - want.rgb[i]);
    f->worst = fmax(f->worst, sum / (want.w * want.h * 3));
    image_done(&want);
    return ST_OK;
}

static status stop(void *payload, const struct image *frame)
{
    return fail(ST_PREEMPTED, "stopped");
}

/* Frames of a clip of 9: ranges in it, and beyond its end. */
static void check_clip(void)
{
    static const struct {
        int first, count, expected;
    } ranges[] = { { 0, 9, 9 }, { 0, 1, 1 }, { 4, 3, 3 }, { 7, 5, 2 }, { 9, 1, 0 }, { 40, 2, 0 } };
    const char *path = scratch_path("clip.mp4");
    struct video *video = NULL;
    int64_t read = 0;

    golden_need(video_open(&video, &(struct video_settings){ .path = path,
                                                             .width_px = 64,
                                                             .height_px = 48,
                                                             .frames = 9,
                                                             .fps = 16,
                                                             .quality = 10 }));
    for (int t = 0; t < 9; t++) {
        struct image frame = drawn(64, 48, t);
        golden_need(video_put(video, frame.rgb, 1, 48, 64));
        image_done(&frame);
    }
    golden_need(video_finish(video));
    video_close(video);
    for (size_t i = 0; i < COUNT(ranges); i++) {
        struct frames f = { .first = ranges[i].first };

        CHECK(media_frames(path, ranges[i].first, ranges[i].count, MEDIA_PIXELS_MAX,
                           (struct media_sink){ see, &f }, &read) == ST_OK,
              "%s", status_line());
        CHECK(read == ranges[i].expected && f.seen == read && f.worst < 3,
              "%d + %d: %lld frames, %g", ranges[i].first, ranges[i].count, (long long)read,
              f.worst);
    }
    CHECK(media_frames(path, 0, 9, MEDIA_PIXELS_MAX, (struct media_sink){ stop, NULL }, &read) ==
              ST_PREEMPTED,
          "%s", status_line());
    CHECK(media_frames(path, 0, 9, 64 * 48 - 1, (struct media_sink){ stop, NULL }, &read) ==
              ST_FORMAT,
          "%s", status_line());
    unlink(path);
}

int main(int argc, char **argv)
{
    if (argc < 2 || !scratch_open("images"))
        return 1;
    golden = golden_open(argv[1], "images.safetensors");
    for (int i = 0; i < golden.file.count; i++) {
        const struct file_tensor *t = &golden.file.tensors[i];
        if (strncmp(t->name, "rgb.", 4) == 0)
            check_file(t->name + 4, t);
    }
    check_cut("w21-420.jpg", 0);
    check_cut("progressive.jpg", 0);
    check_cut("rgb.png", 0);
    check_cut("w21.webp", 0);
    check_cut("animated.webp", 0);
    check_cut("lzw.tif", 0);
    check_cut("rgb.bmp", 8);
    check_cut("plain.mp4", 200);
    check_changed("rgb.png", 16, "\0\1\x86\xa0\0\1\x86\xa0", 8, "100000 x 100000 pixels");
    check_changed("rgb.png", 16, "\0\0\0\0", 4, "no pixels");
    check_changed("rgb.png", 60, "\0\0\0\0", 4, "damaged");
    check_changed("rgb.bmp", 18, "\xa0\x86\1\0\xa0\x86\1\0", 8, "");
    check_changed("first.gif", 6, "\xff\xff\xff\xff", 4, "too large");
    check_others();
    check_heic();
    check_clip();
    scratch_close();
    golden_close(&golden);
    return check_end("images");
}
