/* step_cache.h - step caching: which forwards of a run are computed, and which are predicted from
 * an earlier step. Host code; what is kept on the device is in model/pipeline/denoise_cache.c.
 *
 *   magcache    a table of the ratios of successive residuals (x after the blocks minus x before
 *               them) says how far an old one is off: the schedule is known before the run
 *   teacache    a polynomial of the change of the time embedding; known when the weights are loaded
 *   easycache   the change of the latent, times the last measured rate of change of the velocity
 *   firstblock  the change of the first block's residual, measured in each forward
 *
 * Magcache and teacache decide for each CFG branch, the others for both by that of cond.
 *
 * Source: Zehong-Ma/MagCache MagCache4Wan2.1, MagCache4Wan2.2; ali-vilab/TeaCache TeaCache4Wan2.1;
 * DiffSynth-Studio (class TeaCache); H-EmbodVis/EasyCache EasyCache4Wan2.1; vipshop/cache-dit. */
#ifndef MODEL_SAMPLING_STEP_CACHE_H
#define MODEL_SAMPLING_STEP_CACHE_H

#include "runtime/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum cache_kind { CACHE_OFF, CACHE_MAG, CACHE_TEA, CACHE_EASY, CACHE_FIRST_BLOCK, CACHE_CALIBRATE };

#define CACHE_BRANCHES 2     // cond, uncond
#define CACHE_RATIOS_MAX 256 // steps of a table
#define CACHE_TERMS_MAX 6    // of a polynomial

struct cache_settings {
    enum cache_kind kind; // CACHE_CALIBRATE: all forwards are computed, their ratios are measured
    double threshold;     // of the estimated error
    double retain;        // the first steps, always computed: their number, or their share if < 1
    int max_skip;         // skipped steps in a row; 0: any number
    bool last;            // the last step is always computed
    bool late;            // magcache of two experts: the first is always computed
    bool embedding;       // teacache measures e of the time embedding, not e0
    double start;         // magcache: the share of the table's schedule before the first step
    int ratios;           // magcache: number of steps of the table
    double ratio[CACHE_BRANCHES][CACHE_RATIOS_MAX];
    int terms; // teacache: of the polynomial, highest power first
    double term[CACHE_TERMS_MAX];
};

/* The row of magcache's table for a task, with the thresholds that its authors recommend. */
struct cache_ratios {
    const char *name;  // "T2V-14B"
    const char *tasks; // words, each a task
    int pixels;        // of larger videos only; 0: of all
    bool image;        // if an image is given
    double threshold, retain;
    int max_skip;
    bool late;
    int steps;           // of the table
    const double *ratio; // cond, uncond of step 1, 2, ..., steps - 1: those of step 0 are 1
};

/* The polynomial of teacache for a model. */
struct cache_polynomial {
    const char *id;    // DiffSynth's --tea_cache_model_id
    const char *tasks; // as above
    int pixels;
    double threshold;
    bool embedding;
    int terms;
    double term[CACHE_TERMS_MAX];
};

const struct cache_ratios *cache_find_ratios(const char *task, int64_t pixels, bool image);
const struct cache_polynomial *cache_find_polynomial(const char *task, int64_t pixels);

/* The polynomial of a model id: an index of CACHE_POLYNOMIALS. */
#define CACHE_POLYNOMIALS                                                                          \
    "Wan2.1-T2V-1.3B|Wan2.1-T2V-14B|Wan2.1-I2V-14B-480P|Wan2.1-I2V-14B-720P|Wan2.2-TI2V-5B"
const struct cache_polynomial *cache_polynomial_at(int index);

void cache_use_ratios(struct cache_settings *set, const struct cache_ratios *row);
void cache_use_polynomial(struct cache_settings *set, const struct cache_polynomial *row);

/* The state of magcache after some steps; zeroed before the first. */
struct mag_state {
    double ratio[CACHE_BRANCHES], error[CACHE_BRANCHES];
    int steps[CACHE_BRANCHES];
    int forwards; // of the last step
};

/* The branches that magcache skips in a step, bits 1 << branch. Called for all steps in order.
 * forwards: number of branches of the step, cond first. low_from: the first step of the second
 * expert, or `steps`. */
unsigned mag_step(const struct cache_settings *set, struct mag_state *m, int steps, int low_from,
                  int step, int forwards);

struct step_cache {
    struct cache_settings set;
    int steps, low_from;
    unsigned char *skip;     // [steps]: bits 1 << branch; the steps that are decided on
    unsigned char *forwards; // [steps]: number of branches, cond first
    /* of easycache and firstblock */
    float error, rate; // accumulated; of change, below 0: not known
    int in_row;        // skipped steps so far
};

/* Allocates; the caller sets c->forwards[0 .. steps), if it is not NULL, and calls
 * step_cache_start, which decides on all steps for magcache. A step whose number of branches is
 * another than before is not skipped: ranks may then share the work in another way. */
status step_cache_init(struct step_cache *c, const struct cache_settings *set, int steps,
                       int low_from);
void step_cache_start(struct step_cache *c);
void step_cache_done(struct step_cache *c); // accepts a zeroed value

static inline bool step_cache_skips(const struct step_cache *c, int step, int branch)
{
    return c->skip != NULL && (c->skip[step] >> branch & 1) != 0;
}

/* Decides on a step by the estimated change, for both branches, and returns whether it is skipped.
 * easycache adds up changes since the last computed step. */
bool step_cache_decide(struct step_cache *c, int step, double change);

/* Decides for teacache on steps [first, end), of one expert. change[i]: mean |e(i) - e(i - 1)| /
 * mean |e(i - 1)|. */
void step_cache_tea(struct step_cache *c, int first, int end, const double *change);

#endif
