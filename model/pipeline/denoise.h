/* denoise.h - denoises one latent: transformer, guidance and solver, step by step, on the tokens of
 * this rank. There are one or two transformers (experts): the first for the steps of high noise,
 * the second for the others. Both need not be in memory at the same time. The same code runs on the
 * plan device, to compute memory, FLOPs and messages.
 *
 * In windows (denoise_windows.c) each rank has the whole latent and the solver's whole state, and
 * of each window's forward its own tokens. */
#ifndef MODEL_PIPELINE_DENOISE_H
#define MODEL_PIPELINE_DENOISE_H

#include "model/pipeline/denoise_cache.h"
#include "model/sampling/guidance.h"
#include "model/sampling/noise.h"
#include "model/sampling/schedule.h"
#include "model/sampling/windows.h"
#include "model/transformer/dit.h"

/* The shape of a latent [C, T, H, W]; a token is a cell of 2 x 2, so h and w are even. */
struct latent_shape {
    int64_t c, t, h, w;
};

static inline int64_t latent_count(struct latent_shape s)
{
    return s.c * s.t * s.h * s.w;
}

struct denoise_input {
    struct latent_shape shape;
    struct schedule schedule;  // borrowed arrays
    struct guidance guidance;  // of each step
    int low_from;              // with two experts, the first step that expert 1 computes
    const struct noise *noise; // for a solver that adds noise: the generator of the first noise,
                               // before that was drawn; borrowed. NULL: a plan
    struct window_settings windows; // kind WINDOWS_OFF: none
    struct self_attention self_attention;
    bool check_blocks; // name the first block whose output has values that are not finite
    const struct conditioning *conditioning; // borrowed
    struct cache_settings cache;
    struct cache_report *report; // counts from zero on; borrowed; NULL: none
};

#define WINDOW_VIEWS 4 // windows of full length or shorter, with known frames or without

/* The transformer's views for windows, of one run. */
struct window_views {
    int count;
    struct window_view {
        int frames;
        bool known; // whether the known frames are its first
        struct dit_run run;
    } view[WINDOW_VIEWS];
};

struct denoise {
    struct denoise_input in;
    struct device *dev; // borrowed, as are mesh and arenas
    struct mesh *mesh;
    struct arena *a, *scratch;
    size_t begun; // a->used before the data of the experts
    int experts;
    struct dit_run run[EXPERTS_MAX];    // m NULL: that expert is not in memory, or not needed
    struct dit_run joined[EXPERTS_MAX]; // on mesh->joined, for steps with one branch
    bool windowed;                      // the latent is denoised in windows
    bool combined; // windowed, and v has the guided velocity, in the memory of solver.next
    struct window_views views[EXPERTS_MAX], joined_views[EXPERTS_MAX];
    struct conditioning cut[2]; // windowed: what all windows have; without the known frames
    struct tensor channels;     // windowed: [tokens, 4, c] f32, of the whole latent
    struct segments segments;   // of the whole sequence
    struct spans spans;         // the rows of this rank; windowed: all rows
    struct solver solver;
    struct tensor x;          // [n, 4C] f32: the n tokens of the latent that this rank has
    struct tensor v;          // [2 or 1, n, 4C] f32: velocity of each branch
    struct tensor difference; // [n, 4C] f32: between both, for the gate; ndim 0: no step needs it
    struct tensor clean;      // [m, 4C] f32: the known values of the first m of them; ndim 0: none
    struct tensor subject; // [m, 4C] f32: the reference images in the last m of them; ndim 0: none
    struct tensor third;   // [n, 4C] f32: velocity of the branch without text and subject
    struct noise noise;    // of the solver that adds noise, the same on every rank
    float *drawn;          // [C, T, H, W] in host memory: its last draw; NULL: the solver adds none
    int drawn_for;         // the step that adds it
    struct denoise_cache cache;
    struct tensor mark; // [1] f32: not 0 after values that are not finite; see op_find_nonfinite
};

/* Arrays of the state besides the latent: the solver's history, then the last difference between
 * the CFG branches. */
#define DENOISE_HISTORY (SOLVER_STATE + 1)

/* The state of a run that the run file stores. The arrays are [C, T, H, W] f32 in host memory,
 * allocated by the caller; NULL on a plan device. */
struct denoise_state {
    float *latents, *history[DENOISE_HISTORY];
    bool used[DENOISE_HISTORY];    // whether the next step uses history[i]
    int64_t step;                  // number of finished steps
    int64_t order;                 // the solver's current order
    float *anchor[CACHE_BRANCHES]; // with a step cache: see denoise_cache.h
    bool anchored[CACHE_BRANCHES]; // whether anchor[i] is used; if not, that of cond is the same
    int64_t anchor_step[CACHE_BRANCHES];
    float cache[CACHE_NUMBERS];
};

/* Prepares a run: data that is kept is allocated from `a`, scratch from `scratch`, both borrowed
 * until denoise_end, as are the transformers, and what *in borrows. dit: one or two, on the same
 * mesh and device; NULL for one that is not in memory. Local, not collective: the caller passes the
 * status to agree(). ST_USAGE if the conditioning does not fit the model; ST_MEMORY. */
status denoise_begin(struct denoise *d, struct dit *const *dit, int experts, struct arena *a,
                     struct arena *scratch, const struct denoise_input *in);
void denoise_end(struct denoise *d);

/* The expert that computes the next step, or the last one if there is none. */
int denoise_expert(const struct denoise *d);

/* From now on `expert` is the only one in memory: its data takes the place of the other's, whose
 * weights may be gone. Local, as denoise_begin. ST_MEMORY. */
status denoise_switch(struct denoise *d, int expert, struct dit *dit);

/* Set the starting point: step 0 of the whole noise [C, T, H, W] f32 in host memory of every rank;
 * or a saved state, to continue after its last step. On a plan device latents are NULL, also in the
 * functions below. Local. */
status denoise_start(struct denoise *d, const float *noise);
status denoise_restore(struct denoise *d, const struct denoise_state *state);

/* Copies to the device what the next step needs from the host: noise, for a solver that adds some.
 * Before denoise_step, which does not wait for the device. Local. */
status denoise_feed(struct denoise *d);

/* Computes one step; queued on the device's stream. Collective over the mesh. */
status denoise_step(struct denoise *d);

/* Waits for the device. *finite: whether the latent of this rank is. If not, fail() has been called
 * with a line that says where, and ST_FORMAT is what the ranks should agree on. Local. */
status denoise_finite(struct denoise *d, bool *finite);

/* Copies the whole latent [C, T, H, W] f32 to host memory; ranks that do not need it pass NULL.
 * Collective over the mesh. */
status denoise_latent(struct denoise *d, float *latent);

/* Copies the whole state into the caller's arrays; ranks that do not need an array set it to NULL.
 * Collective over the mesh. */
status denoise_save(struct denoise *d, struct denoise_state *state);

#endif
