#include "launch/video/video_internal.h"

#include <libavcodec/avcodec.h>
#include <libavutil/crc.h>
#include <libavutil/imgutils.h>
#include <libavutil/intreadwrite.h>
#include <libswscale/swscale.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define PNG_HEAD (8 + 25) // signature and IHDR; an iTXt chunk may follow

/* An iTXt chunk "Comment": UTF-8, not compressed. PNG specification, 11.3.4.5. */
static status comment_chunk(const char *text, uint8_t **chunk, size_t *bytes)
{
    static const char head[] = "iTXtComment\0\0\0\0"; // keyword, no compression, no languages
    const size_t head_bytes = sizeof(head), length = strlen(text);
    uint8_t *c = malloc(4 + head_bytes + length + 4);
    uint32_t crc = 0;

    if (c == NULL)
        return fail(ST_MEMORY, "cannot allocate memory for the PNG's comment");
    AV_WB32(c, (uint32_t)(head_bytes - 4 + length));
    memcpy(c + 4, head, head_bytes);
    memcpy(c + 4 + head_bytes, text, length);
    crc = ~av_crc(av_crc_get_table(AV_CRC_32_IEEE_LE), ~0u, c + 4, head_bytes + length);
    AV_WB32(c + 4 + head_bytes + length, crc);
    *chunk = c;
    *bytes = 4 + head_bytes + length + 4;
    return ST_OK;
}

status png_write(struct newfile *file, const uint8_t *rgb, int width_px, int height_px,
                 const char *comment)
{
    status st = ST_OK;
    const AVCodec *png = avcodec_find_encoder(AV_CODEC_ID_PNG);
    AVCodecContext *codec = avcodec_alloc_context3(png);
    AVFrame *frame = av_frame_alloc();
    AVPacket *packet = av_packet_alloc();
    uint8_t *chunk = NULL;
    size_t chunk_bytes = 0;
    int code = 0;

    av_log_set_level(AV_LOG_QUIET);
    if (png == NULL || codec == NULL || frame == NULL || packet == NULL) {
        st = fail(ST_MEMORY, "%s: FFmpeg has no PNG encoder, or no memory for it", file->path);
        goto out;
    }
    codec->width = frame->width = width_px;
    codec->height = frame->height = height_px;
    codec->pix_fmt = AV_PIX_FMT_RGB24;
    frame->format = AV_PIX_FMT_RGB24;
    codec->time_base = (AVRational){ 1, 1 };
    code = avcodec_open2(codec, png, NULL);
    if (code >= 0)
        code = av_frame_get_buffer(frame, 0);
    if (code >= 0) {
        av_image_copy_plane(frame->data[0], frame->linesize[0], rgb, 3 * width_px, 3 * width_px,
                            height_px);
        code = avcodec_send_frame(codec, frame);
    }
    if (code >= 0)
        code = avcodec_receive_packet(codec, packet);
    if (code < 0 || packet->size < PNG_HEAD) {
        st = fail(code == AVERROR(ENOMEM) ? ST_MEMORY : ST_IO,
                  "%s: FFmpeg cannot encode a PNG of %d x %d", file->path, width_px, height_px);
        goto out;
    }
    if (comment != NULL)
        TRY_OUT(comment_chunk(comment, &chunk, &chunk_bytes));
    TRY_OUT(newfile_write(file, packet->data, PNG_HEAD));
    TRY_OUT(newfile_write(file, chunk, chunk_bytes));
    TRY_OUT(newfile_write(file, packet->data + PNG_HEAD, (size_t)packet->size - PNG_HEAD));
out:
    free(chunk);
    av_packet_free(&packet);
    av_frame_free(&frame);
    avcodec_free_context(&codec);
    return st;
}

status frame_scale(uint8_t *out, int out_w, int out_h, int out_stride, const uint8_t *rgb, int w,
                   int h)
{
    const int padded = (3 * out_w + 127) / 64 * 64; // swscale may write past the end of a row
    const uint8_t *const from[] = { rgb };
    const int from_stride[] = { 3 * w }, to_stride[] = { padded };
    struct SwsContext *scale = sws_getContext(w, h, AV_PIX_FMT_RGB24, out_w, out_h,
                                              AV_PIX_FMT_RGB24, SWS_AREA, NULL, NULL, NULL);
    uint8_t *rows = malloc((size_t)padded * out_h);
    uint8_t *const to[] = { rows };

    if (scale != NULL && rows != NULL) {
        sws_scale(scale, from, from_stride, 0, h, to, to_stride);
        for (int y = 0; y < out_h; y++)
            memcpy(out + (size_t)y * out_stride, rows + (size_t)y * padded, 3 * (size_t)out_w);
    }
    const bool done = scale != NULL && rows != NULL;
    sws_freeContext(scale);
    free(rows);
    return done ? ST_OK
                : fail(ST_MEMORY, "cannot allocate memory to scale a frame of %d x %d", w, h);
}
