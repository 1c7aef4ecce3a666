/* camera.h - the path of a camera as Fun Camera takes it: for each frame of the video the ray of
 * every pixel, in Plücker coordinates. All functions are local.
 *
 *     pose   19 numbers, a line of a RealEstate10K file: time, fx, fy, cx, cy as shares of the
 *            image's size, two that are not used, and the rows of the 3 x 4 matrix that takes the
 *            world's coordinates to the camera's
 *     view   16 numbers, f32: fx, fy, cx, cy in pixels, and the rows of the 3 x 4 matrix that takes
 *            the camera's coordinates to those of the first frame's
 *     rays   of a pixel: o x r, r, with the origin o of the camera and the ray's direction r
 *
 * Source: DiffSynth-Studio diffsynth/models/wan_video_camera_controller.py, which has most of it
 * from CameraCtrl; the file as in VideoX-Fun videox_fun/data/utils.py. */
#ifndef MODEL_MEDIA_CAMERA_H
#define MODEL_MEDIA_CAMERA_H

#include "runtime/status.h"

#include <stdint.h>

#define CAMERA_POSE 19
#define CAMERA_VIEW 16
#define CAMERA_RAY 6
#define CAMERA_FRAMES 4 // of the video in a latent frame
#define CAMERA_VALUES (CAMERA_RAY * CAMERA_FRAMES)

#define CAMERA_DIRECTIONS "Left|Right|Up|Down|LeftUp|LeftDown|RightUp|RightDown|In|Out"

extern const double camera_origin[CAMERA_POSE]; // DiffSynth's default
#define CAMERA_SPEED (1.0 / 54)                 // the same, per frame

/* The poses of a file, or those of a camera that moves. */
struct camera_path {
    const char *text;     // of the file; the first line is not used. NULL: no file
    char direction[16];   // without a file: a word of CAMERA_DIRECTIONS
    double speed;         // per frame
    const double *origin; // [CAMERA_POSE] the first pose
};

/* views [frames][CAMERA_VIEW] of a video of w x h pixels. The focal lengths are those of an image
 * of 16:9, which is cut or extended to the video's aspect. ST_FORMAT if a line of the file has
 * other than 19 numbers, or it has too few lines; ST_USAGE if the matrix of a pose has no inverse
 * or a focal length is 0; ST_MEMORY. */
status camera_views(float *views, const struct camera_path *path, int64_t frames, int w, int h);

/* The ray of pixel (x, y) of a view. */
void camera_ray(float ray[CAMERA_RAY], const float *view, int64_t x, int64_t y);

#endif
