#include "launch/request.h"

#include <stdlib.h>
#include <string.h>

/* Sends the request as JSON. Fields that are not set keep the values of request_init. */
status request_share(struct world *w, status st, struct request *r)
{
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
    world_broadcast(w, r->given, sizeof(r->given), 0);
    world_broadcast(w, r->video_size, sizeof(r->video_size), 0);
    if (w->rank != 0) {
        const int size[] = { r->video_size[0], r->video_size[1] };
        bool given[OPTIONS_MAX];

        memcpy(given, r->given, sizeof(given));
        request_done(r);
        request_init(r);
        TRY_OUT(request_from_json(r, text, "request"));
        TRY_OUT(task_find(&r->task, r->task_name));
        request_image_sizes(r);
        memcpy(r->given, given, sizeof(given));
        memcpy(r->video_size, size, sizeof(size));
    }
    world_broadcast(w, &r->drawn_seed, sizeof(r->drawn_seed), 0);
    world_broadcast(w, &r->turned, sizeof(r->turned), 0);
    world_broadcast(w, &r->default_negative, sizeof(r->default_negative), 0);
out:
    free(text);
    return agree(w, st);
}
