#include "launch/video/video_internal.h"

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/opt.h>
#include <libswscale/swscale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct h264 {
    AVFormatContext *format;
    AVCodecContext *codec;
    AVStream *stream;
    struct SwsContext *scale;
    AVFrame *frame;
    AVPacket *packet;
    struct sound_track *sound; // or NULL
    char *path;
    int64_t frames;
};

/* imageio-ffmpeg (imageio_ffmpeg/_io.py, write_frames): quality q gives libx264 -crf
 * int((1 - q / 10) * 51). 10 is lossless, the official 8 gives 10 and DiffSynth's 5 gives 25. */
int h264_crf(double quality)
{
    return (int)((1 - quality / 10) * 51);
}

static status no_memory(const struct h264 *h)
{
    return fail(ST_MEMORY, "%s: cannot allocate memory for the video encoder", h->path);
}

/* AVERROR_EXTERNAL is x264's only error: its settings are ours, so that memory is what it lacks. */
static status av_fail(const struct h264 *h, int code)
{
    char reason[AV_ERROR_MAX_STRING_SIZE] = "";

    if (code == AVERROR(ENOMEM) || code == AVERROR_EXTERNAL)
        return no_memory(h);
    av_strerror(code, reason, sizeof(reason));
    return fail(ST_IO, "%s: cannot write: %s", h->path, reason);
}

/* x264's AVX-512 code of its lookahead (mbtree) reads memory that it has not written, for some
 * sizes (832*480, 96*96): then the stream depends on what was there. Seen in r3095; AVX2 is as
 * fast. */
static void avoid_avx512(AVCodecContext *codec)
{
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx512f"))
        av_opt_set(codec->priv_data, "x264-params", "asm=AVX2", 0);
#else
    (void)codec;
#endif
}

static status open_codec(struct h264 *h, int width_px, int height_px, double fps, double quality)
{
    const AVCodec *x264 = avcodec_find_encoder_by_name("libx264");
    char crf[8];
    int code = 0;

    if (x264 == NULL)
        return fail(ST_USAGE,
                    "%s: the FFmpeg libraries here lack libx264; install a build that includes it",
                    h->path);
    h->codec = avcodec_alloc_context3(x264);
    if (h->codec == NULL)
        return no_memory(h);
    h->codec->width = width_px;
    h->codec->height = height_px;
    h->codec->pix_fmt = AV_PIX_FMT_YUV420P;
    h->codec->framerate = av_d2q(fps, 1000000);
    h->codec->time_base = av_inv_q(h->codec->framerate);
    h->codec->color_range = AVCOL_RANGE_MPEG;
    h->codec->colorspace = AVCOL_SPC_SMPTE170M; // swscale's default for RGB
    h->codec->flags |= AV_CODEC_FLAG_GLOBAL_HEADER;
    h->codec->thread_count = 16; // fixed: the stream depends on it
    snprintf(crf, sizeof(crf), "%d", h264_crf(quality));
    av_opt_set(h->codec->priv_data, "crf", crf, 0);
    // of the size and SSIM of x264's default, in half of the CPU time (bench/LOG.md)
    av_opt_set(h->codec->priv_data, "preset", "veryfast", 0);
    avoid_avx512(h->codec);
    code = avcodec_open2(h->codec, x264, NULL);
    if (code < 0)
        return av_fail(h, code);
    return ST_OK;
}

static status open_stream(struct h264 *h)
{
    int code = avformat_alloc_output_context2(&h->format, NULL, "mp4", NULL);

    if (code < 0)
        return av_fail(h, code);
    h->stream = avformat_new_stream(h->format, NULL);
    if (h->stream == NULL)
        return no_memory(h);
    h->stream->time_base = h->codec->time_base;
    h->stream->avg_frame_rate = h->codec->framerate;
    code = avcodec_parameters_from_context(h->stream->codecpar, h->codec);
    return code < 0 ? av_fail(h, code) : ST_OK;
}

static status open_file(struct h264 *h, const char *temp, const char *metadata)
{
    AVDictionary *options = NULL;
    char *url = NULL;
    int code = 0;

    if (asprintf(&url, "file:%s", temp) < 0)
        return no_memory(h);
    h->format->url = av_strdup(url); // for +faststart, which opens the file a second time
    if (metadata != NULL)
        code = av_dict_set(&h->format->metadata, "comment", metadata, 0);
    if (code >= 0)
        code = avio_open(&h->format->pb, url, AVIO_FLAG_WRITE);
    if (code >= 0)
        code = av_dict_set(&options, "movflags", "+faststart", 0);
    if (code >= 0)
        code = avformat_write_header(h->format, &options);
    av_dict_free(&options);
    free(url);
    return code < 0 ? av_fail(h, code) : ST_OK;
}

/* The time after the frames so far. */
static double seconds(const struct h264 *h)
{
    return (double)h->frames / av_q2d(h->codec->framerate);
}

status h264_open(struct h264 **out, const char *temp, const char *path, int width_px, int height_px,
                 double fps, double quality, const char *metadata, const char *sound)
{
    status st;
    struct h264 *h = calloc(1, sizeof(*h));

    if (h == NULL)
        return fail(ST_MEMORY, "%s: cannot allocate memory for the video encoder", path);
    av_log_set_level(AV_LOG_QUIET); // we report errors from the returned codes
    h->path = strdup(path);
    h->frame = av_frame_alloc();
    h->packet = av_packet_alloc();
    if (h->path == NULL || h->frame == NULL || h->packet == NULL) {
        st = fail(ST_MEMORY, "%s: cannot allocate memory for the video encoder", path);
        goto out;
    }
    TRY_OUT(open_codec(h, width_px, height_px, fps, quality));
    TRY_OUT(open_stream(h));
    if (sound != NULL)
        TRY_OUT(sound_track_open(&h->sound, h->format, sound));
    TRY_OUT(open_file(h, temp, metadata));
    h->scale = sws_getContext(width_px, height_px, AV_PIX_FMT_RGB24, width_px, height_px,
                              AV_PIX_FMT_YUV420P, SWS_BICUBIC | SWS_ACCURATE_RND | SWS_BITEXACT,
                              NULL, NULL, NULL);
    h->frame->format = AV_PIX_FMT_YUV420P;
    h->frame->width = width_px;
    h->frame->height = height_px;
    if (h->scale == NULL || av_frame_get_buffer(h->frame, 0) < 0) {
        st = no_memory(h);
        goto out;
    }
    *out = h;
out:
    if (st != ST_OK)
        h264_close(h);
    return st;
}

/* Sends a frame (NULL at the end) and writes the packets that are ready. */
static status encode(struct h264 *h, const AVFrame *frame)
{
    int code = avcodec_send_frame(h->codec, frame);

    while (code >= 0) {
        code = avcodec_receive_packet(h->codec, h->packet);
        if (code == AVERROR(EAGAIN) || code == AVERROR_EOF)
            return ST_OK;
        if (code < 0)
            break;
        av_packet_rescale_ts(h->packet, h->codec->time_base, h->stream->time_base);
        if (h->packet->duration == 0)
            h->packet->duration = av_rescale_q(1, h->codec->time_base, h->stream->time_base);
        code = av_interleaved_write_frame(h->format,
                                          h->packet); // takes ownership of the packet's data
    }
    return av_fail(h, code);
}

status h264_frame(struct h264 *h, const uint8_t *rgb)
{
    const uint8_t *const rows[] = { rgb };
    const int stride[] = { 3 * h->codec->width };

    if (av_frame_make_writable(h->frame) < 0)
        return no_memory(h);
    sws_scale(h->scale, rows, stride, 0, h->codec->height, h->frame->data, h->frame->linesize);
    h->frame->pts = h->frames++;
    TRY(encode(h, h->frame));
    return h->sound != NULL ? sound_track_until(h->sound, seconds(h)) : ST_OK;
}

status h264_finish(struct h264 *h)
{
    int code = 0;

    TRY(encode(h, NULL));
    if (h->sound != NULL)
        TRY(sound_track_finish(h->sound, seconds(h)));
    code = av_write_trailer(h->format);
    if (code >= 0)
        code = h->format->pb->error;
    if (code < 0)
        return av_fail(h, code);
    code = avio_closep(&h->format->pb);
    return code < 0 ? av_fail(h, code) : ST_OK;
}

void h264_close(struct h264 *h)
{
    if (h == NULL)
        return;
    if (h->format != NULL)
        avio_closep(&h->format->pb);
    sound_track_close(h->sound);
    avformat_free_context(h->format);
    avcodec_free_context(&h->codec);
    sws_freeContext(h->scale);
    av_frame_free(&h->frame);
    av_packet_free(&h->packet);
    free(h->path);
    free(h);
}
