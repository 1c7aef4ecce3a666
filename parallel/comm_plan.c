#include "kernels/rates.h"
#include "parallel/comm.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

/* When transfers are done, on the device's clock. Each group sends at the full rate. */
struct plan_comm {
    double last, slot[GROUP_IN_FLIGHT];
};

/* The caller gives the members, so a plan device always needs a described world. */
static status plan_open(struct group *g, struct world *w, int color)
{
    (void)color;
    assert(w->described);
    g->impl = calloc(1, sizeof(struct plan_comm));
    return g->impl != NULL ? ST_OK : fail(ST_MEMORY, "no host memory for group %s", g->name);
}

static void plan_close(struct group *g)
{
    free(g->impl);
    g->impl = NULL;
}

static status plan_wait(struct group *g, int slot)
{
    const struct plan_comm *c = g->impl;

    if (c->slot[slot] > g->dev->seconds) {
        g->dev->waited += c->slot[slot] - g->dev->seconds;
        g->dev->seconds = c->slot[slot];
    }
    return ST_OK;
}

/* Both links are used at the same time. */
static double seconds_of(const struct rates *r, const struct comm_op *op)
{
    return r->transfer_s + fmax((op->bytes - op->across) / r->link, op->across / r->network);
}

static status plan_start(struct group *g, int slot, const struct comm_op *op)
{
    const struct rates *r = g->dev->rates;
    struct plan_comm *c = g->impl;

    if (r == NULL)
        return ST_OK;
    if (c->last < g->dev->seconds)
        c->last = g->dev->seconds;
    if (op->sends + op->recvs > 0)
        c->last += seconds_of(r, op);
    c->slot[slot] = c->last;
    return r->overlaps ? ST_OK : plan_wait(g, slot);
}

/* The first head arrives soon, and the kernel that waits for the others does not stop. */
static bool plan_arrival(const struct group *g, int slot, int peer, struct arrival *a)
{
    *a = (struct arrival){ 0 };
    return g->direct;
}

/* From now on, while the kernel computes. */
static status plan_put(struct group *g, int slot, const struct comm_op *op, struct message *send)
{
    return plan_start(g, slot, op);
}

static status plan_put_complete(struct group *g, int slot)
{
    return ST_OK;
}

const struct comm_table comm_plan = {
    .name = "plan",
    .open = plan_open,
    .close = plan_close,
    .start = plan_start,
    .wait = plan_wait,
    .arrival = plan_arrival,
    .put = plan_put,
    .put_complete = plan_put_complete,
};
