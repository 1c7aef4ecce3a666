/* The images of a request: read and identified on rank 0, sent to all ranks before they are used.
 * Its clips: request_clips.c; lists of images: request_references.c. */
#include "launch/request_internal.h"
#include "launch/video/media.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_BYTES ((size_t)1 << 30) // of a message

static bool is_given(const struct request *r, int input)
{
    return (TASK_IMAGES >> input & 1) != 0 && r->input[input] != NULL;
}

const char *request_find_media(const struct request *r, int input, size_t *length)
{
    const size_t key = strlen(task_input_names[input]);
    const char *at = r->media;

    while (at != NULL && *at != '\0') {
        *length = strcspn(at, " ");
        if (*length > key && at[key] == '=' && strncmp(at, task_input_names[input], key) == 0) {
            *length -= key + 1;
            return at + key + 1;
        }
        at += *length + (at[*length] == ' ');
    }
    return NULL;
}

status request_add_media(struct request *r, int input, const char *value)
{
    char *text = NULL;

    if (asprintf(&text, "%s%s%s=%s", r->media != NULL ? r->media : "", r->media != NULL ? " " : "",
                 task_input_names[input], value) < 0)
        return fail(ST_MEMORY, "cannot allocate host memory for a digest");
    free(r->media);
    r->media = text;
    return ST_OK;
}

status request_image_sizes(struct request *r)
{
    for (int i = 0; i < INPUT_COUNT; i++) {
        size_t length;
        const char *value = request_find_media(r, i, &length);
        int w = 0, h = 0;

        if ((TASK_IMAGES >> i & 1) == 0 || value == NULL || sscanf(value, "%dx%d:", &w, &h) != 2)
            w = h = 0;
        r->image[i].w = w;
        r->image[i].h = h;
    }
    request_clip_sizes(r);
    request_sound_size(r);
    return request_reference_sizes(r);
}

/* Reads the image of an input, which must be the one of r->media if that has one. */
static status read_image(struct request *r, int input)
{
    const char *flag = task_input_names[input], *path = r->input[input], *known;
    char line[512], digest[IMAGE_DIGEST_BYTES], value[96];
    struct image image = { 0 };
    size_t length = 0;
    bool turned = false;
    status st = media_image(&image, &turned, path, MEDIA_PIXELS_MAX);

    if (st != ST_OK) {
        snprintf(line, sizeof(line), "%s", status_line());
        return fail(st, "--%s %s", flag, line);
    }
    r->turned = (r->turned & ~(1u << input)) | (unsigned)turned << input;
    image_digest(&image, digest);
    snprintf(value, sizeof(value), "%dx%d:%s", image.w, image.h, digest);
    known = request_find_media(r, input, &length);
    if (known == NULL)
        TRY_OUT(request_add_media(r, input, value));
    else if (length != strlen(value) || strncmp(known, value, length) != 0)
        TRY_OUT(fail(ST_USAGE,
                     "--%s %s: the image is not the one of this run any more; restore it, or start "
                     "a new run",
                     flag, path));
    r->image[input] = image;
out:
    if (st != ST_OK)
        image_done(&image);
    return st;
}

status request_read_images(struct request *r)
{
    for (int i = 0; i < INPUT_COUNT; i++) {
        size_t length;
        status st;

        if (!is_given(r, i))
            continue;
        st = read_image(r, i);
        if (st == ST_IO && request_find_media(r, i, &length) != NULL)
            st = ST_OK; // of a run that goes on: its run file has what was made of the image
        TRY(st);
    }
    TRY(request_read_clips(r));
    TRY(request_read_references(r));
    TRY(request_read_sound(r));
    request_drop_images(r);
    return request_image_sizes(r);
}

status request_share_image(struct world *w, struct image *image)
{
    const int pixels[] = { image->w, image->h };
    const size_t bytes = (size_t)image->w * (size_t)image->h * 3;

    TRY(agree(w, w->rank == 0 ? ST_OK : image_init(image, pixels[0], pixels[1])));
    for (size_t at = 0; at < bytes; at += CHUNK_BYTES)
        world_broadcast(w, image->rgb + at, bytes - at < CHUNK_BYTES ? bytes - at : CHUNK_BYTES, 0);
    return ST_OK;
}

status request_share_images(struct world *w, struct request *r)
{
    status st = ST_OK;

    for (int i = 0; i < INPUT_COUNT && st == ST_OK && w->rank == 0; i++)
        if (is_given(r, i))
            st = read_image(r, i);
    if (st == ST_OK && w->rank == 0)
        st = request_open_clips(r);
    if (w->rank == 0)
        request_open_sound(r);
    if (st == ST_OK && w->rank == 0)
        st = request_read_references(r);
    if (st == ST_OK && w->rank == 0)
        st = request_open_camera(r);
    TRY(agree(w, st));
    for (int i = 0; i < INPUT_COUNT; i++)
        if (is_given(r, i))
            TRY(request_share_image(w, &r->image[i]));
    for (int i = 0; i < r->references; i++)
        TRY(request_share_image(w, &r->reference[i]));
    return ST_OK;
}

void request_drop_images(struct request *r)
{
    for (int i = 0; i < INPUT_COUNT; i++) {
        free(r->image[i].rgb);
        r->image[i].rgb = NULL;
    }
    for (int i = 0; i < r->references; i++) {
        free(r->reference[i].rgb);
        r->reference[i].rgb = NULL;
    }
    request_close_clips(r);
    request_close_camera(r);
}
