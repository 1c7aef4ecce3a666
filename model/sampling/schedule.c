/* The sigma lists, with the precision and order of operations of their sources: numpy doubles for
 * the official solvers, float tensors for euler. Timesteps near an integer depend on both. */
#include "model/sampling/schedule.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[] = { "unipc", "dpm++", "euler" };

status solver_parse(enum solver_kind *kind, const char *name)
{
    for (size_t i = 0; i < COUNT(names); i++) {
        if (strcmp(name, names[i]) == 0) {
            *kind = (enum solver_kind)i;
            return ST_OK;
        }
    }
    return fail(ST_USAGE, "there is no solver %s; try unipc, dpm++ or euler", name);
}

const char *solver_name(enum solver_kind kind)
{
    return names[kind];
}

/* Element i of `steps` equal steps from `start` to 0, shifted. */
static double sigma_double(double start, int steps, int i, double shift)
{
    const double stride = (0.0 - start) / steps;
    const double x = i * stride + start;

    return shift * x / (1 + (shift - 1) * x);
}

/* The same in floats from 1. As in torch.linspace, the second half is computed from the end. */
static float sigma_float(int steps, int i, double shift)
{
    const float stride = -1.0f / (float)steps;
    const float x =
        i < (steps + 1) / 2 ? fmaf(stride, (float)i, 1.0f) : 0.0f - stride * (float)(steps - i);

    return (float)shift * x / (1.0f + (float)(shift - 1) * x);
}

status schedule_init(struct schedule *s, enum solver_kind kind, int steps, double shift)
{
    const double start = kind == SOLVER_UNIPC ? (double)0.999f : 1.0;

    *s = (struct schedule){ .kind = kind, .steps = steps };
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
    for (int i = 0; i < steps; i++) {
        if (kind == SOLVER_EULER) {
            s->sigma[i] = sigma_float(steps, i, shift);
            s->timestep[i] = s->sigma[i] * 1000.0f;
        } else {
            const double sigma = sigma_double(start, steps, i, shift);

            s->sigma[i] = (float)sigma;
            s->timestep[i] = (float)trunc(sigma * 1000);
        }
    }
    s->sigma[steps] = 0;
    return ST_OK;
}

void schedule_done(struct schedule *s)
{
    free(s->sigma);
    free(s->timestep);
    *s = (struct schedule){ 0 };
}

int schedule_below(const struct schedule *s, double timestep)
{
    int step = 0;

    while (step < s->steps && s->timestep[step] >= timestep)
        step++;
    return step;
}
