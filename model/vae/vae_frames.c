/* Pictures leave the device as bytes, two chunks of them in turn, beside what it computes. */
#include "model/vae/vae_internal.h"

status delivery_open(struct delivery *d, struct device *dev, struct arena *a,
                     struct frame_sink sink, float *pixels, int64_t frames, int64_t h, int64_t w)
{
    *d = (struct delivery){ .dev = dev, .sink = sink, .pixels = pixels, .h = h, .w = w };
    for (int i = 0; i < 2; i++)
        TRY(arena_take(a, &d->rgb[i], DT_U8, frames, h, w, 3));
    for (int i = 0; i < 2 && sink.put != NULL; i++) {
        TRY(device_host_alloc(dev, (void **)&d->host[i], (size_t)(frames * h * w * 3)));
        TRY(device_event_init(dev, &d->here[i]));
    }
    return ST_OK;
}

void delivery_close(struct delivery *d)
{
    for (int i = 0; i < 2 && d->dev != NULL; i++) {
        if (d->count[i] > 0) // still on its way
            device_event_wait(d->dev, &d->here[i]);
        device_event_done(d->dev, &d->here[i]);
        if (d->host[i] != NULL)
            device_host_free(d->dev, d->host[i]);
    }
    *d = (struct delivery){ 0 };
}

/* What waits in place i goes to the sink. */
static status hand_over(struct delivery *d, int i)
{
    const int64_t count = d->count[i];

    d->count[i] = 0;
    if (count == 0)
        return ST_OK;
    TRY(device_event_wait(d->dev, &d->here[i]));
    return d->sink.put(d->sink.payload, d->host[i], count, d->h, d->w);
}

status delivery_put(struct delivery *d, struct tensor x, int64_t first)
{
    const int turn = d->turn;
    const struct tensor rgb = tensor_slice(d->rgb[turn], 0, 0, x.dim[0]);
    struct device_event *here = &d->here[turn];

    TRY(op_to_u8(d->dev, rgb, x));
    if (d->pixels != NULL)
        TRY(device_download(d->dev, d->pixels + first * d->h * d->w * x.dim[3], x));
    if (d->sink.put == NULL)
        return ST_OK;
    TRY(device_event_record(d->dev, here, QUEUE_WORK));
    TRY(device_event_follow(d->dev, here, QUEUE_COPIES));
    TRY(device_queue_download(d->dev, d->host[turn], rgb));
    TRY(device_event_record(d->dev, here, QUEUE_COPIES));
    d->count[turn] = x.dim[0];
    d->turn = !turn;
    return hand_over(d, !turn);
}

status delivery_finish(struct delivery *d)
{
    if (d->dev == NULL)
        return ST_OK;
    TRY(hand_over(d, !d->turn));
    return device_wait(d->dev);
}
