/* The clips of a request: identified on rank 0 when the request is completed, and read there frame
 * by frame when they are encoded. */
#include "launch/request_internal.h"
#include "launch/video/media.h"
#include "runtime/hash.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_given(const struct request *r, int input)
{
    return (TASK_CLIPS >> input & 1) != 0 && r->input[input] != NULL;
}

/* Adds the flag to the line of an error. */
static status named(status st, int input)
{
    char line[512];

    if (st == ST_OK)
        return ST_OK;
    snprintf(line, sizeof(line), "%s", status_line());
    return fail(st, "--%s %s", task_input_names[input], line);
}

/* A clip that is being read: the payload of struct clip_input. */
struct open_clip {
    int input;
    const char *path; // borrowed from the request
    struct media_reader *reader;
    int64_t next; // index of the reader's next frame
    float (*time)[2];
};

static status read_frame(void *payload, int64_t index, struct image *frame)
{
    struct open_clip *c = payload;
    bool more = true;

    if (c->reader == NULL || index < c->next) {
        media_reader_close(c->reader);
        c->reader = NULL;
        c->next = 0;
        TRY(named(media_reader_open(&c->reader, c->path, MEDIA_PIXELS_MAX), c->input));
    }
    for (;;) {
        TRY(named(media_reader_next(c->reader, frame, &more), c->input));
        if (!more)
            return fail(ST_FORMAT, "--%s %s: frame %lld is missing: the file has changed",
                        task_input_names[c->input], c->path, (long long)index);
        if (c->next++ == index)
            return ST_OK;
        image_done(frame);
    }
}

/* The number of frames of a clip that the request uses at most. */
static int64_t frames_used(const struct request *r, int input)
{
    return (TASK_WHOLE_CLIPS >> input & 1) != 0 ? INT64_MAX : r->frame_num;
}

/* Decodes the frames that are used: sets the clip's sizes, and the text that identifies it. */
static status scan(struct clip_input *clip, char *text, size_t size, const struct request *r,
                   int input)
{
    const int64_t most = frames_used(r, input);
    struct media_reader *reader = NULL;
    struct image frame = { 0 };
    uint64_t hash = HASH_START;
    bool more = true;
    status st;

    *clip = (struct clip_input){ 0 };
    TRY_OUT(media_reader_open(&reader, r->input[input], MEDIA_PIXELS_MAX));
    while (clip->frames < most) {
        char digest[IMAGE_DIGEST_BYTES];

        TRY_OUT(media_reader_next(reader, &frame, &more));
        if (!more)
            break;
        if (clip->frames++ == 0) {
            clip->w = frame.w;
            clip->h = frame.h;
        }
        if (frame.w != clip->w || frame.h != clip->h)
            TRY_OUT(fail(ST_FORMAT, "%s: frame %lld is %d x %d, and those before are %d x %d",
                         r->input[input], (long long)(clip->frames - 1), frame.w, frame.h, clip->w,
                         clip->h));
        image_digest(&frame, digest);
        image_done(&frame);
        hash = hash_text(hash, digest);
    }
    if (clip->frames == 0)
        TRY_OUT(fail(ST_FORMAT, "%s: it has no frames", r->input[input]));
    clip->fps = media_reader_fps(reader);
    snprintf(text, size, "%dx%dx%" PRId64 "@%.9g:%016" PRIx64, clip->w, clip->h, clip->frames,
             clip->fps, hash);
out:
    image_done(&frame);
    media_reader_close(reader);
    return st;
}

static status read_clip(struct request *r, int input)
{
    char text[128];
    const char *known;
    size_t length = 0;

    TRY(named(scan(&r->clips[input], text, sizeof(text), r, input), input));
    known = request_find_media(r, input, &length);
    if (known == NULL)
        return request_add_media(r, input, text);
    if (length == strlen(text) && strncmp(known, text, length) == 0)
        return ST_OK;
    return fail(ST_USAGE,
                "--%s %s: the clip is not the one of this run any more; restore it, or start a new "
                "run",
                task_input_names[input], r->input[input]);
}

status request_read_clips(struct request *r)
{
    for (int i = 0; i < INPUT_COUNT; i++) {
        size_t length;
        status st;

        if (!is_given(r, i))
            continue;
        st = read_clip(r, i);
        if (st == ST_IO && request_find_media(r, i, &length) != NULL)
            st = ST_OK; // of a run that goes on: its run file has what was made of the clip
        TRY(st);
    }
    return ST_OK;
}

void request_clip_sizes(struct request *r)
{
    for (int i = 0; i < INPUT_COUNT; i++) {
        struct clip_input clip = { 0 };
        size_t length;
        const char *value = request_find_media(r, i, &length);

        if ((TASK_CLIPS >> i & 1) == 0)
            continue;
        if (value == NULL ||
            sscanf(value, "%dx%dx%" SCNd64 "@%lf:", &clip.w, &clip.h, &clip.frames, &clip.fps) != 4)
            clip = (struct clip_input){ 0 };
        r->clips[i] = clip;
    }
}

static status read_times(struct clip_input *clip, struct open_clip *open)
{
    int64_t count = 0;

    TRY(named(media_times(open->path, MEDIA_PIXELS_MAX, &open->time, &count), open->input));
    if (count < clip->frames)
        return fail(ST_FORMAT, "--%s %s: it has %lld frames instead of %lld: the file has changed",
                    task_input_names[open->input], open->path, (long long)count,
                    (long long)clip->frames);
    clip->time = (const float(*)[2])open->time;
    return ST_OK;
}

status request_open_clips(struct request *r)
{
    for (int i = 0; i < INPUT_COUNT; i++) {
        struct open_clip *open;

        if (!is_given(r, i))
            continue;
        open = calloc(1, sizeof(*open));
        if (open == NULL)
            return fail(ST_MEMORY, "cannot allocate host memory for a clip");
        *open = (struct open_clip){ .input = i, .path = r->input[i] };
        r->clips[i].read = read_frame;
        r->clips[i].payload = open;
        if ((TASK_WHOLE_CLIPS >> i & 1) != 0)
            TRY(read_times(&r->clips[i], open));
    }
    return ST_OK;
}

void request_close_clips(struct request *r)
{
    for (int i = 0; i < INPUT_COUNT; i++) {
        struct open_clip *open = r->clips[i].payload;

        if (open == NULL)
            continue;
        media_reader_close(open->reader);
        free(open->time);
        free(open);
        r->clips[i].time = NULL;
        r->clips[i].read = NULL;
        r->clips[i].payload = NULL;
    }
}
