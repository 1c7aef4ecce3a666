/* Pictures leave the device as bytes, two chunks of them in turn. */
#include "model/vae_internal.h"

status delivery_open(struct delivery *d, struct device *dev, struct frame_sink sink, float *pixels,
                     int64_t frames, int64_t h, int64_t w)
{
    *d = (struct delivery){ .dev = dev, .sink = sink, .pixels = pixels, .h = h, .w = w };
    for (int i = 0; i < 2 && sink.put != NULL; i++) {
        TRY(device_host_alloc(dev, (void **)&d->host[i], (size_t)(frames * h * w * 3)));
        TRY(device_mark_init(dev, &d->here[i]));
    }
    return ST_OK;
}

void delivery_close(struct delivery *d)
{
    for (int i = 0; i < 2 && d->dev != NULL; i++) {
        device_mark_done(d->dev, &d->here[i]);
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
    TRY(device_mark_wait(d->dev, &d->here[i]));
    return d->sink.put(d->sink.payload, d->host[i], count, d->h, d->w);
}

status delivery_put(struct delivery *d, struct arena *a, struct tensor x, int64_t first)
{
    const size_t mark = a->used;
    const int turn = d->turn;
    struct tensor rgb;
    status st;

    TRY_OUT(arena_take(a, &rgb, DT_U8, x.dim[0], x.dim[1], x.dim[2], x.dim[3]));
    TRY_OUT(op_to_u8(d->dev, rgb, x));
    if (d->pixels != NULL)
        TRY_OUT(device_download(d->dev, d->pixels + first * d->h * d->w * x.dim[3], x));
    if (d->sink.put != NULL) {
        TRY_OUT(device_download(d->dev, d->host[turn], rgb));
        TRY_OUT(device_mark_set(d->dev, &d->here[turn], QUEUE_WORK));
        d->count[turn] = x.dim[0];
        d->turn = !turn;
        st = hand_over(d, !turn);
    }
out:
    arena_release(a, mark);
    return st;
}

status delivery_finish(struct delivery *d)
{
    if (d->dev == NULL)
        return ST_OK;
    TRY(hand_over(d, !d->turn));
    return device_wait(d->dev);
}
