/* The sigma lists, with the precision and order of operations of their sources: numpy doubles for
 * the official solvers, float tensors for euler. Timesteps near an integer depend on both. */
#include "model/sampling/schedule.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[] = { "unipc", "dpm++", "euler", "renoise" };

status solver_parse(enum solver_kind *kind, const char *name)
{
    for (size_t i = 0; i < COUNT(names); i++) {
        if (strcmp(name, names[i]) == 0) {
            *kind = (enum solver_kind)i;
            return ST_OK;
        }
    }
    return fail(ST_USAGE, "there is no solver %s; try unipc, dpm++, euler or renoise", name);
}

const char *solver_name(enum solver_kind kind)
{
    return names[kind];
}

bool solver_takes_list(enum solver_kind kind)
{
    return kind == SOLVER_EULER || kind == SOLVER_RENOISE;
}

/* Element i of `steps` equal steps from `start` to 0, shifted. */
static double sigma_double(double start, int steps, int i, double shift)
{
    const double stride = (0.0 - start) / steps;
    const double x = i * stride + start;

    return shift * x / (1 + (shift - 1) * x);
}

static float shift_float(float x, double shift)
{
    return (float)shift * x / (1.0f + (float)(shift - 1) * x);
}

/* The same in floats. As in torch.linspace, the second half is computed from the end. */
static float sigma_float(float start, int steps, int i, double shift)
{
    const float stride = -start / (float)steps;
    const float x =
        i < (steps + 1) / 2 ? fmaf(stride, (float)i, start) : 0.0f - stride * (float)(steps - i);

    return shift_float(x, shift);
}

/* Allocates the arrays. */
static status begin(struct schedule *s, enum solver_kind kind, int steps, double shift)
{
    *s = (struct schedule){ .kind = kind, .steps = steps, .start = 1 };
    if (steps < 1)
        return fail(ST_USAGE, "%d sampling steps; there must be at least 1", steps);
    if (!(shift > 0) || !isfinite(shift))
        return fail(ST_USAGE, "a sampling shift of %g; it must be a number above 0", shift);
    s->sigma = malloc(((size_t)steps + 1) * sizeof(*s->sigma));
    s->timestep = malloc((size_t)steps * sizeof(*s->timestep));
    if (s->sigma == NULL || s->timestep == NULL) {
        schedule_done(s);
        return fail(ST_MEMORY, "cannot allocate memory for a schedule of %d steps", steps);
    }
    s->sigma[steps] = 0;
    return ST_OK;
}

status schedule_init(struct schedule *s, enum solver_kind kind, int steps, double shift)
{
    return schedule_init_partial(s, kind, steps, shift, 1);
}

status schedule_init_partial(struct schedule *s, enum solver_kind kind, int steps, double shift,
                             double strength)
{
    const double start = strength * (kind == SOLVER_UNIPC ? (double)0.999f : 1.0);

    TRY(begin(s, kind, steps, shift));
    for (int i = 0; i < steps; i++) {
        if (solver_takes_list(kind)) {
            s->sigma[i] = sigma_float((float)start, steps, i, shift);
            s->timestep[i] = s->sigma[i] * 1000.0f;
        } else {
            const double sigma = sigma_double(start, steps, i, shift);

            s->sigma[i] = (float)sigma;
            s->timestep[i] = (float)trunc(sigma * 1000);
        }
    }
    return ST_OK;
}

/* The sigma whose timestep is nearest to t, of 1000 equal steps that are shifted. */
static float nearest_sigma(double t, double shift)
{
    float nearest = 0;
    double distance = INFINITY;

    for (int i = 1000; i > 0; i--) {
        const float sigma = shift_float((float)i / 1000.0f, shift);
        const double d = fabs((double)(sigma * 1000.0f) - t);

        if (d < distance) {
            distance = d;
            nearest = sigma;
        }
    }
    return nearest;
}

status schedule_init_list(struct schedule *s, enum solver_kind kind, const double *list, int steps,
                          double shift, bool warp)
{
    TRY(begin(s, kind, steps, shift));
    for (int i = 0; i < steps; i++) {
        const double t = list[i];

        if (!(t > 0 && t <= 1000) || (i > 0 && t >= list[i - 1])) {
            schedule_done(s);
            return fail(ST_USAGE,
                        "the step %g in a list of steps: it must fall from at most 1000 "
                        "and stay above 0",
                        t);
        }
        if (!warp) {
            s->sigma[i] = nearest_sigma(t, shift);
            s->timestep[i] = (float)t;
            continue;
        }
        s->sigma[i] = t == rint(t) ? sigma_float(1, 1000, 1000 - (int)t, shift)
                                   : shift_float((float)(t / 1000), shift);
        s->timestep[i] = s->sigma[i] * 1000.0f;
    }
    return ST_OK;
}

status schedule_init_rcm(struct schedule *s, enum solver_kind kind, int steps, double sigma_max)
{
    static const double angle[RCM_STEPS_MAX] = { 0, 1.5, 1.4, 1.0 };

    if (steps > RCM_STEPS_MAX)
        return fail(ST_USAGE, "%d sampling steps of rCM; it has at most %d", steps, RCM_STEPS_MAX);
    TRY(begin(s, kind, steps, 1));
    for (int i = 0; i < steps; i++) {
        const double a = i == 0 ? atan(sigma_max) : angle[i];
        const double sigma = sin(a) / (cos(a) + sin(a));

        s->sigma[i] = (float)sigma;
        s->timestep[i] = (float)(sigma * 1000);
    }
    s->start = s->sigma[0];
    return ST_OK;
}

void schedule_done(struct schedule *s)
{
    free(s->sigma);
    free(s->timestep);
    *s = (struct schedule){ 0 };
}

status schedule_start_below(struct schedule *s, double sigma)
{
    int first = 0;

    while (first < s->steps && (double)s->sigma[first] > sigma + 1e-6)
        first++;
    if (first == s->steps)
        return fail(ST_USAGE,
                    "all steps of the list have more noise: the last one has %.3g, and the "
                    "strength gives %.3g",
                    (double)s->sigma[s->steps - 1], sigma);
    s->steps -= first;
    memmove(s->sigma, s->sigma + first, ((size_t)s->steps + 1) * sizeof(*s->sigma));
    memmove(s->timestep, s->timestep + first, (size_t)s->steps * sizeof(*s->timestep));
    return ST_OK;
}

int schedule_below(const struct schedule *s, double timestep)
{
    int step = 0;

    while (step < s->steps && s->timestep[step] >= timestep)
        step++;
    return step;
}
