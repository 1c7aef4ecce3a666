#include "launch/bench/trace_internal.h"

#include "parallel/comm.h" // the tracing comm table replaces a real one

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- spans ---- */

struct trace *trace_of(const struct device *dev)
{
    return (struct trace *)dev->table;
}

status trace_begin(struct trace *t, struct trace_span **span, enum trace_lane lane,
                   const char *family)
{
    *span = NULL;
    if (!t->on || t->count == t->capacity)
        return ST_OK;
    *span = &t->spans[t->count++];
    **span = (struct trace_span){ .lane = lane };
    snprintf((*span)->family, sizeof((*span)->family), "%s", family);
    timeline_range_begin(family);
    return timeline_record(&t->timeline, &(*span)->from);
}

status trace_end(struct trace *t, struct trace_span *span)
{
    if (span == NULL)
        return ST_OK;
    timeline_range_end();
    return timeline_record(&t->timeline, &span->to);
}

/* ---- communication ---- */

#define TRACED_GROUPS 8

/* The tracing comm table, the real one, and the spans in flight. */
struct trace_comm {
    struct comm_table table; // first, so that traced_start finds this struct by g->comm
    const struct comm_table *real;
    struct trace *trace;
    struct {
        struct group *group;
        struct trace_span *slot[GROUP_IN_FLIGHT];
    } groups[TRACED_GROUPS];
    int group_count;
};

static struct trace_comm *comm_of(const struct group *g)
{
    return (struct trace_comm *)g->comm;
}

static struct trace_span **in_flight(const struct group *g, int slot)
{
    struct trace_comm *c = comm_of(g);
    int i = 0;

    while (c->groups[i].group != g)
        i++;
    return &c->groups[i].slot[slot];
}

static status traced_start(struct group *g, int slot, const struct comm_op *e)
{
    struct trace_comm *c = comm_of(g);
    struct trace_span *span;

    TRY(trace_begin(c->trace, &span, LANE_COMMUNICATION, comm_op_name[e->kind]));
    if (span != NULL) {
        span->bytes = e->bytes;
        snprintf(span->what, sizeof(span->what), "%s", g->name);
        span->wait_from = -1;
        timeline_range_end();
    }
    *in_flight(g, slot) = span;
    return c->real->start(g, slot, e);
}

struct waiting {
    struct group *group;
    int slot;
};

static status real_wait(void *payload)
{
    const struct waiting *w = payload;

    return comm_of(w->group)->real->wait(w->group, w->slot);
}

static status traced_wait(struct group *g, int slot)
{
    struct trace_comm *c = comm_of(g);
    struct trace_span *span = *in_flight(g, slot);
    struct waiting w = { g, slot };

    *in_flight(g, slot) = NULL;
    if (span == NULL || !c->trace->on)
        return c->real->wait(g, slot);
    TRY(timeline_record(&c->trace->timeline, &span->wait_from));
    return timeline_record_wait(&c->trace->timeline, real_wait, &w, &span->to);
}

/* ---- opening and closing ---- */

status trace_open(struct trace *t, struct device *dev, int capacity, int64_t text_len)
{
    status st = ST_OK;

    *t = (struct trace){ .table = *dev->table, .capacity = capacity, .text_len = text_len };
    trace_ops(&t->table);
    t->spans = calloc((size_t)capacity, sizeof(*t->spans));
    t->comm = calloc(1, sizeof(*t->comm));
    if (t->spans == NULL || t->comm == NULL)
        TRY_OUT(fail(ST_MEMORY, "cannot allocate host memory for a trace of %d ops", capacity));
    TRY_OUT(timeline_open(&t->timeline, dev, 3 * capacity + 2));
    t->real = dev->table;
    t->dev = dev;
    dev->table = &t->table;
out:
    if (st != ST_OK)
        trace_close(t);
    return st;
}

void trace_close(struct trace *t)
{
    for (int i = 0; t->comm != NULL && i < t->comm->group_count; i++)
        t->comm->groups[i].group->comm = t->comm->real;
    if (t->dev != NULL)
        t->dev->table = t->real;
    timeline_close(&t->timeline);
    free(t->comm);
    free(t->spans);
    *t = (struct trace){ 0 };
}

void trace_groups(struct trace *t, struct mesh *m)
{
    struct group *groups[] = { &m->all, &m->cfg_group, &m->ring_group, &m->ulysses_group,
                               &m->seq_group };
    struct trace_comm *c = t->comm;

    static_assert(COUNT(groups) <= TRACED_GROUPS, "all groups of a mesh fit");
    for (size_t i = 0; i < COUNT(groups); i++) {
        if (groups[i]->comm == NULL)
            continue;
        if (c->real == NULL) {
            c->real = groups[i]->comm;
            c->trace = t;
            c->table = *c->real;
            c->table.start = traced_start;
            c->table.wait = traced_wait;
        }
        assert(groups[i]->comm == c->real);
        c->groups[c->group_count++].group = groups[i];
        groups[i]->comm = &c->table;
    }
}

status trace_start(struct trace *t)
{
    TRY(device_wait(t->dev));
    timeline_reset(&t->timeline);
    t->count = 0;
    for (int i = 0; i < t->comm->group_count; i++)
        memset(t->comm->groups[i].slot, 0, sizeof(t->comm->groups[i].slot));
    t->on = true;
    return timeline_record(&t->timeline, &t->begin);
}

/* Communication that was not waited for before trace_stop (weights prefetched for a later forward)
 * is left out. */
static status compute_times(struct trace *t, struct trace_span *s)
{
    double at_wait = 0;

    if (s->lane == LANE_COMMUNICATION && s->wait_from < 0) {
        s->lane = LANE_COUNT;
        return ST_OK;
    }
    TRY(timeline_between(&t->timeline, t->begin, s->from, &s->at));
    TRY(timeline_between(&t->timeline, t->begin, s->to, &s->end));
    if (s->lane == LANE_COMMUNICATION) {
        TRY(timeline_between(&t->timeline, t->begin, s->wait_from, &at_wait));
        s->waited = s->end > at_wait ? s->end - at_wait : 0;
    }
    return ST_OK;
}

status trace_stop(struct trace *t)
{
    TRY(timeline_record(&t->timeline, &t->end));
    t->on = false;
    TRY(device_wait(t->dev));
    TRY(timeline_between(&t->timeline, t->begin, t->end, &t->total));
    for (int i = 0; i < t->count; i++)
        TRY(compute_times(t, &t->spans[i]));
    return ST_OK;
}
