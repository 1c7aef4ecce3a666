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
    int turn;     // the EXIF orientation of the frames; 0 before the first
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

/* The EXIF orientation with the same effect as a display matrix: x' = a x + c y, y' = b x + d y. A
 * frame without one has that of the frame before. */
static int orientation(const AVFrame *frame, int before)
{
    const AVFrameSideData *side = av_frame_get_side_data(frame, AV_FRAME_DATA_DISPLAYMATRIX);
    int32_t m[9];

    if (side == NULL || side->size < sizeof(m))
        return before > 0 ? before : 1;
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
    if (*more)
        c->turn = orientation(c->frame, c->turn);
    if (!*more || image == NULL)
        goto out;
    TRY_OUT(media_frame(&got, c->frame, false, c->file));
    TRY_OUT(media_turn(&got, c->turn));
    *image = got;
out:
    av_frame_unref(c->frame);
    if (st != ST_OK)
        image_done(&got);
    return st;
}

/* Start and duration of a packet, in the stream's time base; damaged files have any numbers. */
struct packet_time {
    double start, duration;
};

static int by_start(const void *a, const void *b)
{
    const struct packet_time *x = a, *y = b;

    return (x->start > y->start) - (x->start < y->start);
}

/* Reads the times of all frames, which packets have in the order of decoding. */
static status read_times(struct media_clip *c, struct packet_time **times, int64_t *count)
{
    int64_t room = 0;
    int code;

    while ((code = av_read_frame(c->in, c->packet)) >= 0) {
        const AVPacket *p = c->packet;
        const bool shown = p->stream_index == c->stream && (p->flags & AV_PKT_FLAG_DISCARD) == 0;
        struct packet_time *more;

        if (shown && *count == room) {
            room = 2 * room + 64;
            more = realloc(*times, (size_t)room * sizeof(*more));
            if (more == NULL) {
                av_packet_unref(c->packet);
                return media_no_memory(c->file);
            }
            *times = more;
        }
        if (shown) {
            const int64_t start = p->pts != AV_NOPTS_VALUE   ? p->pts
                                  : p->dts != AV_NOPTS_VALUE ? p->dts
                                                             : *count;
            (*times)[(*count)++] = (struct packet_time){ (double)start, (double)p->duration };
        }
        av_packet_unref(c->packet);
    }
    return ST_OK;
}

status media_clip_times(struct media_clip *c, float (**time)[2], int64_t *count)
{
    const double unit = av_q2d(c->in->streams[c->stream]->time_base);
    struct packet_time *packets = NULL;
    double before = 0; // the last duration
    status st;

    *time = NULL;
    *count = 0;
    TRY_OUT(read_times(c, &packets, count));
    *time = malloc((size_t)(*count + 1) * sizeof(**time));
    if (*time == NULL)
        TRY_OUT(media_no_memory(c->file));
    qsort(packets, (size_t)*count, sizeof(*packets), by_start);
    for (int64_t i = 0; i < *count; i++) {
        struct packet_time *p = &packets[i];

        if (p->duration <= 0) // not known
            p->duration = i + 1 < *count ? p[1].start - p->start : before;
        before = p->duration;
        (*time)[i][0] = (float)(p->start * unit);
        (*time)[i][1] = (float)((p->start + p->duration) * unit);
    }
out:
    free(packets);
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
