#include "launch/video/media_sound.h"

#include "launch/video/media_internal.h"
#include "runtime/hash.h"

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/opt.h>
#include <libswresample/swresample.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct sound_reader {
    struct media_file file;
    struct media_input input;
    AVCodecContext *codec;
    AVPacket *packet;
    AVFrame *frame;
    int stream;
    bool flushed;               // the decoder has got all packets
    int rate, channels, format; // of the first frame; rate 0: none yet
};

static status open_decoder(struct sound_reader *r)
{
    const AVCodec *decoder = NULL;
    AVFormatContext *in = r->input.in;

    if (avformat_find_stream_info(in, NULL) < 0)
        return media_damaged(&r->file, "its headers are damaged");
    r->stream = av_find_best_stream(in, AVMEDIA_TYPE_AUDIO, -1, -1, &decoder, 0);
    if (r->stream == AVERROR_DECODER_NOT_FOUND)
        return media_damaged(&r->file, "this FFmpeg has no decoder for its sound");
    if (r->stream < 0)
        return media_damaged(&r->file, "it has no sound");
    for (unsigned i = 0; i < in->nb_streams; i++)
        if ((int)i != r->stream)
            in->streams[i]->discard = AVDISCARD_ALL;
    r->codec = avcodec_alloc_context3(decoder);
    r->packet = av_packet_alloc();
    r->frame = av_frame_alloc();
    if (r->codec == NULL || r->packet == NULL || r->frame == NULL)
        return media_no_memory(&r->file);
    r->codec->thread_count = 1;
    r->codec->pkt_timebase = in->streams[r->stream]->time_base;
    if (avcodec_parameters_to_context(r->codec, in->streams[r->stream]->codecpar) < 0 ||
        avcodec_open2(r->codec, decoder, NULL) < 0)
        return media_damaged(&r->file, "FFmpeg cannot decode its sound");
    return ST_OK;
}

status sound_open(struct sound_reader **out, const char *path)
{
    struct sound_reader *r = calloc(1, sizeof(*r));
    status st;

    *out = NULL;
    if (r == NULL)
        return fail(ST_MEMORY, "%s: cannot allocate memory to read it", path);
    TRY_OUT(media_open_file(&r->file, path, 0));
    TRY_OUT(media_input_open(&r->input, &r->file, NULL,
                             "it is no sound that FFmpeg reads (.wav, .mp3, .flac, .m4a, .ogg, "
                             "...), or damaged"));
    TRY_OUT(open_decoder(r));
    media_free_memory(); // what is read beside it needs more
    *out = r;
out:
    if (st != ST_OK)
        sound_close(r);
    return st;
}

void sound_close(struct sound_reader *r)
{
    if (r == NULL)
        return;
    av_frame_free(&r->frame);
    av_packet_free(&r->packet);
    avcodec_free_context(&r->codec);
    media_input_close(&r->input);
    media_close_file(&r->file);
    free(r);
}

/* Sends the decoder the next packet that it takes, or the end. */
static void feed(struct sound_reader *r)
{
    int code = AVERROR_INVALIDDATA;

    while (code == AVERROR_INVALIDDATA && !r->flushed) { // damaged packets are left out
        av_packet_unref(r->packet);
        r->flushed = av_read_frame(r->input.in, r->packet) < 0;
        if (!r->flushed && r->packet->stream_index != r->stream)
            continue;
        code = avcodec_send_packet(r->codec, r->flushed ? NULL : r->packet);
    }
    av_packet_unref(r->packet);
}

/* All frames must be as the first: what converts them is set up once. */
static status check_frame(struct sound_reader *r)
{
    const AVFrame *f = r->frame;

    if (f->sample_rate < 1 || f->ch_layout.nb_channels < 1)
        return media_damaged(&r->file, "its sound is damaged");
    if (r->rate == 0) {
        r->rate = f->sample_rate;
        r->channels = f->ch_layout.nb_channels;
        r->format = f->format;
    }
    if (f->sample_rate != r->rate || f->ch_layout.nb_channels != r->channels ||
        f->format != r->format)
        return media_damaged(&r->file, "the rate or the channels of its samples change: convert it "
                                       "to .wav");
    return ST_OK;
}

status sound_next(struct sound_reader *r, const struct AVFrame **frame)
{
    int code;

    av_frame_unref(r->frame);
    while ((code = avcodec_receive_frame(r->codec, r->frame)) < 0) {
        if (code == AVERROR(ENOMEM))
            return media_no_memory(&r->file);
        if (code == AVERROR_EOF || r->flushed)
            break;
        feed(r);
    }
    if (code >= 0)
        TRY(check_frame(r));
    *frame = code >= 0 ? r->frame : NULL;
    return ST_OK;
}

/* ---- samples ---- */

/* Sample i of a channel, in [-1, 1]. */
static float sample_at(const AVFrame *f, int channel, int i)
{
    const int channels = f->ch_layout.nb_channels;
    const bool planar = av_sample_fmt_is_planar(f->format);
    const uint8_t *plane = f->extended_data[planar ? channel : 0];
    const int at = planar ? i : i * channels + channel;

    switch (av_get_packed_sample_fmt(f->format)) {
    case AV_SAMPLE_FMT_U8:
        return (float)(plane[at] - 128) / 128;
    case AV_SAMPLE_FMT_S16:
        return (float)((const int16_t *)plane)[at] / 32768;
    case AV_SAMPLE_FMT_S32:
        return (float)((double)((const int32_t *)plane)[at] / 2147483648.0);
    case AV_SAMPLE_FMT_S64:
        return (float)((double)((const int64_t *)plane)[at] / 0x1p63);
    case AV_SAMPLE_FMT_FLT:
        return ((const float *)plane)[at];
    case AV_SAMPLE_FMT_DBL:
        return (float)((const double *)plane)[at];
    default:
        return NAN;
    }
}

struct samples {
    const char *path;
    float *data;
    int64_t count, capacity;
};

static status grow(struct samples *s, int64_t more)
{
    const int64_t capacity = 2 * s->capacity > s->count + more ? 2 * s->capacity : s->count + more;
    float *data;

    if (s->count + more <= s->capacity)
        return ST_OK;
    data = realloc(s->data, (size_t)capacity * sizeof(*data));
    if (data == NULL)
        return fail(ST_MEMORY, "%s: cannot allocate host memory for %lld samples", s->path,
                    (long long)capacity);
    s->data = data;
    s->capacity = capacity;
    return ST_OK;
}

/* Appends the mean of a frame's channels. */
static status add_frame(struct samples *s, const AVFrame *f)
{
    const int channels = f->ch_layout.nb_channels;

    TRY(grow(s, f->nb_samples));
    for (int i = 0; i < f->nb_samples; i++) {
        float sum = 0;

        for (int c = 0; c < channels; c++)
            sum += sample_at(f, c, i);
        if (!isfinite(sum))
            return fail(ST_FORMAT, "%s: its sound has samples that are not finite", s->path);
        s->data[s->count++] = sum / (float)channels;
    }
    return ST_OK;
}

/* The sound as it is in the file, in one channel. */
static status read_mono(struct samples *s, struct sound *about, const char *path)
{
    struct sound_reader *r = NULL;
    const AVFrame *f = NULL;
    status st;

    TRY_OUT(sound_open(&r, path));
    for (;;) {
        TRY_OUT(sound_next(r, &f));
        if (f == NULL)
            break;
        about->rate = f->sample_rate;
        about->channels = f->ch_layout.nb_channels;
        TRY_OUT(add_frame(s, f));
        if (s->count > (int64_t)SOUND_SECONDS_MAX * about->rate)
            TRY_OUT(fail(ST_FORMAT,
                         "%s: its sound is longer than %d minutes, which is the most that is read: "
                         "cut it, for example with ffmpeg -i IN -t %d OUT.wav",
                         path, SOUND_SECONDS_MAX / 60, SOUND_SECONDS_MAX));
    }
    if (s->count == 0)
        TRY_OUT(media_damaged(&r->file, "its sound has no samples"));
    about->seconds = (double)s->count / about->rate;
out:
    sound_close(r);
    return st;
}

/* A resampler of one channel; soxr with 20 bits is librosa's "soxr_hq". */
static status open_resampler(SwrContext **swr, const char *path, int from, int to)
{
    AVChannelLayout mono = AV_CHANNEL_LAYOUT_MONO;
    int code = AVERROR(ENOMEM);

    for (int soxr = 1; soxr >= 0; soxr--) {
        if (swr_alloc_set_opts2(swr, &mono, AV_SAMPLE_FMT_FLT, to, &mono, AV_SAMPLE_FMT_FLT, from,
                                0, NULL) < 0)
            break;
        if (soxr) {
            av_opt_set(*swr, "resampler", "soxr", 0);
            av_opt_set_double(*swr, "precision", 20, 0);
        } else { // this FFmpeg has been built without it
            av_opt_set_int(*swr, "filter_size", 128, 0);
            av_opt_set_double(*swr, "cutoff", 0.95, 0);
            av_opt_set(*swr, "filter_type", "kaiser", 0);
            av_opt_set_double(*swr, "kaiser_beta", 12, 0);
        }
        code = swr_init(*swr);
        if (code >= 0)
            return ST_OK;
        swr_free(swr);
    }
    return fail(code == AVERROR(ENOMEM) ? ST_MEMORY : ST_FORMAT,
                "%s: cannot resample its sound from %d to %d samples a second", path, from, to);
}

/* out: `in` at another rate, ceil(n * to / from) samples. */
static status resample(struct samples *out, const struct samples *in, int from, int to)
{
    const int64_t want = (in->count * to + from - 1) / from;
    const int64_t chunk = 1 << 16;
    SwrContext *swr = NULL;
    int code = 0;
    status st;

    TRY_OUT(open_resampler(&swr, in->path, from, to));
    TRY_OUT(grow(out, want + 1024));
    for (int64_t at = 0; at <= in->count;) { // the last call, without samples, flushes it
        const int64_t n = in->count - at < chunk ? in->count - at : chunk;
        const uint8_t *src = (const uint8_t *)(in->data + at);
        uint8_t *dst;

        TRY_OUT(grow(out, (n * to) / from + 65536));
        dst = (uint8_t *)(out->data + out->count);
        code = swr_convert(
            swr, &dst,
            (int)(out->capacity - out->count < INT_MAX ? out->capacity - out->count : INT_MAX),
            n > 0 ? &src : NULL, (int)n);
        if (code < 0)
            TRY_OUT(fail(ST_MEMORY, "%s: cannot allocate memory to resample its sound", in->path));
        out->count += code;
        if (n == 0 && code == 0)
            break;
        at += n;
        if (n == 0 && out->count >= want)
            break;
    }
    while (out->count < want) { // as librosa, which pads with zeros
        TRY_OUT(grow(out, 1));
        out->data[out->count++] = 0;
    }
    out->count = want;
out:
    swr_free(&swr);
    return st;
}

status media_sound(struct sound *s, const char *path, int rate)
{
    struct samples in = { .path = path }, out = { .path = path };
    status st;

    *s = (struct sound){ 0 };
    TRY_OUT(read_mono(&in, s, path));
    if (s->rate != rate) {
        TRY_OUT(resample(&out, &in, s->rate, rate));
        free(in.data);
        in = out;
        out = (struct samples){ 0 };
    }
    s->samples = in.data;
    s->count = in.count;
    in.data = NULL;
out:
    free(in.data);
    free(out.data);
    return st;
}

void sound_done(struct sound *s)
{
    free(s->samples);
    *s = (struct sound){ 0 };
}

void sound_digest(const struct sound *s, char digest[SOUND_DIGEST_BYTES])
{
    snprintf(
        digest, SOUND_DIGEST_BYTES, "%016llx",
        (unsigned long long)hash_bytes(HASH_START, s->samples, (size_t)s->count * sizeof(float)));
}
