/* guidance.h - classifier-free guidance: which CFG branches a step computes, and how the step's
 * velocity v follows from theirs, c (cond) and u (uncond), at scale g.
 *
 *   GUIDE_BOTH  v = u + g (c - u)
 *   GUIDE_COND  v = c               at scale 1, and outside of the interval
 *   GUIDE_GATE  v = c + (g - 1) d   from the gate on: d = c - u of the last step with both branches
 *   GUIDE_ZERO  v = 0               in the first zero_init steps: no branch is computed
 *
 * With an image scale (Phantom) there is a third branch n, without text and reference images, and u
 * is that without text: v = n + image (u - n) + g (c - u).
 *
 * With zero_star s u takes the place of u, in d too: s = <c, u> / (|u|^2 + 1e-8) over the whole
 * latent.
 *
 * Source: FastVideo fastvideo/pipelines/stages/denoising.py (FASTVIDEO_CFG_GATE_STEP; LinearAG of
 * Castillo et al. 2023); diffusers guiders/classifier_free_zero_star_guidance.py (Fan et al. 2025),
 * and its start and stop for the interval. */
#ifndef MODEL_SAMPLING_GUIDANCE_H
#define MODEL_SAMPLING_GUIDANCE_H

#include "kernels/ops.h"

#define EXPERTS_MAX 2

enum guide { GUIDE_ZERO, GUIDE_COND, GUIDE_GATE, GUIDE_BOTH };

/* Zeroed but for the scales: plain guidance in all steps. */
struct guidance {
    float scale[EXPERTS_MAX]; // of each expert; 1: only cond
    int gate[EXPERTS_MAX];    // the first step of the gate of each expert; 0: it has none
    bool three;               // there is the third branch
    float image;              // its scale, of the reference images
    int from, to;             // guided in steps [from, to) only; to 0: in all
    int zero_init;            // number of first steps with v = 0
    bool zero_star;
};

/* What a step does; expert 1 computes those from low_from on. The gate needs a difference of the
 * same expert, so one of its steps at least is guided before it. Local. */
enum guide guidance_at(const struct guidance *g, int low_from, int step);

/* The number of forwards of such a step. */
static inline int guide_forwards(enum guide guide)
{
    return guide == GUIDE_ZERO ? 0 : guide == GUIDE_BOTH ? 2 : 1;
}

/* Whether steps need memory for the difference d. */
bool guidance_keeps(const struct guidance *g);

#endif
