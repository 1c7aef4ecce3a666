/* The files of the video writer, read back with FFmpeg: frames, rate, comment; and no file after a
 * failure. */
#include "launch/video/video.h"
#include "launch/video/video_internal.h"
#include "tests/scratch.h"

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libswscale/swscale.h>
#include <malloc.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* Draws frame t: smooth, with a colour and brightness that depend on t. */
static void paint(uint8_t *rgb, int w, int h, int t)
{
    for (int y = 0; y < h; y++) {
        for (int x = 0; x < w; x++) {
            uint8_t *p = rgb + 3 * (y * w + x);
            p[0] = (uint8_t)(40 + 10 * t);
            p[1] = (uint8_t)(60 + 100 * x / w);
            p[2] = (uint8_t)(200 - 100 * y / h);
        }
    }
}

/* Reads all frames of a file as RGB; *comment is malloc'ed. Returns the number of frames. */
static int read_back(const char *path, int w, int h, uint8_t *rgb, int most, double *fps,
                     char **comment, enum AVPixelFormat *format)
{
    AVFormatContext *in = NULL;
    AVPacket *packet = av_packet_alloc();
    AVFrame *frame = av_frame_alloc();
    AVCodecContext *codec;
    const AVDictionaryEntry *entry;
    struct SwsContext *scale = NULL;
    int n = 0;
    bool more = true;

    if (avformat_open_input(&in, path, NULL, NULL) < 0 || avformat_find_stream_info(in, NULL) < 0)
        return -1;
    entry = av_dict_get(in->metadata, "comment", NULL, 0);
    *comment = entry != NULL ? strdup(entry->value) : NULL;
    *fps = av_q2d(in->streams[0]->avg_frame_rate);
    codec = avcodec_alloc_context3(avcodec_find_decoder(in->streams[0]->codecpar->codec_id));
    avcodec_parameters_to_context(codec, in->streams[0]->codecpar);
    avcodec_open2(codec, codec->codec, NULL);
    while (more) {
        more = av_read_frame(in, packet) >= 0;
        avcodec_send_packet(codec, more ? packet : NULL);
        av_packet_unref(packet);
        while (avcodec_receive_frame(codec, frame) >= 0) {
            uint8_t *const to[] = { rgb + (size_t)3 * w * h * n };
            *format = frame->format;
            if (frame->width != w || frame->height != h || n == most)
                return -1;
            scale = sws_getCachedContext(scale, w, h, frame->format, w, h, AV_PIX_FMT_RGB24,
                                         SWS_BICUBIC | SWS_ACCURATE_RND, NULL, NULL, NULL);
            sws_scale(scale, (const uint8_t *const *)frame->data, frame->linesize, 0, h, to,
                      (int[]){ 3 * w });
            n++;
        }
    }
    sws_freeContext(scale);
    avcodec_free_context(&codec);
    av_frame_free(&frame);
    av_packet_free(&packet);
    avformat_close_input(&in);
    return n;
}

/* The text of a PNG's iTXt chunk "Comment", malloc'ed, or NULL. Checks its checksum. */
static char *png_comment(const char *path)
{
    static const char head[] = "iTXtComment\0\0\0\0";
    static uint8_t file[1 << 20];
    FILE *f = fopen(path, "rb");
    const size_t n = f != NULL ? fread(file, 1, sizeof(file), f) : 0;
    const uint8_t *c = memmem(file, n, head, sizeof(head));
    uint32_t length, crc = ~0u, stored;

    if (f != NULL)
        fclose(f);
    if (c == NULL)
        return NULL;
    length = (uint32_t)c[-4] << 24 | c[-3] << 16 | c[-2] << 8 | c[-1];
    for (size_t i = 0; i < length + 4; i++) {
        crc ^= c[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    c += 4 + length;
    stored = (uint32_t)c[0] << 24 | c[1] << 16 | c[2] << 8 | c[3];
    CHECK(stored == ~crc, "checksum %08x, should be %08x", stored, ~crc);
    length -= sizeof(head) - 4;
    return strndup((const char *)c - length, length);
}

static double mean_distance(const uint8_t *a, const uint8_t *b, size_t n)
{
    double sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += abs(a[i] - b[i]);
    return sum / (double)n;
}

static status write_video(const struct video_settings *s, int each)
{
    status st;
    struct video *v = NULL;
    uint8_t *rgb = malloc((size_t)3 * s->width_px * s->height_px * each + 64);

    TRY_OUT(video_open(&v, s));
    for (int t = 0; t < s->frames; t += each) {
        const int n = s->frames - t < each ? (int)s->frames - t : each;
        for (int i = 0; i < n; i++)
            paint(rgb + (size_t)3 * s->width_px * s->height_px * i, s->width_px, s->height_px,
                  t + i);
        TRY_OUT(video_put(v, rgb, n, s->height_px, s->width_px));
    }
    TRY_OUT(video_finish(v));
out:
    video_close(v);
    free(rgb);
    return st;
}

/* video_comment gives the comment that was written; NULL: none. */
static void check_comment(const char *path, const char *want)
{
    char *got = NULL;

    CHECK(video_comment(path, &got) == ST_OK, "%s", status_line());
    CHECK(want == NULL ? got == NULL : got != NULL && strcmp(got, want) == 0, "%s: %s", path, got);
    free(got);
}

/* Long comments, and files that have none: cut at every byte, and of another kind. */
static void test_comment(void)
{
    char *comment = malloc(100001), bytes[200];
    struct video_settings s = { .path = scratch_path("c.mp4"),
                                .width_px = 32,
                                .height_px = 32,
                                .frames = 5,
                                .fps = 16,
                                .quality = 8,
                                .metadata = comment };
    const char *const cut = scratch_path("cut.png");
    char *got = NULL;
    FILE *f;

    memset(comment, 'x', 100000);
    comment[100000] = 0;
    CHECK(write_video(&s, 5) == ST_OK, "%s", status_line());
    check_comment(s.path, comment);
    unlink(s.path);
    free(comment);
    s = (struct video_settings){
        .path = scratch_path("c.png"), .width_px = 32, .height_px = 32, .frames = 1, .metadata = "y"
    };
    CHECK(write_video(&s, 1) == ST_OK, "%s", status_line());
    check_comment(s.path, "y");
    f = fopen(s.path, "rb");
    CHECK(f != NULL && fread(bytes, 1, sizeof(bytes), f) > 60, "read");
    fclose(f);
    for (size_t n = 0; n < 53; n++) { // the comment ends at byte 57, with its CRC
        f = fopen(cut, "wb");
        fwrite(bytes, 1, n, f);
        fclose(f);
        check_comment(cut, NULL);
    }
    unlink(cut);
    unlink(s.path);
    s.metadata = NULL;
    CHECK(write_video(&s, 1) == ST_OK, "%s", status_line());
    check_comment(s.path, NULL);
    unlink(s.path);
    CHECK(video_comment(s.path, &got) == ST_IO, "no file");
}

static void test_mp4(void)
{
    enum { W = 96, H = 64, F = 17 };
    uint8_t *back = malloc(3 * W * H * 20), *sheet = malloc(3 * 400 * 300), want[3 * W * H];
    const char *comment = "{\"prompt\":\"猫 \\\"x\\\"\",\"base_seed\":7}";
    struct video_settings s = { .path = scratch_path("a:b%d.mp4"),
                                .width_px = W,
                                .height_px = H,
                                .frames = F,
                                .fps = 16,
                                .quality = 8,
                                .metadata = comment,
                                .contact_sheet = scratch_path("sheet.png") };
    char *got = NULL;
    double fps = 0;
    enum AVPixelFormat format = AV_PIX_FMT_NONE;
    char url[600];
    int n;

    CHECK(write_video(&s, 4) == ST_OK, "%s", status_line());
    CHECK(scratch_entries() == 2, "%d entries", scratch_entries());
    snprintf(url, sizeof(url), "file:%s", s.path);
    n = read_back(url, W, H, back, 20, &fps, &got, &format);
    CHECK(n == F && fps == 16 && format == AV_PIX_FMT_YUV420P, "%d frames, %g fps", n, fps);
    CHECK(got != NULL && strcmp(got, comment) == 0, "comment %s", got);
    check_comment(s.path, comment);
    check_comment(s.contact_sheet, comment);
    for (int t = 0; t < n; t++) {
        paint(want, W, H, t);
        CHECK(mean_distance(back + 3 * W * H * t, want, sizeof(want)) < 2.5,
              "frame %d is off by %g", t, mean_distance(back + 3 * W * H * t, want, sizeof(want)));
    }
    free(got);
    // 16 of 17 frames, four by four, four pixels between: the last one is frame 16
    n = read_back(s.contact_sheet, 4 * W + 12, 4 * H + 12, sheet, 1, &fps, &got, &format);
    CHECK(n == 1, "contact sheet");
    free(got);
    got = png_comment(s.contact_sheet);
    paint(want, W, H, 16);
    for (int y = 0; y < H; y++) {
        const uint8_t *row = sheet + 3 * ((3 * (H + 4) + y) * (4 * W + 12) + 3 * (W + 4));
        CHECK(memcmp(row, want + 3 * W * y, 3 * W) == 0, "contact sheet, row %d", y);
    }
    CHECK(got != NULL && strcmp(got, comment) == 0, "comment %s", got);
    free(got);
    free(back);
    free(sheet);
    unlink(s.path);
    unlink(s.contact_sheet);
}

/* Encoded while new memory is filled with different bytes: the same file. The size and the moving
 * pattern with noise are those for which x264's AVX-512 code gives others. */
static void test_same_stream(void)
{
    enum { W = 832, H = 480, FRAMES = 5 };
    static uint8_t rgb[W * H * 3], file[2][1 << 22];
    size_t bytes[2] = { 0 };

    for (int i = 0; i < 2; i++) {
        const char *path = scratch_path(i == 0 ? "same-a.mp4" : "same-b.mp4");
        struct video *v = NULL;
        uint32_t state = 1;
        FILE *f;

        mallopt(M_PERTURB, i == 0 ? 1 : 170);
        CHECK(video_open(&v, &(struct video_settings){ .path = path,
                                                       .width_px = W,
                                                       .height_px = H,
                                                       .frames = FRAMES,
                                                       .fps = 16,
                                                       .quality = 8,
                                                       .metadata = "" }) == ST_OK,
              "%s", status_line());
        for (int t = 0; t < FRAMES; t++) {
            for (size_t k = 0; k < sizeof(rgb); k++) {
                state = state * 1664525 + 1013904223;
                rgb[k] = (uint8_t)(128 + (k / 3 % W + 3 * (size_t)t) % 64 + (state >> 28));
            }
            CHECK(video_put(v, rgb, 1, H, W) == ST_OK, "%s", status_line());
        }
        CHECK(video_finish(v) == ST_OK, "%s", status_line());
        video_close(v);
        f = fopen(path, "rb");
        bytes[i] = f != NULL ? fread(file[i], 1, sizeof(file[i]), f) : 0;
        if (f != NULL)
            fclose(f);
        unlink(path);
    }
    mallopt(M_PERTURB, 0);
    CHECK(bytes[0] > 1000 && bytes[0] < sizeof(file[0]) && bytes[0] == bytes[1] &&
              memcmp(file[0], file[1], bytes[0]) == 0,
          "%zu and %zu bytes", bytes[0], bytes[1]);
}

static void test_png(void)
{
    uint8_t back[3 * 50 * 34], want[3 * 50 * 34];
    struct video_settings s = { .path = scratch_path("p.png"),
                                .width_px = 50,
                                .height_px = 34,
                                .frames = 1,
                                .metadata = "{\"prompt\":\"猫\"}" };
    char *got = NULL;
    double fps;
    enum AVPixelFormat format;

    CHECK(write_video(&s, 1) == ST_OK, "%s", status_line());
    CHECK(read_back(s.path, 50, 34, back, 1, &fps, &got, &format) == 1, "png");
    paint(want, 50, 34, 0);
    CHECK(memcmp(back, want, sizeof(want)) == 0, "a PNG is exact");
    free(got);
    got = png_comment(s.path);
    CHECK(got != NULL && strcmp(got, s.metadata) == 0, "comment %s", got);
    free(got);
    CHECK(scratch_entries() == 1, "%d entries", scratch_entries());
    unlink(s.path);
}

static void check_refused(struct video_settings s, status want, const char *line)
{
    struct video *v = NULL;
    const status st = video_open(&v, &s);

    CHECK(st == want && strstr(status_line(), line) != NULL, "%s: %d, %s", line, st, status_line());
    CHECK(v == NULL && scratch_entries() == 0, "%d entries", scratch_entries());
}

static void test_refused(void)
{
    struct video_settings s = { .path = scratch_path("a.mp4"),
                                .width_px = 64,
                                .height_px = 64,
                                .frames = 5,
                                .fps = 16,
                                .quality = 8 };
    struct video_settings odd = s, type = s, still = s, missing = s, sheet = s;
    char line[600];

    odd.width_px = 63;
    check_refused(odd, ST_USAGE, "63 x 64: both must be even");
    type.path = scratch_path("a.avi");
    check_refused(type, ST_USAGE, "written as .mp4");
    still.path = scratch_path("a.png");
    check_refused(still, ST_USAGE, "one frame, not 5");
    missing.path = scratch_path("nowhere/a.mp4"); // fails before the first frame
    snprintf(line, sizeof(line), "cannot write into %s", scratch_path("nowhere"));
    check_refused(missing, ST_IO, line);
    sheet.contact_sheet = scratch_path("nowhere/s.png");
    check_refused(sheet, ST_IO, sheet.contact_sheet);
}

/* After a cancelled job and after a full disk there is no file, neither final nor temporary. */
static void test_nothing_left(void)
{
    struct video_settings s = { .path = scratch_path("a.mp4"),
                                .width_px = 640,
                                .height_px = 480,
                                .frames = 60,
                                .fps = 16,
                                .quality = 10 };
    uint8_t *rgb = malloc(3 * 640 * 480);
    struct video *v = NULL;
    struct rlimit limit, small;
    unsigned noise = 1;

    CHECK(video_open(&v, &s) == ST_OK, "%s", status_line());
    paint(rgb, 640, 480, 0);
    for (int t = 0; t < 20; t++)
        CHECK(video_put(v, rgb, 1, 480, 640) == ST_OK, "%s", status_line());
    video_close(v);
    CHECK(scratch_entries() == 0, "%d entries", scratch_entries());

    getrlimit(RLIMIT_FSIZE, &limit);
    signal(SIGXFSZ, SIG_IGN);
    small = limit;
    small.rlim_cur = 100000;
    setrlimit(RLIMIT_FSIZE, &small);
    CHECK(video_open(&v, &s) == ST_OK, "%s", status_line());
    status st = ST_OK;
    for (int t = 0; t < 60 && st == ST_OK; t++) {
        for (int i = 0; i < 3 * 640 * 480; i++)
            rgb[i] = (uint8_t)((noise = noise * 1664525u + 1013904223u) >> 24);
        st = video_put(v, rgb, 1, 480, 640);
    }
    if (st == ST_OK)
        st = video_finish(v);
    CHECK(st == ST_IO && strstr(status_line(), s.path) != NULL, "%d %s", st, status_line());
    video_close(v);
    setrlimit(RLIMIT_FSIZE, &limit);
    CHECK(scratch_entries() == 0, "%d entries", scratch_entries());
    free(rgb);
}

int main(void)
{
    if (!scratch_open("video"))
        return 1;
    CHECK(h264_crf(8) == 10 && h264_crf(5) == 25 && h264_crf(10) == 0 && h264_crf(0) == 51, "%d %d",
          h264_crf(8), h264_crf(5)); // what imageio-ffmpeg passes
    test_mp4();
    test_comment();
    test_same_stream();
    test_png();
    test_refused();
    test_nothing_left();
    scratch_close();
    return check_end("video");
}
