#include "launch/video/media.h"

#include "launch/video/media_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <libavutil/log.h>
#include <libavutil/mem.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEAD_BYTES 32
#define IMAGE_BYTES_MAX ((uint64_t)1 << 30) // of a file with one image

status media_damaged(const struct media_file *f, const char *what)
{
    return fail(ST_FORMAT, "%s: %s", f->path, what);
}

status media_check_size(const struct media_file *f, int64_t w, int64_t h)
{
    if (w < 1 || h < 1)
        return media_damaged(f, "the image has no pixels");
    if (w > INT32_MAX / 3 || h > INT32_MAX / 3 || w * h > f->pixels_max)
        return fail(ST_FORMAT,
                    "%s: %lld x %lld pixels are too many, at most %lld are read; scale "
                    "the image down",
                    f->path, (long long)w, (long long)h, (long long)f->pixels_max);
    return ST_OK;
}

/* Reads the first `size` bytes. */
static status read_bytes(struct media_file *f, size_t size)
{
    uint8_t *bytes = calloc(1, size + MEDIA_PADDING);

    if (bytes == NULL)
        return fail(ST_MEMORY, "%s: cannot allocate %zu bytes of host memory to read it", f->path,
                    size);
    free(f->bytes);
    f->bytes = bytes;
    for (size_t done = 0; done < size;) {
        const ssize_t n = pread(f->fd, bytes + done, size - done, (off_t)done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return fail(ST_IO, "%s: %s", f->path, n < 0 ? strerror(errno) : "became shorter");
        done += (size_t)n;
    }
    return ST_OK;
}

/* Bounds each allocation of FFmpeg: frames and tables that the file's size allows. */
static void limit_memory(const struct media_file *f)
{
    const double most = 16.0 * (double)f->pixels_max + 64.0 * (double)f->size + (1 << 20);

    av_max_alloc(most < INT_MAX ? (size_t)most : INT_MAX);
}

void media_free_memory(void)
{
    av_max_alloc(INT_MAX); // FFmpeg's default
}

void media_close_file(struct media_file *f)
{
    media_free_memory(); // for the encoder
    if (f->fd >= 0)
        close(f->fd);
    free(f->bytes);
}

status media_open_file(struct media_file *f, const char *path, int64_t pixels_max)
{
    struct stat about;

    av_log_set_level(AV_LOG_QUIET);
    *f = (struct media_file){ .path = path, .pixels_max = pixels_max };
    f->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); // a pipe without a writer would block
    if (f->fd < 0 || fstat(f->fd, &about) != 0)
        return fail(status_of_errno(), "%s: %s", path, strerror(errno));
    if (!S_ISREG(about.st_mode))
        return fail(ST_IO, "%s: %s, not a file", path,
                    S_ISDIR(about.st_mode) ? "a folder" : "a pipe or device");
    f->size = (uint64_t)about.st_size;
    if (f->size == 0)
        return media_damaged(f, "the file is empty");
    limit_memory(f);
    return read_bytes(f, f->size < HEAD_BYTES ? (size_t)f->size : HEAD_BYTES);
}

static status load(struct media_file *f)
{
    if (f->size > IMAGE_BYTES_MAX)
        return media_damaged(f, "more than 1 GiB for an image");
    return read_bytes(f, (size_t)f->size);
}

static bool starts_with(const struct media_file *f, const char *magic, size_t bytes)
{
    return f->size >= bytes && memcmp(f->bytes, magic, bytes) == 0;
}

static bool is_still(const struct media_file *f)
{
    return starts_with(f, "\x89PNG\r\n\x1a\n", 8) || starts_with(f, "BM", 2) ||
           starts_with(f, "II*\0", 4) || starts_with(f, "MM\0*", 4) ||
           (starts_with(f, "RIFF", 4) && f->size >= 12 && memcmp(f->bytes + 8, "WEBP", 4) == 0);
}

static bool is_heic(const struct media_file *f)
{
    static const char *const brands[] = { "heic", "heix", "heim", "heis", "hevc", "mif1", "msf1" };

    for (size_t i = 0; i < COUNT(brands) && f->size >= 12; i++)
        if (memcmp(f->bytes + 4, "ftyp", 4) == 0 && memcmp(f->bytes + 8, brands[i], 4) == 0)
            return true;
    return false;
}

static status first_frame(struct image *image, const struct media_file *f)
{
    struct media_clip *c = NULL;
    bool more = false;
    status st;

    TRY_OUT(media_clip_open(&c, f));
    TRY_OUT(media_clip_next(c, image, &more));
    if (!more)
        st = media_damaged(f, "it has no frames");
out:
    media_clip_close(c);
    return st;
}

status media_image(struct image *image, bool *turned, const char *path, int64_t pixels_max)
{
    struct media_file f;
    struct image got = { 0 };
    int turn = 1;
    status st;

    TRY_OUT(media_open_file(&f, path, pixels_max));
    if (starts_with(&f, "\xff\xd8\xff", 3)) {
        TRY_OUT(load(&f));
        TRY_OUT(media_jpeg(&got, &turn, &f));
    } else if (is_still(&f)) {
        TRY_OUT(load(&f));
        TRY_OUT(media_still(&got, &turn, &f));
    } else if (is_heic(&f)) {
        TRY_OUT(media_damaged(&f, "HEIC is not supported: convert it to JPEG or PNG"));
    } else {
        TRY_OUT(first_frame(&got, &f));
    }
    TRY_OUT(media_turn(&got, turn));
    if (turned != NULL)
        *turned = turn != 1;
out:
    media_close_file(&f);
    if (st == ST_OK)
        *image = got;
    else
        image_done(&got);
    return st;
}

status media_frames(const char *path, int64_t first, int64_t count, int64_t pixels_max,
                    struct media_sink sink, int64_t *read)
{
    struct media_file f;
    struct media_clip *c = NULL;
    struct image image = { 0 };
    bool more = true;
    status st;

    *read = 0;
    TRY_OUT(media_open_file(&f, path, pixels_max));
    TRY_OUT(media_clip_open(&c, &f));
    for (int64_t i = 0; i < first + count; i++) {
        TRY_OUT(media_clip_next(c, i < first ? NULL : &image, &more));
        if (!more)
            break;
        if (i < first)
            continue;
        TRY_OUT(sink.put(sink.payload, &image));
        image_done(&image);
        ++*read;
    }
out:
    image_done(&image);
    media_clip_close(c);
    media_close_file(&f);
    return st;
}

/* ---- frame by frame ---- */

struct media_reader {
    struct media_file file;
    struct media_clip *clip; // NULL: an image
    struct image still;      // until it is read
};

status media_reader_open(struct media_reader **out, const char *path, int64_t pixels_max)
{
    struct media_reader *r = calloc(1, sizeof(*r));
    status st;

    *out = NULL;
    if (r == NULL)
        return fail(ST_MEMORY, "%s: cannot allocate memory to read it", path);
    TRY_OUT(media_open_file(&r->file, path, pixels_max));
    if (starts_with(&r->file, "\xff\xd8\xff", 3) || is_still(&r->file) || is_heic(&r->file))
        TRY_OUT(media_image(&r->still, NULL, path, pixels_max));
    else
        TRY_OUT(media_clip_open(&r->clip, &r->file));
    *out = r;
out:
    if (st != ST_OK)
        media_reader_close(r);
    return st;
}

void media_reader_close(struct media_reader *r)
{
    if (r == NULL)
        return;
    media_clip_close(r->clip);
    image_done(&r->still);
    media_close_file(&r->file);
    free(r);
}

status media_reader_next(struct media_reader *r, struct image *frame, bool *more)
{
    if (r->clip != NULL)
        return media_clip_next(r->clip, frame, more);
    *more = r->still.rgb != NULL;
    *frame = r->still;
    r->still = (struct image){ 0 };
    return ST_OK;
}

double media_reader_fps(const struct media_reader *r)
{
    return r->clip != NULL ? media_clip_fps(r->clip) : 0;
}

status media_times(const char *path, int64_t pixels_max, float (**time)[2], int64_t *count)
{
    struct media_reader *r = NULL;
    status st;

    *time = NULL;
    TRY_OUT(media_reader_open(&r, path, pixels_max));
    if (r->clip != NULL) {
        TRY_OUT(media_clip_times(r->clip, time, count));
    } else {
        *time = malloc(sizeof(**time));
        if (*time == NULL)
            TRY_OUT(fail(ST_MEMORY, "%s: cannot allocate memory to read it", path));
        (*time)[0][0] = 0;
        (*time)[0][1] = 1;
        *count = 1;
    }
out:
    media_reader_close(r);
    return st;
}
