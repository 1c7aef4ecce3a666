/* Frames are uploaded while the device computes the previous chunk, and finished frames are
 * downloaded as bytes while it computes the next one; two buffers each. */
#include "model/vae/vae_internal.h"

#include <string.h>

/* ---- finished frames ---- */

status frame_output_open(struct frame_output *d, struct device *dev, struct arena *a,
                         struct frame_sink sink, int64_t frames, int64_t h, int64_t w)
{
    *d = (struct frame_output){ .dev = dev, .sink = sink, .h = h, .w = w };
    for (int i = 0; i < 2; i++)
        TRY(arena_take(a, &d->rgb[i], DT_U8, frames, h, w, 3));
    for (int i = 0; i < 2 && sink.put != NULL; i++) {
        TRY(device_host_alloc(dev, (void **)&d->host[i], (size_t)(frames * h * w * 3)));
        TRY(device_event_init(dev, &d->downloaded[i]));
    }
    return ST_OK;
}

void frame_output_close(struct frame_output *d)
{
    for (int i = 0; i < 2 && d->dev != NULL; i++) {
        if (d->count[i] > 0) // the download may still be running
            device_event_wait(d->dev, &d->downloaded[i]);
        device_event_done(d->dev, &d->downloaded[i]);
        if (d->host[i] != NULL)
            device_host_free(d->dev, d->host[i]);
    }
    *d = (struct frame_output){ 0 };
}

/* Passes the frames in host[i], if any, to the sink. */
static status pass_to_sink(struct frame_output *d, int i)
{
    const int64_t count = d->count[i];

    d->count[i] = 0;
    if (count == 0)
        return ST_OK;
    TRY(device_event_wait(d->dev, &d->downloaded[i]));
    return d->sink.put(d->sink.payload, d->host[i], count, d->h, d->w);
}

struct tensor frame_output_next(const struct frame_output *d, int64_t count)
{
    return tensor_slice(d->rgb[d->next], 0, 0, count);
}

status frame_output_put(struct frame_output *d, int64_t count)
{
    const int next = d->next;
    const struct tensor rgb = frame_output_next(d, count);
    struct device_event *downloaded = &d->downloaded[next];

    if (d->sink.put == NULL)
        return ST_OK;
    TRY(device_event_record(d->dev, downloaded, QUEUE_WORK));
    TRY(device_event_follow(d->dev, downloaded, QUEUE_COPIES));
    TRY(device_queue_download(d->dev, d->host[next], rgb));
    TRY(device_event_record(d->dev, downloaded, QUEUE_COPIES));
    d->count[next] = count;
    d->next = !next;
    return pass_to_sink(d, !next);
}

status frame_output_finish(struct frame_output *d)
{
    if (d->dev == NULL)
        return ST_OK;
    TRY(pass_to_sink(d, !d->next));
    return device_wait(d->dev);
}

/* ---- frames to encode ---- */

static status clip_frame(void *payload, int64_t index, const float **pixels)
{
    const struct clip *c = payload;

    *pixels = c->pixels + index * c->h * c->w * 3;
    return ST_OK;
}

struct frame_source clip_source(const struct clip *clip)
{
    return (struct frame_source){ .get = clip_frame,
                                  .payload = (void *)clip,
                                  .frames = clip->frames,
                                  .h = clip->h,
                                  .w = clip->w };
}

status frame_input_open(struct frame_input *f, struct device *dev, struct arena *a,
                        struct frame_source source, int64_t frames, int64_t row, int64_t rows)
{
    *f = (struct frame_input){ .dev = dev, .source = source, .row = row };
    for (int i = 0; i < 2; i++) {
        TRY(arena_take(a, &f->x[i], DT_F32, frames, rows, source.w, 3));
        TRY(device_host_alloc(dev, (void **)&f->host[i], tensor_bytes(f->x[i])));
        TRY(device_event_init(dev, &f->uploaded[i]));
        TRY(device_event_init(dev, &f->used[i]));
        TRY(device_event_record(dev, &f->used[i], QUEUE_WORK)); // what used this memory before
    }
    return ST_OK;
}

void frame_input_close(struct frame_input *f)
{
    for (int i = 0; i < 2 && f->dev != NULL; i++) {
        device_event_wait(f->dev, &f->uploaded[i]); // the upload may still be running
        device_event_done(f->dev, &f->uploaded[i]);
        device_event_done(f->dev, &f->used[i]);
        if (f->host[i] != NULL)
            device_host_free(f->dev, f->host[i]);
    }
    *f = (struct frame_input){ 0 };
}

status frame_input_next(struct frame_input *f, struct tensor *x, int64_t count)
{
    const int i = f->at;
    const int64_t line = f->source.w * 3, rows = f->x[i].dim[1];

    *x = tensor_slice(f->x[i], 0, 0, count);
    TRY(device_event_wait(f->dev, &f->uploaded[i]));
    for (int64_t t = 0; t < count && f->dev->kind != DEVICE_PLAN; t++) {
        const float *pixels = NULL;
        float *to = f->host[i] + t * rows * line;

        TRY(f->source.get(f->source.payload, f->next + t, &pixels));
        if (pixels != NULL)
            memcpy(to, pixels + f->row * line, (size_t)(rows * line) * sizeof(float));
        else
            memset(to, 0, (size_t)(rows * line) * sizeof(float));
    }
    f->next += count;
    TRY(device_event_follow(f->dev, &f->used[i], QUEUE_COPIES));
    TRY(device_queue_upload(f->dev, *x, f->host[i]));
    TRY(device_event_record(f->dev, &f->uploaded[i], QUEUE_COPIES));
    return device_event_follow(f->dev, &f->uploaded[i], QUEUE_WORK);
}

status frame_input_pass(const struct frame_source *source, const struct device *dev, int64_t first,
                        int64_t count)
{
    const float *pixels;

    for (int64_t t = first; t < first + count && dev->kind != DEVICE_PLAN; t++)
        TRY(source->get(source->payload, t, &pixels));
    return ST_OK;
}

status frame_input_free(struct frame_input *f)
{
    const int i = f->at;

    f->at = !i;
    return device_event_record(f->dev, &f->used[i], QUEUE_WORK);
}
