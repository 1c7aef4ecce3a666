#include "launch/video/media_internal.h"

#include <libavutil/frame.h>
#include <libavutil/pixdesc.h>
#include <libswscale/swscale.h>
#include <stdlib.h>
#include <string.h>

static status no_memory(const struct media_file *f)
{
    return fail(ST_MEMORY, "%s: cannot allocate memory to convert the image", f->path);
}

/* ---- RGB, grey, palette: exact ---- */

static void from_palette(struct image *image, const AVFrame *frame)
{
    const uint32_t *palette = (const uint32_t *)(const void *)frame->data[1]; // 0xAARRGGBB

    for (int y = 0; y < image->h; y++) {
        const uint8_t *from = frame->data[0] + (ptrdiff_t)y * frame->linesize[0];
        uint8_t *to = image->rgb + (size_t)y * (size_t)image->w * 3;

        for (int x = 0; x < image->w; x++)
            for (int c = 0; c < 3; c++)
                to[3 * x + c] = (uint8_t)(palette[from[x]] >> (16 - 8 * c));
    }
}

static uint8_t byte_of(unsigned v, int depth)
{
    return (uint8_t)(depth >= 8 ? v >> (depth - 8) : v * 255 / ((1u << depth) - 1));
}

/* Any layout of RGB or grey samples of up to 16 bits. */
static status from_samples(struct image *image, const AVFrame *frame, const AVPixFmtDescriptor *d,
                           const struct media_file *f)
{
    const bool grey = d->nb_components < 3, inverted = frame->format == AV_PIX_FMT_MONOWHITE;
    uint16_t *row = calloc((size_t)image->w, sizeof(*row));

    if (row == NULL)
        return no_memory(f);
    for (int y = 0; y < image->h; y++) {
        uint8_t *to = image->rgb + (size_t)y * (size_t)image->w * 3;

        for (int c = 0; c < 3; c++) {
            if (!grey || c == 0)
                av_read_image_line2(row, (const uint8_t **)frame->data, frame->linesize, d, 0, y, c,
                                    image->w, 0, sizeof(*row));
            for (int x = 0; x < image->w; x++)
                to[3 * x + c] = byte_of(inverted ? !row[x] : row[x], d->comp[grey ? 0 : c].depth);
        }
    }
    free(row);
    return ST_OK;
}

/* ---- YUV 4:2:0 of WebP, as libwebp: src/dsp/upsampling.c, src/dsp/yuv.h ---- */

static int clip(int v)
{
    return v < 0 ? 0 : v >> 6 > 255 ? 255 : v >> 6;
}

static void webp_pixel(uint8_t *rgb, int y, int u, int v)
{
    const int luma = y * 19077 >> 8;

    rgb[0] = (uint8_t)clip(luma + (v * 26149 >> 8) - 14234);
    rgb[1] = (uint8_t)clip(luma - (u * 6419 >> 8) - (v * 13320 >> 8) + 8708);
    rgb[2] = (uint8_t)clip(luma + (u * 33050 >> 8) - 17685);
}

/* Chroma at column x of a row whose own chroma row is `near`, the other neighbour `far`: weights
 * 9, 3, 3, 1, rounded as libwebp does in its two steps. */
static int webp_chroma(const uint8_t *near, const uint8_t *far, int x, int w)
{
    const int i = (x - 1) / 2; // the sample on the left
    int sum;

    if (x == 0 || (x == w - 1 && w % 2 == 0))
        return (3 * near[x / 2] + far[x / 2] + 2) >> 2;
    sum = near[i] + near[i + 1] + far[i] + far[i + 1] + 8;
    if (x % 2 == 1)
        return (((sum + 2 * (near[i + 1] + far[i])) >> 3) + near[i]) >> 1;
    return (((sum + 2 * (near[i] + far[i + 1])) >> 3) + near[i + 1]) >> 1;
}

static void from_webp(struct image *image, const AVFrame *frame)
{
    const int rows = (image->h + 1) / 2;

    for (int y = 0; y < image->h; y++) {
        const int near = y / 2, other = y % 2 == 1 ? near + 1 : near - 1;
        const int far = other < 0 || other >= rows ? near : other;
        const uint8_t *luma = frame->data[0] + (ptrdiff_t)y * frame->linesize[0];
        int uv[2];

        for (int x = 0; x < image->w; x++) {
            for (int c = 0; c < 2; c++) {
                const uint8_t *plane = frame->data[1 + c];
                const ptrdiff_t stride = frame->linesize[1 + c];

                uv[c] = webp_chroma(plane + near * stride, plane + far * stride, x, image->w);
            }
            webp_pixel(image->rgb + 3 * ((size_t)y * (size_t)image->w + (size_t)x), luma[x], uv[0],
                       uv[1]);
        }
    }
}

/* ---- other YUV: swscale ---- */

static status from_yuv(struct image *image, const AVFrame *frame, const struct media_file *f)
{
    const int padded = (3 * image->w + 63) / 64 * 64; // swscale may write up to a vector beyond w
    const int matrix =
        frame->colorspace == AVCOL_SPC_UNSPECIFIED ? SWS_CS_DEFAULT : (int)frame->colorspace;
    const int *from = sws_getCoefficients(matrix), *to = sws_getCoefficients(SWS_CS_DEFAULT);
    struct SwsContext *scale = sws_getContext(
        image->w, image->h, frame->format, image->w, image->h, AV_PIX_FMT_RGB24,
        SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT | SWS_FULL_CHR_H_INP, NULL, NULL, NULL);
    uint8_t *rows = malloc((size_t)padded * (size_t)image->h);
    uint8_t *const out[] = { rows };
    const int stride[] = { padded };
    status st = ST_OK;

    if (scale == NULL) {
        st = media_damaged(f, "FFmpeg cannot convert its pixel format to RGB");
    } else if (rows == NULL) {
        st = no_memory(f);
    } else {
        if (frame->colorspace != AVCOL_SPC_UNSPECIFIED || frame->color_range == AVCOL_RANGE_JPEG)
            sws_setColorspaceDetails(scale, from, frame->color_range == AVCOL_RANGE_JPEG, to, 1, 0,
                                     1 << 16, 1 << 16);
        sws_scale(scale, (const uint8_t *const *)frame->data, frame->linesize, 0, image->h, out,
                  stride);
        for (int y = 0; y < image->h; y++)
            memcpy(image->rgb + (size_t)y * (size_t)image->w * 3, rows + (size_t)y * (size_t)padded,
                   (size_t)image->w * 3);
    }
    sws_freeContext(scale);
    free(rows);
    return st;
}

status media_frame(struct image *image, const AVFrame *frame, bool webp, const struct media_file *f)
{
    const AVPixFmtDescriptor *d = av_pix_fmt_desc_get(frame->format);
    status st = ST_OK;

    TRY(media_check_size(f, frame->width, frame->height));
    if (d == NULL || (d->flags & (AV_PIX_FMT_FLAG_HWACCEL | AV_PIX_FMT_FLAG_FLOAT)) != 0)
        return media_damaged(f, "its samples are not integers");
    TRY(image_init(image, frame->width, frame->height));
    if (frame->format == AV_PIX_FMT_PAL8)
        from_palette(image, frame);
    else if ((d->flags & (AV_PIX_FMT_FLAG_RGB | AV_PIX_FMT_FLAG_BAYER)) == AV_PIX_FMT_FLAG_RGB ||
             d->nb_components < 3)
        st = from_samples(image, frame, d, f);
    else if (webp && (frame->format == AV_PIX_FMT_YUV420P || frame->format == AV_PIX_FMT_YUVA420P))
        from_webp(image, frame);
    else
        st = from_yuv(image, frame, f);
    if (st != ST_OK)
        image_done(image);
    return st;
}
