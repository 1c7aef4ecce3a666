#include "model/sampling/step_cache.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- magcache ---- */

/* The ratio of a step: that of the nearest step of the table, as numpy rounds. */
static double mag_ratio(const struct cache_settings *set, int steps, int step, int branch)
{
    const double first = set->start * (set->ratios - 1);
    const double scale = steps > 1 ? (set->ratios - 1 - first) / (double)(steps - 1) : 0;
    const int at = steps > 1 ? (int)nearbyint(first + step * scale) : set->ratios - 1;

    return set->ratio[branch][at];
}

/* Whether a step is one of the first, which are always computed. As in the official program, whose
 * counter has two for each step: a share is one of both experts' steps, or with `late` of the
 * second's after all of the first's. */
static bool mag_retains(const struct cache_settings *set, int steps, int low_from, int step,
                        int branch)
{
    const int counter = 2 * step + branch, all = 2 * steps, low = 2 * low_from;
    const double share = set->retain;

    if (share >= 1)
        return step < (int)share || (step >= low_from && step - low_from < (int)share);
    if (low_from == steps)
        return counter < (int)(all * share);
    if (set->late)
        return counter < (int)(low + (all - low) * share);
    return counter < (int)(low * share) || (counter >= low && counter <= (all - low) * share + low);
}

/* Whether a forward is skipped. `fresh`: the step before had other branches. */
static bool mag_skips(const struct cache_settings *set, struct mag_state *m, int steps,
                      int low_from, int step, int branch, bool fresh)
{
    bool skips;

    if (m->ratio[branch] == 0) // the first forward
        m->ratio[branch] = 1;
    if (mag_retains(set, steps, low_from, step, branch))
        return false;
    m->ratio[branch] *= mag_ratio(set, steps, step, branch);
    m->steps[branch]++;
    m->error[branch] += fabs(1 - m->ratio[branch]);
    skips = m->error[branch] < set->threshold &&
            (set->max_skip == 0 || m->steps[branch] <= set->max_skip) && !fresh &&
            step != low_from && !(set->last && step == steps - 1);
    if (!skips) {
        m->ratio[branch] = 1;
        m->error[branch] = 0;
        m->steps[branch] = 0;
    }
    return skips;
}

unsigned mag_step(const struct cache_settings *set, struct mag_state *m, int steps, int low_from,
                  int step, int forwards)
{
    unsigned skips = 0;

    for (int b = 0; b < forwards; b++)
        skips |= (unsigned)mag_skips(set, m, steps, low_from, step, b, forwards != m->forwards)
                 << b;
    m->forwards = forwards;
    return skips;
}

/* ---- all kinds ---- */

status step_cache_init(struct step_cache *c, const struct cache_settings *set, int steps,
                       int low_from)
{
    *c = (struct step_cache){ .set = *set, .steps = steps, .low_from = low_from, .rate = -1 };
    if (set->kind == CACHE_OFF || set->kind == CACHE_CALIBRATE)
        return ST_OK;
    c->skip = calloc((size_t)steps, 1);
    c->forwards = calloc((size_t)steps, 1);
    return c->skip != NULL && c->forwards != NULL
               ? ST_OK
               : fail(ST_MEMORY, "cannot allocate host memory for %d steps", steps);
}

void step_cache_start(struct step_cache *c)
{
    struct mag_state m = { 0 };

    for (int s = 0; c->set.kind == CACHE_MAG && s < c->steps; s++)
        c->skip[s] = (unsigned char)mag_step(&c->set, &m, c->steps, c->low_from, s, c->forwards[s]);
}

void step_cache_done(struct step_cache *c)
{
    free(c->skip);
    free(c->forwards);
    *c = (struct step_cache){ 0 };
}

/* The first steps, the first of each expert and with other branches, and where it is asked for the
 * last. */
static bool always(const struct step_cache *c, int step)
{
    const double retain = c->set.retain;

    return step < (int)(retain < 1 ? c->steps * retain : retain) || step == 0 ||
           step == c->low_from || c->forwards[step] != c->forwards[step - 1] ||
           (c->set.last && step == c->steps - 1);
}

bool step_cache_decide(struct step_cache *c, int step, double change)
{
    const bool sums = c->set.kind != CACHE_FIRST_BLOCK;
    bool skips = false;

    if (!always(c, step)) {
        c->error = (float)((sums ? (double)c->error : 0) + change);
        skips = (double)c->error < c->set.threshold &&
                (c->set.max_skip == 0 || c->in_row < c->set.max_skip);
    }
    if (!skips)
        c->error = 0;
    c->in_row = skips ? c->in_row + 1 : 0;
    c->skip[step] = skips ? (1 << CACHE_BRANCHES) - 1 : 0;
    return skips;
}

void step_cache_tea(struct step_cache *c, int first, int end, const double *change)
{
    c->error = 0;
    c->in_row = 0;
    for (int s = first; s < end; s++) {
        double value = 0;

        for (int i = 0; i < c->set.terms; i++)
            value = value * change[s] + c->set.term[i];
        step_cache_decide(c, s, value);
    }
}
