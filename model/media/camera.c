#include "model/media/camera.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define ORIGINAL_ASPECT (1280.0 / 720) // of the images to which the focal lengths belong

/* Offsets in a pose: of the focal lengths, and of the matrix. */
enum { FOCAL = 1, MATRIX = 7 };

const double camera_origin[CAMERA_POSE] = { 0, 0.532139961, 0.946026558, 0.5, 0.5, 0, 0, 1, 0, 0,
                                            0, 0,           1,           0,   0,   0, 0, 1, 0 };

/* poses [frames][CAMERA_POSE]. */
static void move(double *poses, int64_t frames, const struct camera_path *path)
{
    /* Where it adds to the matrix: In and Out to the translation, the others to the column before
     * it, so that the rays turn and their origin stays. That is how DiffSynth does it. */
    static const struct {
        const char *word;
        int at, sign;
    } moves[] = { { "Left", 2, 1 },  { "Right", 2, -1 }, { "Up", 6, 1 },
                  { "Down", 6, -1 }, { "In", 11, -1 },   { "Out", 11, 1 } };

    for (int64_t f = 0; f < frames; f++) {
        double *pose = poses + f * CAMERA_POSE;

        memcpy(pose, f == 0 ? path->origin : pose - CAMERA_POSE, CAMERA_POSE * sizeof(*pose));
        for (size_t i = 0; i < COUNT(moves) && f > 0; i++)
            if (strstr(path->direction, moves[i].word) != NULL)
                pose[MATRIX + moves[i].at] += moves[i].sign * path->speed;
    }
}

/* Reads the numbers of one line; whether there are as many as a pose has. */
static bool parse_pose(double *pose, const char *line, const char *end)
{
    int count = 0;

    for (;;) {
        char *after;
        double number;

        while (line < end && (*line == ' ' || *line == '\t' || *line == '\r'))
            line++;
        if (line == end)
            return count == CAMERA_POSE;
        number = strtod(line, &after);
        if (after == line || after > end || !isfinite(number) || count == CAMERA_POSE)
            return false;
        pose[count++] = number;
        line = after;
    }
}

static status parse(double *poses, int64_t frames, const char *text)
{
    int64_t line = 0, count = 0;

    for (const char *at = text, *end; *at != 0 && count < frames; at = end + (*end != 0), line++) {
        end = at + strcspn(at, "\n");
        if (line == 0 || strspn(at, " \t\r") == (size_t)(end - at))
            continue; // a title, or nothing
        if (!parse_pose(poses + count * CAMERA_POSE, at, end))
            return fail(ST_FORMAT,
                        "line %lld is no pose of 19 numbers (time, fx, fy, cx, cy, 0, 0, and the 3 "
                        "x 4 matrix from the world to the camera)",
                        (long long)(line + 1));
        count++;
    }
    if (count < frames)
        return fail(ST_FORMAT,
                    "it has %lld poses after its first line, and the video %lld frames: pass as "
                    "many, or a smaller --frame_num",
                    (long long)count, (long long)frames);
    return ST_OK;
}

/* The inverse of the affine map m [3][4], by elimination; whether there is one. */
static bool invert(double out[12], const double *m)
{
    double a[3][7]; // the matrix, and what becomes its inverse

    for (int i = 0; i < 3; i++)
        for (int k = 0; k < 7; k++)
            a[i][k] = k < 3 ? m[i * 4 + k] : k < 6 ? k - 3 == i : -m[i * 4 + 3];
    for (int c = 0; c < 3; c++) {
        int pivot = c;

        for (int i = c + 1; i < 3; i++)
            if (fabs(a[i][c]) > fabs(a[pivot][c]))
                pivot = i;
        if (!(fabs(a[pivot][c]) > 1e-12))
            return false;
        for (int k = 0; k < 7; k++) {
            const double v = a[c][k];

            a[c][k] = a[pivot][k];
            a[pivot][k] = v;
        }
        for (int i = 0; i < 3; i++) {
            const double factor = i == c ? 0 : a[i][c] / a[c][c];

            for (int k = 0; k < 7; k++)
                a[i][k] -= factor * a[c][k];
        }
        for (int k = 6; k >= 0; k--)
            a[c][k] /= a[c][c];
    }
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < 4; k++)
            out[i * 4 + k] = a[i][3 + k];
    return true;
}

/* out = a b, affine maps [3][4]. */
static void multiply(double out[12], const double *a, const double *b)
{
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < 4; k++)
            out[i * 4 + k] = a[i * 4] * b[k] + a[i * 4 + 1] * b[4 + k] + a[i * 4 + 2] * b[8 + k] +
                             (k == 3 ? a[i * 4 + 3] : 0);
}

/* Whether the numbers of a view are finite and its focal lengths not 0, as 32-bit numbers. */
static bool is_usable(const float *view)
{
    for (int i = 0; i < CAMERA_VIEW; i++)
        if (!isfinite(view[i]))
            return false;
    return view[0] != 0 && view[1] != 0;
}

static status make_views(float *views, const double *poses, int64_t frames, int w, int h)
{
    static const double identity[12] = { 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0 };
    const double aspect = (double)w / h;
    const bool wider = ORIGINAL_ASPECT > aspect;

    for (int64_t f = 0; f < frames; f++) {
        const double *pose = poses + f * CAMERA_POSE;
        float *view = views + f * CAMERA_VIEW;
        double inverse[12], relative[12], fx = pose[FOCAL], fy = pose[FOCAL + 1];

        if (wider)
            fx = h * ORIGINAL_ASPECT * fx / w;
        else
            fy = w / ORIGINAL_ASPECT * fy / h;
        if (!invert(inverse, pose + MATRIX) || fx == 0 || fy == 0)
            return fail(ST_USAGE,
                        "the pose of frame %lld has a focal length of 0, or a matrix without an "
                        "inverse",
                        (long long)f);
        multiply(relative, poses + MATRIX, inverse);
        view[0] = (float)(fx * w);
        view[1] = (float)(fy * h);
        view[2] = (float)(pose[FOCAL + 2] * w);
        view[3] = (float)(pose[FOCAL + 3] * h);
        for (int i = 0; i < 12; i++)
            view[4 + i] = (float)(f == 0 ? identity[i] : relative[i]);
        if (!is_usable(view))
            return fail(ST_USAGE, "the pose of frame %lld has numbers too large or too small",
                        (long long)f);
    }
    return ST_OK;
}

status camera_views(float *views, const struct camera_path *path, int64_t frames, int w, int h)
{
    double *poses = malloc((size_t)frames * CAMERA_POSE * sizeof(*poses));
    status st = ST_OK;

    if (poses == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for the poses of a camera");
    if (path->text != NULL)
        TRY_OUT(parse(poses, frames, path->text));
    else
        move(poses, frames, path);
    TRY_OUT(make_views(views, poses, frames, w, h));
out:
    free(poses);
    return st;
}

void camera_ray(float ray[CAMERA_RAY], const float *view, int64_t x, int64_t y)
{
    const float *m = view + 4, *o = m + 3; // the matrix; its last column has a stride of 4
    const float dx = ((float)x + 0.5f - view[2]) / view[0];
    const float dy = ((float)y + 0.5f - view[3]) / view[1];
    const float length = sqrtf(dx * dx + dy * dy + 1);
    const float d[3] = { dx / length, dy / length, 1 / length };
    float r[3];

    for (int i = 0; i < 3; i++)
        r[i] = m[i * 4] * d[0] + m[i * 4 + 1] * d[1] + m[i * 4 + 2] * d[2];
    for (int i = 0; i < 3; i++) {
        const int a = (i + 1) % 3, b = (i + 2) % 3;

        ray[i] = o[a * 4] * r[b] - o[b * 4] * r[a];
        ray[3 + i] = r[i];
    }
}
