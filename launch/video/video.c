#include "launch/video/video.h"

#include "launch/video/video_internal.h"
#include "runtime/newfile.h"

#include <assert.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define QUEUE 8         // frames in the queue, at most
#define SHEET_FRAMES 16 // frames in a contact sheet, at most
#define SHEET_WIDTH 320 // width of a frame in it, at most
#define SHEET_GAP 4     // pixels between frames

struct sheet {
    struct newfile file;
    int count, columns; // frames
    int w, h;           // of one frame
    int width, height;  // of the sheet
    uint8_t *rgb;       // NULL: no sheet
};

struct video {
    int w, h;
    int64_t frames, encoded;
    size_t frame_bytes;
    char *metadata;
    struct newfile file;
    struct h264 *h264; // NULL: a PNG of one frame
    struct sheet sheet;

    pthread_t thread;
    bool running; // the thread was started and not yet joined
    pthread_mutex_t lock;
    pthread_cond_t changed;
    // protected by the lock:
    uint8_t *queue;         // [QUEUE, h, w, 3]
    int64_t pushed, popped; // frames put into the queue, and encoded
    bool closed, cancelled; // no more frames follow; stop without encoding the rest
    status st;              // of the encoder
    char message[512];      // its error message
};

static bool ends_in(const char *path, const char *suffix)
{
    const size_t n = strlen(path), m = strlen(suffix);

    return n > m && strcasecmp(path + n - m, suffix) == 0;
}

bool video_is_image(const char *path)
{
    return ends_in(path, ".png");
}

status video_check_path(const char *path, int64_t frames)
{
    if (video_is_image(path)) {
        if (frames != 1)
            return fail(ST_USAGE, "%s: a .png holds one frame, not %lld; use .mp4", path,
                        (long long)frames);
        return ST_OK;
    }
    if (!ends_in(path, ".mp4"))
        return fail(ST_USAGE, "%s: results are written as .mp4, or .png for one frame", path);
    return ST_OK;
}

static status sheet_open(struct sheet *s, const char *path, int w, int h, int64_t frames)
{
    int rows;

    s->count = frames < SHEET_FRAMES ? (int)frames : SHEET_FRAMES;
    s->columns = 1;
    while (s->columns * s->columns < s->count)
        s->columns++;
    rows = (s->count + s->columns - 1) / s->columns;
    s->w = w < SHEET_WIDTH ? w : SHEET_WIDTH;
    s->h = (int)((int64_t)h * s->w / w);
    s->h = s->h > 0 ? s->h : 1;
    s->width = s->columns * s->w + (s->columns - 1) * SHEET_GAP;
    s->height = rows * s->h + (rows - 1) * SHEET_GAP;
    s->rgb = calloc((size_t)s->width * s->height, 3);
    if (s->rgb == NULL)
        return fail(ST_MEMORY, "%s: cannot allocate a contact sheet of %d x %d", path, s->width,
                    s->height);
    return newfile_open(&s->file, path);
}

/* Copies frame `index` of `frames` into the sheet, if the sheet shows it. */
static status sheet_frame(struct sheet *s, const uint8_t *rgb, int w, int h, int64_t index,
                          int64_t frames)
{
    if (s->rgb == NULL)
        return ST_OK;
    for (int i = 0; i < s->count; i++) {
        const int64_t shown = s->count > 1 ? i * (frames - 1) / (s->count - 1) : 0;
        const size_t x = (size_t)(i % s->columns) * (s->w + SHEET_GAP);
        const size_t y = (size_t)(i / s->columns) * (s->h + SHEET_GAP);
        if (shown == index)
            TRY(frame_scale(s->rgb + 3 * (y * s->width + x), s->w, s->h, 3 * s->width, rgb, w, h));
    }
    return ST_OK;
}

static status encode_frame(struct video *v, const uint8_t *rgb)
{
    if (v->h264 != NULL)
        TRY(h264_frame(v->h264, rgb));
    else
        TRY(png_write(&v->file, rgb, v->w, v->h, v->metadata));
    TRY(sheet_frame(&v->sheet, rgb, v->w, v->h, v->encoded, v->frames));
    v->encoded++;
    return ST_OK;
}

static status encode_end(struct video *v)
{
    if (v->h264 != NULL)
        TRY(h264_finish(v->h264));
    if (v->sheet.rgb != NULL)
        TRY(png_write(&v->sheet.file, v->sheet.rgb, v->sheet.width, v->sheet.height, v->metadata));
    return ST_OK;
}

/* The encoder thread: takes frames from the queue, in order, until the last one or an error. */
static void *encoder(void *payload)
{
    struct video *v = payload;
    status st = ST_OK;
    bool more = true;

    while (st == ST_OK && more) {
        const uint8_t *frame = NULL;
        pthread_mutex_lock(&v->lock);
        while (v->popped == v->pushed && !v->closed && !v->cancelled)
            pthread_cond_wait(&v->changed, &v->lock);
        more = !v->cancelled && v->popped < v->pushed;
        if (more)
            frame = v->queue + (size_t)(v->popped % QUEUE) * v->frame_bytes;
        const bool cancelled = v->cancelled;
        pthread_mutex_unlock(&v->lock);
        if (cancelled)
            return NULL;
        st = more ? encode_frame(v, frame) : encode_end(v);
        pthread_mutex_lock(&v->lock);
        v->popped += more;
        v->st = st;
        if (st != ST_OK)
            snprintf(v->message, sizeof(v->message), "%s", status_line());
        pthread_cond_broadcast(&v->changed);
        pthread_mutex_unlock(&v->lock);
    }
    return NULL;
}

status video_open(struct video **out, const struct video_settings *s)
{
    status st;
    struct video *v = calloc(1, sizeof(*v));

    if (v == NULL)
        return fail(ST_MEMORY, "%s: cannot allocate memory for the video writer", s->path);
    pthread_mutex_init(&v->lock, NULL);
    pthread_cond_init(&v->changed, NULL);
    v->w = s->width_px;
    v->h = s->height_px;
    v->frames = s->frames;
    v->frame_bytes = (size_t)v->w * v->h * 3;
    TRY_OUT(video_check_path(s->path, s->frames));
    if (ends_in(s->path, ".mp4") && (v->w % 2 != 0 || v->h % 2 != 0)) {
        st =
            fail(ST_USAGE, "%s: %d x %d: both must be even for H.264 yuv420p", s->path, v->w, v->h);
        goto out;
    }
    v->queue = malloc(QUEUE * v->frame_bytes + 64); // swscale may read up to a vector past the end
    v->metadata = s->metadata != NULL ? strdup(s->metadata) : NULL;
    if (v->queue == NULL || (s->metadata != NULL && v->metadata == NULL)) {
        st = fail(ST_MEMORY, "%s: cannot allocate memory for %d frames of %d x %d", s->path, QUEUE,
                  v->w, v->h);
        goto out;
    }
    TRY_OUT(newfile_open(&v->file, s->path));
    if (s->contact_sheet != NULL)
        TRY_OUT(sheet_open(&v->sheet, s->contact_sheet, v->w, v->h, v->frames));
    if (ends_in(s->path, ".mp4"))
        TRY_OUT(h264_open(&v->h264, v->file.temp, s->path, v->w, v->h, s->fps, s->quality,
                          v->metadata, s->sound));
    if (pthread_create(&v->thread, NULL, encoder, v) != 0) {
        st = fail(ST_MEMORY, "%s: cannot start a thread for the encoder", s->path);
        goto out;
    }
    v->running = true;
    *out = v;
out:
    if (st != ST_OK)
        video_close(v);
    return st;
}

status video_put(struct video *v, const uint8_t *rgb, int64_t count, int64_t h, int64_t w)
{
    status st = ST_OK;

    assert(h == v->h && w == v->w && v->pushed + count <= v->frames);
    for (int64_t i = 0; i < count && st == ST_OK; i++) {
        pthread_mutex_lock(&v->lock);
        while (v->pushed - v->popped == QUEUE && v->st == ST_OK)
            pthread_cond_wait(&v->changed, &v->lock);
        st = v->st;
        if (st == ST_OK) {
            memcpy(v->queue + (size_t)(v->pushed % QUEUE) * v->frame_bytes,
                   rgb + (size_t)i * v->frame_bytes, v->frame_bytes);
            v->pushed++;
            pthread_cond_broadcast(&v->changed);
        }
        pthread_mutex_unlock(&v->lock);
    }
    return st == ST_OK ? ST_OK : fail(st, "%s", v->message);
}

/* Joins the encoder thread, after it has encoded the queued frames unless `cancel`. */
static void stop(struct video *v, bool cancel)
{
    if (!v->running)
        return;
    pthread_mutex_lock(&v->lock);
    v->closed = true;
    v->cancelled = cancel;
    pthread_cond_broadcast(&v->changed);
    pthread_mutex_unlock(&v->lock);
    pthread_join(v->thread, NULL);
    v->running = false;
}

status video_finish(struct video *v)
{
    stop(v, false);
    if (v->st != ST_OK)
        return fail(v->st, "%s", v->message);
    assert(v->encoded == v->frames);
    if (v->sheet.rgb != NULL)
        TRY(newfile_commit(&v->sheet.file));
    return newfile_commit(&v->file);
}

void video_close(struct video *v)
{
    if (v == NULL)
        return;
    stop(v, true);
    h264_close(v->h264);
    newfile_drop(&v->file);
    newfile_drop(&v->sheet.file);
    free(v->sheet.rgb);
    free(v->queue);
    free(v->metadata);
    pthread_mutex_destroy(&v->lock);
    pthread_cond_destroy(&v->changed);
    free(v);
}
