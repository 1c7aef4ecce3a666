/* The path of the camera: a direction, or a file of poses, which is identified when the request is
 * completed and read again before it is used. */
#include "launch/options_internal.h"
#include "launch/request_internal.h"
#include "model/media/camera.h"
#include "runtime/hash.h"
#include "runtime/readfile.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define POSES_BYTES_MAX ((size_t)16 << 20)

struct camera_path request_camera(const struct request *r)
{
    const struct number_list *origin = &r->camera_control_origin;
    struct camera_path path = { .text = r->camera_text,
                                .speed = r->camera_control_speed,
                                .origin = origin->count > 0 ? origin->value : camera_origin };

    if (r->camera_control_direction >= 0)
        option_choice(CAMERA_DIRECTIONS, r->camera_control_direction, path.direction,
                      sizeof(path.direction));
    return path;
}

static status read_poses(struct request *r)
{
    const char *path = r->input[INPUT_control_camera_txt];
    char line[512];
    status st;

    if (path == NULL)
        return ST_OK;
    st = readfile_text(path, POSES_BYTES_MAX, &r->camera_text);
    if (st == ST_OK)
        return ST_OK;
    snprintf(line, sizeof(line), "%s", status_line());
    return fail(st, "--control_camera_txt %s", line);
}

/* The file must be the one of r->media, if that has one. */
static status identify(struct request *r)
{
    char text[32];
    const char *known;
    size_t length = 0;

    if (r->camera_text == NULL)
        return ST_OK;
    snprintf(text, sizeof(text), "%016" PRIx64, hash_text(HASH_START, r->camera_text));
    known = request_find_media(r, INPUT_control_camera_txt, &length);
    if (known == NULL)
        return request_add_media(r, INPUT_control_camera_txt, text);
    if (length == strlen(text) && strncmp(known, text, length) == 0)
        return ST_OK;
    return fail(ST_USAGE,
                "--control_camera_txt %s: the poses are not those of this run any more; restore "
                "them, or start a new run",
                r->input[INPUT_control_camera_txt]);
}

/* Computes the path, so that nothing of it fails late. */
static status try_path(const struct request *r)
{
    const struct camera_path path = request_camera(r);
    float *views = malloc((size_t)r->frame_num * CAMERA_VIEW * sizeof(*views));
    char line[400];
    status st;

    if (views == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for the path of a camera");
    st = camera_views(views, &path, r->frame_num, r->size[0], r->size[1]);
    free(views);
    if (st == ST_OK)
        return ST_OK;
    snprintf(line, sizeof(line), "%s", status_line());
    if (path.text != NULL)
        return fail(st, "--control_camera_txt %s: %s", r->input[INPUT_control_camera_txt], line);
    return fail(st, "--camera_control_origin: %s", line);
}

status request_check_camera(struct request *r, bool whole)
{
    const bool file = r->input[INPUT_control_camera_txt] != NULL;
    const bool direction = r->camera_control_direction >= 0;
    const int count = r->camera_control_origin.count;
    size_t length;
    status st;

    if ((r->task->allowed >> INPUT_camera_control_direction & 1) != 0 && !file && !direction &&
        whole)
        return fail(ST_USAGE,
                    "task %s needs --camera_control_direction %s, or --control_camera_txt FILE",
                    r->task_name, CAMERA_DIRECTIONS);
    if (file && direction)
        return fail(ST_USAGE, "--camera_control_direction and --control_camera_txt are two paths "
                              "of the camera: remove one of them");
    if (!direction && (request_given(r, AT(camera_control_speed)) || count > 0))
        return fail(ST_USAGE, "--%s needs --camera_control_direction",
                    count > 0 ? "camera_control_origin" : "camera_control_speed");
    if (count > 0 && count != CAMERA_POSE)
        return fail(ST_USAGE,
                    "--camera_control_origin: %d numbers; a pose has %d: time, fx, fy, cx, cy, 0, "
                    "0, and the 3 x 4 matrix from the world to the camera",
                    count, CAMERA_POSE);
    if (!direction && !file)
        return ST_OK;
    st = request_open_camera(r);
    if (st == ST_IO && request_find_media(r, INPUT_control_camera_txt, &length) != NULL)
        return ST_OK; // of a run that goes on: its run file has what was made of the poses
    if (st == ST_OK)
        st = try_path(r);
    request_close_camera(r);
    return st;
}

status request_open_camera(struct request *r)
{
    TRY(read_poses(r));
    return identify(r);
}

void request_close_camera(struct request *r)
{
    free(r->camera_text);
    r->camera_text = NULL;
}
