/* The sound of a video: a file's, as AAC, encoded while frames are. */
#include "launch/video/video_internal.h"

#include "launch/video/media_internal.h"

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/audio_fifo.h>
#include <libswresample/swresample.h>
#include <math.h>
#include <stdlib.h>

#define BITS 192000 // a second, as the official program

struct sound_track {
    const char *path; // borrowed
    struct sound_reader *reader;
    const AVFrame *next; // decoded, not converted yet; NULL after the last
    SwrContext *swr;
    AVAudioFifo *fifo; // converted
    AVCodecContext *codec;
    AVFormatContext *format; // borrowed
    AVStream *stream;
    AVPacket *packet;
    AVFrame *frame;
    int64_t samples; // sent to the encoder
};

static status no_memory(const struct sound_track *t)
{
    return fail(ST_MEMORY, "%s: cannot allocate memory to encode it", t->path);
}

/* The rates of AAC; others become 48000. */
static int rate_of(int rate)
{
    static const int rates[] = { 96000, 88200, 64000, 48000, 44100, 32000, 24000,
                                 22050, 16000, 12000, 11025, 8000,  7350 };

    for (size_t i = 0; i < COUNT(rates); i++)
        if (rates[i] == rate)
            return rate;
    return 48000;
}

static status open_encoder(struct sound_track *t)
{
    const AVCodec *aac = avcodec_find_encoder_by_name("aac");
    const int channels = t->next->ch_layout.nb_channels > 1 ? 2 : 1;

    if (aac == NULL)
        return fail(ST_USAGE,
                    "%s: the FFmpeg libraries here lack the AAC encoder; install a build that "
                    "includes it",
                    t->path);
    t->codec = avcodec_alloc_context3(aac);
    if (t->codec == NULL)
        return no_memory(t);
    av_channel_layout_default(&t->codec->ch_layout, channels);
    t->codec->sample_fmt = AV_SAMPLE_FMT_FLTP;
    t->codec->sample_rate = rate_of(t->next->sample_rate);
    t->codec->time_base = (AVRational){ 1, t->codec->sample_rate };
    t->codec->bit_rate = BITS;
    t->codec->thread_count = 1;
    t->codec->flags |= AV_CODEC_FLAG_GLOBAL_HEADER | AV_CODEC_FLAG_BITEXACT;
    return avcodec_open2(t->codec, aac, NULL) < 0 ? no_memory(t) : ST_OK;
}

static status open_converter(struct sound_track *t)
{
    AVChannelLayout from = t->next->ch_layout;
    int code;

    if (from.order == AV_CHANNEL_ORDER_UNSPEC)
        av_channel_layout_default(&from, from.nb_channels);
    code = swr_alloc_set_opts2(&t->swr, &t->codec->ch_layout, t->codec->sample_fmt,
                               t->codec->sample_rate, &from, t->next->format, t->next->sample_rate,
                               0, NULL);
    if (code >= 0)
        code = swr_init(t->swr);
    if (code == AVERROR(ENOMEM))
        return no_memory(t);
    return code < 0 ? fail(ST_FORMAT, "%s: its %d channels cannot be mixed", t->path,
                           t->next->ch_layout.nb_channels)
                    : ST_OK;
}

status sound_track_open(struct sound_track **out, struct AVFormatContext *format, const char *path)
{
    struct sound_track *t = calloc(1, sizeof(*t));
    status st;

    if (t == NULL)
        return fail(ST_MEMORY, "%s: cannot allocate memory to encode it", path);
    t->path = path;
    t->format = format;
    TRY_OUT(sound_open(&t->reader, path));
    TRY_OUT(sound_next(t->reader, &t->next));
    if (t->next == NULL)
        TRY_OUT(fail(ST_FORMAT, "%s: its sound has no samples", path));
    TRY_OUT(open_encoder(t));
    TRY_OUT(open_converter(t));
    t->fifo = av_audio_fifo_alloc(t->codec->sample_fmt, t->codec->ch_layout.nb_channels,
                                  t->codec->frame_size);
    t->packet = av_packet_alloc();
    t->frame = av_frame_alloc();
    t->stream = avformat_new_stream(format, NULL);
    if (t->fifo == NULL || t->packet == NULL || t->frame == NULL || t->stream == NULL ||
        avcodec_parameters_from_context(t->stream->codecpar, t->codec) < 0)
        TRY_OUT(no_memory(t));
    t->stream->time_base = t->codec->time_base;
    *out = t;
out:
    if (st != ST_OK)
        sound_track_close(t);
    return st;
}

void sound_track_close(struct sound_track *t)
{
    if (t == NULL)
        return;
    sound_close(t->reader);
    swr_free(&t->swr);
    av_audio_fifo_free(t->fifo);
    avcodec_free_context(&t->codec);
    av_packet_free(&t->packet);
    av_frame_free(&t->frame);
    free(t);
}

/* Converts `count` samples of `in`; NULL: what the resampler still holds. */
static status convert(struct sound_track *t, uint8_t **in, int count)
{
    const int most = swr_get_out_samples(t->swr, count) + 32;
    uint8_t *planes[2] = { NULL, NULL };
    int got;

    if (av_samples_alloc(planes, NULL, t->codec->ch_layout.nb_channels, most, t->codec->sample_fmt,
                         0) < 0)
        return no_memory(t);
    got = swr_convert(t->swr, planes, most, (const uint8_t **)in, count);
    if (got >= 0)
        got = av_audio_fifo_write(t->fifo, (void **)planes, got);
    av_freep(&planes[0]);
    return got < 0 ? no_memory(t) : ST_OK;
}

/* Converts until the buffer has `count` samples, or the sound ends. */
static status fill(struct sound_track *t, int count)
{
    while (av_audio_fifo_size(t->fifo) < count && t->next != NULL) {
        if (t->next->nb_samples > 0)
            TRY(convert(t, t->next->extended_data, t->next->nb_samples));
        TRY(sound_next(t->reader, &t->next));
        if (t->next == NULL)
            TRY(convert(t, NULL, 0));
    }
    return ST_OK;
}

/* Sends a frame (NULL at the end) and writes the packets that are ready. */
static status encode(struct sound_track *t, const AVFrame *frame)
{
    int code = avcodec_send_frame(t->codec, frame);

    while (code >= 0) {
        code = avcodec_receive_packet(t->codec, t->packet);
        if (code == AVERROR(EAGAIN) || code == AVERROR_EOF)
            return ST_OK;
        if (code < 0)
            break;
        t->packet->stream_index = t->stream->index;
        av_packet_rescale_ts(t->packet, t->codec->time_base, t->stream->time_base);
        code = av_interleaved_write_frame(t->format, t->packet); // takes ownership of the data
    }
    if (code == AVERROR(ENOMEM))
        return no_memory(t);
    return fail(ST_IO, "%s: its sound cannot be written to the video: %s", t->path,
                av_err2str(code));
}

/* Encodes the next `count` samples, at most a frame; silence after the sound. */
static status put(struct sound_track *t, int count)
{
    int got;

    TRY(fill(t, count));
    av_frame_unref(t->frame);
    t->frame->format = t->codec->sample_fmt;
    t->frame->sample_rate = t->codec->sample_rate;
    t->frame->nb_samples = count;
    t->frame->pts = t->samples;
    if (av_channel_layout_copy(&t->frame->ch_layout, &t->codec->ch_layout) < 0 ||
        av_frame_get_buffer(t->frame, 0) < 0)
        return no_memory(t);
    got = av_audio_fifo_read(t->fifo, (void **)t->frame->extended_data, count);
    if (got < 0)
        return no_memory(t);
    av_samples_set_silence(t->frame->extended_data, got, count - got,
                           t->codec->ch_layout.nb_channels, t->codec->sample_fmt);
    t->samples += count;
    return encode(t, t->frame);
}

status sound_track_until(struct sound_track *t, double seconds)
{
    const int64_t end = llround(seconds * t->codec->sample_rate);

    while (t->samples + t->codec->frame_size <= end)
        TRY(put(t, t->codec->frame_size));
    return ST_OK;
}

status sound_track_finish(struct sound_track *t, double seconds)
{
    const int64_t end = llround(seconds * t->codec->sample_rate);

    TRY(sound_track_until(t, seconds));
    if (t->samples < end)
        TRY(put(t, (int)(end - t->samples)));
    return encode(t, NULL);
}
