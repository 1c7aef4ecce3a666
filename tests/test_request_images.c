/* The images of a request: read and identified on rank 0, the same on every rank; another image is
 * refused when a run goes on. Alone, or by mpirun. */
#include "launch/request.h"
#include "launch/request_internal.h"
#include "tests/scratch.h"

#include <string.h>

static struct world w;

/* A BMP of 24 bits, all of one colour. */
static const char *write_bmp(const char *name, int width, int height, int colour)
{
    const char *path = scratch_path(name);
    const int row = (3 * width + 3) / 4 * 4, bytes = 54 + row * height;
    uint8_t *bmp = calloc(1, (size_t)bytes);
    FILE *f = fopen(path, "w");

    memcpy(bmp, "BM", 2);
    memcpy(bmp + 2, (int32_t[]){ bytes, 0, 54, 40, width, height }, 24);
    bmp[26] = 1;
    bmp[28] = 24;
    memset(bmp + 54, colour, (size_t)(row * height));
    CHECK(f != NULL && fwrite(bmp, 1, (size_t)bytes, f) == (size_t)bytes && fclose(f) == 0, "%s",
          path);
    free(bmp);
    return path;
}

static void set(char **field, const char *text)
{
    free(*field);
    *field = strdup(text);
}

/* A complete request for text to video, and an image that its task would not take. */
static void begin(struct request *r, const char *image)
{
    request_init(r);
    set(&r->ckpt_dir, "X");
    CHECK(request_complete(r, CMD_GENERATE) == ST_OK, "%s", status_line());
    CHECK(r->media == NULL && r->video_size[0] == 1280 && r->video_size[1] == 720, "%d*%d",
          r->video_size[0], r->video_size[1]);
    set(&r->input[INPUT_image], image);
}

static void test_identity(void)
{
    const char *path = write_bmp("a.bmp", 30, 20, 77), *other = write_bmp("b.bmp", 30, 20, 77);
    struct request r, again;
    const char *differs = NULL;
    char *text = NULL;

    begin(&r, path);
    set(&r.input[INPUT_last_frame], write_bmp("last.bmp", 8, 9, 5));
    CHECK(request_read_images(&r) == ST_OK, "%s", status_line());
    CHECK(r.image[INPUT_image].w == 30 && r.image[INPUT_image].h == 20 &&
              r.image[INPUT_image].rgb == NULL && r.image[INPUT_last_frame].h == 9 &&
              r.image[INPUT_first_frame].w == 0,
          "%d x %d", r.image[INPUT_image].w, r.image[INPUT_image].h);
    CHECK(strncmp(r.media, "image=30x20:", 12) == 0 && strstr(r.media, " last_frame=8x9:") != NULL,
          "%s", r.media);
    CHECK(request_record(&r, &text) == ST_OK && strstr(text, r.media) != NULL, "%s", text);

    // the same pixels in another file are the same request, also for a run that goes on
    request_init(&again);
    CHECK(request_from_json(&again, text, "test") == ST_OK, "%s", status_line());
    set(&again.input[INPUT_image], other);
    CHECK(request_read_images(&again) == ST_OK && again.image[INPUT_image].w == 30, "%s",
          status_line());
    CHECK(request_difference(&differs, &again, text, "test", false) == ST_OK && differs == NULL,
          "%s", differs);

    // a file that is gone: the run file has what was made of it; not for a new request
    unlink(other);
    CHECK(request_read_images(&again) == ST_OK && again.image[INPUT_image].h == 20, "%s",
          status_line());
    set(&again.media, "first_frame=1x1:00");
    CHECK(request_read_images(&again) == ST_IO &&
              strstr(status_line(), "--image ") == status_line() &&
              strstr(status_line(), "b.bmp: No such file") != NULL,
          "%s", status_line());
    request_done(&again);

    // other pixels
    request_init(&again);
    CHECK(request_from_json(&again, text, "test") == ST_OK, "%s", status_line());
    write_bmp("a.bmp", 30, 20, 78);
    CHECK(request_read_images(&again) == ST_USAGE &&
              strstr(status_line(), "a.bmp: the image is not the one of this run any more") != NULL,
          "%s", status_line());
    set(&again.media, "");
    free(again.media);
    again.media = NULL;
    CHECK(request_read_images(&again) == ST_OK, "%s", status_line());
    CHECK(request_difference(&differs, &again, text, "test", false) == ST_OK && differs != NULL &&
              strcmp(differs, "it was made from another image, clip or sound") == 0,
          "%s", differs != NULL ? differs : "the same");
    request_done(&again);
    request_done(&r);
    free(text);
    unlink(path);
    unlink(scratch_path("last.bmp"));
}

/* An image that is turned: a grey TIFF of two pixels, side by side, that is shown upright. */
static void test_turned(void)
{
    static const uint16_t tags[][6] = {
        // tag, type, count (2), value (2); of 16 bits each
        { 256, 3, 1, 0, 2, 0 }, { 257, 3, 1, 0, 1, 0 }, { 258, 3, 1, 0, 8, 0 },
        { 259, 3, 1, 0, 1, 0 }, { 262, 3, 1, 0, 1, 0 }, { 273, 4, 1, 0, 122, 0 },
        { 274, 3, 1, 0, 6, 0 }, { 278, 3, 1, 0, 1, 0 }, { 279, 4, 1, 0, 2, 0 },
    };
    uint8_t tiff[124] = "II*\0\x08\0\0\0\x09\0";
    const char *path = scratch_path("turned.tif");
    FILE *f = fopen(path, "w");
    struct request r;
    bool noted = false;

    memcpy(tiff + 10, tags, sizeof(tags));
    tiff[122] = 10;
    tiff[123] = 200;
    CHECK(f != NULL && fwrite(tiff, 1, sizeof(tiff), f) == sizeof(tiff) && fclose(f) == 0, "%s",
          path);
    begin(&r, path);
    CHECK(request_read_images(&r) == ST_OK, "%s", status_line());
    CHECK(r.image[INPUT_image].w == 1 && r.image[INPUT_image].h == 2, "%d x %d",
          r.image[INPUT_image].w, r.image[INPUT_image].h);
    for (int i = 0; request_note(&r, i) != NULL; i++)
        noted = noted || strstr(request_note(&r, i), "--image is turned upright") != NULL;
    CHECK(noted, "no note");
    request_done(&r);
    unlink(path);
}

static void test_flags(void)
{
    static const char *const lines[] = { "--image", "--input_image", "--end-image",
                                         "--last_frame" };

    for (size_t i = 0; i < COUNT(lines); i++) {
        char flag[32], value[] = "a.png";
        char *words[] = { flag, value };
        struct request r;

        snprintf(flag, sizeof(flag), "%s", lines[i]);
        request_init(&r);
        CHECK(request_parse(&r, CMD_GENERATE, NULL, 0, 2, words) == ST_OK, "%s", status_line());
        CHECK(r.input[i < 2 ? INPUT_image : INPUT_last_frame] != NULL, "%s", flag);
        request_done(&r);
    }
}

/* The size and the pixels on every rank, and one status. */
static void test_ranks(void)
{
    struct request r;
    char path[512] = "";
    status st = ST_OK;

    request_init(&r);
    if (w.rank == 0) {
        snprintf(path, sizeof(path), "%s", write_bmp("a.bmp", 70, 50, 9));
        begin(&r, path);
        r.video_size[0] = 640;
        st = request_read_images(&r);
    }
    CHECK(request_share(&w, st, &r) == ST_OK, "rank %d: %s", w.rank, status_line());
    CHECK(r.image[INPUT_image].w == 70 && r.image[INPUT_image].h == 50 && r.video_size[0] == 640 &&
              r.video_size[1] == 720,
          "rank %d: %d x %d", w.rank, r.image[INPUT_image].w, r.image[INPUT_image].h);
    for (int round = 0; round < 2; round++) {
        CHECK(request_share_images(&w, &r) == ST_OK, "rank %d: %s", w.rank, status_line());
        const struct task_inputs in = request_inputs(&r);
        const uint8_t *rgb = in.image[INPUT_image].rgb;
        CHECK(rgb != NULL && rgb[0] == 9 && rgb[70 * 50 * 3 - 1] == 9, "rank %d: pixels", w.rank);
        request_drop_images(&r);
        CHECK(r.image[INPUT_image].rgb == NULL && r.image[INPUT_image].w == 70, "dropped");
    }
    if (w.rank == 0)
        write_bmp("a.bmp", 70, 50, 10); // meanwhile
    CHECK(request_share_images(&w, &r) == ST_USAGE &&
              strstr(status_line(), "not the one of this run any more") != NULL,
          "rank %d: %s", w.rank, status_line());
    if (w.rank == 0)
        unlink(path);
    CHECK(request_share_images(&w, &r) == ST_IO, "rank %d: %s", w.rank, status_line());
    request_done(&r);
}

int main(int argc, char **argv)
{
    int result;

    if (world_open(&w, &argc, &argv) != ST_OK || !scratch_open("request-images"))
        return 1;
    if (w.rank == 0) {
        test_identity();
        test_turned();
        test_flags();
    }
    test_ranks();
    scratch_close();
    result = check_end("request-images");
    world_close(&w);
    return result;
}
