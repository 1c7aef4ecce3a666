/* Paths of cameras against DiffSynth-Studio, and files of poses.
 *
 *     test_camera GOLDEN */
#include "model/media/camera.h"
#include "tests/check.h"
#include "tests/golden.h"

#include <stdlib.h>
#include <string.h>

enum { FRAMES = 5, W = 64, H = 48 };

static const double turned[CAMERA_POSE] = { 0,    0.61, 0.9,   0.45, 0.52,  0,    0,
                                            0.96, 0.05, -0.27, 0.3,  -0.02, 0.99, 0.11,
                                            -0.1, 0.28, -0.1,  0.95, 0.2 };

/* The rays of every 23rd row and 15th column. */
static void check_rays(struct golden *golden, const char *name, const struct camera_path *path)
{
    float views[FRAMES * CAMERA_VIEW], *want, got[FRAMES * 3 * 5 * CAMERA_RAY], *to = got;
    int64_t n;

    want = golden_f32(golden, &n, "rays.%s", name);
    CHECK(n == (int64_t)COUNT(got), "%lld values", (long long)n);
    CHECK(camera_views(views, path, FRAMES, W, H) == ST_OK, "%s", status_line());
    for (int64_t f = 0; f < FRAMES; f++)
        for (int64_t y = 0; y < H; y += 23)
            for (int64_t x = 0; x < W; x += 15, to += CAMERA_RAY)
                camera_ray(to, views + f * CAMERA_VIEW, x, y);
    check_near(name, got, want, n, 1e-6);
    free(want);
}

/* A file with the poses of a path has the same views. */
static void check_file(void)
{
    struct camera_path path = { .direction = "", .origin = turned };
    float want[3 * CAMERA_VIEW], got[3 * CAMERA_VIEW];
    char text[4096] = "https://www.youtube.com/watch?v=x\n";

    CHECK(camera_views(want, &path, 3, W, H) == ST_OK, "%s", status_line());
    for (int f = 0; f < 3; f++) {
        size_t used = strlen(text);

        for (int i = 0; i < CAMERA_POSE; i++)
            used += (size_t)snprintf(text + used, sizeof(text) - used, "%.17g%s", turned[i],
                                     i + 1 == CAMERA_POSE ? "\r\n" : " ");
    }
    path.text = text;
    CHECK(camera_views(got, &path, 3, W, H) == ST_OK, "%s", status_line());
    CHECK(memcmp(got, want, sizeof(got)) == 0, "other views than those of the path");
}

static void check_refused(const char *text, status st, const char *line)
{
    const struct camera_path path = { .text = text };
    float views[2 * CAMERA_VIEW];

    CHECK(camera_views(views, &path, 2, W, H) == st && strstr(status_line(), line) != NULL, "%s",
          status_line());
}

#define POSE "0 .5 .9 .5 .5 0 0 1 0 0 0 0 1 0 0 0 0 1 0\n"

int main(int argc, char **argv)
{
    static const char *const directions[] = { "Left",     "Right",   "Up",        "Down", "LeftUp",
                                              "LeftDown", "RightUp", "RightDown", "In",   "Out" };
    struct camera_path path = { .speed = CAMERA_SPEED, .origin = camera_origin };
    struct golden golden;

    if (argc < 2)
        return 2;
    golden = golden_open(argv[1], "fun.safetensors");
    for (size_t i = 0; i < COUNT(directions); i++) {
        snprintf(path.direction, sizeof(path.direction), "%s", directions[i]);
        check_rays(&golden, directions[i], &path);
    }
    check_rays(&golden, "origin",
               &(struct camera_path){ .direction = "LeftDown", .speed = 0.1, .origin = turned });
    check_file();
    check_refused("title\n" POSE, ST_FORMAT,
                  "1 poses after its first line, and the video 2 frames");
    check_refused(POSE POSE, ST_FORMAT, "1 poses after");
    check_refused("title\n" POSE "0 1 2\n", ST_FORMAT, "line 3 is no pose");
    check_refused("title\n" POSE "0 .5 x\n", ST_FORMAT, "line 3 is no pose");
    check_refused("title\n" POSE "0 .5 .9 .5 .5 0 0 1 0 0 0 1 0 0 0 0 0 1 0\n", ST_USAGE,
                  "frame 1 has a focal length of 0, or a matrix without an inverse");
    check_refused("title\n" POSE "0 1e-60 .9 .5 .5 0 0 1 0 0 0 0 1 0 0 0 0 1 0\n", ST_USAGE,
                  "frame 1 has numbers too large or too small");
    check_refused("title\n" POSE "0 0 .9 .5 .5 0 0 1 0 0 0 0 1 0 0 0 0 1 0\n", ST_USAGE, "frame 1");
    golden_close(&golden);
    return check_end("camera");
}
