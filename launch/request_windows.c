/* The windows of a request: of DiffSynth's flags in latent frames, of ComfyUI's context options in
 * frames. */
#include "launch/request_internal.h"

#include <stdio.h>

/* The first flag of a context that was given; NULL: none. */
static const char *context_flag(const struct request *r)
{
    return r->context_schedule >= 0  ? "context_schedule"
           : r->context_frames >= 0  ? "context_frames"
           : r->context_stride >= 0  ? "context_stride"
           : r->context_overlap >= 0 ? "context_overlap"
           : r->context_fuse >= 0    ? "context_fuse"
                                     : NULL;
}

static int given_or(int value, int otherwise)
{
    return value >= 0 ? value : otherwise;
}

struct window_settings request_windows(const struct request *r)
{
    static const enum window_kind kinds[] = { WINDOWS_STATIC, WINDOWS_UNIFORM, WINDOWS_LOOPED };
    const int stride = given_or(r->context_stride, 4) / 4;

    if (r->sliding_window_size > 0)
        return (struct window_settings){ .kind = WINDOWS_SLIDING,
                                         .frames = r->sliding_window_size,
                                         .stride = r->sliding_window_stride };
    if (context_flag(r) == NULL)
        return (struct window_settings){ 0 };
    return (struct window_settings){ .kind = kinds[given_or(r->context_schedule, 0)],
                                     .frames = (given_or(r->context_frames, 81) - 1) / 4 + 1,
                                     .stride = stride > 1 ? stride : 1,
                                     .overlap = given_or(r->context_overlap, 16) / 4,
                                     .pyramid = r->context_fuse == 1 };
}

bool request_windowed(const struct request *r)
{
    const struct window_settings w = request_windows(r);
    const int frames = r->video_frames > 0 ? r->video_frames : r->frame_num; // 0: not known yet

    return windows_divide(&w, (frames - 1) / 4 + 1 + r->references);
}

status request_check_windows(const struct request *r)
{
    const struct window_settings w = request_windows(r);
    const char *context = context_flag(r);

    if ((r->sliding_window_size > 0) != (r->sliding_window_stride > 0))
        return fail(ST_USAGE, "--sliding_window_size and --sliding_window_stride need each other");
    if (w.kind == WINDOWS_SLIDING && context != NULL)
        return fail(ST_USAGE,
                    "--sliding_window_size and --%s both say what the windows are: remove "
                    "one of them",
                    context);
    if (w.kind == WINDOWS_SLIDING && w.stride > w.frames)
        return fail(ST_USAGE,
                    "--sliding_window_stride %d leaves gaps between windows of "
                    "--sliding_window_size %d",
                    w.stride, w.frames);
    if (w.kind > WINDOWS_SLIDING && w.overlap >= w.frames)
        return fail(ST_USAGE, "--context_overlap %d: it must be less than --context_frames %d",
                    given_or(r->context_overlap, 16), given_or(r->context_frames, 81));
    if (!request_windowed(r))
        return ST_OK;
    if (r->cache != CACHE_OFF || r->calibrate_cache != NULL)
        return fail(ST_USAGE, "step caching is for whole videos: remove --cache, or the windows");
    if (r->task->sound)
        return fail(ST_USAGE, "task %s: its clips have their own length: remove the windows",
                    r->task_name);
    if ((r->task->allowed >> INPUT_camera_control_direction & 1) != 0)
        return fail(ST_USAGE,
                    "task %s: this version does not divide the path of a camera into windows: "
                    "remove them",
                    r->task_name);
    return ST_OK;
}
