#include "model/sampling/guidance.h"

static int max(int a, int b)
{
    return a > b ? a : b;
}

enum guide guidance_at(const struct guidance *g, int low_from, int step)
{
    const int expert = step >= low_from, first = expert == 1 ? low_from : 0;
    const int guided = max(first, max(g->from, g->zero_init)); // the expert's first guided step

    if (step < g->zero_init)
        return GUIDE_ZERO;
    if ((g->scale[expert] == 1 && (!g->three || g->image == 1)) || step < g->from ||
        (g->to != 0 && step >= g->to))
        return GUIDE_COND;
    return g->gate[expert] != 0 && step >= g->gate[expert] && step > guided ? GUIDE_GATE
                                                                            : GUIDE_BOTH;
}

bool guidance_keeps(const struct guidance *g)
{
    return g->zero_star || g->gate[0] != 0 || g->gate[1] != 0;
}
