/* dit.h - the diffusion transformer: velocity from a noisy latent, a time and a conditioning.
 *
 * The latent is a sequence of tokens: token (f, h, w) of the grid holds the values of its 2x2 cell
 * as (ph, pw, channel), channel innermost, which is the order that the head writes. A rank has the
 * tokens of its part of the sequence (mesh.h). Two functions convert between tokens and
 * [C, T, H, W], outside the loop over steps.
 *
 *   dit.c         open, begin, one forward
 *   dit_block.c   a block: self attention, cross attention, feed forward
 *   dit_tensors.c the list of tensors
 *   segments.c    which rows of a rank belong to which grid and time
 *   features.h    what models have beside the text-to-video network
 *
 * Source: Wan2.1 wan/modules/model.py; rounding points in ../NOTES.md. */
#ifndef MODEL_TRANSFORMER_DIT_H
#define MODEL_TRANSFORMER_DIT_H

#include "kernels/ops.h"
#include "model/checkpoint/tensors.h"
#include "model/transformer/conditioning.h"
#include "model/transformer/config.h"
#include "model/transformer/segments.h"
#include "parallel/mesh.h"

#define DIT_STACKS_MAX 24
#define DIT_BRANCHES 2 // of classifier-free guidance: cond, uncond

/* A stack of tensors that is loaded. */
struct dit_stack {
    const char *name;
    struct weights weights;
};

struct dit {
    struct dit_config config;
    enum dtype cdt; // F32 or BF16: matrices and activations
    struct device *dev;
    struct mesh *mesh;
    int stacks;
    struct dit_stack stack[DIT_STACKS_MAX];
};

/* Emits every tensor of the model: the network's, then its features'. `cdt`: of the matrices. */
void dit_tensors(struct tensor_list *l, const struct dit_config *config, enum dtype cdt);

/* Loads the parameters into `a`; blocks are sharded over mesh->all when `fsdp`. `mesh` and `dev`
 * stay borrowed. Local; agree() afterwards, as reading may fail on one rank alone. ST_FORMAT for a
 * feature that this version does not compute, and for sizes that do not fit each other. */
status dit_open(struct dit *m, const struct dit_config *config, struct mesh *mesh,
                struct device *dev, struct arena *a, enum dtype cdt, bool fsdp,
                struct weight_source source);
void dit_close(struct dit *m); // accepts half-open and zeroed values

/* After dit_open and agree(): ranks gather what each read a slice of. Collective over the mesh. */
status dit_complete(struct dit *m);

/* The weights of a stack, for the model's features. */
struct weights *dit_weights(struct dit *m, const char *stack);

/* One generation, as the transformer is asked for it. */
struct dit_input {
    int64_t f, h, w; // token grid of the latent: f frames of 2h x 2w
    int steps;
    const float *timestep; // [steps]: what the network takes; borrowed during dit_begin
    int last_step;         // of those that this transformer computes
    int branches;          // 1 or 2: those that this rank computes
    int first_branch;      // 0 cond, 1 uncond
    const struct conditioning *conditioning; // borrowed during dit_begin
};

/* Everything of one generation that does not change from step to step. */
struct dit_run {
    struct dit *m;
    struct segments segments; // of the whole sequence
    struct spans spans;       // of this rank's rows
    int64_t tokens, s_loc;    // of the sequence; of this rank
    int steps, last_step, branches;
    struct tensor rope;      // [G, D/2, 2] f32
    struct tensor time;      // [times, C] f32: e, for the head; a row a step, then time 0
    struct tensor time_mod;  // [times, 6C] f32: e0, for the blocks
    struct tensor block_mod; // [L, 6C] f32: modulation parameters of all blocks
    struct tensor channels;  // [rows of the latent, 4, c] f32: joined to the latent's; or none
    struct tensor context[DIT_BRANCHES]; // [text_len, C] cdt
    struct tensor text_kv[DIT_BRANCHES]; // [L, text_len, 2C] cdt: k, normed, then v
    bool prepared;                       // text_kv and what features make in the first forward
    struct tensor feature[DIT_FEATURES_MAX][FEATURE_TENSORS];
};

/* Memory that stays comes from `a`, scratch from `step`, which is released. Local. ST_USAGE for a
 * conditioning of other shapes than the model takes. */
status dit_begin(struct dit_run *r, struct dit *m, struct arena *a, struct arena *step,
                 const struct dit_input *in);

/* v = the velocity that the network predicts for branch `branch` (of this rank's) at step `step`.
 *   v  [n, 4 * out_dim] f32;  x  [n, 4 * c] f32; both contiguous: the n = spans.latent_rows tokens
 *      of the latent that this rank has, c its channels
 *   a  scratch, released on return
 * Collective over the mesh's sequence, and over all ranks when sharded. */
status dit_forward(struct dit_run *r, struct arena *a, int step, int branch, struct tensor v,
                   struct tensor x);

/* Between a latent [C, T, H, W] and all its tokens [T * H/2 * W/2, 4 C], both f32 on the host. */
void tokens_from_latent(float *tokens, const float *latent, int64_t c, int64_t t, int64_t h,
                        int64_t w);
void latent_from_tokens(float *latent, const float *tokens, int64_t c, int64_t t, int64_t h,
                        int64_t w);

#endif
