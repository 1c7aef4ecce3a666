/* Finished frames are downloaded as bytes while the device computes the next chunk; two buffers. */
#include "model/vae/vae_internal.h"

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
