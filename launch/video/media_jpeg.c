/* JPEG by libjpeg-turbo, with its default inverse transform and upsampling: what PIL uses. FFmpeg's
 * decoder with swscale differs by up to 41 of 255. */
#include "launch/video/media_internal.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jerror.h>
#include <jpeglib.h>

#define SCANS_MAX 500 // a small file may ask for the whole image to be refined very often

struct jpeg {
    struct jpeg_decompress_struct d;
    struct jpeg_error_mgr errors;
    struct jpeg_progress_mgr progress;
    jmp_buf failed;
    char line[JMSG_LENGTH_MAX];
    uint8_t *row; // of CMYK or grey
};

static struct jpeg *jpeg_of(j_common_ptr common)
{
    return common->client_data;
}

static void on_error(j_common_ptr common)
{
    struct jpeg *j = jpeg_of(common);

    common->err->format_message(common, j->line);
    longjmp(j->failed, 1);
}

/* Damage is a warning for libjpeg, which goes on with grey; the end of the file is one too. */
static void on_message(j_common_ptr common, int level)
{
    struct jpeg *j = jpeg_of(common);

    if (level >= 0 || common->err->msg_code != JWRN_JPEG_EOF)
        return;
    snprintf(j->line, sizeof(j->line), "the file is cut");
    longjmp(j->failed, 1);
}

static void on_progress(j_common_ptr common)
{
    struct jpeg *j = jpeg_of(common);

    if (j->d.input_scan_number > SCANS_MAX) {
        snprintf(j->line, sizeof(j->line), "more than %d scans", SCANS_MAX);
        longjmp(j->failed, 1);
    }
}

static int orientation(const struct jpeg *j)
{
    for (jpeg_saved_marker_ptr m = j->d.marker_list; m != NULL; m = m->next)
        if (m->data_length >= 6 && memcmp(m->data, "Exif\0", 6) == 0)
            return exif_orientation(m->data, m->data_length);
    return 1;
}

/* a * b / 255, rounded. */
static int times(int a, int b)
{
    const int t = a * b + 128;

    return ((t >> 8) + t) >> 8;
}

/* Inverted CMYK, as Adobe's programs write it and PIL assumes. Source: Pillow Convert.c. */
static void row_of_cmyk(uint8_t *rgb, const uint8_t *cmyk, int w)
{
    for (int x = 0; x < w; x++) {
        const int k = cmyk[4 * x + 3]; // 255 - black

        for (int c = 0; c < 3; c++)
            rgb[3 * x + c] = (uint8_t)(k - times(255 - cmyk[4 * x + c], k));
    }
}

static void row_of_grey(uint8_t *rgb, const uint8_t *grey, int w)
{
    for (int x = 0; x < w; x++)
        memset(rgb + 3 * (size_t)x, grey[x], 3);
}

static status start(struct jpeg *j, const struct media_file *f)
{
    struct jpeg_decompress_struct *d = &j->d;

    jpeg_mem_src(d, f->bytes, f->size);
    jpeg_save_markers(d, JPEG_APP0 + 1, 0xffff);
    jpeg_read_header(d, TRUE);
    TRY(media_check_size(f, d->image_width, d->image_height));
    if (d->num_components != 1 && d->num_components != 3 && d->num_components != 4)
        return media_damaged(f, "a JPEG of another number of channels than 1, 3 or 4");
    d->out_color_space = d->num_components == 1   ? JCS_GRAYSCALE
                         : d->num_components == 3 ? JCS_RGB
                                                  : JCS_CMYK;
    d->progress = &j->progress;
    jpeg_start_decompress(d);
    return ST_OK;
}

static void read_rows(struct jpeg *j, struct image *image)
{
    struct jpeg_decompress_struct *d = &j->d;

    while (d->output_scanline < d->output_height) {
        uint8_t *rgb = image->rgb + (size_t)d->output_scanline * (size_t)image->w * 3;
        JSAMPROW row = d->num_components == 3 ? rgb : j->row;

        jpeg_read_scanlines(d, &row, 1);
        if (d->num_components == 4)
            row_of_cmyk(rgb, j->row, image->w);
        else if (d->num_components == 1)
            row_of_grey(rgb, j->row, image->w);
    }
    jpeg_finish_decompress(d);
}

/* Errors of libjpeg end here; what is allocated until then is in *j and *image. */
static status decode(struct jpeg *j, struct image *image, int *turn, const struct media_file *f)
{
    if (setjmp(j->failed) != 0)
        return media_damaged(f, j->line);
    TRY(start(j, f));
    *turn = orientation(j);
    TRY(image_init(image, (int)j->d.output_width, (int)j->d.output_height));
    j->row = malloc((size_t)j->d.output_width * 4);
    if (j->row == NULL)
        return fail(ST_MEMORY, "%s: cannot allocate memory for a row", f->path);
    read_rows(j, image);
    return ST_OK;
}

status media_jpeg(struct image *image, int *turn, const struct media_file *f)
{
    struct jpeg j = { .progress.progress_monitor = on_progress };
    status st;

    j.d.err = jpeg_std_error(&j.errors);
    j.errors.error_exit = on_error;
    j.errors.emit_message = on_message;
    jpeg_create_decompress(&j.d);
    j.d.client_data = &j;
    st = decode(&j, image, turn, f);
    jpeg_destroy_decompress(&j.d);
    free(j.row);
    if (st != ST_OK)
        image_done(image);
    return st;
}
