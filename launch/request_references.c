/* The reference images of a request, a list of files with commas between them: read and identified
 * on rank 0, sent to all ranks before they are used. */
#include "launch/request_internal.h"
#include "launch/video/media.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The list that is given; INPUT_COUNT: none. */
static int given_list(const struct request *r)
{
    int i = 0;

    while (i < INPUT_COUNT && ((TASK_LISTS >> i & 1) == 0 || r->input[i] == NULL))
        i++;
    return i;
}

/* Number of items of a list. */
static int count_items(const char *list)
{
    int count = 1;

    for (; *list != 0; list++)
        count += *list == ',';
    return count;
}

static status allocate(struct request *r, int count)
{
    for (int i = 0; i < r->references; i++)
        image_done(&r->reference[i]);
    free(r->reference);
    r->references = 0;
    r->reference = calloc((size_t)count, sizeof(*r->reference));
    if (r->reference == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for %d images", count);
    r->references = count;
    return ST_OK;
}

/* Reads an image of the list, and writes what identifies it. */
static status read_item(struct image *image, FILE *text, struct request *r, int input,
                        const char *item, size_t length)
{
    char *path = strndup(item, length), line[512], digest[IMAGE_DIGEST_BYTES];
    bool turned = false;
    status st = ST_OK;

    if (path == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for a path");
    if (length == 0)
        TRY_OUT(fail(ST_USAGE, "--%s %s: a name is missing between the commas",
                     task_input_names[input], r->input[input]));
    st = media_image(image, &turned, path, MEDIA_PIXELS_MAX);
    if (st != ST_OK) {
        snprintf(line, sizeof(line), "%s", status_line());
        TRY_OUT(fail(st, "--%s %s", task_input_names[input], line));
    }
    r->turned |= (unsigned)turned << input;
    image_digest(image, digest);
    fprintf(text, "%s%dx%d:%s", item == r->input[input] ? "" : ",", image->w, image->h, digest);
out:
    free(path);
    return st;
}

/* Reads the list, which must be the one of r->media if that has one. */
static status read_list(struct request *r, int input)
{
    char *text = NULL;
    const char *item = r->input[input], *known;
    size_t size = 0, length = 0;
    FILE *m = open_memstream(&text, &size);
    status st = ST_OK;

    if (m == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for a digest");
    r->turned &= ~(1u << input);
    TRY_OUT(allocate(r, count_items(item)));
    for (int i = 0; i < r->references; i++) {
        length = strcspn(item, ",");
        TRY_OUT(read_item(&r->reference[i], m, r, input, item, length));
        item += length + 1;
    }
    if (fflush(m) != 0)
        TRY_OUT(fail(ST_MEMORY, "cannot allocate host memory for a digest"));
    known = request_find_media(r, input, &length);
    if (known == NULL)
        TRY_OUT(request_add_media(r, input, text));
    else if (length != size || strncmp(known, text, length) != 0)
        TRY_OUT(fail(ST_USAGE,
                     "--%s %s: the images are not those of this run any more; restore them, or "
                     "start a new run",
                     task_input_names[input], r->input[input]));
out:
    fclose(m);
    free(text);
    return st;
}

status request_read_references(struct request *r)
{
    const int input = given_list(r);
    size_t length;
    status st;

    if (input == INPUT_COUNT)
        return ST_OK;
    st = read_list(r, input);
    return st == ST_IO && request_find_media(r, input, &length) != NULL
               ? ST_OK // of a run that goes on: its run file has what was made of the images
               : st;
}

status request_reference_sizes(struct request *r)
{
    const int input = given_list(r);
    const char *value, *end;
    size_t length = 0;

    if (input == INPUT_COUNT)
        return ST_OK;
    if (r->references == 0 || r->references != count_items(r->input[input]))
        TRY(allocate(r, count_items(r->input[input])));
    value = request_find_media(r, input, &length);
    end = value != NULL ? value + length : NULL;
    for (int i = 0; i < r->references && value != NULL && value < end; i++) {
        struct image *image = &r->reference[i];

        if (sscanf(value, "%dx%d:", &image->w, &image->h) != 2)
            image->w = image->h = 0;
        value += strcspn(value, ", ") + 1;
    }
    return ST_OK;
}
