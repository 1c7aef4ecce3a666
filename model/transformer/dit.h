/* dit.h - the diffusion transformer: velocity from a noisy latent, a time and a text.
 *
 * The latent lives as tokens: token s = (f, h, w) of the grid holds the values of its 2x2 cell as
 * (ph, pw, channel), channel innermost, which is the order the head writes. A rank has the tokens
 * of its sequence part (mesh.h). Between tokens and [C, T, H, W] lie two functions, called outside
 * the loop over steps.
 *
 * Source: Wan2.1 wan/modules/model.py; rounding points in NOTES.md. */
#ifndef MODEL_TRANSFORMER_DIT_H
#define MODEL_TRANSFORMER_DIT_H

#include "kernels/ops.h"
#include "model/pipeline/config.h"
#include "parallel/mesh.h"
#include "parallel/weights.h"

#define DIT_ROOT_TENSORS 15
#define DIT_BLOCK_TENSORS 21 // without its modulation and what follows
#define DIT_TEXT_TENSORS 5   // a block's for the text's keys and values

struct dit {
    struct dit_config config;
    enum dtype cdt; // F32 or BF16: matrices and activations
    struct device *dev;
    struct mesh *mesh;
    struct weights root;       // embeddings and head
    struct weights modulation; // of all blocks, which every rank keeps
    struct weights text;       // of all blocks: wanted once a run, so not gathered with the rest
    struct weights blocks;
};

/* Parameters come from `a`; blocks are sharded over mesh->all when `fsdp`. `mesh` and `dev` stay
 * borrowed. Local, but agree() afterwards, as reading may fail on one rank alone. ST_USAGE for a
 * kind of model that needs more than text; ST_FORMAT for sizes that do not fit each other. */
status dit_open(struct dit *m, const struct dit_config *config, struct mesh *mesh,
                struct device *dev, struct arena *a, enum dtype cdt, bool fsdp,
                struct weight_source source);
void dit_close(struct dit *m); // accepts half-open and zeroed values

/* Behind dit_open and agree(): what every rank keeps was read in slices, and is exchanged now.
 * Collective over the mesh. */
status dit_complete(struct dit *m);

/* One generation: everything that does not change from step to step. */
struct dit_run {
    struct dit *m;
    struct token_grid grid; // of this rank: first is its first token
    int64_t tokens, s_loc;  // of the whole latent; of this rank
    int steps, sides;
    struct tensor rope;       // [G, D/2, 2] f32
    struct tensor time;       // [steps, C] f32: e, for the head
    struct tensor time_mod;   // [steps, 6C] f32: e0, for the blocks
    struct tensor block_mod;  // [L, 6C] f32: all blocks' modulation parameters
    struct tensor context[2]; // [text_len, C] cdt
    struct tensor text_kv[2]; // [L, text_len, 2C] cdt: k, normed, beside v; from the first forward
    bool text_ready;
};

/* What the run keeps comes from `a`, scratch from `step`, which is given back.
 *   f, h, w   the grid: tokens, so a latent of f frames of 2h x 2w
 *   timestep  [steps]: what the network sees
 *   text      [sides]: the encoder's rows, [rows <= text_len, text_dim] f32 in host memory,
 *             contiguous; rows of zeros behind them are implied and attended
 *   sides     1 or 2: those which this rank computes
 * Local. ST_USAGE for text of another shape. */
status dit_begin(struct dit_run *r, struct dit *m, struct arena *a, struct arena *step, int64_t f,
                 int64_t h, int64_t w, int steps, const float *timestep, int sides,
                 const struct tensor *text);

/* v = the network's answer for side `side` at step `step`.
 *   v  [s_loc, 4 * out_dim] f32;  x  [s_loc, 4 * in_dim] f32; both contiguous
 *   a  scratch, given back on return
 * Collective over the mesh's sequence, and over everybody when sharded. */
status dit_forward(struct dit_run *r, struct arena *a, int step, int side, struct tensor v,
                   struct tensor x);

/* Between a latent [C, T, H, W] and all its tokens [T * H/2 * W/2, 4 C], both f32 on the host. */
void tokens_from_latent(float *tokens, const float *latent, int64_t c, int64_t t, int64_t h,
                        int64_t w);
void latent_from_tokens(float *latent, const float *tokens, int64_t c, int64_t t, int64_t h,
                        int64_t w);

#endif
