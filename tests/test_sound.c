/* Sounds as librosa reads them (golden/make_sound.py), and odd and hostile ones.
 *
 *     test_sound GOLDEN */
#include "launch/video/media_sound.h"
#include "launch/video/video.h"
#include "tests/check.h"
#include "tests/golden.h"
#include "tests/scratch.h"

#include <libavformat/avformat.h>
#include <string.h>
#include <unistd.h>

#define RATE 16000

static struct golden golden;
static char folder[4096]; // of the golden files

/* Samples as make_sound.py computes them. */
static int16_t sample(int rate, int channel, int i)
{
    const double t = (double)i / rate;

    return (int16_t)nearbyint(12000 * sin(2 * acos(-1.0) * (300 * t + 9000 * t * t) + channel));
}

static void put(FILE *f, uint32_t value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        fputc((int)(value >> 8 * i & 255), f);
}

/* The header of a .wav; format 1: whole numbers, 3: floats. */
static FILE *wav_open(const char *path, int rate, int channels, int bits, int format,
                      uint32_t bytes)
{
    FILE *f = fopen(path, "wb");

    fputs("RIFF", f);
    put(f, 36 + bytes, 4);
    fputs("WAVEfmt ", f);
    put(f, 16, 4);
    put(f, (uint32_t)format, 2);
    put(f, (uint32_t)channels, 2);
    put(f, (uint32_t)rate, 4);
    put(f, (uint32_t)(rate * channels * bits / 8), 4);
    put(f, (uint32_t)(channels * bits / 8), 2);
    put(f, (uint32_t)bits, 2);
    fputs("data", f);
    put(f, bytes, 4);
    return f;
}

static void write_wav(const char *path, int rate, int channels, int count, bool silent)
{
    FILE *f = wav_open(path, rate, channels, 16, 1, (uint32_t)(count * channels * 2));

    for (int i = 0; i < count; i++)
        for (int c = 0; c < channels; c++)
            put(f, silent ? 0 : (uint16_t)sample(rate, c, i), 2);
    fclose(f);
}

static void check_rate(int rate, int channels)
{
    const char *path;
    char name[32];
    struct sound s = { 0 };
    int64_t n = 0;
    float *want = golden_f32(&golden, &n, "%d.%d", rate, channels);
    float worst = 0;

    snprintf(name, sizeof(name), "%d.wav", rate);
    path = scratch_path(name);
    write_wav(path, rate, channels, rate / 8, false);
    CHECK(media_sound(&s, path, RATE) == ST_OK, "%s", status_line());
    CHECK(s.count == n && s.rate == rate && s.channels == channels, "%d: %d samples, not %d", rate,
          (int)s.count, (int)n);
    for (int64_t i = 0; i < n && i < s.count; i++)
        worst = fmaxf(worst, fabsf(s.samples[i] - want[i]));
    CHECK(worst <= 2e-6f, "%d samples a second: %g", rate, (double)worst);
    CHECK(fabs(s.seconds - 0.125) < 1e-4, "%g s", s.seconds);
    sound_done(&s);
    free(want);
    unlink(path);
}

/* Refused with a line that has `words`. */
static void check_refused(const char *path, status want, const char *words)
{
    struct sound s = { 0 };
    const status st = media_sound(&s, path, RATE);

    CHECK(st == want && strstr(status_line(), words) != NULL, "%s: %d, %s", path, (int)st,
          st == ST_OK ? "" : status_line());
    CHECK(s.samples == NULL, "%s: samples", path);
    sound_done(&s);
}

static void write_bytes(const char *path, const void *bytes, size_t size)
{
    FILE *f = fopen(path, "wb");

    fwrite(bytes, 1, size, f);
    fclose(f);
}

static void check_odd(void)
{
    const char *path;
    char mp3[4200];
    static char bytes[65536];
    struct sound s = { 0 };
    size_t size;
    FILE *f;

    path = scratch_path("one.wav");
    write_wav(path, 44100, 1, 1, false);
    CHECK(media_sound(&s, path, RATE) == ST_OK && s.count == 1, "one sample: %s", status_line());
    sound_done(&s);
    unlink(path);

    path = scratch_path("silent.wav");
    write_wav(path, 8000, 1, 4000, true);
    CHECK(media_sound(&s, path, RATE) == ST_OK && s.count == 8000, "silence: %s", status_line());
    for (int64_t i = 0; i < s.count; i++)
        CHECK(s.samples[i] == 0, "silence: %g", (double)s.samples[i]);
    sound_done(&s);
    unlink(path);

    snprintf(mp3, sizeof(mp3), "%s/sound.mp3", folder);
    CHECK(media_sound(&s, mp3, RATE) == ST_OK && s.count > 7900 && s.count < 8100, "%d samples: %s",
          (int)s.count, status_line());
    sound_done(&s);
    f = fopen(mp3, "rb");
    size = fread(bytes, 1, sizeof(bytes), f);
    fclose(f);
    path = scratch_path("cut.mp3");
    write_bytes(path, bytes, size * 2 / 3);
    CHECK(media_sound(&s, path, RATE) == ST_OK && s.count > 3000 && s.count < 7000,
          "%d samples of a cut MP3: %s", (int)s.count, status_line());
    sound_done(&s);
    for (size_t i = size / 3; i < size / 2; i++)
        bytes[i] = (char)(i * 2654435761u >> 7);
    write_bytes(path, bytes, size);
    CHECK(media_sound(&s, path, RATE) == ST_OK && s.count > 3000, "%d samples of a damaged MP3: %s",
          (int)s.count, status_line());
    sound_done(&s);
    unlink(path);
}

static void check_hostile(void)
{
    const char *path;
    char image[4200];
    const float nan = NAN;
    FILE *f;

    path = scratch_path("missing.wav");
    check_refused(path, ST_IO, "No such file");
    check_refused(folder, ST_IO, "a folder, not a file");
    path = scratch_path("empty.wav");
    write_bytes(path, "", 0);
    check_refused(path, ST_FORMAT, "the file is empty");
    write_wav(path, 16000, 1, 0, false);
    check_refused(path, ST_FORMAT, "its sound has no samples");
    write_bytes(path, "a text, and no sound at all\n", 28);
    check_refused(path, ST_FORMAT, "no sound");
    f = wav_open(path, 16000, 1, 32, 3, 4);
    fwrite(&nan, 4, 1, f);
    fclose(f);
    check_refused(path, ST_FORMAT, "not finite");
    unlink(path);
    path = scratch_path("hours.wav"); // ten, in a file without blocks
    fclose(wav_open(path, 8000, 1, 8, 1, 10 * 3600 * 8000u));
    CHECK(truncate(path, 44 + 10LL * 3600 * 8000) == 0, "truncate");
    check_refused(path, ST_FORMAT, "longer than 60 minutes");
    unlink(path);
    snprintf(image, sizeof(image), "%s/image_odd.png", folder);
    check_refused(image, ST_FORMAT, "it has no sound");
}

/* A video of `frames` frames with the sound of `path`: how long both streams are, by their packets.
 */
static void lengths(const char *path, int frames, double *video_s, double *sound_s)
{
    const char *mp4 = scratch_path("video.mp4");
    const struct video_settings settings = { .path = mp4,
                                             .width_px = 32,
                                             .height_px = 16,
                                             .frames = frames,
                                             .fps = 16,
                                             .quality = 5,
                                             .sound = path };
    uint8_t rgb[32 * 16 * 3] = { 0 };
    struct video *v = NULL;
    AVFormatContext *in = NULL;
    AVPacket *packet = av_packet_alloc();
    double length[2] = { 0 };

    CHECK(video_open(&v, &settings) == ST_OK, "%s", status_line());
    for (int i = 0; i < frames; i++)
        CHECK(video_put(v, rgb, 1, 16, 32) == ST_OK, "%s", status_line());
    CHECK(video_finish(v) == ST_OK, "%s", status_line());
    video_close(v);
    CHECK(avformat_open_input(&in, mp4, NULL, NULL) == 0 && in->nb_streams == 2, "%s", mp4);
    while (in != NULL && av_read_frame(in, packet) >= 0) {
        const AVStream *s = in->streams[packet->stream_index];

        double *end = &length[s->codecpar->codec_type == AVMEDIA_TYPE_AUDIO];

        *end = fmax(*end, (double)(packet->pts + packet->duration) * av_q2d(s->time_base));
        av_packet_unref(packet);
    }
    *video_s = length[0];
    *sound_s = length[1];
    av_packet_free(&packet);
    avformat_close_input(&in);
}

/* The sound of a video ends with it, within a frame of either, and is that of the file. */
static void check_video(int rate, int channels, int frames)
{
    const char *path = scratch_path("sound.wav");
    struct sound want = { 0 }, got = { 0 };
    double video_s, sound_s, diff = 0, norm = 0;

    write_wav(path, rate, channels, rate, false);
    lengths(path, frames, &video_s, &sound_s);
    CHECK(fabs(video_s - frames / 16.0) < 1e-3 && fabs(sound_s - video_s) < 1 / 16.0,
          "%d samples a second, %d frames: %g s and %g s", rate, frames, video_s, sound_s);
    CHECK(media_sound(&want, path, RATE) == ST_OK, "%s", status_line());
    CHECK(media_sound(&got, scratch_path("video.mp4"), RATE) == ST_OK, "%s", status_line());
    CHECK(got.channels == (channels > 1 ? 2 : 1), "%d channels", got.channels);
    for (int64_t i = 1000; i < 8000 && i < got.count; i++) { // lossy, but at the same times
        diff += pow(got.samples[i] - want.samples[i], 2);
        norm += pow(want.samples[i], 2);
    }
    CHECK(channels > 2 || diff < 0.1 * norm, "%d samples a second: %g of %g", rate, diff, norm);
    sound_done(&want);
    sound_done(&got);
    unlink(scratch_path("video.mp4"));
    unlink(path);
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return 1;
    snprintf(folder, sizeof(folder), "%s", argv[1]);
    golden = golden_open(argv[1], "sound.safetensors");
    if (!scratch_open("sound"))
        return 1;
    check_rate(8000, 1);
    check_rate(16000, 2);
    check_rate(22050, 1);
    check_rate(44100, 2);
    check_rate(48000, 8);
    check_odd();
    check_hostile();
    check_video(16000, 1, 16);
    check_video(44100, 2, 11);
    check_video(48000, 8, 18); // longer than the sound
    check_video(11000, 1, 5);  // no rate of AAC
    scratch_close();
    golden_close(&golden);
    return check_end("sound");
}
