/* Frames of a file with a container. */
#include "launch/video/media_internal.h"

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <stdlib.h>
#include <string.h>

static const char formats[] = "mov,mp4,matroska,webm,avi,gif,apng,mpegts,mpeg,flv,asf,ogg,ivf,"
                              "yuv4mpegpipe";

struct media_clip {
    const struct media_file *file;
    struct media_input input;
    AVFormatContext *in; // its
    AVCodecContext *codec;
    AVPacket *packet;
    AVFrame *frame;
    int stream;
    bool flushed; // the decoder has got all packets
};

/* Reads the headers, with a limit on the pixels that decoders may allocate. */
static status find_streams(struct media_clip *c)
{
    const unsigned count = c->in->nb_streams;
    AVDictionary **options = calloc(count + 1, sizeof(AVDictionary *));
    int code = 0;

    if (options == NULL)
        return media_no_memory(c->file);
    for (unsigned i = 0; i < count; i++) {
        const AVCodecParameters *p = c->in->streams[i]->codecpar;

        if (p->codec_type == AVMEDIA_TYPE_VIDEO && p->width > 0 && p->height > 0 &&
            (int64_t)p->width * p->height > c->file->pixels_max)
            code = AVERROR(ERANGE);
        av_dict_set_int(&options[i], "max_pixels", c->file->pixels_max, 0);
    }
    if (code == 0)
        code = avformat_find_stream_info(c->in, options);
    for (unsigned i = 0; i < count; i++)
        av_dict_free(&options[i]);
    free(options);
    if (code == AVERROR(ERANGE))
        return media_damaged(c->file, "its frames are too large");
    return code < 0 ? media_damaged(c->file, "its headers are damaged") : ST_OK;
}

static status open_decoder(struct media_clip *c)
{
    const AVCodec *decoder = NULL;

    c->stream = av_find_best_stream(c->in, AVMEDIA_TYPE_VIDEO, -1, -1, &decoder, 0);
    if (c->stream < 0 && c->stream != AVERROR_DECODER_NOT_FOUND)
        return media_damaged(c->file, "it has no video");
    if (c->stream < 0)
        return media_damaged(c->file, "this FFmpeg has no decoder for its video");
    if ((c->in->streams[c->stream]->disposition & AV_DISPOSITION_ATTACHED_PIC) != 0)
        return media_damaged(c->file, "it has no video, only sound with a cover picture");
    for (unsigned i = 0; i < c->in->nb_streams; i++)
        if ((int)i != c->stream)
            c->in->streams[i]->discard = AVDISCARD_ALL;
    c->codec = avcodec_alloc_context3(decoder);
    if (c->codec == NULL)
        return media_no_memory(c->file);
    c->codec->max_pixels = c->file->pixels_max;
    c->codec->thread_count = 1;
    if (avcodec_parameters_to_context(c->codec, c->in->streams[c->stream]->codecpar) < 0 ||
        avcodec_open2(c->codec, decoder, NULL) < 0)
        return media_damaged(c->file, "FFmpeg cannot decode its video");
    return ST_OK;
}

/* The EXIF orientation with the same effect as a display matrix: x' = a x + c y, y' = b x + d y. */
static int orientation(const AVFrame *frame)
{
    const AVFrameSideData *side = av_frame_get_side_data(frame, AV_FRAME_DATA_DISPLAYMATRIX);
    int32_t m[9];

    if (side == NULL || side->size < sizeof(m))
        return 1;
    memcpy(m, side->data, sizeof(m));
    if (m[0] != 0 || m[4] != 0)
        return m[0] >= 0 ? (m[4] >= 0 ? 1 : 4) : (m[4] >= 0 ? 2 : 3);
    return m[1] >= 0 ? (m[3] >= 0 ? 5 : 6) : (m[3] >= 0 ? 8 : 7);
}

/* Sends the decoder the next packet of the video, or the end. */
static status feed(struct media_clip *c)
{
    int code;

    do {
        av_packet_unref(c->packet);
        code = av_read_frame(c->in, c->packet);
    } while (code >= 0 && c->packet->stream_index != c->stream);
    c->flushed = code < 0;
    code = avcodec_send_packet(c->codec, c->flushed ? NULL : c->packet);
    av_packet_unref(c->packet);
    return code < 0 && code != AVERROR_EOF ? media_damaged(c->file, "its video is damaged") : ST_OK;
}

status media_clip_next(struct media_clip *c, struct image *image, bool *more)
{
    struct image got = { 0 };
    status st = ST_OK;
    int code;

    while ((code = avcodec_receive_frame(c->codec, c->frame)) == AVERROR(EAGAIN) && !c->flushed)
        TRY(feed(c));
    *more = code >= 0;
    if (code < 0 && code != AVERROR(EAGAIN) && code != AVERROR_EOF)
        return media_damaged(c->file, "its video is damaged");
    if (!*more || image == NULL)
        goto out;
    TRY_OUT(media_frame(&got, c->frame, false, c->file));
    TRY_OUT(media_turn(&got, orientation(c->frame)));
    *image = got;
out:
    av_frame_unref(c->frame);
    if (st != ST_OK)
        image_done(&got);
    return st;
}

double media_clip_fps(const struct media_clip *c)
{
    const AVRational rate = c->in->streams[c->stream]->avg_frame_rate;

    return rate.num > 0 && rate.den > 0 ? av_q2d(rate) : 0;
}

status media_clip_open(struct media_clip **out, const struct media_file *f)
{
    struct media_clip *c = calloc(1, sizeof(*c));
    status st;

    *out = NULL;
    if (c == NULL)
        return media_no_memory(f);
    c->file = f;
    TRY_OUT(media_input_open(&c->input, f, formats,
                             "it is no image or clip that this program reads (JPEG, PNG, WebP, "
                             "GIF, BMP, TIFF, AVIF, .mp4, .mkv, ...), or damaged"));
    c->in = c->input.in;
    c->packet = av_packet_alloc();
    c->frame = av_frame_alloc();
    if (c->packet == NULL || c->frame == NULL)
        TRY_OUT(media_no_memory(f));
#if LIBAVFORMAT_VERSION_INT < AV_VERSION_INT(60, 15, 100) // later ones do this by themselves
    av_format_inject_global_side_data(c->in);
#endif
    TRY_OUT(find_streams(c));
    TRY_OUT(open_decoder(c));
    *out = c;
out:
    if (st != ST_OK)
        media_clip_close(c);
    return st;
}

void media_clip_close(struct media_clip *c)
{
    if (c == NULL)
        return;
    av_frame_free(&c->frame);
    av_packet_free(&c->packet);
    avcodec_free_context(&c->codec);
    media_input_close(&c->input);
    free(c);
}
