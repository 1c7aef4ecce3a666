/* The guidance of a request: in which steps both CFG branches are computed. */
#include "launch/request_internal.h"

#include <math.h>

bool request_guided(const struct request *r)
{
    return r->sample_guide_scale[0] != 1 || r->sample_guide_scale[1] != 1 ||
           (r->guide_image >= 0 && r->guide_image != 1);
}

static int zero_init(const struct request *r)
{
    return r->zero_init_steps >= 0 ? r->zero_init_steps : r->cfg_zero_star;
}

bool request_always_guided(const struct request *r)
{
    return r->sample_guide_scale[0] != 1 && r->sample_guide_scale[1] != 1 && r->cfg_gate[0] < 0 &&
           r->cfg_interval[0] < 0 && zero_init(r) == 0;
}

/* The step that a value of --cfg_gate or --cfg_interval means. */
static int step_of(const struct request *r, double value)
{
    return (int)(value <= 1 ? value * r->steps : value);
}

struct guidance request_guidance(const struct request *r)
{
    struct guidance g = { .zero_init = zero_init(r),
                          .zero_star = r->cfg_zero_star == 1,
                          .three = r->guide_image >= 0,
                          .image = (float)r->guide_image };

    for (int i = 0; i < EXPERTS_MAX; i++) { // the request has that for low noise first
        const int gate = step_of(r, r->cfg_gate[1 - i]);

        g.scale[i] = (float)r->sample_guide_scale[1 - i];
        if (r->cfg_gate[1 - i] >= 0 && gate < r->steps)
            g.gate[i] = gate > 0 ? gate : 1; // 0 is no gate; the first step is guided anyway
    }
    if (r->cfg_interval[0] >= 0) {
        g.from = step_of(r, r->cfg_interval[0]);
        g.to = step_of(r, r->cfg_interval[1]);
    }
    return g;
}

/* A fraction, or a number of steps. */
static status check_step(const struct request *r, const char *flag, double value)
{
    if (value > 1 && value != floor(value))
        return fail(ST_USAGE,
                    "--%s %g: up to 1 it is a fraction of the steps, above 1 a whole "
                    "number of steps",
                    flag, value);
    if (value > 1 && value > r->steps)
        return fail(ST_USAGE, "--%s %g: there are %d steps", flag, value, r->steps);
    return ST_OK;
}

static status check_interval(const struct request *r)
{
    const double from = r->cfg_interval[0], to = r->cfg_interval[1];

    TRY(check_step(r, "cfg_interval", from));
    TRY(check_step(r, "cfg_interval", to));
    if (from >= to || (to > 1 && from != 0 && from <= 1))
        return fail(ST_USAGE,
                    "--cfg_interval %g,%g: expected FROM,TO with FROM before TO, both "
                    "fractions or both numbers of steps",
                    from, to);
    if (step_of(r, from) == step_of(r, to))
        return fail(ST_USAGE, "--cfg_interval %g,%g: has none of the %d steps", from, to, r->steps);
    return ST_OK;
}

/* The guidance with three branches, of Phantom: what is not defined for it. */
static status check_three(const struct request *r, const char *flag)
{
    if (flag != NULL)
        return fail(ST_USAGE,
                    "--%s is for a guidance with two branches, and that of task %s has "
                    "three: remove it",
                    flag, r->task_name);
    if (r->cache != CACHE_OFF || r->calibrate_cache != NULL)
        return fail(ST_USAGE, "step caching is not for task %s: remove --cache", r->task_name);
    if (request_windowed(r))
        return fail(ST_USAGE,
                    "windows are not for task %s: remove --context_frames or "
                    "--sliding_window_size",
                    r->task_name);
    return ST_OK;
}

status request_check_guidance(const struct request *r)
{
    const char *flag = r->cfg_gate[0] >= 0       ? "cfg_gate"
                       : r->cfg_interval[0] >= 0 ? "cfg_interval"
                       : r->cfg_zero_star == 1   ? "cfg_zero_star"
                       : r->zero_init_steps > 0  ? "zero_init_steps"
                                                 : NULL;

    if (r->guide_image >= 0 && r->task->guide_image == 0)
        return fail(ST_USAGE, "--sample_guide_scale_img: task %s has no such guidance; remove it",
                    r->task_name);
    if (r->guide_image >= 0)
        return check_three(r, flag);
    if (flag == NULL)
        return ST_OK;
    if (!request_guided(r))
        return fail(ST_USAGE,
                    "--%s needs guidance, which --sample_guide_scale 1 turns off: remove "
                    "one of them",
                    flag);
    if (r->task->boundary == 0 && r->cfg_gate[0] != r->cfg_gate[1])
        return fail(ST_USAGE, "--cfg_gate %g,%g: task %s has one transformer: pass one number",
                    r->cfg_gate[0], r->cfg_gate[1], r->task_name);
    for (int i = 0; i < EXPERTS_MAX; i++)
        if (r->cfg_gate[i] >= 0)
            TRY(check_step(r, "cfg_gate", r->cfg_gate[i]));
    if (r->cfg_interval[0] >= 0)
        TRY(check_interval(r));
    if (zero_init(r) >= r->steps)
        return fail(ST_USAGE, "--zero_init_steps %d: there are %d steps", zero_init(r), r->steps);
    return ST_OK;
}
