/* What the steps of a plan compute: experts, CFG branches, windows. */
#include "model/pipeline/plan.h"

#include <assert.h>
#include <string.h>

void plan_add_clip(struct plan_input *in, int64_t frames)
{
    assert(in->clips < PLAN_CLIPS_MAX);
    in->clip_frames[in->clips++] = frames;
    in->encode_frames = frames > in->encode_frames ? frames : in->encode_frames;
}

int64_t plan_frames(const struct plan_input *in)
{
    return windows_divide(&in->windows, (int)in->latent.t) ? in->windows.frames : in->latent.t;
}

int plan_windows(const struct plan_input *in, int step)
{
    struct windows w = { 0 };
    int count = 1;

    if (windows_divide(&in->windows, (int)in->latent.t) &&
        windows_make(&w, &in->windows, (int)in->latent.t, step) == ST_OK)
        count = w.count;
    windows_done(&w);
    return count;
}

int plan_experts(const struct plan_input *in)
{
    return model_config(&in->model, expert_parts[1]) != NULL ? 2 : 1;
}

/* The first step of the second expert; `steps` if there is none. */
static int first_low(const struct plan_input *in)
{
    return plan_experts(in) == 2 ? in->low_from : in->steps;
}

int plan_expert_steps(const struct plan_input *in, int expert)
{
    const int from = in->first_step, low_from = first_low(in);

    if (expert == 0)
        return from < low_from ? low_from - from : 0;
    return low_from < in->steps ? in->steps - (from > low_from ? from : low_from) : 0;
}

enum guide plan_guide(const struct plan_input *in, int step)
{
    return guidance_at(&in->guidance, first_low(in), step);
}

/* The branches that a step computes, bits 1 << branch. *m: the state of magcache before it. */
static unsigned computed_branches(const struct plan_input *in, struct mag_state *m, int step)
{
    const int forwards = guide_forwards(plan_guide(in, step));
    const unsigned all = (1u << forwards) - 1;

    if (in->cache.kind != CACHE_MAG)
        return all;
    return all & ~mag_step(&in->cache, m, in->steps, first_low(in), step, forwards);
}

void plan_schedule(const struct plan_input *in, unsigned char *branches)
{
    struct mag_state m = { 0 };

    for (int s = 0; s < in->steps; s++)
        branches[s] = (unsigned char)computed_branches(in, &m, s);
}

static int count_branches(unsigned branches)
{
    return (int)(branches & 1) + (int)(branches >> 1 & 1);
}

int plan_forwards(const struct plan_input *in, bool all)
{
    struct mag_state m = { 0 };
    int count = 0;

    for (int s = 0; s < in->steps; s++) {
        const int computed = count_branches(computed_branches(in, &m, s));

        if (s >= in->first_step)
            count += (all ? guide_forwards(plan_guide(in, s)) : computed) * plan_windows(in, s) +
                     (in->guidance.three && plan_guide(in, s) == GUIDE_BOTH);
    }
    return count;
}

bool plan_has_single(const struct plan_input *in)
{
    for (int i = 0; i < in->steps; i++)
        if (guide_forwards(plan_guide(in, i)) == 1)
            return true;
    return false;
}

double plan_whole_steps(const struct plan_input *in)
{
    const bool alike = in->mesh.cfg == 2 && in->joined.cfg == 0; // one forward of each rank
    struct mag_state m = { 0 };
    double steps = 0;
    int most = 1;

    for (int s = 0; s < in->steps; s++) {
        const int forwards = guide_forwards(plan_guide(in, s));
        const int computed = count_branches(computed_branches(in, &m, s));

        if (s < in->first_step)
            continue;
        most = forwards > most ? forwards : most;
        steps += alike ? computed > 0 : computed;
    }
    return alike ? steps : steps / most;
}

double plan_seconds(const struct plan_input *in, const struct plan_rank *most)
{
    const int clips = in->chain.clips > 1 ? in->chain.clips : 1;
    double total = 0;

    for (int i = 0; i < most->count; i++) {
        const struct plan_stage *s = &most->stage[i];
        const bool once = strcmp(s->name, STAGE_TEXT) == 0 || strcmp(s->name, STAGE_AUDIO) == 0;

        total += s->seconds * (strcmp(s->name, STAGE_STEP) == 0 ? plan_whole_steps(in) : 1) *
                 (once ? 1 : clips);
    }
    return total;
}

bool plan_has_two(const struct plan_input *in)
{
    return plan_expert_steps(in, 0) > 0 && plan_expert_steps(in, 1) > 0;
}
