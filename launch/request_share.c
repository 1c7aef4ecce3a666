#include "launch/request.h"

#include <stdlib.h>
#include <string.h>

/* What is not in the JSON. */
struct beside {
    bool given[OPTIONS_MAX];
    int video_size[2], video_frames, clips, steps;
    bool drawn_seed, default_negative;
    unsigned turned;
};

static struct beside beside_of(const struct request *r)
{
    struct beside b = { .video_size = { r->video_size[0], r->video_size[1] },
                        .video_frames = r->video_frames,
                        .clips = r->clip_count,
                        .steps = r->steps,
                        .drawn_seed = r->drawn_seed,
                        .default_negative = r->default_negative,
                        .turned = r->turned };

    memcpy(b.given, r->given, sizeof(b.given));
    return b;
}

static void set_beside(struct request *r, const struct beside *b)
{
    memcpy(r->given, b->given, sizeof(r->given));
    memcpy(r->video_size, b->video_size, sizeof(r->video_size));
    r->video_frames = b->video_frames;
    r->clip_count = b->clips;
    r->steps = b->steps;
    r->drawn_seed = b->drawn_seed;
    r->default_negative = b->default_negative;
    r->turned = b->turned;
}

/* Sends the request as JSON. Fields that are not set keep the values of request_init. */
status request_share(struct world *w, status st, struct request *r)
{
    struct beside beside = { 0 };
    char *text = NULL;
    size_t bytes = 0;

    if (w->rank == 0 && st == ST_OK)
        st = request_to_json(r, &text);
    TRY(agree(w, st));
    bytes = text != NULL ? strlen(text) + 1 : 0;
    world_broadcast(w, &bytes, sizeof(bytes), 0);
    if (w->rank != 0) {
        text = malloc(bytes);
        if (text == NULL)
            st = fail(ST_MEMORY, "cannot allocate %zu bytes of host memory for the request", bytes);
    }
    st = agree(w, st);
    if (st != ST_OK)
        goto out;
    world_broadcast(w, text, bytes, 0);
    if (w->rank == 0)
        beside = beside_of(r);
    world_broadcast(w, &beside, sizeof(beside), 0); // before any rank can fail
    if (w->rank != 0) {
        request_done(r);
        request_init(r);
        TRY_OUT(request_from_json(r, text, "request"));
        TRY_OUT(task_find(&r->task, r->task_name));
        TRY_OUT(request_image_sizes(r));
        set_beside(r, &beside);
    }
out:
    free(text);
    return agree(w, st);
}
