/* Images that FFmpeg decodes from one packet, which is the whole file. */
#include "launch/video/media_internal.h"

#include <libavcodec/avcodec.h>
#include <libavutil/intreadwrite.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *magic;
    size_t bytes;
    enum AVCodecID codec;
} kinds[] = {
    { "\x89PNG\r\n\x1a\n", 8, AV_CODEC_ID_PNG },
    { "RIFF", 4, AV_CODEC_ID_WEBP },
    { "BM", 2, AV_CODEC_ID_BMP },
    { "II*\0", 4, AV_CODEC_ID_TIFF },
    { "MM\0*", 4, AV_CODEC_ID_TIFF },
};

static enum AVCodecID codec_of(const struct media_file *f)
{
    for (size_t i = 0; i < COUNT(kinds); i++)
        if (memcmp(f->bytes, kinds[i].magic, kinds[i].bytes) == 0)
            return kinds[i].codec;
    return AV_CODEC_ID_NONE;
}

static status is_cut(const struct media_file *f)
{
    return media_damaged(f, "the file is cut");
}

/* Walks over the chunks; they must be complete. PNG specification, 5.3. */
static status read_png_chunks(int *turn, const struct media_file *f)
{
    for (uint64_t at = 8; f->size - at >= 12;) {
        const uint8_t *chunk = f->bytes + at; // length, name, data, CRC
        const uint64_t length = AV_RB32(chunk);

        if (length > f->size - at - 12)
            break;
        if (memcmp(chunk + 4, "IHDR", 4) == 0 && length >= 8)
            TRY(media_check_size(f, AV_RB32(chunk + 8), AV_RB32(chunk + 12)));
        if (memcmp(chunk + 4, "eXIf", 4) == 0)
            *turn = exif_orientation(chunk + 8, (size_t)length);
        if (memcmp(chunk + 4, "IEND", 4) == 0)
            return ST_OK;
        at += 12 + length;
    }
    return is_cut(f);
}

/* A still image in a WebP file. The first frame of an animation becomes a file of its own. */
struct webp {
    int x, y, w, h; // where the frame is on the canvas, whose size is 0 without an animation
    int canvas_w, canvas_h;
    uint8_t *bytes; // that file; NULL without an animation
    size_t size;
};

#define ANMF_HEAD 16 // position, size, duration, flags
#define RIFF_HEAD 30 // RIFF, VP8X

/* Writes a file with the chunks of the frame, which `chunk` [length] contains. */
static status take_frame(struct webp *webp, const uint8_t *chunk, size_t length,
                         const struct media_file *f)
{
    const size_t bytes = length - ANMF_HEAD;
    uint8_t *to = calloc(1, RIFF_HEAD + bytes + MEDIA_PADDING);

    if (to == NULL)
        return fail(ST_MEMORY, "%s: cannot allocate memory to decode it", f->path);
    webp->x = 2 * (int)AV_RL24(chunk);
    webp->y = 2 * (int)AV_RL24(chunk + 3);
    webp->w = 1 + (int)AV_RL24(chunk + 6);
    webp->h = 1 + (int)AV_RL24(chunk + 9);
    webp->bytes = to;
    webp->size = RIFF_HEAD + bytes;
    memcpy(to, "RIFF____WEBPVP8X\x0a\0\0\0", 20);
    AV_WL32(to + 4, (uint32_t)(webp->size - 8));
    to[20] = bytes >= 4 && memcmp(chunk + ANMF_HEAD, "ALPH", 4) == 0 ? 0x10 : 0;
    memcpy(to + 24, chunk + 6, 6);
    memcpy(to + RIFF_HEAD, chunk + ANMF_HEAD, bytes);
    return ST_OK;
}

/* The same for RIFF: little endian, chunks padded to even sizes. WebP container specification. */
static status read_webp_chunks(struct webp *webp, int *turn, const struct media_file *f)
{
    const uint64_t end = 8 + (uint64_t)AV_RL32(f->bytes + 4);

    if (end > f->size)
        return is_cut(f);
    for (uint64_t at = 12; at + 8 <= end;) {
        const uint8_t *chunk = f->bytes + at; // name, length, data
        const uint64_t length = AV_RL32(chunk + 4);

        if (length > end - at - 8)
            return is_cut(f);
        if (memcmp(chunk, "EXIF", 4) == 0)
            *turn = exif_orientation(chunk + 8, (size_t)length);
        if (memcmp(chunk, "VP8X", 4) == 0 && length >= 10) {
            webp->canvas_w = 1 + (int)AV_RL24(chunk + 12);
            webp->canvas_h = 1 + (int)AV_RL24(chunk + 15);
            TRY(media_check_size(f, webp->canvas_w, webp->canvas_h));
        }
        if (memcmp(chunk, "ANMF", 4) == 0 && length >= ANMF_HEAD && webp->bytes == NULL)
            TRY(take_frame(webp, chunk + 8, (size_t)length, f));
        at += 8 + length + (length & 1);
    }
    return ST_OK;
}

/* Puts the first frame of an animation on its canvas, which is black elsewhere. */
static status place(struct image *image, const struct webp *webp, const struct media_file *f)
{
    const struct image frame = *image;
    struct image canvas = { 0 };

    if (webp->bytes == NULL || (frame.w == webp->canvas_w && frame.h == webp->canvas_h))
        return ST_OK;
    if (webp->x > webp->canvas_w - frame.w || webp->y > webp->canvas_h - frame.h)
        return media_damaged(f, "its first frame is not on its canvas");
    TRY(image_init(&canvas, webp->canvas_w, webp->canvas_h));
    memset(canvas.rgb, 0, (size_t)canvas.w * (size_t)canvas.h * 3);
    for (int y = 0; y < frame.h; y++)
        memcpy(canvas.rgb + 3 * ((size_t)(webp->y + y) * (size_t)canvas.w + (size_t)webp->x),
               frame.rgb + (size_t)y * (size_t)frame.w * 3, (size_t)frame.w * 3);
    image_done(image);
    *image = canvas;
    return ST_OK;
}

/* FFmpeg takes other kinds of compression, such as JPEG, for none. */
static status check_tiff(const struct media_file *f)
{
    static const int known[] = { 1, 2, 3, 4, 5, 8, 32773, 32946 };
    const int compression = tiff_tag(f->bytes, (size_t)f->size, 259, 1);

    for (size_t i = 0; i < COUNT(known); i++)
        if (known[i] == compression)
            return ST_OK;
    return media_damaged(f, compression == 6 || compression == 7
                                ? "a TIFF with JPEG compression is not supported: save it as .jpg"
                                : "its kind of TIFF compression is not supported: save it as .png");
}

static status read_chunks(struct webp *webp, int *turn, const struct media_file *f,
                          enum AVCodecID codec)
{
    switch (codec) {
    case AV_CODEC_ID_PNG:
        return read_png_chunks(turn, f);
    case AV_CODEC_ID_WEBP:
        return read_webp_chunks(webp, turn, f);
    case AV_CODEC_ID_TIFF:
        *turn = exif_orientation(f->bytes, (size_t)f->size);
        return check_tiff(f);
    default:
        return ST_OK;
    }
}

status media_still(struct image *image, int *turn, const struct media_file *f)
{
    const enum AVCodecID id = codec_of(f);
    const AVCodec *decoder = avcodec_find_decoder(id);
    AVCodecContext *codec = NULL;
    AVFrame *frame = av_frame_alloc();
    AVPacket *packet = av_packet_alloc();
    struct webp webp = { 0 };
    status st;

    TRY_OUT(read_chunks(&webp, turn, f, id));
    if (decoder == NULL)
        TRY_OUT(media_damaged(f, "this FFmpeg has no decoder for it"));
    codec = avcodec_alloc_context3(decoder);
    if (codec == NULL || frame == NULL || packet == NULL)
        TRY_OUT(fail(ST_MEMORY, "%s: cannot allocate memory to decode it", f->path));
    codec->max_pixels = f->pixels_max;
    codec->thread_count = 1;
    codec->err_recognition = AV_EF_CRCCHECK;
    if (id != AV_CODEC_ID_TIFF) // where this refuses unknown tags
        codec->err_recognition |= AV_EF_EXPLODE;
    packet->data = webp.bytes != NULL ? webp.bytes : f->bytes; // not owned by the packet
    packet->size = (int)(webp.bytes != NULL ? webp.size : f->size);
    if (avcodec_open2(codec, decoder, NULL) < 0 || avcodec_send_packet(codec, packet) < 0 ||
        (avcodec_send_packet(codec, NULL), avcodec_receive_frame(codec, frame)) < 0 ||
        frame->decode_error_flags != 0)
        TRY_OUT(media_damaged(f, "it is damaged, cut or of a kind that FFmpeg does not decode"));
    TRY_OUT(media_frame(image, frame, id == AV_CODEC_ID_WEBP, f));
    TRY_OUT(place(image, &webp, f));
out:
    free(webp.bytes);
    av_frame_free(&frame);
    av_packet_free(&packet);
    avcodec_free_context(&codec);
    return st;
}
